"""How networks are computed: the reach of bfloat16, and the dropout masks of compiled networks."""

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from couplet.config.cells import TrainConfig
from couplet.data.loader import Loader
from couplet.errors import UserError
from couplet.model import ImageShape
from couplet.networks.base import Network
from couplet.stages.train import slowness
from couplet.tensors import default_stream, products
from couplet.training.engine import computed
from couplet.training.loop import initial_state, run

CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch compiles for the CPU with a C++ compiler",
)
SHAPE = ImageShape(channels=1, resolution=8, num_classes=0)


@pytest.mark.parametrize(
    ("precision", "device", "capabilities", "slow"),
    [
        ("bf16", "cpu", {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ("bf16", "cpu", {"avx2": True, "avx512_bf16": True, "amx_bf16": False}, False),
        ("bf16", "cpu", {"neon": True, "bf16": False}, True),
        ("bf16", "cpu", {"architecture": "riscv"}, False),
        ("bf16", "cuda", {"avx512_bf16": False}, False),
        ("float32", "cpu", {"avx512_bf16": False}, False),
    ],
)
def test_bfloat16_on_a_cpu_without_units_is_said_to_be_slow(
    precision, device, capabilities, slow, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    said = slowness(TrainConfig(precision=precision), torch.device(device))
    assert said is None if not slow else said.startswith("train.precision = bf16: this CPU has no units")


def test_an_earlier_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert slowness(TrainConfig(precision="bf16"), CPU) is None


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
        if not torch.compiler.is_compiling():
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
    for tensor in [*state.model.parameters(), *state.ema.module.parameters()]:
        assert tensor.dtype == torch.float32
    [kept] = state.optimizer.state.values()
    assert {value.dtype for value in kept.values()} == {torch.float32}
    assert all(p.grad.dtype == torch.float32 for p in state.model.parameters() if p.grad is not None)


def test_average_and_encoder_are_computed_alike(make_training, random_split):
    """Student, teacher and the variational coupling's encoder."""
    training = make_training("vae", steps=1, teacher="ema", train={"precision": "bf16"})
    state = initial_state(training, SHAPE, CPU)
    networks = [state.model.network, state.model.coupling.encoder, state.ema.module.network]
    seen = [[] for _ in networks]
    for network, types in zip(networks, seen, strict=True):
        first = network.enc["8x8_conv"]
        first.register_forward_hook(lambda module, given, out, types=types: types.append(out.dtype))
    list(run(training, state, Loader(random_split, batch=4, seed=0, flip=False, num_classes=0)))
    assert seen == [[torch.bfloat16]] * 3


def test_tf32_is_refused_where_there_is_none(trained):
    with pytest.raises(UserError, match=r"train\.precision = tf32: cpu has no TF32; allowed here"):
        trained("independent", precision="tf32")


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_what_the_settings_say_and_is_put_back(tf32):
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    with products(tf32=tf32):
        assert [place.allow_tf32 for place in places] == [tf32] * 2
    assert [place.allow_tf32 for place in places] == before


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


@needs_compiler
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_networks_draw_the_dropout_masks_of_eager_ones():
    """With and without gradients, which are two programs: student and teacher share their masks."""
    network = Tiny(0.5).train()
    x, level = torch.randn(4, 1, 8, 8), torch.zeros(4)

    def answer(grad):
        with torch.set_grad_enabled(grad), default_stream(CPU, 17):
            return network(x, level).detach()

    eager = answer(True)
    with computed([network], TrainConfig(compile=True), CPU):
        for grad in (True, False):
            torch.testing.assert_close(answer(grad), eager)
    with default_stream(CPU, 18):
        assert not torch.allclose(network(x, level), eager)
