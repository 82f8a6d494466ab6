"""A module outside the package adds a variant to each family; a variant without code is one clear error."""

import importlib
import math
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import pytest
import torch

import couplet.config.params  # noqa: F401, so that every family has been opened
from couplet.config.base import Invalid, Variant
from couplet.config.variants import build, implementation
from couplet.data.archive import Archive, Source, write
from couplet.errors import UserError
from couplet.training.loop import initial_state, loader_of, run, shape_of


def train(settings, make_training, archive):
    """Two steps, as stage `train` takes them."""
    training = make_training(**settings, steps=2)
    state = initial_state(training, shape_of(archive), torch.device("cpu"))
    loader = loader_of(training, archive, joint_images=state.model.coupling.joint_images)
    losses = [progress.loss for progress in run(training, state, loader)]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))


class Example(NamedTuple):
    """A plug-in, and the stage that uses it."""

    source: str
    """Python code of the plug-in: a configuration of kind `mine`, and the code that it names."""
    settings: dict[str, Any]
    """Settings that choose the variant, as in YAML."""
    stage: Callable[..., None] = train


EXAMPLES = {
    "coupling": Example(
        """
import torch
from couplet.config.couplings import CouplingConfig
from couplet.couplings.base import Coupling, Pair

class MineConfig(CouplingConfig):
    implementation: ClassVar[str] = "mine:Mine"
    kind: Literal["mine"] = "mine"
    factor: float = 0.5

class Mine(Coupling):
    def __init__(self, config, setting):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(config.factor))

    def forward(self, images, noise, labels, **context):
        used.append(self)
        return Pair(images, noise * self.factor, labels, (self.factor - 1).square().expand(len(images)))
""",
        {"coupling": {"kind": "mine", "factor": 0.7}},
    ),
    "kernel": Example(
        """
from couplet.config.recipes import KernelConfig
from couplet.kernels import VarianceExploding

class MineConfig(KernelConfig):
    implementation: ClassVar[str] = "mine:Mine"
    kind: Literal["mine"] = "mine"

class Mine(VarianceExploding):
    def noise(self, data, noise, t):
        used.append(self)
        return super().noise(data, noise, t)
""",
        {"kernel": "mine"},
    ),
    "schedule": Example(
        """
import torch
from couplet.config.recipes import ScheduleConfig
from couplet.schedules import Schedule

class MineConfig(ScheduleConfig):
    implementation: ClassVar[str] = "mine:Mine"
    kind: Literal["mine"] = "mine"
    ratio: float = 0.5

class Mine(Schedule):
    def draw_pair(self, step, n, generator):
        used.append(self)
        t = self.sigma_max * torch.rand(n, generator=generator, device=generator.device)
        return t, self.config.ratio * t

    def last_pair(self, step):
        return self.sigma_max, self.config.ratio * self.sigma_max

    def curriculum(self, step):
        return 0
""",
        {"schedule": {"kind": "mine", "ratio": 0.9}},
    ),
    "distance": Example(
        """
from couplet.config.recipes import DistanceConfig

class MineConfig(DistanceConfig):
    implementation: ClassVar[str] = "mine:mine"
    kind: Literal["mine"] = "mine"

def mine(config, *, dimensions):
    def distance(a, b):
        used.append(config)
        return (a - b).abs().flatten(1).sum(1) / dimensions
    return distance
""",
        {"distance": "mine"},
    ),
    "weighting": Example(
        """
from couplet.config.recipes import WeightingConfig
from couplet.losses import Weighting

class MineConfig(WeightingConfig):
    implementation: ClassVar[str] = "mine:Mine"
    kind: Literal["mine"] = "mine"

class Mine(Weighting):
    def __call__(self, t, r):
        used.append(self)
        return 1 / (self.sigma_data + t)
""",
        {"weighting": "mine"},
    ),
    "optimizer": Example(
        """
import torch
from couplet.config.recipes import OptimizerConfig

class MineConfig(OptimizerConfig):
    implementation: ClassVar[str] = "mine:mine"
    kind: Literal["mine"] = "mine"
    momentum: float = 0.9

def mine(config, weights):
    used.append(config)
    return torch.optim.SGD([weights], config.lr, config.momentum)
""",
        {"optimizer": {"kind": "mine", "lr": 1e-4}},
    ),
    "learning rate": Example(
        """
from couplet.config.recipes import LearningRateConfig

class MineConfig(LearningRateConfig):
    implementation: ClassVar[str] = "mine:Mine"
    kind: Literal["mine"] = "mine"

class Mine:
    def __init__(self, config, *, total_steps):
        self.total_steps = total_steps

    def __call__(self, step):
        used.append(self)
        return 1 - step / self.total_steps
""",
        {"learning_rate": {"kind": "mine", "warmup": 1}},
    ),
    "ema": Example(
        """
from couplet.config.recipes import EMAConfig

class MineConfig(EMAConfig):
    implementation: ClassVar[str] = "mine:Mine"
    kind: Literal["mine"] = "mine"

class Mine:
    def __init__(self, config):
        pass

    def __call__(self, n):
        used.append(self)
        return n / (n + 1)
""",
        {"ema": "mine"},
    ),
    "network": Example(
        """
import torch
from couplet.config.networks import NetworkConfig
from couplet.networks.base import Network

class MineConfig(NetworkConfig):
    implementation: ClassVar[str] = "mine:Mine"
    kind: Literal["mine"] = "mine"

class Mine(Network):
    def __init__(self, config, *, in_channels, out_channels, resolution, num_classes=0):
        super().__init__(in_channels=in_channels, out_channels=out_channels, num_classes=num_classes)
        self.conv = torch.nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x, noise_labels, class_labels=None):
        used.append(self)
        return self.conv(x) * noise_labels.cos()[:, None, None, None]
""",
        {"network": {"kind": "mine"}, "coupling": "vae"},
    ),
}

HEADER = """
from __future__ import annotations
from typing import ClassVar, Literal
used = []
"""

FAMILIES = {family.noun: family for family in Variant.__subclasses__()}


@pytest.fixture
def forget():
    """Takes the variants that a test registers away again."""
    before = {family: dict(family.family) for family in FAMILIES.values()}
    yield
    for family, members in before.items():
        family.family.clear()
        family.family.update(members)


@pytest.fixture
def outside(tmp_path, monkeypatch, forget):
    """Imports a plug-in from a folder outside the package."""

    def load(source):
        (tmp_path / "mine.py").write_text(HEADER + source)
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module("mine")

    yield load
    sys.modules.pop("mine", None)


@pytest.fixture
def archive(tmp_path, random_split):
    splits = {"train": random_split}
    write(tmp_path / "data", "digits", Source("noise", ("a", "b", "c"), splits))
    return Archive(tmp_path / "data")


@pytest.mark.parametrize("family", EXAMPLES)
def test_variant_from_outside_works_like_a_built_in_one(outside, make_training, archive, family):
    module = outside(EXAMPLES[family].source)
    assert FAMILIES[family].parse("mine") == module.MineConfig()
    EXAMPLES[family].stage(EXAMPLES[family].settings, make_training, archive)
    assert module.used


def test_parameters_of_a_coupling_from_outside_are_trained_averaged_and_resumed(
    outside, make_training, archive, tmp_path
):
    outside(EXAMPLES["coupling"].source)
    training = make_training({"kind": "mine", "factor": 0.7}, steps=3)
    state, again = (initial_state(training, shape_of(archive), torch.device("cpu")) for _ in range(2))
    steps = list(run(training, state, loader_of(training, archive, joint_images=False)))
    assert all(progress.penalty > 0 for progress in steps)
    for model in state.models[:2]:
        assert model.coupling.factor.item() != pytest.approx(0.7)
    state.save(tmp_path / "state", key="key", data="d")
    again.restore(tmp_path / "state", key="key", data="d")
    for model, other in zip(state.models[:2], again.models[:2], strict=True):
        assert torch.equal(model.coupling.factor, other.coupling.factor)


def unmapped(parent):
    """A kind of the family that names no code: its parent's, if any, is not inherited."""

    class Unmapped(parent):
        kind: Literal["unmapped"] = "unmapped"

    return Unmapped


def built_in(family):
    return next(iter(family.family.values()))


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("parent", [lambda family: family, built_in], ids=["family", "built-in kind"])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_kind_without_code_is_refused(family, parent):
    kind = unmapped(parent(family))
    with pytest.raises(Invalid, match=r"Unmapped names no implementation, 'package\.module:Name'") as caught:
        family.parse({"kind": "unmapped"})
    assert (caught.value.at, caught.value.value) == (("kind",), "unmapped")
    config = kind.model_construct(kind="unmapped")
    with pytest.raises(UserError, match=rf"^{family.noun} unmapped: Unmapped names no implementation"):
        build(config)


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("family", EXAMPLES)
def test_settings_with_a_kind_without_code_are_refused(make_training, family):
    """It never falls back to a default: a learning rate that nobody maps is not a constant one."""
    unmapped(FAMILIES[family])
    key = next(key for key in EXAMPLES[family].settings)
    with pytest.raises(ValueError, match="Unmapped names no implementation"):
        make_training(**{key: {"kind": "unmapped"}} if key != "kernel" else {"kernel": "unmapped"})


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("name", ["couplet.nowhere:Thing", "couplet.training.optim:nothing", "no name"])
def test_code_that_cannot_be_imported_is_one_line(name):
    kind = unmapped(FAMILIES["distance"])
    kind.implementation = name
    with pytest.raises(UserError, match=rf"^distance unmapped: implementation {name} cannot be imported"):
        implementation(kind())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_built_in_kind_names_code_that_exists(family):
    for kind, member in family.family.items():
        assert callable(implementation(member.model_construct(kind=kind)))
