"""Stage `train`: one cell's weights, as EMA snapshots.

While it works, everything lies in ``OUT.partial``: the last two complete states, the curve and the snapshots
so far. What files there hold of steps after the newest state is done again, to the same bytes. A whole
training has its record.json, loses its states and takes the place of ``OUT``. So a process may be killed at
any moment, and a workflow engine may remove a failed job's outputs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from couplet import model, training
from couplet.config import Cell, Params, Training
from couplet.config.layout import TRAINING_RECORD, checkpoint_name
from couplet.config.sources import code_of
from couplet.data.archive import Archive
from couplet.data.loader import Loader
from couplet.errors import Stopped, UserError
from couplet.files import append, locked, read_json, remove_temporary, replacing, write_json
from couplet.model import ImageShape, Saved
from couplet.networks.initial import read_weights
from couplet.ranks import ALONE, Ranks
from couplet.stages.record import Recorder, archive_digests, digests
from couplet.training import Progress, State
from couplet.training.state import Damaged, check_code

Report = Callable[[Progress, float], None]
"""Called after every step with what it did and the images per second so far."""

Signals = AbstractContextManager[Callable[[], str | None]]
"""Gives a function that names the signal to stop that has come, if any."""

NO_SIGNALS: Signals = nullcontext(lambda: None)

STATES_KEPT = 2


def train(
    settings: Training,
    data: Path,
    out: Path,
    device: torch.device,
    report: Report,
    say: Callable[[str], None],
    signals: Signals = NO_SIGNALS,
    ranks: Ranks = ALONE,
    *,
    frozen: Path | None = None,
    accept_code: bool = False,
) -> None:
    """Trains a cell and writes its folder: config.json, curve.csv, checkpoints/, record.json.

    Args:
        settings: what to train.
        data: folder of the prepared archive.
        out: folder to write; what an earlier training wrote there is replaced.
        device: where to train.
        report: called after every step.
        say: called with what a person should know before the first step.
        signals: entered for the time of the steps; a signal stops the training after a whole one.
        ranks: the processes that share each batch; the first one writes, the others must see what it wrote.
        frozen: the checkpoint for a coupling with a `pretrained` predictor, see :func:`lent`.
        accept_code: go on from a state that other code of the training left.

    Raises:
        UserError: bad input, a loss that is not finite, a folder that cannot be written or that another
            process works on.
        Stopped: a signal came; the state is saved.
    """
    archive = Archive(data)
    ranks.part(settings.recipe.batch)  # refused before anything is written
    weights = Weights.of(settings, frozen)
    place = out.absolute()
    partial = place.with_name(f"{place.name}.partial")
    lock = locked(place.with_name(f"{place.name}.lock"), say) if ranks.first else nullcontext()
    with lock:
        if ranks.first:
            _make_ready(out, partial)
        ranks.wait()
        if not (partial / TRAINING_RECORD).exists():
            record = Recorder("train", partial / TRAINING_RECORD, device)
            with signals as stopped_by:
                state = _train(
                    settings, archive, weights, partial, device, report, say, stopped_by, ranks, accept_code
                )
            if ranks.first:
                write_json(partial / "config.json", describe(settings))
                record.write(
                    **_record(settings, archive, state, ranks),
                    inputs={**archive_digests(archive), **digests(*filter(None, weights))},
                    outputs=digests(partial / "config.json", partial / "curve.csv", partial / "checkpoints"),
                )
        if ranks.first:
            _check_whole(partial, settings, archive, accept_code)
            _publish(partial, place)
        ranks.wait()


def _make_ready(out: Path, partial: Path) -> None:
    """Leaves of an unfinished training what can be gone on from.

    Raises:
        UserError: ``out`` is not a training's folder.
    """
    if out.exists() and any(out.iterdir()) and not (out / "config.json").exists():
        raise UserError(f"{out}: holds something else than a training; choose another folder")
    remove_temporary(partial)
    if partial.exists() and not _states(partial) and not (partial / TRAINING_RECORD).exists():
        # Stopped before its first save: nothing to go on from, and perhaps of other settings.
        shutil.rmtree(partial)


def _train(
    settings: Training,
    archive: Archive,
    weights: Weights,
    partial: Path,
    device: torch.device,
    report: Report,
    say: Callable[[str], None],
    stopped_by: Callable[[], str | None],
    ranks: Ranks,
    accept_code: bool,
) -> State:
    """Takes every step, from the newest state in ``partial`` on."""
    shape = ImageShape(archive.card.shape[2], archive.card.shape[0], len(archive.card.classes))
    state = _initial_state(settings, shape, device, weights.initial)
    whole = state.model.coupling.joint_images
    loader = Loader(
        archive.train,
        batch=settings.recipe.batch,
        seed=settings.cell.seed,
        flip=settings.recipe.flip,
        num_classes=shape.num_classes if settings.recipe.conditional else 0,
        rank=0 if whole else ranks.rank,
        world=1 if whole else ranks.size,
    )
    state.code = [code_of("train")]
    frozen = None if weights.frozen is None else model.load(weights.frozen, device)[0]
    _restore(state, partial, settings, archive, say, accept_code)
    if len(steps := set(ranks.gather(state.step))) > 1:
        raise UserError(f"{partial}: processes see states of steps {sorted(steps)}; all must see one disk")
    if state.loaded:
        say(f"{settings.recipe.init_from}: {state.loaded}")
    snapshots = set(settings.snapshot_steps)
    curve = partial / "curve.csv"
    if ranks.first:
        _start_curve(curve, state.step)
    try:
        for progress in training.run(settings, state, loader, frozen, ranks=ranks):
            done = progress.step
            if ranks.first:
                report(progress, done * settings.recipe.batch / state.seconds)
                if done == 1 or done % settings.train.log_every == 0 or done in snapshots:
                    append(curve, ",".join(map(str, progress)) + "\n")
                if done in snapshots:
                    path = partial / "checkpoints" / checkpoint_name(done)
                    model.save(path, state.averaged, Saved(settings, shape, done))
            signal = stopped_by()
            stopping = ranks.any(signal is not None)
            if ranks.first and (stopping or done % settings.train.save_every == 0):
                _save(state, partial, settings, archive)
            if stopping:
                ranks.wait()
                cause = signal or "a signal to another process"
                raise Stopped(
                    f"{settings.cell}: {cause}: stopped after step {done}, saved; the same command goes on"
                )
    except UserError as error:
        good = _states(partial)
        last = f"the last good state is {good[-1]}" if good else "no state was saved before"
        raise UserError(f"{error}; {last}") from None
    return state


def _states(partial: Path) -> list[Path]:
    """The saved states, the newest last."""
    return sorted(partial.glob("state-*.safetensors"))


def _save(state: State, partial: Path, settings: Training, archive: Archive) -> None:
    """Saves the state, then removes what is older than the one before it."""
    path = partial / f"state-{state.step:08d}.safetensors"
    state.save(path, key=settings.key, data=archive.card.digest)
    for old in _states(partial)[:-STATES_KEPT]:
        old.unlink()


def _restore(
    state: State,
    partial: Path,
    settings: Training,
    archive: Archive,
    say: Callable[[str], None],
    accept_code: bool,
) -> None:
    """Goes on from the newest saved state, if there is one."""
    states = _states(partial)
    if not states:
        return
    try:
        state.restore(states[-1], key=settings.key, data=archive.card.digest, accept_code=accept_code)
    except Damaged as error:
        then = f"go on from {states[-2].name}" if len(states) > 1 else "start again"
        raise UserError(f"{error}; delete it to {then}") from None
    say(f"{settings.cell}: goes on after step {state.step}")


def _initial_state(settings: Training, shape: ImageShape, device: torch.device, path: Path | None) -> State:
    """The state before the first step, from the weights in ``path`` or from the seed."""
    if path is None:
        return training.initial_state(settings, shape, device)
    weights = read_weights(path)
    try:
        return training.initial_state(settings, shape, device, weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class Weights(NamedTuple):
    """Files of weights that a training starts from or predicts with."""

    initial: Path | None
    frozen: Path | None

    @classmethod
    def of(cls, settings: Training, frozen: Path | None) -> Weights:
        """Those that the recipe names; ``frozen`` where the coupling is lent its predictor.

        Raises:
            UserError: it is to be lent one and is not, or the other way round.
        """
        recipe, lender = settings.recipe, settings.coupling.lender
        if (frozen is None) != (lender is None):
            needed = (
                "the coupling's predictor is frozen and from no training of the same file"
                if lender is None
                else f"coupling {settings.cell.coupling} predicts with a finished training of "
                f"{lender.coupling}: give its folder"
            )
            raise UserError(f"--frozen = {frozen or 'not given'}: {needed}")
        if frozen is None and recipe.frozen_from is not None:
            frozen = Path(recipe.frozen_from)
        return cls(Path(recipe.init_from) if recipe.init_from is not None else None, frozen)


def lent(params: Params, cell: Cell, folder: Path | None) -> Path | None:
    """The checkpoint in the finished training ``folder`` that lends ``cell`` its frozen predictor, if any.

    Raises:
        UserError: the folder is of another training than the coupling's `pretrained` names.
    """
    lender = params.pretrained(cell)
    if lender is None or folder is None:
        return folder
    settings, progress = params.training(lender[0]), lender[1]
    check_trained(settings, folder)
    wanted = progress * settings.recipe.steps
    nearest = min(settings.snapshot_steps, key=lambda step: abs(step - wanted))
    return folder / "checkpoints" / checkpoint_name(nearest)


def _start_curve(path: Path, step: int) -> None:
    """curve.csv, ready to go on after ``step``: lines of steps that are to be done again go.

    A line that a full disk or a kill cut short is one of these, whatever number is left of it.
    """
    head = ",".join(Progress._fields)
    kept = [head]
    if path.exists():
        whole = (line for line in path.read_text().splitlines()[1:] if line.count(",") == head.count(","))
        kept += [line for line in whole if int(line.partition(",")[0]) <= step]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(kept) + "\n")


def _record(settings: Training, archive: Archive, state: State, ranks: Ranks) -> dict[str, Any]:
    images = settings.recipe.steps * settings.recipe.batch
    return {
        "key": settings.key,
        "run": f"{settings.cell}-{settings.key}",
        "cell": settings.cell.model_dump(),
        "settings": settings.model_dump(mode="json"),
        "earlier_code": state.code[:-1],
        "data": dict(archive.card.files),
        "seconds": state.seconds,
        "images_per_second": images / state.seconds,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "replaced_gradients": state.replaced,
        "processes": ranks.size,
        "init_from": None if state.loaded is None else asdict(state.loaded),
    }


def _check_whole(partial: Path, settings: Training, archive: Archive, accept_code: bool) -> None:
    """Raises UserError if ``partial`` was left whole by a training of other settings, data or code."""
    path = partial / TRAINING_RECORD
    record = read_json(path)
    if (record["key"], record["data"]) != (settings.key, archive.card.files):
        raise UserError(
            f"{path}: of configuration {record['key']}, this is {settings.key}, or of another data set; "
            f"delete {partial} to start again, or choose another folder"
        )
    if not accept_code:
        check_code(path, [record["code"]], [code_of("train")])


def _publish(partial: Path, out: Path) -> None:
    """Puts a whole training in its place; what was there is of an earlier run of this command."""
    for state in _states(partial):
        state.unlink()
    replaced = out.with_name(f"{out.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if out.exists():
        out.replace(replaced)
    partial.replace(out)
    shutil.rmtree(replaced, ignore_errors=True)


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
