"""The complete state of a run, and the file from which it resumes.

Generators are not saved, because every draw of a step and its batch follow from (seed, purpose, step). Nor
are the settings of the optimiser, which follow from the recipe, and the learning rate, which follows from the
step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from couplet.errors import UserError
from couplet.files import reported
from couplet.model import ConsistencyModel
from couplet.networks.initial import LoadReport
from couplet.tensors import load_tensors, save_tensors
from couplet.training.ema import Average
from couplet.training.step import Models


class Damaged(UserError):
    """A state file whose content does not match its digest."""


@dataclass
class State:
    """All that changes from step to step."""

    model: ConsistencyModel
    ema: Average
    optimizer: Optimizer
    target: Average | None = None
    """The average that is the teacher, where the recipe has `teacher: target`."""
    frozen: ConsistencyModel | None = None
    """The frozen predictor; never changes and is not saved."""
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Wall time of the steps done, over all processes that worked on them."""
    loaded: LoadReport | None = None
    """Report of the weights loaded from the recipe's `init_from`; not saved."""
    replaced: int = 0
    """Steps in which non-finite gradients were replaced, where the recipe allows it."""

    @property
    def models(self) -> Models:
        """The models that a step evaluates."""
        target = None if self.target is None else self.target.module
        return Models(self.model, self.ema.module, self.frozen, target)

    @property
    def averages(self) -> dict[str, Average]:
        """Every running average, by its name in the file."""
        return {"ema": self.ema} | ({} if self.target is None else {"target": self.target})

    @property
    def _trained(self) -> dict[str, ConsistencyModel]:
        """Every model that changes from step to step, by its name in the file."""
        return {"model": self.model} | {name: average.module for name, average in self.averages.items()}

    def save(self, path: Path, *, key: str, data: str) -> None:
        """Write everything as one safetensors file with a SHA-256 of its content.

        Args:
            key: cache key of the run that may resume from it.
            data: digest of the archive of the run's data set.
        """
        header = {
            "key": key,
            "data": data,
            "step": self.step,
            "seconds": self.seconds,
            "replaced": self.replaced,
            "averaged": self.ema.updates,
        }
        parts = {name: model.state_dict() for name, model in self._trained.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            parts[f"optimizer.{index}"] = moments
        tensors = {
            f"{part}.{name}": value.detach().cpu().contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }
        write_state(path, header, tensors)

    def restore(self, path: Path, *, key: str, data: str) -> None:
        """Load a file of :meth:`save`, without executing any of it.

        Raises:
            Damaged: the content does not match its digest.
            UserError: the file cannot be read, or belongs to another run or archive.
        """
        header, tensors = read_state(path)
        if header["data"] != data:
            raise UserError(
                f"{path}: state of data set {header['data'][:16]}, this is {data[:16]}; "
                f"delete {path.parent} to start again, or choose another folder"
            )
        if header["key"] != key:
            raise UserError(
                f"{path}: state of a run with key {header['key']}, this is {key}: other settings, code or "
                f"initial weights, or another number of threads or processes; delete {path.parent} to start "
                "again, choose another folder, or, if only code changed without changing a number, run "
                f"`couplet adopt {path.parent} --data DATA`"
            )
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in self._trained}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, name = name.partition(".")
            if part in parts:
                parts[part][name] = value
            else:
                index, _, field = name.partition(".")
                # Copied, because the optimiser must not write to pages of the file.
                moments.setdefault(int(index), {})[field] = value.clone()
        try:
            for name, model in self._trained.items():
                model.load_state_dict(parts[name])
        except RuntimeError as error:
            cause = " ".join(str(error).split())
            raise UserError(f"{path}: does not fit the model as it is now: {cause}") from None
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.seconds, self.replaced = header["step"], header["seconds"], header["replaced"]
        for average in self.averages.values():
            average.updates = header["averaged"]


def write_state(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a state file; see :meth:`State.save`."""
    about = json.dumps(header)
    save_tensors(path, tensors, couplet=about, sha256=_digest(about, tensors))


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file that :meth:`State.save` wrote.

    Raises:
        Damaged: the content does not match its digest.
        UserError: the file cannot be read.
    """
    try:
        with reported(path, "read"):
            texts, tensors = load_tensors(path)
        about, expected = texts["couplet"], texts["sha256"]
    except (SafetensorError, KeyError) as error:
        raise Damaged(f"{path}: damaged training state ({error})") from None
    if _digest(about, tensors) != expected:
        raise Damaged(f"{path}: damaged training state (its content does not match its SHA-256)")
    return json.loads(about), tensors


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header and every tensor's name, type, shape and bytes."""
    sha256 = hashlib.sha256(about.encode())
    for name, value in sorted(tensors.items()):
        sha256.update(f"\n{name} {value.dtype} {list(value.shape)}\n".encode())
        sha256.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()
