"""`couplet run`: all stages of one cell, into one folder; those whose output is current are not repeated."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from couplet.config.base import refused
from couplet.config.cells import Training
from couplet.config.fit import Facts, check_fit
from couplet.config.params import Params
from couplet.config.track import Track
from couplet.cost import parameters
from couplet.data.archive import Archive
from couplet.errors import UserError, installed
from couplet.files import replacing
from couplet.live import meter, observed
from couplet.plan.layout import Layout, in_folder
from couplet.plan.stages import RUN, STAGES, key_of, keys_of, record_of
from couplet.process import Context
from couplet.provenance.record import as_computed, check_inputs, is_current, record_with
from couplet.stages.sample import panels
from couplet.training.loop import shape_of


def run_cell(
    context: Context,
    params: Params,
    out: Path,
    *,
    text: str,
    tracks: Sequence[Track] = (),
) -> None:
    """Run every stage of the experiment in ``params``, into the folder ``out``, and draw its samples.

    ``text`` is the content of ``out/params.yaml``; ``tracks`` show the training.

    Raises:
        Stopped: a signal came; the state is saved.
        UserError: a stage met bad input, or ``out`` cannot be written or holds a run with other settings.
    """
    with installed("couplet run"):
        from couplet.reporting.pictures import sample_grids
    cell = params.experiment
    # One folder has one extractor.
    settings = as_computed(Layout(params, out).settings(cell, params.extractor)._replace(selector=None))
    data = Facts.of(cell.dataset, settings.dataset)
    with refused(out):
        check_fit(data, settings.training, settings.measurement, settings.extractor)
    recipe = settings.training.recipe
    for name in ("init_from", "frozen_from"):
        path = getattr(recipe, name)
        if path is not None and not Path(path).is_file():
            raise UserError(f"recipes.{cell.recipe}.{name} = {path}: no such file")
    outputs = {stage: in_folder(out, stage) for stage in RUN}
    if record_of("train", outputs["train"]).exists():
        for stage in ("prepare", "train"):
            record_with(stage, outputs[stage], settings, advice="give another --out")
    keys = keys_of(settings, RUN[-1])
    more: dict[str, dict[str, Any]] = {"prepare": {"name": cell.dataset, "raw": Path(params.raw)}}
    measure = meter(settings.training, outputs["prepare"], context, params.peak_tflops)
    with observed(outputs["train"], context, tracks, measure) as observe:
        with replacing(out / "params.yaml") as temporary:
            temporary.write_text(text)
        for stage in RUN:
            run = import_module(f"couplet.stages.{stage}").run
            paths = {STAGES[read].option: outputs[read] for read in STAGES[stage].reads}
            if stage == "train":
                more[stage] = {"observe": observe}
                if (frozen := settings.training.frozen_run) is not None:
                    more[stage]["frozen"] = teacher = out / "pretrained"
                    taught = settings._replace(training=frozen)
                    if not is_current(stage, teacher, key_of(stage, taught)):
                        run(context, taught, **paths, out=teacher)
            if not is_current(stage, outputs[stage], keys[stage]):
                run(context, settings, **paths, out=outputs[stage], **more.get(stage, {}))
            if stage == "prepare":
                check_inputs({stage: outputs[stage]}, settings)
                _check_network(settings.training, Archive(outputs[stage]))
    label = params.labels.get(cell.coupling, cell.coupling)
    with replacing(out / "samples.png") as temporary:
        temporary.write_bytes(sample_grids(panels({label: outputs["sample"]}, params.sample.nfe)))


def _check_network(training: Training, data: Archive) -> None:
    """Raise UserError if the recipe's network cannot be built for the images."""
    try:
        parameters(training, shape_of(data))
    except ValueError as error:
        raise UserError(f"recipes.{training.cell.recipe}.network: {error}") from None
