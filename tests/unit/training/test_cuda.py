"""Only a GPU shows these: wrong devices, hidden waits, races between streams, TF32, memory order."""

import shutil
import time
import warnings
from contextlib import closing
from itertools import islice

import numpy as np
import plain
import pytest
import torch
import yaml

from couplet.config.cells import TrainConfig
from couplet.config.couplings import CouplingConfig
from couplet.config.designs import SamplerConfig
from couplet.config.extractors import ExtractorConfig
from couplet.config.networks import NetworkConfig
from couplet.config.variants import build
from couplet.couplings.base import Setting
from couplet.couplings.minibatch import MinibatchCoupling
from couplet.data.archive import Split
from couplet.data.loader import Loader
from couplet.metrics.extractor.classifier import ClassifierExtractor
from couplet.model import ImageShape
from couplet.sampling import generate
from couplet.tensors import default_stream, products
from couplet.training import loop
from couplet.training.engine import computed
from couplet.training.loop import initial_state, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

GPU, CPU = torch.device("cuda"), torch.device("cpu")
SHAPE = ImageShape(channels=3, resolution=16, num_classes=3)
DEALING = ["ot", "sinkhorn", "projected", "swaps"]
COUPLINGS = ["independent", *DEALING, "vae", "generator", "vae_generator"]
NETWORK = {
    "kind": "ddpmpp",
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
}
BATCH = 32

needs_compiler = pytest.mark.skipif(
    not (shutil.which("gcc") or shutil.which("clang")), reason="Triton needs a C compiler"
)


@pytest.fixture
def images():
    """64 colour images of noise in three classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    return Split(pixels, np.arange(64, dtype=np.int64) % 3)


@pytest.fixture
def settings(make_training):
    """Settings of a run whose number of noise levels grows within a few steps."""

    def make(coupling="independent", *, dropout=0.0, steps=8, train=None, **recipe):
        given = {"schedule": {"kind": "discretised", "s0": 2, "s1": 16}, "flip": True, "conditional": True}
        network = {**NETWORK, "dropout": dropout}
        return make_training(
            coupling, train=train, steps=steps, batch=BATCH, network=network, **{**given, **recipe}
        )

    return make


def loader_of(images, training):
    classes = SHAPE.num_classes if training.recipe.conditional else 0
    return Loader(images, batch=BATCH, seed=0, flip=training.recipe.flip, num_classes=classes)


def losses(training, images, device=GPU, take=run, **options):
    """The losses of a run, in float32 unless the settings say otherwise."""
    state = initial_state(training, SHAPE, device)
    with products():
        taken = take(training, state, loader_of(images, training), **options)
        return [getattr(done, "loss", done) for done in taken]


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_losses_are_those_of_the_plain_step(settings, images, coupling):
    training = settings(coupling, dropout=0.3)
    assert losses(training, images) == pytest.approx(losses(training, images, take=plain.run), rel=1e-3)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_precisions_stay_near(settings, images, coupling, precision):
    wanted = losses(settings(coupling), images)
    found = losses(settings(coupling, train={"precision": precision}), images)
    assert found != wanted
    assert found == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("schedule", ["discretised", "continuous", "denoising"])
@pytest.mark.parametrize(("coupling", "waits"), [("independent", 1), ("vae", 1), ("generator", 2)])
def test_a_step_waits_for_the_gpu_only_for_its_scalars(settings, images, coupling, waits, schedule):
    """And a generator-induced coupling for the number of images that it chose."""
    training = settings(coupling, schedule={"kind": schedule}, weighting="uniform", clip_norm=1.0)
    state = initial_state(training, SHAPE, GPU)
    with closing(run(training, state, loader_of(images, training), ahead=0)) as steps:
        list(islice(steps, 4))  # grids are copied once
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                list(islice(steps, 3))
            finally:
                torch.cuda.set_sync_debug_mode("default")
    found = [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]
    assert len(found) == 3 * waits, found


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_thread_arranges_what_the_step_would(settings, images, coupling):
    def arranged(ahead):
        training = settings(coupling)
        work = loop._Work(
            training, initial_state(training, SHAPE, GPU), loader_of(images, training), loop.ALONE
        )
        with closing(work.inputs(GPU, ahead)) as inputs:
            return [(batch.images.clone(), noise.clone()) for batch, noise in inputs]

    for found, wanted in zip(arranged(2), arranged(0), strict=True):
        assert all(map(torch.equal, found, wanted))


def test_thread_passes_what_the_default_stream_has_queued(settings, images, monkeypatch):
    training = settings("ot")
    state = initial_state(training, SHAPE, GPU)
    arrange = state.model.coupling.arrange

    def later(*arguments):
        time.sleep(0.3)  # the default stream is asleep by now
        return arrange(*arguments)

    monkeypatch.setattr(state.model.coupling, "arrange", later)
    work = loop._Work(training, state, loader_of(images, training), loop.ALONE)
    with closing(work.inputs(GPU, 2)) as inputs:
        next(inputs)
        torch.cuda.synchronize()
        torch.cuda._sleep(5 * 10**9)  # clock cycles: seconds
        awake = torch.cuda.current_stream().record_event()
        next(inputs)
        assert not awake.query()
        torch.cuda.synchronize()


@pytest.mark.parametrize("coupling", DEALING)
def test_assignment_does_not_depend_on_tf32(coupling):
    """A setting of the process, which the step in training changes while a thread works."""
    dealing = build(CouplingConfig.parse(coupling), Setting(3, 0.5, lambda **sizes: None))
    assert isinstance(dealing, MinibatchCoupling)
    draws = torch.Generator(GPU).manual_seed(0)
    data, noise = (torch.randn(256, 3, 32, 32, generator=draws, device=GPU) for _ in range(2))
    found = []
    for tf32 in (False, True):
        with products(tf32=tf32):
            found.append(dealing.assign(data, noise))
    assert torch.equal(*found)
    assert found[0].sort().values.tolist() == list(range(256))


def test_weights_in_channels_last_take_the_same_steps(settings, images):
    def taken(memory_format):
        training = settings("generator")
        state = initial_state(training, SHAPE, GPU)
        for model in state.models[:2]:
            model.to(memory_format=memory_format)
        return state, [done.loss for done in run(training, state, loader_of(images, training))]

    (_, wanted), (state, found) = taken(torch.contiguous_format), taken(torch.channels_last)
    assert found == pytest.approx(wanted, rel=1e-3)
    [weight] = [p for name, p in state.model.named_parameters() if name.endswith("enc.16x16_conv.weight")]
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("optimizer", ["radam", "adam", "lion"])
def test_resumed_run_takes_the_steps_of_an_undisturbed_one(settings, images, tmp_path, optimizer):
    if optimizer == "lion":
        pytest.importorskip("lion_pytorch")
    training = settings("vae", optimizer={"kind": optimizer, "lr": 1e-4})
    wanted = losses(training, images)
    state = initial_state(training, SHAPE, GPU)
    with closing(run(training, state, loader_of(images, training))) as steps:
        list(islice(steps, 3))
    state.save(tmp_path / "state.safetensors", key="a", data="b")
    resumed = initial_state(training, SHAPE, GPU)
    resumed.restore(tmp_path / "state.safetensors", key="a", data="b")
    [moments] = resumed.optimizer.state.values()
    assert all(value.is_cuda for name, value in moments.items() if name != "step")
    assert all(p.is_cuda for average in resumed.averages.values() for p in average.module.parameters())
    found = [done.loss for done in run(training, resumed, loader_of(images, training))]
    assert found == pytest.approx(wanted[3:], rel=1e-3)


@pytest.mark.parametrize("coupling", ["ot", "generator"])
def test_steps_keep_no_memory(settings, images, coupling):
    training = settings(coupling, steps=30)
    state = initial_state(training, SHAPE, GPU)
    used = []
    for _ in run(training, state, loader_of(images, training)):
        torch.cuda.synchronize()
        used.append(torch.cuda.memory_allocated())
    assert max(used[20:]) <= max(used[5:20]) + 2**16


@pytest.mark.parametrize("coupling", ["independent", "ot", "vae"])
def test_samples_are_those_of_the_cpu(settings, coupling):
    """Up to rounding at the border of two values."""
    training = settings({"kind": coupling, **({"recouple_when_sampling": True} if coupling == "ot" else {})})
    sampler = SamplerConfig(levels=(80.0, 0.8), boundary=True)

    def made(device):
        model = initial_state(training, SHAPE, device).ema.module
        options = {"seed": 0, "purpose": "sample", "count": 24, "batch": 8, "nfe": (1, 2)}
        batches = list(generate(model, SHAPE, sampler, conditional=True, **options))
        return np.concatenate([batch[nfe] for batch in batches for nfe in (1, 2)]).astype(int)

    assert np.abs(made(GPU) - made(CPU)).max() <= 1


def test_features_are_those_of_the_cpu(noise_archive, grid_content, tmp_path):
    from couplet.config.params import Params
    from couplet.data.archive import Archive

    archive = Archive(
        noise_archive(tmp_path / "data", Params.model_validate(grid_content).datasets["digits"])
    )
    config = ExtractorConfig.parse({"kind": "classifier", "steps": 3, "channels": [8, 8], "features": 8})
    ClassifierExtractor.make(config, archive, tmp_path)
    of_gpu, of_cpu = (
        ClassifierExtractor(config, tmp_path, device)(archive.train.images).values for device in (GPU, CPU)
    )
    np.testing.assert_allclose(of_gpu, of_cpu, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_one_cell_from_data_to_numbers(couplet, grid_content, tmp_path, monkeypatch):
    """Every stage on the GPU."""
    pytest.importorskip("sklearn")
    pytest.importorskip("cleanfid")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(grid_content))
    for coupling in ("vae", "generator"):
        code, _, err = couplet("run", "--out", coupling, "--coupling", coupling, "--device", "cuda")
        assert code == 0, err


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_student_and_teacher_share_their_masks(channels_last):
    """With and without gradient: two programs, whose activations must have one order in memory."""
    torch.compiler.reset()
    with default_stream(CPU, 0):
        config = NetworkConfig.parse({**NETWORK, "dropout": 0.5})
        network = build(config, in_channels=3, out_channels=3, resolution=16, num_classes=0)
        for parameter in network.parameters():  # the last layers begin at almost zero
            torch.nn.init.normal_(parameter, std=0.1)
    network.to(GPU).train()
    if channels_last:
        network.to(memory_format=torch.channels_last)
    x, level = torch.randn(BATCH, 3, 16, 16, device=GPU), torch.zeros(BATCH, device=GPU)

    def answer(grad, seed=17):
        with torch.set_grad_enabled(grad), default_stream(GPU, seed):
            return network(x, level, None).detach()

    with products(), computed([network], TrainConfig(compile=True), GPU):
        student, teacher, other = answer(True), answer(False), answer(False, seed=18)
    size = student.abs().mean()
    assert (student - teacher).abs().mean() < 0.05 * size
    assert (student - other).abs().mean() > 0.2 * size


@needs_compiler
@pytest.mark.slow
def test_compiled_run_is_the_eager_one_over_the_whole_curriculum(settings, images):
    """A generator-induced coupling evaluates another number of images in every step."""
    torch.compiler.reset()
    wanted = losses(settings("generator", dropout=0.3, steps=24), images)
    found = losses(settings("generator", dropout=0.3, steps=24, train={"compile": True}), images)
    assert found == pytest.approx(wanted, rel=2e-2)
