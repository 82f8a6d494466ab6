"""`couplet run`: all stages of one cell, into one folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from couplet.config.params import Params
from couplet.data.archive import read_array
from couplet.errors import installed
from couplet.files import read_json, replacing
from couplet.live import observed
from couplet.plan.layout import in_folder
from couplet.plan.stages import RUN, STAGES, Settings, key_of, record_of
from couplet.process import Context
from couplet.provenance.record import record_with
from couplet.stages.sample import samples_name


def run_cell(
    context: Context,
    params: Params,
    out: Path,
    *,
    text: str,
    live: Path | None = None,
    tensorboard: Path | None = None,
) -> None:
    """Run every stage of the experiment in ``params``, into the folder ``out``, and draw its samples.

    ``text`` is the content of ``out/params.yaml``; ``live`` and ``tensorboard`` are folders of live views.

    Raises:
        Stopped: a signal came; the state is saved.
        UserError: a stage met bad input, or ``out`` cannot be written or holds a run with other settings.
    """
    with installed("couplet run"):
        from couplet.reporting.pictures import sample_grids
    cell = params.experiment
    settings = Settings.of(
        params.training(cell),
        extractor=params.extractor_named(params.extractor),
        measurement=params.measurement(cell),
    )
    outputs = {stage: in_folder(out, stage) for stage in RUN}
    if record_of("train", outputs["train"]).exists():
        for stage in ("prepare", "train"):
            record_with(stage, outputs[stage], settings, advice="give another --out")
    more: dict[str, dict[str, Any]] = {"prepare": {"name": cell.dataset, "raw": Path(params.raw)}}
    with observed(outputs["train"], context, live=live, tensorboard=tensorboard) as observe:
        with replacing(out / "params.yaml") as temporary:
            temporary.write_text(text)
        for stage in RUN:
            run = import_module(f"couplet.stages.{stage}").run
            paths = {STAGES[read].option: outputs[read] for read in STAGES[stage].reads}
            if stage == "train":
                more[stage] = {"observe": observe}
                if (frozen := settings.training.frozen_run) is not None:
                    more[stage]["frozen"] = teacher = out / "pretrained"
                    if not _is_trained(teacher, Settings.of(frozen)):
                        run(context, Settings.of(frozen), **paths, out=teacher)
                if _is_trained(outputs[stage], settings):
                    continue
            run(context, settings, **paths, out=outputs[stage], **more.get(stage, {}))
    samples = {nfe: read_array(outputs["sample"] / samples_name(nfe)) for nfe in params.sample.nfe}
    panels = {f"NFE {nfe}": {cell.coupling: images} for nfe, images in samples.items()}
    sample_grids(out / "samples.png", panels)


def _is_trained(train: Path, settings: Settings) -> bool:
    """Whether a run, the longest stage, is finished with the same settings, code and data."""
    record = record_of("train", train)
    return record.exists() and read_json(record).get("key") == key_of("train", settings)
