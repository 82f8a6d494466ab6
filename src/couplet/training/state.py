"""The complete state of a training, and the file from which it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from couplet.errors import UserError
from couplet.files import replacing
from couplet.model import ConsistencyModel
from couplet.networks.initial import LoadReport


@dataclass
class State:
    """All that changes from step to step; every draw follows from the seed and ``step``."""

    model: ConsistencyModel
    ema: AveragedModel
    optimizer: Optimizer
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Wall time of the steps done, over all processes that worked on them."""
    loaded: LoadReport | None = None
    """Which weights came from the recipe's `init_from`; not part of what is saved."""
    replaced: int = 0
    """Steps in which non-finite gradients were replaced, where the recipe allows it."""

    @property
    def averaged(self) -> ConsistencyModel:
        """The running average as a model."""
        return cast(ConsistencyModel, self.ema.module)

    def save(self, path: Path, key: str) -> None:
        """Writes everything; ``key`` identifies the configuration that may go on from it."""
        content = {
            "key": key,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "replaced": self.replaced,
        }
        with replacing(path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # What torch makes of a full disk.
                raise OSError(str(error).splitlines()[0]) from error

    def restore(self, path: Path, key: str) -> None:
        """Takes over what :meth:`save` wrote.

        Raises:
            UserError: the file is damaged or belongs to another configuration.
        """
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            found, model, ema, optimizer = (content[k] for k in ("key", "model", "ema", "optimizer"))
            step, seconds, replaced = (content[k] for k in ("step", "seconds", "replaced"))
        except (OSError, EOFError, KeyError, RuntimeError, TypeError, UnpicklingError):
            raise UserError(f"{path}: damaged training state; delete it to start again") from None
        if found != key:
            raise UserError(
                f"{path}: state of configuration {found}, this is {key}; "
                "delete it to start again, or choose another folder"
            )
        self.model.load_state_dict(model)
        self.ema.load_state_dict(ema)
        self.optimizer.load_state_dict(optimizer)
        self.step, self.seconds, self.replaced = step, seconds, replaced
