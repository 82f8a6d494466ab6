"""Edit images with a model that was trained for nothing of the kind; a picture of each edit.

    python examples/editing.py FOLDER [STEPS]

Trains for about two minutes on one core, on scikit-learn's 8×8 digits in the colours of a map from dark to
bright. The edited digits are none of the training's.
"""

import sys
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import couplet
from couplet import editing

SHOWN = 12
HELD_OUT = 300


def coloured_digits():
    """All digits, uint8 [n, 8, 8, 3]."""
    return np.rint(plt.get_cmap("inferno")(load_digits().images / 16)[..., :3] * 255).astype(np.uint8)


def trained(images, steps):
    """A model of the images after so many steps; its data are gone afterwards."""
    with TemporaryDirectory() as folder, chdir(folder):
        Path("images").mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(f"images/{number:04}.png")
        dataset = {"kind": "images", "path": "images", "resolution": 8, "test_images": 100}
        changes = {"datasets": {"coloured": dataset}, "dataset": "coloured", "coupling": "ot"}
        run = couplet.train(changes={**changes, "recipes.ict.steps": steps})
        for _ in run:
            pass
        return run.model


def draw(path, rows):
    """Draw images [n, h, w, c] in a row each, the name of its row before it."""
    figure, axes = plt.subplots(len(rows), SHOWN, figsize=(8, 0.62 * len(rows)))
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for place, image in zip(line, images, strict=True):
            place.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def main(out, steps):
    out.mkdir(exist_ok=True)
    images = coloured_digits()
    model = trained(images[:-HELD_OUT], steps)
    digits = images[-HELD_OUT:][:SHOWN]

    known = np.ones((8, 8), bool)
    known[:, 4:] = False
    left = np.where(known[..., None], digits, 128).astype(np.uint8)
    grey = np.rint(digits @ editing.LUMA).astype(np.uint8)
    small = np.rint(digits.reshape(-1, 4, 2, 4, 2, 3).mean((2, 4))).astype(np.uint8)
    pictures = {
        "inpaint": {"known": left, "completed": editing.inpaint(model, digits, known)},
        "colourise": {"known": grey, "coloured": editing.colourise(model, grey)},
        "super_resolve": {"known": small, "enlarged": editing.super_resolve(model, small)},
    }
    for name, rows in pictures.items():
        draw(out / f"editing-{name}.png", {**rows, "truth": digits})
    ends = {f"samples {a} to {b}": (a, b) for a, b in ((0, 1), (2, 3), (4, 5))}
    between = {name: editing.interpolate(model, *pair, SHOWN) for name, pair in ends.items()}
    draw(out / "editing-interpolate.png", between)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
