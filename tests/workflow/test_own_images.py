"""Snakemake with images of one's own: what is changed is made again, or refused."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from couplet.config.resolve import resolve
from couplet.plan.layout import Layout

TABLE = "results/table1.csv"


def drawn(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def archive(clone, monkeypatch):
    """Prepares the grid's only data set, a folder or zip of images, and gives its folder."""
    monkeypatch.chdir(clone.root)
    for i in range(4):
        drawn(Path(f"pictures/{'ab'[i % 2]}/{i}.png"), i)
    pack()

    def change(path):
        def edit(params):
            params["datasets"]["mine"] = {"kind": "images", "path": path, "resolution": 8}
            params["table1"] |= {"datasets": ["mine"], "couplings": ["independent"]}
            params["select"]["split"] = "train"

        return edit

    def prepare(path):
        clone.edit(change(path))
        params = resolve(Path("params.yaml"))
        folder = Layout(params, Path("results")).output("prepare", params.cells()[0])
        clone.run("couplet", "prepare", "mine", "--out", folder)
        assert "prepare" not in clone.rules(TABLE)
        return folder

    with clone.edited("params.yaml"):
        yield prepare


def pack():
    with zipfile.ZipFile("pictures.zip", "w") as packed:
        for file in sorted(Path("pictures").rglob("*.png")):
            packed.write(file)


@pytest.mark.parametrize("path", ["pictures", "pictures.zip"])
@pytest.mark.parametrize("how", ["added", "overwritten", "removed"])
def test_changed_images_are_prepared_again(clone, archive, path, how):
    archive(path)
    image = Path("pictures/a", "8.png" if how == "added" else "0.png")
    image.unlink() if how == "removed" else drawn(image, 8)
    pack()
    assert {"prepare", "train", "evaluate", "table"} <= {*clone.rules(TABLE)}
    image.unlink(missing_ok=True)
    drawn(Path("pictures/a/0.png"), 0)


def test_edited_archive_is_refused_until_it_is_written_again(clone, archive):
    folder = archive("pictures")
    images = folder / "train-images.npy"
    np.save(images, 255 - np.load(images))
    done = clone.run("snakemake", "-n", TABLE, ok=False)
    command = f"couplet prepare mine --params params.yaml --out {folder}"
    line = f"couplet: {folder}: edited or damaged since it was written; write it again: {command}"
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (2, line)
    clone.run(*command.split())
    assert "prepare" not in clone.rules(TABLE)
