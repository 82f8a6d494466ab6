"""`couplet check`: the parameters are sound, and what each stage of the experiment reads of them."""

from __future__ import annotations

from pathlib import Path

from couplet.config import Params
from couplet.files import write_json


def write_settings(params: Params, out: Path) -> None:
    """Writes the experiment's resolved settings to the folder ``out``, a file per group of stages.

    A workflow engine that compares content then runs a stage again when, and only when, something
    that the stage reads has changed.

    Raises:
        UserError: ``out`` cannot be written.
    """
    cell = params.experiment
    training, measurement = params.training(cell), params.measurement(cell)
    write_json(out / "prepare.json", training.dataset.model_dump(mode="json"))
    write_json(out / "features.json", measurement.features.model_dump(mode="json"))
    write_json(out / "train.json", training.deciding)
    write_json(out / "measure.json", measurement.model_dump(mode="json"))
