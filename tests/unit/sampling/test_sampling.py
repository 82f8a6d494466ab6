"""Sampling: levels and noise as defined, and no sample that depends on its batch."""

import numpy as np
import pytest
import torch
from torch import nn

from couplet.config.couplings import CouplingConfig
from couplet.config.designs import SamplerConfig
from couplet.config.recipes import KernelConfig
from couplet.config.variants import build as build_variant
from couplet.couplings.base import Setting
from couplet.couplings.minibatch import assignment
from couplet.model import ConsistencyModel, ImageShape, build
from couplet.sampling import Drawn, class_indices, generate, multistep, sample_noise, to_uint8

SHAPE = ImageShape(channels=1, resolution=8, num_classes=3)
LEVELS = [80.0, 0.821, 0.3]
SAMPLER = SamplerConfig(levels=LEVELS)
COUPLINGS = ["independent", "ot", "sinkhorn", "projected", "swaps", "vae", "generator", "vae_generator"]


class Remembering(nn.Module):
    """A network that does nothing but remember the levels it was told."""

    def __init__(self, out_channels=1):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.out_channels, self.told, self.labels = out_channels, [], []

    def forward(self, x, noise_labels, class_labels=None):
        self.told.append(noise_labels)
        self.labels.append(class_labels)
        return torch.tanh(x).repeat(1, self.out_channels, 1, 1)


def stub(kind="independent", kernel="ve", **settings):
    def network(*, out_channels, model_channels, num_blocks):
        return Remembering(out_channels)

    coupling = build_variant(CouplingConfig.parse({"kind": kind, **settings}), Setting(1, 0.5, network))
    levels = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
    return ConsistencyModel(
        Remembering(), coupling, build_variant(KernelConfig.parse(kernel), **levels)
    ).eval()


def images_of(model, nfe=(1, 2), count=50, batch=16, **changes):
    settings = {
        "seed": 0,
        "purpose": "sample",
        "conditional": False,
    } | changes
    parts = list(generate(model, SHAPE, SAMPLER, count=count, batch=batch, nfe=nfe, **settings))
    return {n: np.concatenate([part[n] for part in parts]) for n in nfe}


@pytest.fixture
def trained(make_training):
    """A model of each coupling whose weights are far from their initial zeros."""

    def make(kind, **recipe):
        model = build(make_training(kind, **recipe).design, SHAPE)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3)
        return model.eval()

    return make


@pytest.mark.parametrize("kind", COUPLINGS)
def test_batch_size_changes_no_pixel(trained, kind):
    model = trained(kind)
    wanted = images_of(model, batch=50)
    assert wanted[1].std() > 10
    for batch in (7, 16, 64):
        found = images_of(model, batch=batch)
        for nfe in (1, 2):
            assert np.array_equal(found[nfe], wanted[nfe])


def test_more_samples_begin_with_the_same_ones(trained):
    model = trained("independent")
    few, many = images_of(model, count=9), images_of(model, count=20)
    assert np.array_equal(few[2], many[2][:9])


def test_further_evaluations_start_from_the_images_of_the_first(trained):
    model = trained("vae")
    three = images_of(model, nfe=(1, 2, 3))
    assert np.array_equal(images_of(model, nfe=(1,))[1], three[1])
    assert np.array_equal(images_of(model, nfe=(2,))[2], three[2])
    assert not np.array_equal(three[1], three[2])
    assert not np.array_equal(three[2], three[3])


def test_every_sample_is_made_once(trained):
    found = images_of(trained("independent"), count=23, batch=5)
    for images in found.values():
        assert (images.shape, images.dtype) == ((23, 8, 8, 1), np.uint8)
        assert len({image.tobytes() for image in images}) == 23


@pytest.mark.parametrize("boundary", [True, False])
@pytest.mark.parametrize("kernel", ["ve", "li"])
def test_multistep_follows_its_definition(kernel, boundary):
    model = stub(kernel=kernel)
    noises = list(torch.randn(3, 4, 1, 8, 8))
    x = model((80 * noises[0]), torch.tensor([80.0]), None, boundary=boundary)
    wanted = [x]
    for z, level in zip(noises[1:], LEVELS[1:], strict=True):
        signal = 1.0 if kernel == "ve" else 1 - level / 80
        x = model(signal * x + level * z, torch.tensor([level]), None, boundary=boundary)
        wanted.append(x)
    found = list(multistep(model, noises, LEVELS, None, boundary=boundary))
    assert len(found) == 3
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one.float(), other)


def test_clipped_images_and_reduced_noise_follow_openai_s_definition():
    """Each image is clamped, and noise of sqrt(t² - sigma_min²) is added, while the network is told t."""
    model = stub()
    model.kernel.sigma_min = 0.2
    noises = list(torch.randn(3, 4, 1, 8, 8))
    x = model(80 * noises[0], torch.tensor([80.0]), None, boundary=True).clamp(-1, 1)
    wanted = [x]
    for z, level in zip(noises[1:], LEVELS[1:], strict=True):
        noisy = x + (level**2 - 0.2**2) ** 0.5 * z
        x = model(noisy, torch.tensor([level]), None, boundary=True).clamp(-1, 1)
        wanted.append(x)
    found = list(multistep(model, noises, LEVELS, None, boundary=True, clip=True, renoise="reduced"))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.float(), other)


def test_network_is_told_the_levels_in_order():
    model = stub()
    list(multistep(model, list(torch.randn(3, 2, 1, 8, 8)), LEVELS, None, boundary=True))
    told = torch.cat(model.network.told)
    torch.testing.assert_close(told, torch.tensor(LEVELS).log() / 4)


def test_sampling_keeps_no_gradient():
    model = stub("vae")
    for images in multistep(model, list(torch.randn(2, 2, 1, 8, 8)), LEVELS[:2], None, boundary=True):
        assert not images.requires_grad


def test_each_evaluation_needs_its_level_and_noise():
    with pytest.raises(ValueError, match="zip"):
        list(multistep(stub(), list(torch.randn(2, 2, 1, 8, 8)), LEVELS, None, boundary=True))


def test_encoder_takes_part_from_the_second_evaluation_on():
    model = stub("vae")
    steps = multistep(model, list(torch.randn(3, 2, 1, 8, 8)), LEVELS, None, boundary=True)
    calls = []
    for _ in steps:
        calls.append(len(model.coupling.encoder.told))
    assert calls == [0, 1, 2]


def test_second_evaluation_takes_its_noise_from_the_posterior():
    model = stub("vae")
    noises = list(torch.randn(2, 4, 1, 8, 8))
    first, second = multistep(model, noises, LEVELS[:2], None, boundary=True)
    mean, std = model.coupling.posterior(first, None)
    noisy = first + 0.821 * (mean + std * noises[1])
    wanted = model(noisy, torch.tensor([0.821]), None, boundary=True)
    torch.testing.assert_close(second.float(), wanted)


def test_transport_deals_out_the_noise_of_later_evaluations_unless_told_not_to():
    noises = list(torch.randn(2, 8, 1, 8, 8))
    plain, on, off = (
        list(multistep(model, noises, LEVELS[:2], None, boundary=True))
        for model in (stub(), stub("ot"), stub("ot", recouple_when_sampling=False))
    )
    assert torch.equal(plain[1], off[1])
    assert torch.equal(plain[0], on[0])
    assert not torch.equal(plain[1], on[1])
    dealt = noises[1][assignment(on[0], noises[1])]
    wanted = list(multistep(stub(), [noises[0], dealt], LEVELS[:2], None, boundary=True))
    torch.testing.assert_close(on[1], wanted[1])


def test_samples_that_share_their_noise_are_generated_in_groups_of_their_own():
    """Consecutive groups of six, whatever the batch; each is what it would be alone."""
    model = stub("ot", sampling_group=6)
    whole = images_of(model, count=16, batch=16)
    for batch in (4, 7):
        assert np.array_equal(images_of(model, count=16, batch=batch)[2], whole[2])
    assert np.array_equal(images_of(model, count=12)[2], whole[2][:12])
    assert not np.array_equal(images_of(stub("ot", sampling_group=8), count=16)[2], whole[2])


def test_noise_of_a_sample_is_its_own():
    whole = sample_noise(3, "sample", range(10), evaluation=0, shape=(1, 4, 4))
    assert whole.shape == (10, 1, 4, 4)
    assert torch.equal(sample_noise(3, "sample", range(4, 7), evaluation=0, shape=(1, 4, 4)), whole[4:7])
    assert len({row.numpy().tobytes() for row in whole}) == 10


@pytest.mark.parametrize(
    "other",
    [(4, "sample", 0), (3, "select", 0), (3, "sample", 1)],
    ids=["seed", "purpose", "evaluation"],
)
def test_noise_depends_on_all_that_names_it(other):
    seed, purpose, evaluation = other
    mine = sample_noise(3, "sample", range(5), evaluation=0, shape=(1, 4, 4))
    theirs = sample_noise(seed, purpose, range(5), evaluation=evaluation, shape=(1, 4, 4))
    assert not (mine == theirs).any()


def test_noise_is_standard_normal():
    noise = sample_noise(0, "sample", range(500), evaluation=0, shape=(1, 8, 8)).double()
    n = noise.numel()
    assert abs(noise.mean()) < 4 / n**0.5
    assert abs(noise.var() - 1) < 4 * (2 / n) ** 0.5
    neighbours = (noise[1:] * noise[:-1]).mean()
    assert abs(neighbours) < 4 / n**0.5


@pytest.mark.parametrize("change", [{"seed": 1}, {"purpose": "select"}])
def test_seed_and_purpose_change_every_image(trained, change):
    model = trained("independent")
    mine, theirs = images_of(model), images_of(model, **change)
    for nfe in (1, 2):
        assert not (mine[nfe] == theirs[nfe]).all((1, 2, 3)).any()


def test_default_generator_changes_no_image_and_is_not_disturbed(trained):
    model = trained("vae")
    first = images_of(model)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = images_of(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first[2], second[2])


@pytest.mark.parametrize("batch", [4, 7])
def test_sample_i_is_of_class_i_mod_k(batch):
    model = stub("vae")
    images_of(model, count=10, batch=batch, conditional=True)
    told = torch.cat(model.network.labels[::2])  # one batch asks twice, for NFE 1 and 2
    assert torch.equal(told, torch.eye(3)[torch.arange(10) % 3])
    assert torch.equal(torch.cat(model.coupling.encoder.labels), told)


def test_unconditional_models_get_no_classes():
    model = stub()
    images_of(model, count=4)
    assert set(model.network.labels) == {None}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (-1.0, 0),
        (1.0, 255),
        (-7.0, 0),
        (7.0, 255),
        (0.0, 128),  # the middle, 127.5, is rounded up
        (10 / 127.5 - 1, 10),
        (10.4 / 127.5 - 1, 10),
        (10.6 / 127.5 - 1, 11),
    ],
)
def test_pixels_are_rounded_and_clamped(value, wanted):
    assert to_uint8(torch.tensor([value], dtype=torch.float64)).tolist() == [wanted]


def test_all_256_values_survive_the_way_to_float_and_back():
    grey = torch.arange(256)
    assert torch.equal(to_uint8(grey.float() / 127.5 - 1), grey.to(torch.uint8))


def test_images_are_the_model_s_output_in_channels_last_order():
    """Each NFE's uint8 images are those of the written-out sampler on the same noise."""
    model = stub()
    noises = [sample_noise(0, "sample", range(5), evaluation=i, shape=(1, 8, 8)) for i in range(2)]
    wanted = list(multistep(model, noises, LEVELS[:2], None, boundary=True))
    found = images_of(model, count=5, batch=2)
    for nfe, images in enumerate(wanted, 1):
        assert np.array_equal(found[nfe], to_uint8(images).permute(0, 2, 3, 1).numpy())


def test_truncation_takes_the_lower_value():
    images = torch.tensor([-1.2, -1.0, -0.997, 0.0, 0.997, 1.0, 1.2], dtype=torch.float64)
    assert to_uint8(images, "truncate").tolist() == [0, 0, 0, 127, 254, 255, 255]
    assert to_uint8(images, "round").tolist() == [0, 0, 0, 128, 255, 255, 255]


@pytest.mark.parametrize(("labels", "counts"), [("uniform", (1, 1, 1)), (Drawn((5, 0, 15)), (5, 0, 15))])
def test_drawn_classes_depend_on_no_other_sample_and_come_as_often_as_they_should(labels, counts):
    every = class_indices(labels, 3, range(3000), seed=7, purpose="sample")
    parts = [
        class_indices(labels, 3, range(start, start + 1000), seed=7, purpose="sample")
        for start in (0, 1000, 2000)
    ]
    assert torch.equal(every, torch.cat(parts))
    shares = torch.bincount(every, minlength=3) / 3000
    expected = torch.tensor(counts) / sum(counts)
    assert torch.allclose(shares, expected, atol=4 * 0.5 / 3000**0.5)
    assert not torch.equal(every, class_indices(labels, 3, range(3000), seed=7, purpose="select"))


def test_balanced_classes_take_turns():
    assert class_indices("balanced", 3, range(4, 9), seed=0, purpose="sample").tolist() == [1, 2, 0, 1, 2]
