"""Memory of a training step, counted on torch's meta device, where tensors have sizes and no values."""

from __future__ import annotations

import weakref
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as symbolic
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from couplet.config.cells import Training
from couplet.model import ConsistencyModel, ImageShape
from couplet.networks.base import Network
from couplet.training.loop import initial_state
from couplet.training.step import Batch, Draws, Objective, consistency_loss

META = torch.device("meta")


def recompute_(model: ConsistencyModel) -> None:
    """Keep the inputs of the blocks of every network alone, and compute each again in the backward pass.

    Blocks are the modules in a network's dictionaries and lists. Their dropout masks are drawn again from the
    state that the generator had, so that loss and gradients stay the same to the last bit.
    """
    networks = [module for module in model.modules() if isinstance(module, Network)]
    for part in (part for network in networks for part in network.children()):
        for block in part.children() if isinstance(part, nn.ModuleDict | nn.ModuleList) else ():
            # Set on the object, so that names of weights do not change.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


class _Living(TorchDispatchMode):
    """Counts the bytes of all storages on the meta device that exist at once, from operation to operation."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def add(self, tensor: Any) -> None:
        if not isinstance(tensor, Tensor) or tensor.device != META:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.now -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            self.add(tensor)
        return result


class _Undecided(TorchFunctionMode):
    """A question about the values of a tensor without any is answered with no: all images are evaluated."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return False if function is Tensor.__bool__ else function(*args, **(kwargs or {}))


def step_bytes(training: Training, shape: ImageShape, images: int | None = None) -> int:
    """The most bytes of tensors that exist at once in a training step of one process, its state included.

    The real step is taken: coupling, teacher, student, backward pass, optimiser and averages. Every
    generated pair that a coupling may choose is. What libraries hold besides is not counted.

    Args:
        training: the settings; without `train.microbatch`.
        shape: of its images.
        images: images of the step, by default the recipe's batch.
    """
    count = images or training.recipe.batch
    with torch.device(META):
        state = initial_state(training, shape, META)
        if training.coupling.wants_frozen:
            state.frozen = deepcopy(state.model)
    if training.train.recompute:
        recompute_(state.model)
    objective = Objective(training.recipe, state.model.kernel, shape.channels * shape.resolution**2)
    labelled = training.recipe.conditional and shape.num_classes
    models = [model for model in state.models if model is not None]
    with _Living() as living, _Undecided(), symbolic.patch(meta_nonzero_assume_all_nonzero=True):  # type: ignore[attr-defined]
        for tensor in (
            *(tensor for model in models for tensor in (*model.parameters(), *model.buffers())),
            *(tensor for group in state.optimizer.param_groups for tensor in group["params"]),
        ):
            living.add(tensor)
        state.optimizer.step()  # makes its moments
        size = (count, shape.channels, shape.resolution, shape.resolution)
        labels = torch.empty(count, shape.num_classes, device=META) if labelled else None
        batch = Batch(torch.empty(size, device=META), labels)
        t, r, uniform = torch.empty(3, count, device=META)
        draws = Draws(t, r, torch.empty(size, device=META), uniform, dropout_seed=0)
        state.model.normalize_weights_()
        terms = consistency_loss(state.models, batch, draws, objective=objective, step=0)
        terms.loss.backward()
        state.optimizer.step()
        for average in state.averages.values():
            average.update(state.model)
    return living.peak
