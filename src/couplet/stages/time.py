"""Stage `time`: the time of a training step, of all trainings of a grid on one data set by turns."""

from __future__ import annotations

from pathlib import Path

import torch

from couplet.config.cells import Training
from couplet.data.archive import Archive
from couplet.errors import UserError
from couplet.files import read_json, write_json
from couplet.model import ConsistencyModel, build, load
from couplet.plan.stages import Settings, record_of
from couplet.process import Context, counted
from couplet.provenance.record import Chains, Recorder, archive_digests, digests
from couplet.reporting.times import StepTime
from couplet.training.loop import shape_of
from couplet.training.timing import CLOCKS, STEPS, WARM_UP, step_times


def run(context: Context, settings: Settings, *, data: Path, out: Path) -> str:
    """Measure the trainings ``settings.timed`` and write the file ``out``: milliseconds of a step by row."""
    trainings, device = settings.timed, context.device
    archive = Archive(data)
    record = Recorder("time", settings, out, device, reads={"prepare": data})
    for training in trainings:
        context.ranks.part(training.recipe.batch)
    steps = settings.rounds * len(trainings) * (WARM_UP + STEPS)
    with counted(context.show, f"time {len(trainings)} trainings", steps, unit="steps/s") as advance:
        try:
            timed = [(training, _predictor(training, archive, device)) for training in trainings]
            seconds = step_times(
                timed, archive, device, rounds=settings.rounds, ranks=context.ranks, advance=advance
            )
        except MemoryError as error:
            raise UserError(
                f"{len(trainings)} trainings at a time do not fit the memory ({error}); make a part of the "
                "table, or set time.rounds: 0 for a table without times"
            ) from None
    rows = {
        training.cell.name: StepTime.of([1e3 * each for each in own])
        for training, own in zip(trainings, seconds, strict=True)
    }
    if context.ranks.first:
        content = {
            "clock": CLOCKS[device.type][0],
            "processes": context.ranks.size,
            "steps_of_a_round": STEPS,
            "milliseconds": {name: row.plain for name, row in rows.items()},
        }
        write_json(out, content)
        record.write(inputs=archive_digests(archive), outputs=digests(out))
    return ", ".join(f"{name} {row}" for name, row in rows.items())


def _predictor(training: Training, archive: Archive, device: torch.device) -> ConsistencyModel | None:
    """A model that costs what a coupling's frozen predictor does; None for couplings without."""
    if not training.coupling.wants_frozen:
        return None
    if training.recipe.frozen_from is not None:
        return load(Path(training.recipe.frozen_from), device)[0]
    assert training.frozen_run is not None
    return build(training.frozen_run.design, shape_of(archive)).to(device).eval()


def times_of(chains: Chains, part: str = "", *, partial: bool = False) -> dict[str, StepTime]:
    """The time of a step by row, of a table's ``part``; ``partial``: without measurements that are missing.

    Raises:
        UserError: a measurement is missing or damaged, or of other settings.
    """
    found = {}
    for name, (cell, *_) in chains.layout.timed(part).items():
        path = chains.layout.times(name)
        if not record_of("time", path).exists():
            if partial:
                continue
            raise UserError(f"{path}: does not exist; make it by `couplet time --part {name}`")
        made = chains.checked(chains.layout.timing(name), "time", cell, name)["time"].content
        threads = f"{made['threads']} thread" + ("s" if made["threads"] > 1 else "")
        content = read_json(path)
        processes = f"{content['processes']} processes, " if content["processes"] > 1 else ""
        on = f"{made['cpu']}, {threads}" if made["device"] == "cpu" else made["device"]
        how = f"{content['clock']}, {processes}{on}"
        for row, measured in content["milliseconds"].items():
            found[row] = StepTime.of(measured["rounds"], how=how, source=str(path))
    return found
