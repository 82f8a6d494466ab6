"""`couplet adopt`: take a run over to other code, because that code replays its first steps."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping
from itertools import islice
from math import isclose
from pathlib import Path
from typing import Any

from couplet.data.archive import Archive
from couplet.errors import UserError
from couplet.files import write_json
from couplet.plan.stages import ADOPTED, RECORD, Settings, digest, ingredients, key_from, training_in
from couplet.process import Context
from couplet.provenance.record import (
    archive_digests,
    as_computed,
    check_inputs,
    digests,
    environment,
    read_record,
    write_record,
)
from couplet.stages.train import Weights, proofs, states_in
from couplet.training.loop import loader_of, run
from couplet.training.state import read_state, write_state

TOLERANCE = 1e-4
"""Largest relative difference of a scalar on another kind of machine; rounding grows from step to step."""

COMPARED = ("loss", "consistency", "distance", "penalty", "gradient_norm")
"""Scalars of a step to compare; the others follow from the settings."""

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
    """Take a finished or unfinished run over to today's code; return a message.

    Args:
        context: surroundings.
        folder: the run, or its ``.partial`` folder with saved states.
        data: the data set on which it was trained, prepared by today's code.
        out: folder of the run under its new key. By default, for a run in a grid, the folder of that name
            beside it; else ``folder`` itself.
        steps: number of its steps to replay at most.
        frozen: folder of the run of a `pretrained` predictor.

    Raises:
        UserError: the folder holds no run, the data set is another one, or a replayed scalar differs.
    """
    finished, states = (folder / RECORD).exists(), states_in(folder)
    if not finished and not states:
        raise UserError(f"{folder}: holds neither a finished run nor a saved state")
    old = read_record(folder / RECORD).content if finished else read_state(states[-1])[0]
    archive, training = Archive(data), training_in(folder)
    if old["data"] != (dict(archive.card.files) if finished else archive.card.digest):
        raise UserError(f"{data}: not the data set that {folder} was trained on; give the folder that was")
    settings = as_computed(Settings.of(training))
    if finished:
        processes = old["processes"]
        settings = settings._replace(threads=processes * old["threads"], gpus=processes)
    keys, made_of = check_inputs({"prepare": data}, settings), ingredients("train", settings)
    key = key_from(made_of, keys)
    if key == old["key"]:
        return f"{folder}: is a run of today's code already, key {key}"
    weights = Weights.of(training, data, frozen)
    replayed = _replay(context, settings, folder, old, archive=archive, weights=weights, steps=steps)
    proof = {"key": old["key"], **replayed}
    place, run_folder = out or folder, folder.parent
    if out is None and folder.name.startswith("train") and run_folder.name.startswith(f"{training.cell}-"):
        place = run_folder.with_name(f"{training.cell}-{key}") / folder.name
    target = place
    if place != folder:
        if place.exists():
            raise UserError(f"--out = {place}: exists already; choose another folder")
        target = place.with_name(f".{place.name}.adopting")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target, copy_function=_link_or_copy)
    if finished:
        write_record(
            target / RECORD,
            {**old, **made_of, "key": key, "keys": keys, "adopted": [*old["adopted"], proof]},
            inputs={**archive_digests(archive), **digests(*filter(None, weights))},
            outputs={target / name: digest for name, digest in old["outputs"].items()},
        )
    else:
        for path in states_in(target):
            header, tensors = read_state(path)
            write_state(path, {**header, "key": key}, tensors)
        write_json(target / ADOPTED, [*proofs(folder), proof])
    if target != place:
        target.replace(place)
    return (
        f"{place}: taken over with key {key}; {proof['steps']} steps replayed, "
        f"largest relative difference {proof['largest_difference']:.1e}"
    )


def _replay(
    context: Context,
    settings: Settings,
    folder: Path,
    old: Mapping[str, Any],
    *,
    archive: Archive,
    weights: Weights,
    steps: int,
) -> dict[str, Any]:
    """Replay the first steps and compare them with the curve; return the proof.

    The machine of an unfinished run is not recorded, so it counts as another one.
    """
    training, curve = settings.training, folder / "curve.csv"
    rows = csv.DictReader(curve.read_text().splitlines() if curve.exists() else [])
    first = [row for row in rows if int(row["step"]) <= steps]
    recorded = {int(row["step"]): {name: float(row[name]) for name in COMPARED} for row in first}
    if not recorded:
        raise UserError(f"{curve}: has no line of the first {steps} steps; nothing to compare")
    state = weights.initial_state(training, archive, context.device)
    loader = loader_of(training, archive, joint_images=state.model.coupling.joint_images)
    present = environment(context.device)
    torch = present["packages"]["torch"]
    same = all(old.get(name) == present[name] for name in SAME_MACHINE) and old["packages"]["torch"] == torch
    allowed, largest, last = 0.0 if same else TOLERANCE, 0.0, max(recorded)
    with context.show(f"replay {training.cell}", last) as update:
        for progress in islice(run(training, state, loader), last):
            update(progress.step, f"loss {progress.loss:.4g}")
            for name, value in recorded.get(progress.step, {}).items():
                now = getattr(progress, name)
                largest = max(largest, abs(now - value) / max(abs(value), 1e-12))
                if not isclose(now, value, rel_tol=allowed, abs_tol=0.0):
                    raise UserError(
                        f"{folder}: step {progress.step}: {name} {now!r} today, {value!r} recorded; allowed "
                        f"is a relative difference of {allowed:g}: this code trains something else"
                    )
    return {
        "steps": last,
        "compared": sorted(recorded),
        "largest_difference": largest,
        "allowed_difference": allowed,
        "code_before": digest(old.get("code", {})),
        "torch": torch,
        **{name: present[name] for name in ("commit", "dirty", "cpu", "device")},
    }


def _link_or_copy(source: str, target: str) -> None:
    """Hard-link a file, or copy it where that is not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
