"""Stage `train`: one cell's weights, as EMA snapshots."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from couplet import model, training
from couplet.config import Training
from couplet.config.layout import checkpoint_name
from couplet.data import Archive, Loader
from couplet.errors import UserError
from couplet.files import read_json, replacing, write_json
from couplet.model import ConsistencyModel, ImageShape, Saved
from couplet.networks.initial import read_weights
from couplet.stages.record import environment
from couplet.training import Progress, State

Report = Callable[[Progress, float], None]
"""Called after every step with what it did and the images per second so far."""


def train(
    settings: Training,
    data: Path,
    out: Path,
    device: torch.device,
    report: Report,
    say: Callable[[str], None],
) -> None:
    """Trains a cell and writes its folder: config.json, curve.csv, checkpoints/, record.json.

    Until it is whole, everything lies in ``out.partial``, with the state from which the same command
    goes on after an interruption. A workflow engine that removes a failed job's outputs leaves it.

    Args:
        settings: what to train.
        data: folder of the prepared archive.
        out: folder to write; what an earlier training wrote there is replaced.
        device: where to train.
        report: called after every step.
        say: called with what a person should know before the first step.

    Raises:
        UserError: bad input, a loss that is not finite, or a folder that cannot be written.
    """
    if out.exists() and any(out.iterdir()) and not (out / "config.json").exists():
        raise UserError(f"{out}: holds something else than a training; choose another folder")
    archive = Archive(data)
    shape = ImageShape(archive.card.shape[2], archive.card.shape[0], len(archive.card.classes))
    loader = Loader(
        archive.train,
        batch=settings.recipe.batch,
        seed=settings.cell.seed,
        flip=settings.recipe.flip,
        num_classes=shape.num_classes if settings.recipe.conditional else 0,
    )
    partial = out.absolute().with_name(out.absolute().name + ".partial")
    saved = partial / "state.pt"
    state = _initial_state(settings, shape, device)
    if saved.exists():
        state.restore(saved, settings.key)
        say(f"{settings.cell}: goes on after step {state.step}")
    elif partial.exists():
        # Stopped before its first save: nothing to go on from, and perhaps of other settings.
        shutil.rmtree(partial)
    if state.loaded:
        say(f"{settings.recipe.init_from}: {state.loaded}")
    snapshots = set(settings.snapshot_steps)
    with _curve(partial / "curve.csv", state.step) as curve:
        for progress in training.run(settings, state, loader, _frozen(settings, device)):
            done = progress.step
            report(progress, done * settings.recipe.batch / state.seconds)
            if done == 1 or done % settings.train.log_every == 0 or done in snapshots:
                curve.writerow(progress._asdict())
            if done in snapshots:
                path = partial / "checkpoints" / checkpoint_name(done)
                model.save(path, state.averaged, Saved(settings, shape, done))
            if done % settings.train.save_every == 0:
                state.save(saved, settings.key)
    write_json(partial / "config.json", describe(settings))
    write_json(partial / "record.json", _record(settings, archive, state, device))
    saved.unlink(missing_ok=True)
    _publish(partial, out)


def _initial_state(settings: Training, shape: ImageShape, device: torch.device) -> State:
    """The state before the first step, from the weights that the recipe names or from the seed."""
    path = settings.recipe.init_from
    if path is None:
        return training.initial_state(settings, shape, device)
    weights = read_weights(Path(path))
    try:
        return training.initial_state(settings, shape, device, weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _frozen(settings: Training, device: torch.device) -> ConsistencyModel | None:
    """The pre-trained model that the recipe lends to its coupling, or None."""
    path = settings.recipe.frozen_from
    return None if path is None else model.load(Path(path), device)[0]


@contextmanager
def _curve(path: Path, step: int) -> Iterator[csv.DictWriter[str]]:
    """curve.csv, opened to go on after ``step``: lines of steps that are to be done again go."""
    kept = []
    if step and path.exists():
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, Progress._fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    with path.open("a", newline="", buffering=1) as file:
        yield csv.DictWriter(file, Progress._fields, lineterminator="\n")


def _record(settings: Training, archive: Archive, state: State, device: torch.device) -> dict[str, object]:
    images = settings.recipe.steps * settings.recipe.batch
    return {
        "key": settings.key,
        "data": dict(archive.card.files),
        "seconds": state.seconds,
        "images_per_second": images / state.seconds,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "replaced_gradients": state.replaced,
        "init_from": None if state.loaded is None else asdict(state.loaded),
        **environment(device),
    }


def _publish(partial: Path, out: Path) -> None:
    """Puts a whole training in its place; what was there is of an earlier run of this command."""
    if out.exists():
        shutil.rmtree(out)
    partial.replace(out)


def describe(settings: Training) -> dict[str, object]:
    """The content of config.json: the resolved settings and their key."""
    return {"key": settings.key, **settings.model_dump(mode="json")}


def trained_with(folder: Path) -> Training:
    """The settings of a folder that :func:`train` wrote.

    Raises:
        UserError: the folder holds no readable config.json.
    """
    content = read_json(folder / "config.json")
    try:
        return Training.model_validate({k: v for k, v in content.items() if k != "key"})
    except (AttributeError, ValueError):
        raise UserError(f"{folder / 'config.json'}: not written by `couplet train`") from None


def check_trained(settings: Training, train: Path) -> None:
    """Raises UserError unless the folder ``train`` was trained with ``settings``."""
    found = trained_with(train)
    if found.key != settings.key:
        raise UserError(
            f"{train / 'config.json'}: trained as {found.cell} with key {found.key}, "
            f"wanted {settings.cell} with key {settings.key}; run `couplet train` again"
        )
