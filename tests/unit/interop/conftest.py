"""Published checkpoints of tests/golden as their authors' code writes them."""

import lzma
import shutil
from pathlib import Path

import pytest

PUBLISHED = Path(__file__).parents[2] / "golden/published"


@pytest.fixture
def unpacked_pipeline(tmp_path):
    """A folder of diffusers' ConsistencyModelPipeline, which OpenAI's weights have been converted to."""
    folder = tmp_path / "pipeline"
    shutil.copytree(PUBLISHED / "diffusers_cd_imagenet64", folder)
    for packed in folder.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    return folder
