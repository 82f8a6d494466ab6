"""`couplet show`: the content of a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from couplet.errors import UserError
from couplet.files import read_json
from couplet.plan.layout import checkpoint_name
from couplet.plan.stages import RECORD
from couplet.plan.stored import training_in


def contents(folder: Path) -> Iterator[tuple[str, str]]:
    """Pairs of name and value, from configuration to metrics.

    Raises:
        UserError: the folder holds no run.
    """
    train = folder / "train"
    if not (train / "config.json").exists():
        partial = "; a run is unfinished" if (folder / "train.partial").exists() else ""
        raise UserError(f"{folder}: no run here, expected train/config.json{partial}")
    settings = training_in(train)
    recipe = settings.recipe
    record = read_json(train / RECORD)
    yield "run", f"{settings.cell}-{record['key']}"
    yield "coupling", _described(settings.coupling.model_dump())
    yield "training", f"{recipe.steps} steps of {recipe.batch} images, {recipe.network.kind}"
    yield (
        "took",
        f"{record['seconds']:.1f} s, {record['images_per_second']:.0f} images/s on "
        f"{record['device']} ({record['threads']} threads), {record['parameters']:,} parameters",
    )
    commit = record["commit"] or "no repository"
    yield "commit", commit + (" with changes" if record["dirty"] else "")
    saved = [
        step for step in settings.snapshot_steps if (train / "checkpoints" / checkpoint_name(step)).exists()
    ]
    yield "snapshots", "after steps " + ", ".join(map(str, saved))
    for file in sorted(folder.rglob("evaluation.json")):
        evaluation = read_json(file)
        yield "measured in", str(file)
        yield "selected", f"step {evaluation['selected']['step']}"
        yield "features", evaluation["extractor"]
        yield "samples", str(evaluation["samples"]["count"])
        for row in evaluation["numbers"]:
            yield f"{row['metric']}, NFE {row['nfe']}", f"{row['value']:.4f}"
    if (folder / "samples.png").exists():
        yield "picture", str(folder / "samples.png")


def _described(settings: dict[str, object]) -> str:
    kind = settings.pop("kind")
    return f"{kind} " + " ".join(f"{key}={value}" for key, value in settings.items())
