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
    """Run every stage of the experiment that ``params`` name, into ``out``, and draw its samples.

    Args:
        context: surroundings; a signal stops the run after a complete step.
        params: the settings.
        out: the run's folder.
        text: the parameter file that is kept as ``out/params.yaml``.
        live: folder of a live view for DVC.
        tensorboard: folder of a live view for TensorBoard.

    Raises:
        Stopped: a signal came; the state is saved.
        UserError: a stage met bad input, or ``out`` cannot be written or holds a run with other settings.
    """
    with installed("couplet run"):
        from couplet.reporting.figures import sample_grids
    cell = params.experiment
    settings = Settings.of(
        params.training(cell),
        extractor=params.extractor_named(params.extractor),
        measurement=params.measurement(cell),
    )
    assert settings.training is not None
    _check_same_run(out, settings)
    outputs = {stage: in_folder(out, stage) for stage in RUN}
    more: dict[str, dict[str, Any]] = {"prepare": {"name": cell.dataset, "raw": Path(params.raw)}}
    if (frozen := settings.training.frozen_run) is not None:
        more["train"] = {"frozen": out / "pretrained"}
    with observed(outputs["train"], context, live=live, tensorboard=tensorboard) as observe:
        with replacing(out / "params.yaml") as temporary:
            temporary.write_text(text)
        more["train"] = {**more.get("train", {}), "observe": observe}
        for stage in RUN:
            run = import_module(f"couplet.stages.{stage}").run
            paths = {STAGES[read].option: outputs[read] for read in STAGES[stage].reads}
            if stage == "train" and frozen is not None:
                run(context, Settings.of(frozen), **paths, out=out / "pretrained")
            if not _is_made(stage, outputs[stage], settings):
                run(context, settings, **paths, out=outputs[stage], **more.get(stage, {}))
    measurement = settings.measurement
    assert measurement is not None
    panels = {
        f"NFE {nfe}": {cell.coupling: read_array(outputs["sample"] / samples_name(nfe))}
        for nfe in measurement.sample.nfe
    }
    sample_grids(out / "samples.png", panels)


def _is_made(stage: str, output: Path, settings: Settings) -> bool:
    """Whether a run, which takes longest, has been finished with the same settings, code and data."""
    record = record_of(stage, output)
    return stage == "train" and record.exists() and read_json(record).get("key") == key_of(stage, settings)


def _check_same_run(out: Path, settings: Settings) -> None:
    """Raise UserError if the run in ``out`` was trained with other settings or on another data set."""
    if record_of("train", in_folder(out, "train")).exists():
        for stage in ("prepare", "train"):
            record_with(stage, in_folder(out, stage), settings)
