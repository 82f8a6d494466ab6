"""Models of the Hugging Face hub: folders of `couplet export`, and pipelines of diffusers."""

from __future__ import annotations

import re
from pathlib import Path

from couplet.errors import UserError, installed
from couplet.files import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
LIBRARY, FORMAT = "couplet", 1
"""Name in the config.json of an exported folder, and the version of its layout."""

PIPELINE = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
]
UNET = [f"unet/diffusion_pytorch_model.{ending}" for ending in ("safetensors", "bin")]


def is_exported(folder: Path) -> bool:
    """Whether ``folder`` is one of `couplet export`, by its config.json.

    Raises:
        UserError: a later version of couplet wrote it.
    """
    path = folder / CONFIG
    if not path.is_file():
        return False
    content = read_json(path)
    if not isinstance(content, dict) or content.get("library_name") != LIBRARY:
        return False
    if (version := content.get("format")) != FORMAT:
        raise UserError(f"{path}: format = {version}, this version of couplet reads {FORMAT}; update it")
    return True


def download(name: str) -> Path:
    """The folder of the model `owner/name`, from huggingface_hub's cache or the hub.

    Only the files are fetched that `couplet.load` or `couplet import` reads.

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
        folder = Path(snapshot_download(name, allow_patterns=[CONFIG]))
        choices = [[WEIGHTS]] if is_exported(folder) else [[*PIPELINE, unet] for unet in UNET]
        for needed in choices:
            # The folder's name is the commit, so that all files are of one.
            folder = Path(snapshot_download(name, revision=folder.name, allow_patterns=needed))
            if (folder / needed[-1]).is_file():
                break
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:300]
        raise UserError(f"{name}: cannot be fetched from the Hugging Face hub ({cause})") from None
    if not (folder / needed[0]).is_file():
        expected = "expected a model of couplet or a ConsistencyModelPipeline of diffusers"
        raise UserError(f"{name}: a repository without {needed[0]}; {expected}")
    return folder
