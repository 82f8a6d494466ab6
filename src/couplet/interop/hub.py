"""Where models are: on disk, and on the Hugging Face hub as folders of `couplet export` or of diffusers."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from couplet.errors import UserError, installed
from couplet.files import read_json, reported

CONFIG, WEIGHTS = "config.json", "model.safetensors"
LIBRARY, FORMAT = "couplet", 1
"""Name in the config.json of an exported folder, and the version of its layout."""

PIPELINE = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
]
UNET = [f"unet/diffusion_pytorch_model.{ending}" for ending in ("safetensors", "bin")]
RUN = ("train/config.json", "train.partial", "checkpoints")
"""In the folder of a run, finished or not, or of `couplet train`."""
NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
"""A model of the hub, `owner/name`."""


def is_model(source: Path) -> bool:
    """Whether it is a model and not images: one that couplet wrote or imports, or a name on the hub."""
    if not source.exists():
        return named_on_hub(str(source))
    if source.is_dir():
        return is_own(source) or (source / PIPELINE[0]).is_file()
    with reported(source, "read"), source.open("rb") as file:
        beginning = file.read(10)
    if beginning[8:] == b'{"' or beginning.startswith(b"\x80"):  # safetensors; a pickle
        return True
    if not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())  # of torch.save


def is_own(path: Path) -> bool:
    """Whether couplet wrote it: a checkpoint, perhaps a damaged one, or the folder of a run or an export."""
    if path.is_dir():
        return any((path / name).exists() for name in RUN) or is_exported(path)
    with reported(path, "read"), path.open("rb") as file:
        if file.read(10)[8:] != b'{"':
            return False
    try:
        with safe_open(path, framework="pt") as file:
            return "couplet" in (file.metadata() or {})
    except SafetensorError:
        return True


def named_on_hub(text: str) -> bool:
    """Whether a model of the hub may be called so."""
    return NAME.fullmatch(text) is not None and ".." not in text


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
    if not named_on_hub(name):
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
        cause = f"not fetched from the Hugging Face hub ({' '.join(str(error).split())[:300]})"
        raise UserError(f"{name}: no such file or folder, and {cause}") from None
    if not (folder / needed[0]).is_file():
        expected = "expected a model of couplet or a ConsistencyModelPipeline of diffusers"
        raise UserError(f"{name}: a repository without {needed[0]}; {expected}")
    return folder
