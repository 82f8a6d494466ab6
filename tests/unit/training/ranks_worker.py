"""Trains each configuration of a file in the processes of torchrun: the other half of test_ranks.py."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from couplet.config.cells import Training
from couplet.data.archive import Split
from couplet.data.loader import Loader
from couplet.model import ImageShape
from couplet.ranks import ALONE, joined
from couplet.training.loop import initial_state, run

CPU = torch.device("cpu")
SHAPE = ImageShape(channels=1, resolution=8, num_classes=3)


def trained(training, split, ranks=ALONE):
    """Progress of every step, weights and averages."""
    state = initial_state(training, SHAPE, CPU)
    whole = state.model.coupling.joint_images
    loader = Loader(
        split,
        batch=training.recipe.batch,
        seed=0,
        flip=True,
        num_classes=3,
        rank=0 if whole else ranks.rank,
        world=1 if whole else ranks.size,
    )
    progress = [list(done) for done in run(training, state, loader, ranks=ranks)]
    weights, averages = (
        torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
        for model in (state.model, nn.ModuleList(average.module for average in state.averages.values()))
    )
    return {"progress": np.array(progress), "weights": weights, "averages": averages}


def main(folder):
    torch.set_num_threads(1)
    split = Split(np.load(folder / "images.npy"), np.load(folder / "labels.npy"))
    with joined() as ranks:
        for name, content in json.loads((folder / "cases.json").read_text()).items():
            found = trained(Training.model_validate(content), split, ranks)
            digests = {hashlib.sha256(array.tobytes()).hexdigest() for array in found.values()}
            alike = all(theirs == digests for theirs in ranks.gather(digests))
            if ranks.first:
                np.savez(folder / f"{name}.npz", alike=alike, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
