"""Stage `train`: one cell's weights, as EMA snapshots.

An unfinished run lies in ``OUT.partial``: the last two complete states, the curve and the snapshots so far.
Steps after the newest state are repeated, to the same bytes. A finished run gets its record.json, loses its
states and becomes ``OUT``. So a process may be killed at any moment. A workflow engine removes the record of
a finished run if a scheduler says that its job failed; the same command puts it back.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from couplet import model
from couplet.config.cells import TrainConfig, Training
from couplet.data.archive import Archive
from couplet.errors import Stopped, UserError
from couplet.files import append, locked, read_json, remove_temporary, replacing, write_json
from couplet.model import ConsistencyModel, Saved
from couplet.networks.initial import read_weights
from couplet.plan.layout import checkpoint_name
from couplet.plan.stages import ADOPTED, RECORD, Settings
from couplet.process import Context
from couplet.provenance.record import (
    Recorder,
    archive_digests,
    check_inputs,
    digests,
    is_intact,
    read_record,
)
from couplet.training.loop import Progress, initial_state, loader_of, shape_of
from couplet.training.loop import run as steps
from couplet.training.memory import recompute_
from couplet.training.shard import Sharded
from couplet.training.state import Damaged, State

Observer = Callable[[Progress, float], None]
"""Called after every step with its scalars and the images per second so far."""

STATES_KEPT = 2

KEPT = f".finished-{RECORD}"
"""A copy of the record of a finished run, which no engine knows."""

FIRST_STEPS = 20
"""Steps at the start that all have a line in curve.csv, for `couplet adopt`."""


def run(
    context: Context,
    settings: Settings,
    *,
    data: Path,
    out: Path,
    frozen: Path | None = None,
    observe: Observer = lambda progress, rate: None,
) -> str:
    """Train a cell and write its folder: config.json, curve.csv, checkpoints/, record.json.

    An earlier run in ``out`` is replaced. ``frozen`` is the folder of the run that `pretrained` names, whose
    model is the coupling's predictor.

    Raises:
        UserError: also, a loss is not finite, or another process works on the folder.
        Stopped: a signal came; the state is saved.
    """
    training = settings.training
    archive, ranks = Archive(data), context.ranks
    place = out.absolute()
    partial = place.with_name(f"{place.name}.partial")
    # Bad input is refused before anything is written.
    record = Recorder("train", settings, partial, context.device, reads={"prepare": data})
    ranks.part(training.recipe.batch)
    weights = Weights.of(training, data, frozen)
    if (batch := training.recipe.batch) > (count := len(archive.train)):
        context.say(f"{training.cell}: a batch of {batch} repeats images, the data set has {count}")
    if (slow := slowness(training.train, context.device)) is not None:
        context.say(f"{training.cell}: {slow}")
    lock = locked(place.with_name(f"{place.name}.lock"), context.say) if ranks.first else nullcontext()
    with lock:
        if ranks.any(ranks.first and _put_back(place, record.key, archive)):
            return f"{training.cell}, finished before"
        if ranks.first:
            _make_ready(out, partial)
        ranks.wait()
        # The first process decides: a network disk may show a file to one node later than to another.
        if ranks.gather((path := partial / RECORD).exists())[0]:
            finished = read_json(path)
            if (finished["key"], finished["data"]) != (record.key, archive.card.files):
                raise UserError(
                    f"{path}: of a run with key {finished['key']}, this is {record.key}, or of another data "
                    f"set; delete {partial} to start again, or choose another folder"
                )
        else:
            if ranks.first:
                write_json(partial / "config.json", training.model_dump(mode="json"))
            state = _Run(
                context, training, archive, weights=weights, partial=partial, key=record.key, observe=observe
            ).train()
            if ranks.first:
                images = training.recipe.steps * training.recipe.batch
                record.write(
                    cell=training.cell.model_dump(),
                    data=dict(archive.card.files),
                    seconds=state.seconds,
                    images_per_second=images / state.seconds,
                    parameters=sum(p.numel() for p in state.model.parameters()),
                    replaced_gradients=state.replaced,
                    processes=ranks.size,
                    init_from=None if state.loaded is None else asdict(state.loaded),
                    adopted=proofs(partial),
                    inputs={**archive_digests(archive), **digests(*filter(None, weights))},
                    outputs=digests(partial / "config.json", partial / "curve.csv", partial / "checkpoints"),
                )
        if ranks.first:
            _publish(partial, place)
        ranks.wait()
    return f"{training.cell}, {training.recipe.steps} steps"


def _put_back(out: Path, key: str, archive: Archive) -> bool:
    """Put back the record of a finished run that lacks nothing else; return whether there is one."""
    if (out / RECORD).exists() or not (out / KEPT).exists():
        return False
    kept = read_record(out / KEPT)
    if (kept.content["key"], kept.content["data"]) != (key, archive.card.files) or not is_intact(kept):
        return False
    with replacing(out / RECORD) as temporary:
        shutil.copyfile(out / KEPT, temporary)
    return True


def _make_ready(out: Path, partial: Path) -> None:
    """Remove the parts of an unfinished run from which it cannot resume; refuse an ``out`` that is no run."""
    if out.exists() and any(out.iterdir()) and not (out / "config.json").exists():
        raise UserError(f"{out}: holds something else than a run; choose another folder")
    remove_temporary(partial)
    if partial.exists() and not states_in(partial) and not (partial / RECORD).exists():
        # Stopped before its first save, perhaps with other settings.
        shutil.rmtree(partial)


class Weights(NamedTuple):
    """Files of the weights that a run starts from and of its frozen predictor."""

    initial: Path | None
    frozen: Path | None

    @classmethod
    def of(cls, training: Training, data: Path, frozen: Path | None) -> Weights:
        """The files that the recipe names, or the snapshot in the run ``frozen`` of a `pretrained` predictor.

        Raises:
            UserError: ``frozen`` is missing, is not needed, is another run, or was trained on other data than
                ``data``.
        """
        recipe, wanted, step = training.recipe, training.frozen_run, training.frozen_step
        initial, predictor = (Path(name) if name else None for name in (recipe.init_from, recipe.frozen_from))
        if frozen and wanted and step:
            check_inputs({"prepare": data, "train": frozen}, Settings.of(wanted))
            predictor = frozen / "checkpoints" / checkpoint_name(step)
        elif frozen:
            raise UserError(f"--frozen = {frozen}: the coupling's predictor is no run of the same file")
        elif wanted:
            raise UserError(
                f"--frozen = not given: coupling {training.cell.coupling} predicts with a finished run of "
                f"{wanted.cell.coupling}: give its folder"
            )
        return cls(initial, predictor)

    def frozen_model(self, device: torch.device) -> ConsistencyModel | None:
        return None if self.frozen is None else model.load(self.frozen, device)[0]

    def initial_state(self, training: Training, archive: Archive, device: torch.device) -> State:
        """The state before the first step, from the file of initial weights or from the seed."""
        frozen = self.frozen_model(device)
        tensors = None if self.initial is None else read_weights(self.initial)
        try:
            state = initial_state(training, shape_of(archive), device, weights=tensors, frozen=frozen)
        except UserError as error:
            raise UserError(f"{self.initial}: {error}" if self.initial else str(error)) from None
        if training.train.recompute:
            recompute_(state.model)
        return state


class _Run(NamedTuple):
    context: Context
    training: Training
    archive: Archive
    weights: Weights
    partial: Path
    key: str
    observe: Observer

    def train(self) -> State:
        """Take every step after the newest state in the folder."""
        context, training, ranks = self.context, self.training, self.context.ranks
        state = self.weights.initial_state(training, self.archive, context.device)
        joint = state.model.coupling.joint_images
        loader = loader_of(training, self.archive, joint_images=joint, ranks=ranks)
        self._restore(state)
        if state.loaded:
            context.say(f"{training.recipe.init_from}: {state.loaded}")
        sharded = Sharded(training, state, ranks) if training.train.shard and ranks.size > 1 else None
        state = sharded.state if sharded else state

        def complete() -> State:
            return sharded.collected() if sharded else state

        if ranks.first:
            _start_curve(self.partial / "curve.csv", state.step)
        try:
            with (
                context.signals() as stopped_by,
                context.show(f"train {training.cell}", training.recipe.steps) as update,
            ):
                if state.step:
                    update(state.step, "resumed")
                for progress in steps(training, state, loader, ranks=ranks):
                    written = complete() if progress.step in training.snapshot_steps else state
                    if ranks.first:
                        self._report(progress, written, update)
                    signal = stopped_by()
                    stopping = ranks.any(signal is not None)
                    if stopping or progress.step % training.train.save_every == 0:
                        whole = complete()
                        if ranks.first:
                            self._save(whole)
                    if stopping:
                        ranks.wait()
                        cause = signal or "a signal to another process"
                        raise Stopped(
                            f"{training.cell}: {cause}: stopped after step {progress.step}, saved; "
                            "the same command resumes"
                        )
        except UserError as error:
            saved = states_in(self.partial)
            last = f"the last good state is {saved[-1]}" if saved else "no state was saved before"
            raise UserError(f"{error}; {last}") from None
        return state

    def _report(self, progress: Progress, state: State, update: Callable[[int, str], None]) -> None:
        """Show a step; write its line and snapshot, where it has one."""
        training, step = self.training, progress.step
        rate = step * training.recipe.batch / state.seconds
        update(step, f"loss {progress.loss:.4g}, {rate:.0f} images/s")
        self.observe(progress, rate)
        snapshot = step in training.snapshot_steps
        if step <= FIRST_STEPS or step % training.train.log_every == 0 or snapshot:
            append(self.partial / "curve.csv", ",".join(map(str, progress)) + "\n")
        if snapshot:
            path = self.partial / "checkpoints" / checkpoint_name(step)
            model.save(path, state.ema.module, Saved(training, shape_of(self.archive), step))

    def _save(self, state: State) -> None:
        path = self.partial / f"state-{state.step:08d}.safetensors"
        state.save(path, key=self.key, data=self.archive.card.digest)
        for old in states_in(self.partial)[:-STATES_KEPT]:
            old.unlink()

    def _restore(self, state: State) -> None:
        saved = self.context.ranks.gather(states_in(self.partial))[0]
        if not saved:
            return
        if not saved[-1].exists():
            raise UserError(
                f"{saved[-1]}: the first process sees it, this one does not; all must see one disk"
            )
        try:
            state.restore(saved[-1], key=self.key, data=self.archive.card.digest)
        except Damaged as error:
            then = f"resume from {saved[-2].name}" if len(saved) > 1 else "start again"
            raise UserError(f"{error}; delete it to {then}") from None
        self.context.say(f"{self.training.cell}: resumes after step {state.step}")


def states_in(partial: Path) -> list[Path]:
    """The saved states of an unfinished run, the newest last."""
    return sorted(partial.glob("state-*.safetensors"))


def proofs(folder: Path) -> Any:
    """Proofs of the adoptions of an unfinished run, a list."""
    return read_json(folder / ADOPTED) if (folder / ADOPTED).exists() else []


def _start_curve(path: Path, step: int) -> None:
    """Remove the lines of steps after ``step`` from curve.csv, because they are repeated.

    A line that a full disk or a kill cut short is of such a step, whatever its number reads.
    """
    cells = (line.split(",") for line in path.read_text().splitlines()[1:]) if path.exists() else ()
    past = [row for row in cells if len(row) == len(Progress._fields) and int(row[0]) <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(",".join(row) + "\n" for row in (Progress._fields, *past)))


def _publish(partial: Path, out: Path) -> None:
    """Rename a finished run to ``out``; a run that is there already is an earlier one of this command."""
    for state in states_in(partial):
        state.unlink()
    (partial / ADOPTED).unlink(missing_ok=True)
    shutil.copyfile(partial / RECORD, partial / KEPT)
    replaced = out.with_name(f"{out.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if out.exists():
        out.replace(replaced)
    partial.replace(out)
    shutil.rmtree(replaced, ignore_errors=True)


def slowness(config: TrainConfig, device: torch.device) -> str | None:
    """What to say before a training in bf16 on a CPU that emulates it; None where torch cannot tell."""
    if config.precision != "bf16" or device.type != "cpu":
        return None
    asked = getattr(torch.cpu, "get_capabilities", dict)  # older versions of torch have none
    units = [present for name, present in asked().items() if "bf16" in name]
    if not units or any(units):
        return None
    return (
        "train.precision = bf16: this CPU has no units for bfloat16 and emulates it; a step has been seen to "
        "take 15 times as long as in float32"
    )
