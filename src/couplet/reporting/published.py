"""The papers' own numbers, each with its source and its protocol.

A line of ``published.csv`` names its row of a parameter file at scale `paper`: ``papers/gc`` and the names of
a cell. What that row resolves to is kept in ``published.json``, so that an installed package and other files
know it too. A number belongs to a training with the same settings, whatever their names; it is compared with
a measured one only where both have the same protocol.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from couplet.config.cells import Cell, Measurement, Training
from couplet.config.layers import leaves
from couplet.config.metrics import MetricConfig
from couplet.config.resolve import resolve

METRICS = {
    "FID": ("fd", 1.0),
    "FD_DINOv2": ("fd", 1.0),
    "KIDx100": ("kid", 0.01),
    "IS": ("is", 1.0),
    "precision": ("precision", 1.0),
    "recall": ("recall", 1.0),
}
"""Our number by the papers' name of it, and the factor from their unit to ours."""

WHO = ("dataset", "recipe", "kernel", "coupling")
"""Names of a cell that a line has."""

Protocol = Mapping[str, Any]
"""How a number is measured: a value by its name, ``extractor`` or ``sample.quantise``."""


class Published(NamedTuple):
    """A number from a paper, in the units of our column."""

    name: str
    """As the paper has it: ``KIDx100 0.26``."""
    value: float
    spread: float | None
    spread_of: str
    """What the spread is taken over: ``5 resamplings of one model``; blank without a spread."""
    protocol: Protocol
    source: str


def identity(training: Training) -> str:
    """Digest of the settings that make a row of a paper.

    Everything that decides weights and samples of a kind of run counts, apart from the seed, from names, and
    from the settings of the computation. A file counts by its name alone, a frozen run by its own identity.
    """
    recipe = training.recipe.model_dump(mode="json", exclude={"sources"})
    coupling = training.coupling.model_dump(mode="json")
    for key in ("init_from", "frozen_from"):
        recipe[key] = recipe[key] and Path(recipe[key]).name
    if (named := training.coupling.frozen_run) is not None:
        coupling["pretrained"] = named.progress
    content = {
        "dataset": training.dataset.model_dump(mode="json", exclude={*training.dataset.by_content}),
        "kernel": training.kernel.model_dump(mode="json"),
        "coupling": coupling,
        "recipe": recipe,
        "frozen_run": training.frozen_run and identity(training.frozen_run),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def measuring(training: Training, measurement: Measurement) -> dict[str, Any]:
    """The settings of a cell on which its numbers depend besides those that :func:`identity` is of.

    Settings that change no number, or nothing but its rounding, are left out, and so is what is counted.
    """
    sampling = {"samples", "nfe", "batch", "repeats"}
    # The codes have TF32 or not as PyTorch's default is (docs/discrepancies.md 23).
    precision = "bf16" if training.train.precision == "bf16" else "float32 or tf32"
    settings = {
        "train": {"snapshots": training.train.snapshots, "precision": precision},
        "select": measurement.select.model_dump(mode="json"),
        "sample": measurement.sample.model_dump(mode="json", exclude=sampling),
    }
    return {".".join(keys): value for keys, value in leaves(settings)}


def protocol(
    metric: MetricConfig,
    settings: Mapping[str, Any],
    *,
    extractor: str,
    samples: int,
    images: int,
    conditional: bool,
) -> Protocol:
    """The protocol of a number.

    Args:
        metric: what gives the number.
        settings: as :func:`measuring` gives them.
        extractor: its label.
        samples: images in a set of samples.
        images: real images.
        conditional: whether the model is given classes.
    """
    others = {name: value for name, value in settings.items() if conditional or name != "sample.labels"}
    counted = metric.protocol(samples, images)
    return {"extractor": extractor, **counted, **others}


def difference(published: Protocol, here: Protocol) -> tuple[str, str]:
    """How two protocols differ, in the words of each; blank if they are the same."""
    names = [name for name in {**published, **here} if published.get(name) != here.get(name)]
    first, second = (", ".join(said(name, each.get(name)) for name in names) for each in (published, here))
    return first, second


def said(name: str, value: Any) -> str:
    """A part of a protocol in words: ``50,000 reference images``, ``k 3``."""
    words = name.replace("_", " ")
    if name == "extractor":
        return str(value)
    return f"{value:,} {words}" if name in ("samples", "reference_images") and value else f"{words} {value}"


@cache
def _lines() -> list[dict[str, str]]:
    with files("couplet.reporting").joinpath("published.csv").open() as file:
        return list(csv.DictReader(file))


def extractors() -> set[str]:
    """Labels of the extractors in whose features there are published numbers."""
    return {line["extractor"] for line in _lines()}


@cache
def _resolved() -> dict[str, Any]:
    return json.loads(files("couplet.reporting").joinpath("published.json").read_text())


def reported(training: Training, nfe: int, number: str) -> list[Published]:
    """What papers report for these settings: ``number`` (`fd`, `kid`) in any features, at ``nfe``."""
    found, known, mine = [], _resolved(), identity(training)
    for line in _lines():
        name, unit = METRICS[line["metric"]]
        if (name, str(nfe)) != (number, line["nfe"]) or known["rows"].get(_row(line)) != mine:
            continue
        measured = known["files"][line["file"]]
        metrics = map(MetricConfig.parse, measured["metrics"].values())
        measured_in = protocol(
            next(metric for metric in metrics if number in metric.numbers),
            measured["settings"],
            extractor=line["extractor"],
            samples=int(line["samples"]),
            images=int(line["reference_images"]),
            conditional=training.recipe.conditional,
        )
        published = Published(
            name=f"{line['metric']} {line['value']}",
            value=unit * float(line["value"]),
            spread=unit * float(line["spread"]) if line["spread"] else None,
            spread_of=line["spread_of"],
            protocol=measured_in,
            source=line["source"],
        )
        found.append(published)
    return found


def _row(line: Mapping[str, str]) -> str:
    return " ".join(line[key] for key in ("file", *WHO))


def resolved(workflow: Path) -> dict[str, Any]:
    """What ``published.json`` holds: identities of rows, protocols of files, as resolved in ``workflow``.

    Raises:
        UserError: a line of ``published.csv`` names a file or a row that does not exist.
    """
    rows, protocols = {}, {}
    named = {_row(line): line for line in _lines() if line["file"]}
    for file in sorted({line["file"] for line in named.values()}):
        params = resolve(workflow / f"{file}.yaml", "paper")
        for row, line in named.items():
            if line["file"] == file:
                cell = Cell.model_validate({key: line[key] for key in WHO})
                rows[row] = identity(params.training(cell))
        training, measurement = params.training(params.experiment), params.measurement(params.experiment)
        metrics = measurement.evaluate.metrics.items()
        protocols[file] = {
            "metrics": {name: each.model_dump(mode="json") for name, each in metrics if name == each.kind},
            "settings": measuring(training, measurement),
        }
    return {"rows": rows, "files": protocols}


if __name__ == "__main__":
    print(json.dumps(resolved(Path("workflow")), indent=1, sort_keys=True))
