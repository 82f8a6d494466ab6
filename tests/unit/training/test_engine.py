"""How networks are computed: what bfloat16 touches and what not, and compiled networks' dropout masks."""

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from couplet.config.stages import TrainConfig
from couplet.data.loader import Loader
from couplet.errors import UserError
from couplet.model import ImageShape
from couplet.networks import Network
from couplet.tensors import default_stream
from couplet.training import initial_state, loop, run
from couplet.training.engine import check_compiled, computed, products
from couplet.training.masks import shared_masks

CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch compiles for the CPU with a C++ compiler",
)
SHAPE = ImageShape(channels=1, resolution=8, num_classes=0)


@pytest.fixture
def fresh_compiler():
    """Nothing compiled before counts towards the limit on compiling anew."""
    torch.compiler.reset()


COUPLINGS = ["independent", "ot", "vae", "generator", "vae_generator"]


class Tiny(Network):
    """One convolution and dropout."""

    def __init__(self, dropout=0.0):
        super().__init__(in_channels=1, out_channels=1, num_classes=0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.dropout = dropout
        self.seen = []

    def forward(self, x, noise_labels, class_labels=None):
        out = self.conv(F.dropout(x, self.dropout, self.training))
        self.seen.append((x.dtype, out.dtype))
        return out


@pytest.fixture
def trained(make_training, random_split):
    def train(coupling, steps=6, network=None, **settings):
        given = {} if network is None else {"network": network}
        training = make_training(coupling, steps=steps, train=settings, **given)
        state = initial_state(training, SHAPE, CPU)
        loader = Loader(random_split, batch=4, seed=0, flip=False, num_classes=0)
        return state, [done.loss for done in run(training, state, loader)]

    return train


def test_bfloat16_is_inside_the_network_alone():
    network = Tiny()
    x, level = torch.randn(2, 1, 4, 4), torch.zeros(2)
    plain = network(x, level)
    with computed([network], TrainConfig(precision="bf16"), CPU):
        out = network(x, level)
        assert not torch.is_autocast_enabled("cpu")
    assert network.seen == [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)]
    assert out.dtype == torch.float32
    assert not torch.equal(out, plain)
    torch.testing.assert_close(out, plain, rtol=0.02, atol=0.02)


def test_networks_are_as_before_after_the_block():
    network = Tiny()
    names = list(network.state_dict())
    block = computed([network], TrainConfig(precision="bf16", compile=True), CPU)
    with block:
        assert list(network.state_dict()) == names
        assert "forward" in vars(network)
    assert "forward" not in vars(network)
    assert network(torch.randn(2, 1, 4, 4), torch.zeros(2)).dtype == torch.float32


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_bfloat16_trains_every_network_and_leaves_the_rest_in_float32(trained, coupling):
    state, losses = trained(coupling, precision="bf16")
    _, plain = trained(coupling)
    assert losses != plain
    assert losses == pytest.approx(plain, rel=0.1)
    for tensor in [*state.model.parameters(), *state.averaged.parameters()]:
        assert tensor.dtype == torch.float32
    [kept] = state.optimizer.state.values()
    assert {value.dtype for value in kept.values()} == {torch.float32}
    assert all(p.grad.dtype == torch.float32 for p in state.model.parameters() if p.grad is not None)


def test_average_and_encoder_are_computed_alike(make_training, random_split, monkeypatch):
    """Teacher, predictor of the generator-induced coupling, and the variational coupling's encoder."""
    seen = []

    def spy(models, config, device):
        seen.extend(part for model in models for part in model.modules() if isinstance(part, Network))
        return computed([], config, device)

    monkeypatch.setattr(loop, "computed", spy)
    training = make_training("vae", steps=1)
    state = initial_state(training, SHAPE, CPU)
    list(run(training, state, Loader(random_split, batch=4, seed=0, flip=False, num_classes=0)))
    parts = [(model.network, model.coupling.encoder) for model in (state.model, state.averaged)]
    assert seen == [part for pair in parts for part in pair]


def test_tf32_is_refused_where_there_is_none(trained):
    with pytest.raises(UserError, match=r"train\.precision = tf32: cpu has no TF32; allowed here"):
        trained("independent", precision="tf32")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_tf32_is_what_the_settings_say_and_is_put_back(precision):
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    with products(TrainConfig(precision=precision), torch.device("cuda")):
        assert [place.allow_tf32 for place in places] == [precision == "tf32"] * 2
    assert [place.allow_tf32 for place in places] == before


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5])
def test_networks_with_the_same_masks_pass(dropout):
    network = Tiny(dropout).train()
    before = [p.clone() for p in network.parameters()]
    check_compiled(network, network, torch.randn(4, 1, 8, 8), None)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert network.training


def test_an_average_is_checked_in_training_mode_and_goes_back():
    average = Tiny(0.5).eval()
    check_compiled(Tiny(0.5).train(), average, torch.randn(4, 1, 8, 8), None)
    assert not average.training


def test_networks_with_other_masks_are_refused():
    class Careless(Tiny):
        """What two programs may do: draw differently with and without gradients."""

        def forward(self, x, noise_labels, class_labels=None):
            if torch.is_grad_enabled():
                torch.rand(1)
            return super().forward(x, noise_labels)

    network = Careless(0.1).train()
    with pytest.raises(UserError, match=r"train\.compile = true.*different dropout masks"):
        check_compiled(network, network, torch.randn(4, 1, 8, 8), None)


def test_failure_to_compile_is_one_line():
    class Broken(Tiny):
        def forward(self, x, noise_labels, class_labels=None):
            raise RuntimeError("\nno C++ compiler\nand a long story")

    network = Broken()
    with pytest.raises(
        UserError, match=r"^train\.compile = true: torch\.compile fails here \(no C\+\+ compiler\)$"
    ):
        check_compiled(network, network, torch.randn(4, 1, 8, 8), None)


# torch looks at the gradient of what the encoder made, while it compiles.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("coupling", ["vae"])  # which has a network of its own
def test_compiled_losses_are_those_of_the_plain_networks(trained, coupling):
    _, plain = trained(coupling, steps=20)
    _, compiled = trained(coupling, steps=20, compile=True)
    assert compiled == pytest.approx(plain, rel=1e-3)


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_student_and_teacher_share_their_masks(trained):
    """Passes the check at the start, and trains."""
    network = {"kind": "ddpmpp", "model_channels": 8, "channel_mult": [1], "num_blocks": 1, "dropout": 0.3}
    _, losses = trained("independent", steps=3, compile=True, network=network)
    assert len(losses) == 3


@pytest.mark.parametrize("inplace", [False, True])
def test_masks_drawn_once_are_those_drawn_twice(inplace):
    x = torch.randn(5, 1, 4, 4)
    layers = nn.Sequential(nn.Dropout(0.3, inplace), nn.Conv2d(1, 2, 3), nn.Dropout(0.6), nn.Dropout(0.0))
    answers: list[torch.Tensor] = []
    for once in (False, True):
        for context in shared_masks(CPU, 17, once=once):
            before = torch.get_rng_state()
            with context:
                answers.append(layers(x * 1))
            assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(answer, answers[0]) for answer in answers[1:])
    assert 0.2 < (answers[0] == 0).float().mean() < 0.9
    gradients = [torch.autograd.grad(a.square().sum(), layers[1].weight)[0] for a in answers]
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients[1:])


def test_masks_are_off_outside_and_in_evaluation():
    x = torch.randn(100)
    drawing, repeating = shared_masks(CPU, 1, once=True)
    with drawing:
        assert torch.equal(F.dropout(x, 0.5, training=False), x)
        assert not torch.equal(F.dropout(x, 0.5), x)
    with repeating:
        assert torch.equal(F.dropout(x, 0.5, training=False), x)
    with default_stream(CPU, 1):
        assert not torch.equal(F.dropout(x, 0.5), x)
