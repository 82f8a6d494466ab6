"""Files of published weights, downloaded if needed and checked against their digest."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import NamedTuple

import pooch
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from couplet.config.extractors import (
    DINOV2,
    INCEPTION_PYTORCH,
    INCEPTION_TORCHSCRIPT,
    DinoV2Config,
    ExtractorConfig,
    InceptionConfig,
)
from couplet.errors import UserError

ADDRESSES = {
    INCEPTION_TORCHSCRIPT: (
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
    ),
    INCEPTION_PYTORCH: (
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth"
    ),
    DINOV2: "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
}
"""The authors' address of the file with each digest."""


class Weights(NamedTuple):
    """A file whose digest has been checked, with the bytes that were checked."""

    path: Path
    content: bytes


def read_weights(config: InceptionConfig | DinoV2Config) -> Weights:
    """Read the file that ``config`` names, else the published one from torch's cache.

    A published file that the cache lacks is downloaded into it, checked and then moved into place.

    Raises:
        UserError: the file cannot be read or downloaded, or has another digest.
    """
    path = Path(config.weights) if config.weights is not None else _cached(config)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); features.NAME.weights must name "
            f"the file with SHA-256 {config.sha256}"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != config.sha256:
        raise UserError(
            f"{path}: its SHA-256 is {digest}, not {config.sha256} as features.NAME.sha256 asks; "
            "another file may be meant, or this one is damaged"
        )
    return Weights(path, content)


def tensors(weights: Weights) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file or one of `torch.save`, without executing code in it.

    Raises:
        UserError: the file is neither, or holds something else.
    """
    try:
        if weights.path.suffix == ".safetensors":
            return safetensors.torch.load(weights.content)
        content = torch.load(io.BytesIO(weights.content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError):
        content = None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{weights.path}: not a file of tensors (.safetensors, or one of torch.save)")
    return content


def _cached(config: InceptionConfig | DinoV2Config) -> Path:
    """Return the path of the published file in torch's cache, after downloading it if needed."""
    others = ", ".join(sorted({*ExtractorConfig.family} - {config.kind}))
    options = f"give the file's path as features.NAME.weights, or choose another extractor: {others}"
    if config.sha256 not in ADDRESSES:
        raise UserError(f"SHA-256 {config.sha256}: not a published file; {options}")
    address = ADDRESSES[config.sha256]
    folder, name = Path(torch.hub.get_dir(), "checkpoints"), address.rpartition("/")[2]
    if not (folder / name).exists():
        try:
            pooch.retrieve(address, f"sha256:{config.sha256}", name, folder, progressbar=True)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{address}: cannot be downloaded to {folder / name} ({reason}); {options}"
            ) from None
    return folder / name
