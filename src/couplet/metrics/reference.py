"""Reference statistics: real images in an extractor's features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from couplet.errors import UserError
from couplet.files import replacing
from couplet.metrics.extractor.base import Extractor
from couplet.metrics.moments import Moments


@dataclass(frozen=True)
class Reference:
    """One split of a data set in an extractor's features."""

    split: str
    extractor: str
    """Name of the extractor."""
    digest: str
    """SHA-256 of its weights."""
    features: NDArray[np.float32]
    """Of evenly spaced images [k, d]."""
    moments: Moments
    """Of all images."""

    @property
    def described(self) -> dict[str, Any]:
        """Its provenance, for records and reports."""
        return {
            "split": self.split,
            "images": self.moments.count,
            "features": len(self.features),
            "ddof": 1,
            "extractor": self.extractor,
            "extractor_sha256": self.digest,
        }


def save_reference(path: Path, reference: Reference) -> None:
    """Write features and moments as safetensors."""
    tensors: dict[str, NDArray[Any]] = {
        "features": np.ascontiguousarray(reference.features),
        "mean": np.ascontiguousarray(reference.moments.mean),
        "covariance": np.ascontiguousarray(reference.moments.covariance),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"couplet": json.dumps(reference.described, sort_keys=True)})


def load_reference(path: Path, extractor: Extractor) -> Reference:
    """Read the file that :func:`save_reference` wrote.

    Raises:
        UserError: the file is missing or damaged, or was made with another extractor.
    """
    try:
        with safe_open(path, framework="np") as file:
            described = json.loads((file.metadata() or {})["couplet"])
            features, mean, covariance = (
                file.get_tensor(name) for name in ("features", "mean", "covariance")
            )
        split, name, digest = (described[key] for key in ("split", "extractor", "extractor_sha256"))
        count = int(described["images"])
    except (OSError, KeyError, TypeError, ValueError, SafetensorError):
        raise UserError(f"{path}: not reference statistics of `couplet reference`; run it again") from None
    if (name, digest) != (extractor.name, extractor.digest):
        raise UserError(
            f"{path}: made with extractor {name} ({digest[:16]}), this one is {extractor.name} "
            f"({extractor.digest[:16]}); run `couplet reference` again"
        )
    return Reference(split, name, digest, features, Moments(mean, covariance, count))
