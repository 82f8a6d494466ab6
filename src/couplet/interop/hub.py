"""Models of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from couplet.errors import UserError, installed

PATTERNS = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
]
WEIGHTS = [f"unet/diffusion_pytorch_model.{ending}" for ending in ("safetensors", "bin")]


def download(name: str) -> Path:
    """The folder of the diffusers pipeline `owner/name`, from huggingface_hub's cache or the hub.

    Raises:
        UserError: there is no such model, or huggingface_hub is not installed.
    """
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name, re.ASCII) or ".." in name:
        raise UserError(
            f"{name}: no such file or folder, and not owner/name of a model on the Hugging Face hub"
        )
    with installed(f"{name}: no such file or folder; a model of the Hugging Face hub"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    try:
        for weights in WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=[*PATTERNS, weights]))
            if (folder / weights).exists():
                break
        return folder
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:300]
        raise UserError(f"{name}: cannot be fetched from the Hugging Face hub ({cause})") from None
