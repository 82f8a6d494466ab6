"""Models and trainings as objects: what ``import couplet`` offers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from couplet import model as files
from couplet.config.base import Variant, choices, refused
from couplet.config.cells import EvaluateConfig, Training
from couplet.config.designs import SamplerConfig
from couplet.config.extractors import extractors_named
from couplet.config.resolve import resolve
from couplet.config.variants import build, load_plugins
from couplet.data.archive import Archive
from couplet.data.loader import to_float
from couplet.data.pixels import check_images
from couplet.errors import UserError
from couplet.model import ConsistencyModel, ImageShape, Saved
from couplet.plan.stages import Settings
from couplet.process import Console, Context, find
from couplet.project import origin
from couplet.provenance.record import check_inputs
from couplet.sampling import class_indices, one_hot, sample_noise, to_uint8
from couplet.stages import score as scoring
from couplet.stages.generate import PURPOSE, find_model, images_of
from couplet.stages.prepare import run as prepare
from couplet.stages.score import Score
from couplet.stages.train import Weights
from couplet.tensors import products
from couplet.training.loop import Progress, loader_of, run, shape_of
from couplet.training.state import State

Labels = int | Sequence[int] | Literal["balanced", "uniform"]
"""Classes of samples: one for all, numbers in turn, each class equally often, or drawn."""


class Model:
    """A consistency model: of a run, or one that others have published."""

    def __init__(self, network: ConsistencyModel, saved: Saved, source: str) -> None:
        self.network = network
        """The module: ``network(x, t, labels, boundary=...)``."""
        self._saved = saved
        self.shape: ImageShape = saved.shape
        self.sampler: SamplerConfig = saved.sampler
        self.classes: int = saved.shape.num_classes if saved.conditional else 0
        """Number of classes that the network is given; 0 for an unconditional one."""
        self.source = source
        """Where it comes from, for messages."""

    def __repr__(self) -> str:
        side, channels = self.resolution, self.channels
        count = sum(parameter.numel() for parameter in self.network.parameters())
        return f"<couplet.Model {self.source}: {side}x{side}x{channels}, {count:,} parameters, {self.device}>"

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.network.parameters()).device

    @property
    def resolution(self) -> int:
        """Pixels per side."""
        return self.shape.resolution

    @property
    def channels(self) -> int:
        """Channels of an image: 1 or 3; 2 for points of the plane."""
        return self.shape.channels

    @property
    def levels(self) -> tuple[float, ...]:
        """Noise level of each evaluation of :meth:`sample`, in order."""
        return tuple(self.sampler.levels)

    @property
    def sigma_min(self) -> float:
        """The least noise level of the training."""
        return self.network.kernel.sigma_min

    def signal(self, level: float) -> float:
        """Factor of the clean image at a noise level: 1, or 1 - level/sigma_max for linear interpolation."""
        return float(self.network.kernel.signal(torch.tensor([level], dtype=torch.float64)))

    def sample(
        self, count: int = 16, *, nfe: int = 1, seed: int = 0, labels: Labels | None = None
    ) -> NDArray[np.uint8]:
        """Generate images: the pixels of `couplet generate` with the same settings.

        Args:
            count: number of images; image i does not depend on it.
            nfe: network evaluations per image, at the first of :attr:`levels`.
            seed: decides the noise.
            labels: classes for a conditional model; by default each equally often.

        Returns:
            uint8 [count, h, w, c].

        Raises:
            UserError: more evaluations than levels, or classes that the model does not have.
        """
        if count < 1 or not 1 <= nfe <= len(self.levels):
            levels = ", ".join(f"{level:g}" for level in self.levels)
            raise UserError(f"count, nfe = {count}, {nfe}: must be at least 1; the model has levels {levels}")
        checked = self._checked(labels)
        of_model = (Context(self.device), self.network, self._saved, self.sampler)
        batches = images_of(*of_model, count=count, nfe=nfe, seed=seed, labels=checked or "balanced")
        return np.concatenate([*batches])

    @torch.no_grad()
    @products()
    def denoise(self, x: Tensor, sigma: float | Tensor, labels: Labels | None = None) -> Tensor:
        """The clean images f(x, sigma) of noisy ones, float32 [n, c, h, w] about in [-1, 1].

        Args:
            x: noisy images, signal(sigma) image + sigma noise, [n, c, h, w].
            sigma: noise level > 0, one for all or [n].
            labels: as in :meth:`sample`.
        """
        t = torch.as_tensor(sigma, dtype=torch.float32, device=self.device).reshape(-1)
        rows = self._rows(labels, len(x))
        return self.network(x.to(self.device), t, rows, boundary=self.sampler.boundary)

    @torch.no_grad()
    @products()
    def encode(self, images: ArrayLike, labels: Labels | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the noise that the coupling pairs with ``images``.

        Of a variational coupling, the encoder's; of any other, 0 and 1.

        Args:
            images: uint8 [n, h, w, c].
            labels: as in :meth:`sample`.

        Returns:
            Both float32 [n, c, h, w].
        """
        given = self.tensor(images)
        return self.network.coupling.posterior(given, self._rows(labels, len(given)))

    def noise(self, seed: int, indices: range, *, evaluation: int = 0) -> Tensor:
        """The standard normal noise of samples ``indices`` before an evaluation, float32 [n, c, h, w]."""
        size = (self.channels, self.resolution, self.resolution)
        return sample_noise(seed, PURPOSE, indices, evaluation=evaluation, shape=size).to(self.device)

    def tensor(self, images: ArrayLike) -> Tensor:
        """Images uint8 [n, h, w, c], or one [h, w, c], as float32 [n, c, h, w] in [-1, 1].

        Raises:
            UserError: another type or shape than the model's images have.
        """
        array = np.asarray(images)
        array = array[None] if array.ndim == 3 else array
        wanted = (self.resolution, self.resolution, self.channels)
        if array.dtype != np.uint8 or array.shape[1:] != wanted or len(array) == 0:
            sizes = ", ".join(map(str, wanted))
            raise UserError(f"images: {array.dtype}{list(array.shape)}, must be uint8[n, {sizes}]")
        return to_float(array, self.device)

    def pixels(self, images: Tensor) -> NDArray[np.uint8]:
        """Images [n, c, h, w] in [-1, 1] as uint8 [n, h, w, c], quantised as the model's authors do."""
        return to_uint8(images.double(), self.sampler.quantise).permute(0, 2, 3, 1).cpu().numpy()

    def _rows(self, labels: Labels | None, count: int) -> Tensor | None:
        """Classes of ``count`` images, one-hot [count, k]; None for an unconditional model."""
        chosen = self._checked(labels)
        if not self.classes:
            return None
        classes = class_indices(chosen or "balanced", self.classes, range(count), seed=0, purpose=PURPOSE)
        return one_hot(classes, self.classes, self.device)

    def _checked(self, labels: Labels | None) -> Any:
        """Labels as :func:`generate` takes them."""
        if labels is None or isinstance(labels, str):
            given: Any = labels
            fits = labels in (None, "balanced", "uniform")
        else:
            given = (labels,) if isinstance(labels, int) else tuple(int(label) for label in labels)
            fits = len(given) > 0 and all(0 <= label < self.classes for label in given)
        if given is not None and not (fits and self.classes):
            allowed = f"balanced, uniform or numbers from 0 to {self.classes - 1}" if self.classes else "None"
            raise UserError(f"labels = {labels}: must be {allowed}")
        return given


class Run(Iterator[Progress]):
    """A training, step by step: an iterator of the scalars of each step."""

    def __init__(self, training: Training, archive: Archive, device: torch.device, weights: Weights) -> None:
        self.training = training
        """The settings."""
        self.archive = archive
        self.state: State = weights.initial_state(training, archive, device)
        """Weights, their average and the optimiser, changed in place."""
        joint = self.state.model.coupling.joint_images
        self._steps = run(training, self.state, loader_of(training, archive, joint_images=joint))

    def __len__(self) -> int:
        """Number of steps in all."""
        return self.training.recipe.steps

    def __next__(self) -> Progress:
        return next(self._steps)

    @property
    def model(self) -> Model:
        """The averaged weights as they are now; they change with the next step."""
        source = f"{self.training.cell} after step {self.state.step}"
        return Model(self.state.ema.module, self._saved, source)

    @property
    def _saved(self) -> Saved:
        return Saved(self.training, shape_of(self.archive), self.state.step)

    def save(self, path: str | Path) -> None:
        """Write the averaged weights as a checkpoint that :func:`load` and all commands read."""
        files.save(Path(path), self.state.ema.module, self._saved)


def train(
    params: str | Path | None = None,
    *,
    data: str | Path | None = None,
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    frozen: str | Path | None = None,
    device: str = "auto",
) -> Run:
    """Begin a training for a loop of one's own; the weights are those of `couplet train`.

        run = couplet.train(changes={"coupling": "vae", "recipes.ict.steps": 300})
        losses = [step.loss for step in run]
        images = run.model.sample(16)

    Args:
        params: a parameter file, whose experiment is trained; by default the one that comes with couplet, of
            a small network on scikit-learn's digits.
        data: a folder of `couplet prepare`; by default ``data/NAME``, prepared if it is not there.
        scale: a name from the file's `scales`.
        changes: values by dotted key, which win over the file.
        frozen: the run of a `pretrained` predictor.
        device: as in :func:`load`.

    Raises:
        UserError: a setting is not allowed, or ``data`` is another data set than the settings say.
    """
    listed = [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()]
    checked = resolve(origin() / "params.yaml" if params is None else Path(params), scale, listed)
    training = checked.training(checked.experiment)
    settings, name = Settings.of(training), checked.dataset
    folder = Path("data", name) if data is None else Path(data)
    if data is None:
        prepare(Console(), settings, name=name, out=folder, raw=Path(checked.raw))
    check_inputs({"prepare": folder}, settings)
    weights = Weights.of(training, folder, None if frozen is None else Path(frozen))
    return Run(training, Archive(folder), find(device), weights)


def load(source: str | Path, device: str = "auto") -> Model:
    """Load a model for sampling.

    Args:
        source: the folder of a run (its selected snapshot, or the last) or of `couplet export`, a checkpoint,
            a file of `couplet import` or what that command reads; or the ``owner/name`` on the Hugging Face
            hub of an exported model or a pipeline of diffusers.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.

    Raises:
        UserError: there is no model at ``source``.
    """
    chosen = find(device)
    with TemporaryDirectory(prefix="couplet-") as folder:
        network, saved = files.load(find_model(source, Path(folder)).checkpoint, chosen)
    return Model(network, saved, str(source))


def score(
    samples: str | Path | NDArray[np.uint8],
    reference: str | Path | NDArray[np.uint8],
    *,
    extractor: str | Path = "inception-legacy",
    metrics: Sequence[str] = ("fd", "kid", "is", "precision_recall"),
    split: str = "train",
    seed: int = 0,
    device: str = "auto",
) -> list[Score]:
    """Compare images with real ones; each number has its protocol.

    Args:
        samples: uint8 [n, h, w, c], or a folder, zip, .npz or .npy file of images.
        reference: equally; or a folder of `couplet prepare` or `couplet reference`, or an .npz file with the
            moments `mu` and `sigma`.
        extractor: `inception-legacy`, `inception`, `dinov2`, or a folder of `couplet features`.
        metrics: kinds of metrics; those that do not apply are left out.
        split: of a prepared data set.
        seed: of the random subsets of `kid`.

    Raises:
        UserError: as `couplet score`.
    """
    settings = EvaluateConfig.model_validate({"metrics": {name: {} for name in metrics}})
    with TemporaryDirectory(prefix="couplet-") as folder:
        paths = []
        for name, images in (("samples", samples), ("reference", reference)):
            paths.append(Path(folder, f"{name}.npy") if isinstance(images, np.ndarray) else Path(images))
            if isinstance(images, np.ndarray):
                check_images(images, name)
                np.save(paths[-1], images)
        chosen = extractors_named([str(extractor)])
        return scoring.run(
            Context(find(device)),
            settings,
            samples=paths[0],
            reference=paths[1],
            extractors=chosen,
            out=Path(folder, "score.json"),
            split=split,
            seed=seed,
        )


def make(family: str, settings: str | Mapping[str, Any], /, *arguments: Any, **context: Any) -> Any:
    """One part of a model or a training, to be used with tensors: a kernel, a coupling, a schedule, …

        kernel = couplet.make("kernel", "ve", sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
        noisy = kernel.noise(images, noise, t)

    Args:
        family: `kernel`, `coupling`, `network`, `schedule`, `distance`, `weighting`, `optimizer`, `ema`, …
        settings: a kind, or a mapping with ``kind`` and its settings, as in a parameter file.
        arguments, context: what the family's implementations are called with besides; CONTRIBUTING.md lists
            them.

    Raises:
        UserError: there is no such family, kind or setting.
    """
    load_plugins()
    families: dict[str, Any] = {each.noun: each for each in Variant.__subclasses__()}
    if family not in families:
        raise UserError(f"make({family!r}): {choices(family, families)}")
    with refused(family):
        config = families[family].parse(settings)
    return build(config, *arguments, **context)
