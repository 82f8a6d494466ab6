"""`couplet show`: what a run folder holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from couplet.config.layout import checkpoint_name
from couplet.errors import UserError
from couplet.files import read_json
from couplet.stages.train import trained_with


def contents(folder: Path) -> Iterator[tuple[str, str]]:
    """Pairs of name and value, from configuration to metrics.

    Raises:
        UserError: the folder holds no run.
    """
    train = folder / "train"
    if not (train / "config.json").exists():
        partial = "; a training is unfinished" if (folder / "train.partial").exists() else ""
        raise UserError(f"{folder}: no run here, expected train/config.json{partial}")
    settings = trained_with(train)
    recipe = settings.recipe
    yield "run", f"{settings.cell}-{settings.key}"
    yield "coupling", _described(settings.coupling.model_dump())
    yield "training", f"{recipe.steps} steps of {recipe.batch} images, {recipe.network.kind}"
    record = read_json(train / "record.json")
    yield (
        "took",
        f"{record['seconds']:.1f} s, {record['images_per_second']:.0f} images/s on "
        f"{record['device']} ({record['threads']} threads), {record['parameters']:,} parameters",
    )
    commit = record["commit"] or "no repository"
    yield "code", commit + (" with changes" if record["dirty"] else "")
    saved = [
        step for step in settings.snapshot_steps if (train / "checkpoints" / checkpoint_name(step)).exists()
    ]
    yield "snapshots", "after steps " + ", ".join(map(str, saved))
    for about in sorted(folder.glob("eval*/evaluation.json")):
        evaluation = read_json(about)
        yield "measured in", str(about.parent)
        yield "selected", f"step {evaluation['selected']['step']}"
        yield "features", evaluation["extractor"]
        yield "samples", str(evaluation["samples"]["count"])
        for name, value in evaluation["metrics"].items():
            yield name, f"{value:.4f}"


def _described(settings: dict[str, object]) -> str:
    kind = settings.pop("kind")
    return f"{kind} " + " ".join(f"{key}={value}" for key, value in settings.items())
