"""`couplet adopt`: a run passes to new code by evidence, its first steps replayed."""

from __future__ import annotations

import csv
import os
import shutil
from itertools import islice
from math import isclose
from pathlib import Path
from typing import Any

from couplet.config.cells import Training
from couplet.data.archive import Archive
from couplet.errors import UserError
from couplet.files import read_json, write_json
from couplet.networks.initial import read_weights
from couplet.plan.stages import ADOPTED, RECORD, Settings, code_digest, ingredients
from couplet.plan.stored import training_in
from couplet.process import Context
from couplet.provenance.chain import read_record
from couplet.provenance.record import check_input, environment
from couplet.stages.train import Weights, states_in
from couplet.training.loop import Progress, initial_state, loader_of, run, shape_of
from couplet.training.state import read_state, write_state

TOLERANCE = 1e-4
"""Largest relative difference of a scalar on another kind of machine: rounding grows from step to step."""

COMPARED = ("loss", "consistency", "distance", "penalty", "gradient_norm")
"""Scalars of a step that are compared; the others follow from the settings."""

SAME_MACHINE = ("cpu", "device", "threads", "platform")
"""Facts of a record that must agree for bits to agree, besides torch's version."""


def adopt(
    context: Context,
    folder: Path,
    *,
    data: Path,
    out: Path | None = None,
    steps: int = 50,
    frozen: Path | None = None,
) -> str:
    """Take a finished or unfinished run over to today's code and return what was done.

    Args:
        context: surroundings.
        folder: the run, or its ``.partial`` folder with saved states.
        data: the data set on which it was trained, prepared by today's code.
        out: where it is to lie under its new key. By default, for a run in a grid the folder of that name
            beside it; else ``folder`` itself.
        steps: how many of its steps to replay at most.
        frozen: folder of the run of a `pretrained` predictor.

    Raises:
        UserError: the folder holds no run, the data set is another one, or a replayed scalar differs.
    """
    archive = Archive(data)
    content, states = _facts(folder), states_in(folder)
    header = read_state(states[-1])[0] if states else None
    if header is None and not (folder / RECORD).exists():
        raise UserError(f"{folder}: holds neither a finished run nor a saved state")
    files = dict(archive.card.files) if header is None else archive.card.digest
    if files != (header or content)["data"]:
        raise UserError(f"{data}: not the data set that {folder} was trained on; give the folder that was")
    training, before = training_in(folder), (header or content)["key"]
    settings = Settings.of(training)
    inputs = {"prepare": check_input("prepare", data, settings)}
    made_of = ingredients("train", settings)
    key = made_of.key(inputs)
    if key == before:
        return f"{folder}: is a run of today's code already, key {key}"
    proof = _replay(context, training, archive, folder, content, steps, frozen)
    place = out or _beside(folder, training, key)
    target = place
    if place != folder:
        if place.exists():
            raise UserError(f"--out = {place}: exists already; choose another folder")
        target = place.with_name(f".{place.name}.adopting")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target, copy_function=_link_or_copy)
    if states:
        for path in states_in(target):
            about, tensors = read_state(path)
            write_state(path, {**about, "key": key}, tensors)
        write_json(target / ADOPTED, [*_adopted(folder), {"key": before, **proof}])
    else:
        history = [*content.get("adopted", ()), {"key": before, **proof}]
        changed = {"key": key, "keys": inputs, "settings": made_of.settings, "code": dict(made_of.code)}
        write_json(target / RECORD, {**content, **changed, "adopted": history})
    if target != place:
        target.replace(place)
    return (
        f"{place}: taken over with key {key}; {proof['steps']} steps replayed, "
        f"largest relative difference {proof['largest_difference']:.1e}"
    )


def _facts(folder: Path) -> dict[str, Any]:
    """The record of a finished run; nothing of an unfinished one, whose machine is not recorded yet."""
    return dict(read_record(folder / RECORD).content) if (folder / RECORD).exists() else {}


def _adopted(folder: Path) -> list[dict[str, Any]]:
    """The proofs of an unfinished run so far."""
    return list(read_json(folder / ADOPTED)) if (folder / ADOPTED).exists() else []


def _beside(folder: Path, training: Training, key: str) -> Path:
    """The folder of the run under its new key, where it lies in a grid; else its own."""
    run = folder.parent
    if folder.name.startswith("train") and run.name.startswith(f"{training.cell}-"):
        return run.with_name(f"{training.cell}-{key}") / folder.name
    return folder


def _replay(
    context: Context,
    training: Training,
    archive: Archive,
    folder: Path,
    content: dict[str, Any],
    steps: int,
    frozen: Path | None,
) -> dict[str, Any]:
    """Replay the first steps and compare them with the curve; returns the proof.

    Raises:
        UserError: a scalar differs by more than is allowed.
    """
    recorded = _recorded(folder / "curve.csv", steps)
    if not recorded:
        raise UserError(f"{folder / 'curve.csv'}: has no line of the first {steps} steps; nothing to compare")
    weights = Weights.of(training, frozen)
    tensors = None if weights.initial is None else read_weights(weights.initial)
    predictor = weights.frozen_model(context)
    state = initial_state(training, shape_of(archive), context.device, tensors, frozen=predictor)
    loader = loader_of(training, archive, joint_images=state.model.coupling.joint_images)
    here = environment(context.device)
    same = all(content.get(name) == here[name] for name in SAME_MACHINE) and (
        content.get("packages", {}).get("torch") == here["packages"]["torch"]
    )
    allowed, largest, last = 0.0 if same else TOLERANCE, 0.0, max(recorded)
    with context.show(f"{training.cell}: replay", last) as update:
        for progress in islice(run(training, state, loader), last):
            update(progress.step, f"loss {progress.loss:.4g}")
            for name, value in recorded.get(progress.step, {}).items():
                now = getattr(progress, name)
                difference = abs(now - value) / max(abs(value), 1e-12)
                largest = max(largest, difference)
                if not isclose(now, value, rel_tol=allowed, abs_tol=0.0):
                    raise UserError(
                        f"{folder}: step {progress.step}: {name} {now!r} today, {value!r} recorded; a "
                        f"relative difference of {allowed:g} is allowed: this code trains something else"
                    )
    return {
        "steps": last,
        "compared": sorted(recorded),
        "largest_difference": largest,
        "allowed_difference": allowed,
        "code_before": code_digest(content.get("code", {})),
        "commit": here["commit"],
        "dirty": here["dirty"],
        "cpu": here["cpu"],
        "device": here["device"],
        "torch": here["packages"]["torch"],
    }


def _recorded(curve: Path, steps: int) -> dict[int, dict[str, float]]:
    """The scalars of the first steps that the curve has, by step."""
    if not curve.exists():
        return {}
    names = [name for name in COMPARED if name in Progress._fields]
    with curve.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if int(row["step"]) <= steps]
    return {int(row["step"]): {name: float(row[name]) for name in names if name in row} for row in rows}


def _link_or_copy(source: str, target: str) -> None:
    """Hard-link a file, or copy it where that is not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
