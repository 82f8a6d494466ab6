"""Reference statistics: what generated images are compared with."""

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
from couplet.metrics.extractor import Extractor
from couplet.metrics.moments import Moments


@dataclass(frozen=True)
class Reference:
    """Features of one split of a data set and their moments."""

    split: str
    extractor: str
    """Digest of the extractor file."""
    features: NDArray[np.float32]
    """[n, d]; kernel distances draw their subsets from them."""
    moments: Moments


def save_reference(path: Path, reference: Reference) -> None:
    """Writes features and moments as safetensors."""
    tensors: dict[str, NDArray[Any]] = {
        "features": reference.features,
        "mean": np.ascontiguousarray(reference.moments.mean),
        "covariance": np.ascontiguousarray(reference.moments.covariance),
    }
    about = {"split": reference.split, "extractor": reference.extractor}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"couplet": json.dumps(about, sort_keys=True)})


def load_reference(path: Path, extractor: Extractor) -> Reference:
    """Reads what :func:`save_reference` wrote.

    Raises:
        UserError: the file is missing or damaged, or was made with another extractor.
    """
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["couplet"])
            features, mean, covariance = (
                file.get_tensor(name) for name in ("features", "mean", "covariance")
            )
    except (OSError, KeyError, ValueError, SafetensorError):
        raise UserError(f"{path}: not reference statistics of `couplet reference`") from None
    if about["extractor"] != extractor.digest:
        raise UserError(
            f"{path}: made with extractor {about['extractor'][:8]}, "
            f"this one is {extractor.digest[:8]}; run `couplet reference` again"
        )
    return Reference(about["split"], about["extractor"], features, Moments(mean, covariance, len(features)))
