"""dvc.yaml from the table of stages, and the files by which DVC sees what an experiment is made of.

DVC compares files. The first stage runs `couplet check --out`, which writes one for each later stage, with
the settings, the code, the content and the keys that decide its output; the stage depends on it, so that DVC
runs a stage again when, and only when, its cache key in the grid would change.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from couplet.config.datasets import DatasetConfig
from couplet.config.params import Params
from couplet.config.resolve import resolve
from couplet.config.yaml12 import dump_yaml, read_yaml
from couplet.errors import UserError
from couplet.files import write_json
from couplet.plan.layout import Layout, in_folder, shown_by
from couplet.plan.stages import RUN, STAGES, digest, ingredients, keys_of, record_of

ROOT = Path("experiment")
PLAN = ROOT / "plan"
LIVE = ROOT / "live"
FILE = Path("dvc.yaml")

HEADER = """\
# One experiment: the cell that params.yaml names at its top level. The grid: Snakefile.
# Made by `python -m couplet.plan.dvc` from the table of stages, couplet/plan/stages.py: do not edit.
"""

FIRST = RUN[0]
"""The stage that checks the parameters. It runs often, and writes its output only if the key changes."""

PARAMS = {
    "prepare": ["dataset", "couplings"],
    "features": ["extractor"],
    "train": ["recipe", "kernel", "coupling", "seed"],
}
"""Parameters that DVC compares between experiments, by stage; settings of couplings are checked first."""

SOURCES = ["params.yaml", "workflow/papers", "workflow/studies"]
"""Files that may decide what an experiment is made of, besides code: parameters and the files below them."""

CODE = ("src/couplet", "requirements.txt")
"""The code in a checkout, or what names its version in a project of `couplet init`."""

MORE_OPTIONS = {
    "prepare": ["--workers 2"],
    "train": [f"--track dvc={LIVE}"],
}
"""Options of a stage besides parameters, paths, threads and processes."""

PARALLEL = {"threads": "--threads ${threads}", "processes": "--processes ${gpus}"}
"""Options for what a stage may have several of."""

ARTIFACT = {
    "path": str(in_folder(ROOT, "train")),
    "type": "model",
    "desc": "Snapshots of the averaged weights, with the settings of the run.",
}
"""The experiment's entry in a registry of models."""

CURVES: dict[str, tuple[str, str | list[str]]] = {
    "loss and its parts": ("curve.csv", ["loss", "consistency", "penalty"]),
    "distance without weights": ("curve.csv", "distance"),
    "gradient norm": ("curve.csv", "gradient_norm"),
    "learning rate": ("curve.csv", "learning_rate"),
    "decay of the average": ("curve.csv", "ema_decay"),
    "N(k), or stage": ("curve.csv", "curriculum"),
    "images per second, wall clock": ("speed.csv", "images_per_second"),
}
"""Plots of the live view: file and columns, by title."""


def write_plan(params: Params, out: Path) -> None:
    """Write what the output of each later stage of the experiment is made of to the folder ``out``.

    Raises:
        UserError: ``out`` cannot be written, or dvc.yaml does not depend on images that the data set names.
    """
    # One folder has one extractor.
    settings = Layout(params, ROOT).settings(params.experiment, params.extractor)._replace(selector=None)
    content = read_yaml(FILE) if FILE.exists() else None
    for path in _named(settings.dataset) if FILE.exists() else ():
        if not isinstance(content, dict) or path not in content["stages"][FIRST]["deps"]:
            raise UserError(
                f"{FILE}: stage {FIRST} does not depend on {path}, from which data set {params.dataset} is "
                "made; print a new one by `python -m couplet.plan.dvc`"
            )
    keys = keys_of(settings, RUN[-1])
    for stage in RUN[1:]:
        made_of = ingredients(stage, settings)
        inputs = {read: keys[read] for read in STAGES[stage].reads}
        write_json(out / f"{stage}.json", {**made_of, "code": digest(made_of["code"]), "inputs": inputs})


def _named(dataset: DatasetConfig) -> list[str]:
    """Files and folders of images that a data set names."""
    return [str(path) for path in dataset.originals_named.values()]


def pipeline(params: Params, root: Path = Path()) -> dict[str, Any]:
    """The content of dvc.yaml in the folder ``root``."""
    code = next(name for name in CODE if (root / name).exists())
    distance: dict[str, Any] = {
        "x": "step",
        "y": {str(in_folder(ROOT, "select")): "fd_nfe1"},
        "x_label": "training steps",
        "y_label": "Fréchet distance to the selection split, NFE 1",
    }
    curves = [
        {
            title: {
                "x": "step",
                "y": {f"{LIVE}/{file}": columns},
                "x_label": "training steps",
                "y_label": title,
            }
        }
        for title, (file, columns) in CURVES.items()
    ]
    return {
        "stages": {name: _stage(name, params.dataset_named(params.dataset), code) for name in RUN},
        "artifacts": {"model": ARTIFACT},
        "metrics": [f"{LIVE}/metrics.json"],
        "plots": [*curves, f"{LIVE}/samples", {"Fréchet distance": distance}],
    }


def _stage(name: str, dataset: DatasetConfig, code: str) -> dict[str, Any]:
    """A stage of dvc.yaml."""
    stage, output = STAGES[name], in_folder(ROOT, name)
    reads = {read: str(in_folder(ROOT, read)) for read in stage.reads}
    options = [f"--{STAGES[read].option} {path}" for read, path in reads.items()]
    more = [*(PARALLEL[each] for each in stage.parallel), *MORE_OPTIONS.get(name, [])]
    command = " ".join([f"couplet {name} --params params.yaml", *options, f"--out {output}", *more])
    outs: list[Any] = [str(output)] if stage.record_inside else [str(output), str(record_of(name, output))]
    content: dict[str, Any] = {"cmd": command, "desc": stage.summary}
    if name in PARAMS:
        content["params"] = PARAMS[name]
    if name == FIRST:
        content["cmd"] = [f"couplet check --params params.yaml --out {PLAN}", command]
        content["deps"] = [*SOURCES, code, *_named(dataset)]
        plan = [f"{PLAN}/{later}.json" for later in RUN[1:]]
        content["outs"] = [*({path: {"persist": True}} for path in outs), *plan]
        return content
    # Outputs that reach the stage through others as well are left out: their keys are in its file.
    passed_on = {before for read in reads for before in _before(read)}
    content["deps"] = [
        f"{PLAN}/{name}.json",
        *(path for read, path in reads.items() if read not in passed_on),
    ]
    # Not persist: DVC would not look for the stage in its run cache.
    beside = {"train": LIVE, "select": shown_by(output)}
    content["outs"] = [*outs, str(beside[name])] if name in beside else outs
    if name == "evaluate":
        content["metrics"] = [str(output.with_suffix(".metrics.json"))]
    return content


def _before(name: str) -> set[str]:
    """The stages from which the output of a stage comes."""
    reads = STAGES[name].reads
    return {*reads}.union(*map(_before, reads))


def text(root: Path = Path()) -> str:
    """dvc.yaml for the parameters in the folder ``root``."""
    return HEADER + dump_yaml(pipeline(resolve(root / "params.yaml"), root))


if __name__ == "__main__":
    sys.stdout.write(text())
