"""Consistency models, trained, sampled and compared: the interface for programs.

    model = couplet.load("results/runs/digits-ict-ve-vae-s0-…")
    images = model.sample(16, nfe=2)

Everything else in this package may change between versions. PyTorch is imported when it is first needed.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from couplet import editing
    from couplet.library import ConsistencyModel, Model, Run, load, make, score, train

__all__ = ["ConsistencyModel", "Model", "Run", "editing", "load", "make", "score", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("couplet-cm")
    if name not in __all__:
        raise AttributeError(f"module 'couplet' has no attribute {name!r}")
    if name == "editing":
        return import_module("couplet.editing")
    return getattr(import_module("couplet.library"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
