"""Trains each configuration of a file in the processes of torchrun: the other half of test_ranks.py."""

import hashlib
import json
import sys
from itertools import islice
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
from couplet.training.shard import Sharded

CPU = torch.device("cpu")
SHAPE = ImageShape(channels=1, resolution=8, num_classes=3)


def trained(training, split, ranks=ALONE, saved=None, sharded=False):
    """Progress of every step, weights and averages.

    ``sharded``: the state is divided, and in the middle complete as the file ``saved``, from which the run
    resumes; a ``saved`` file that is there already is where it begins.
    """
    state = initial_state(training, SHAPE, CPU)
    if saved is not None and not sharded:
        state.restore(saved, key="key", data="data")
    divided = Sharded(training, state, ranks) if sharded else None
    state = divided.state if divided else state
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
    steps = run(training, state, loader, ranks=ranks)
    progress = [list(done) for done in islice(steps, training.recipe.steps // 2 if sharded else None)]
    if divided:
        steps.close()
        complete = divided.collected()
        if ranks.first:
            complete.save(saved, key="key", data="data")
        ranks.wait()
        again = initial_state(training, SHAPE, CPU)
        again.restore(saved, key="key", data="data")
        divided = Sharded(training, again, ranks)
        progress += [list(done) for done in run(training, divided.state, loader, ranks=ranks)]
        state = divided.collected()
        if not ranks.first:
            return {"progress": np.array(progress)}
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
            sharded = name.endswith("-sharded")
            saved = folder / f"{name}.safetensors" if sharded else None
            found = trained(Training.model_validate(content), split, ranks, saved, sharded)
            arrays = [found["progress"]] if sharded else found.values()
            digests = {hashlib.sha256(array.tobytes()).hexdigest() for array in arrays}
            alike = all(theirs == digests for theirs in ranks.gather(digests))
            if ranks.first:
                np.savez(folder / f"{name}.npz", alike=alike, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
