"""What holds for every coupling that deals the noise of a batch out to its images."""

import pytest
import torch

from couplet.config.couplings import CouplingConfig, MinibatchCouplingConfig
from couplet.config.variants import build
from couplet.couplings.base import Setting
from couplet.couplings.minibatch import assignment

KINDS = sorted(
    kind for kind, config in CouplingConfig.family.items() if issubclass(config, MinibatchCouplingConfig)
)


def make(kind, **settings):
    return build(CouplingConfig.family[kind](**settings), Setting(1, 0.5, None))


def cost(images, noise, sigma=80.0):
    """``sum_i ||x_i - sigma z_i||²`` in double precision."""
    return (images.double() - sigma * noise.double()).square().sum().item()


def batch(b=16, seed=0):
    """Images and noise; images that have more in common than noise has."""
    images, noise = torch.randn(2, b, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return images.cumsum(2) / 4, noise


def test_kinds_are_these():
    assert KINDS == ["ot", "projected", "sinkhorn", "swaps"]


@pytest.mark.parametrize("b", [1, 2, 3, 16, 33])
@pytest.mark.parametrize("kind", KINDS)
def test_assigns_a_permutation(kind, b):
    for seed in range(5):
        found = make(kind).assign(*batch(b, seed))
        assert sorted(found.tolist()) == list(range(b))


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_are_all_the_same_get_each_a_noise(kind):
    for value in (0.0, 0.3):
        found = make(kind).assign(torch.full((12, 1, 4, 4), value), batch(12)[1])
        assert sorted(found.tolist()) == list(range(12))


@pytest.mark.parametrize("kind", KINDS)
def test_transport_costs_less_than_as_drawn_and_no_less_than_optimal(kind):
    drawn, dealt, least = 0.0, 0.0, 0.0
    for seed in range(10):
        images, noise = batch(64, seed)
        drawn += cost(images, noise)
        dealt += cost(images, make(kind).arrange(images, noise))
        optimal = cost(images, noise[assignment(images, noise)])
        least += optimal
        assert cost(images, make(kind).arrange(images, noise)) >= optimal * (1 - 1e-12)
    gained = (drawn - dealt) / (drawn - least)
    assert gained > {"ot": 1 - 1e-9, "sinkhorn": 0.95, "swaps": 0.6, "projected": 0.1}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_depends_on_nothing_but_its_arguments(kind):
    images, noise = batch()
    found = make(kind).assign(images, noise)
    torch.manual_seed(99)
    other = make(kind)
    other.assign(*batch(seed=3))
    assert torch.equal(other.assign(images, noise), found)
    assert torch.equal(other.assign(images.double(), noise.double()), found)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_level_and_brightness_change_nothing(kind):
    """``||x - sigma z||²`` differs by what the permutation cannot change."""
    images, noise = batch()
    found = make(kind).assign(images, noise)
    assert torch.equal(make(kind).assign(images, 80 * noise), found)
    if kind != "projected":  # where two directions may come out close to each other
        assert torch.equal(make(kind).assign(images + 0.25, noise), found)


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_gradients_out(kind):
    images, noise = batch()
    assert not make(kind).arrange(images.requires_grad_(), noise.requires_grad_()).requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_refuses_what_is_not_finite(kind, place, value):
    both = batch()
    both[place][2, 0, 1, 1] = value
    for deal in (make(kind).arrange, lambda images, noise: make(kind).renoise(images, noise, None)):
        with pytest.raises(ValueError, match="not finite"):
            deal(*both)


@pytest.mark.parametrize("kind", KINDS)
def test_training_deals_the_noise_out_before_the_pairs_are_made(kind):
    images, noise = batch()
    coupling = make(kind)
    dealt = coupling.arrange(images, noise)
    assert torch.equal(dealt, noise[coupling.assign(images, noise)])
    assert not torch.equal(dealt, noise)
    unused = dict.fromkeys(("level", "predictors", "progress", "uniform"))
    assert torch.equal(coupling(images, dealt, None, **unused).noise, dealt)


@pytest.mark.parametrize("kind", KINDS)
def test_each_part_of_a_batch_has_an_assignment_of_its_own(kind):
    images, noise = batch()
    coupling = make(kind, parts=4)
    dealt = coupling.arrange(images, noise)
    wanted = [z[coupling.assign(x, z)] for x, z in zip(images.split(4), noise.split(4), strict=True)]
    assert torch.equal(dealt, torch.cat(wanted))
    assert not torch.equal(dealt, make(kind).arrange(images, noise))


@pytest.mark.parametrize("rows", [slice(0, 16), slice(0, 8), slice(8, 16), slice(5, 7), slice(3, 14)])
@pytest.mark.parametrize("parts", [1, 2, 4, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_whole_batch(kind, parts, rows):
    images, noise = batch()
    whole = make(kind, parts=parts).arrange(images, noise)
    assert torch.equal(make(kind, parts=parts).arrange(images, noise, rows), whole[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_parts_that_are_asked_for_are_solved(kind, monkeypatch):
    seen = []
    coupling = make(kind, parts=4)
    monkeypatch.setattr(coupling, "assign", lambda x, z: seen.append(len(x)) or torch.arange(len(x)))
    coupling.arrange(*batch(), slice(4, 12))
    assert seen == [4, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_deals_the_noise_out_again_within_a_group(kind):
    images, noise = batch()
    coupling = make(kind, recouple_when_sampling=True, sampling_group=16)
    assert coupling.joint_samples == 16
    dealt = coupling.renoise(images, noise, None)
    assert torch.equal(dealt, noise[coupling.assign(images, noise)])
    assert not torch.equal(dealt, noise)


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_takes_noise_as_drawn_where_samples_stand_alone(kind):
    images, noise = batch()
    coupling = make(kind, recouple_when_sampling=False)
    assert coupling.joint_samples is None
    assert torch.equal(coupling.renoise(images, noise, None), noise)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((kind, {"parts": 0}) for kind in KINDS),
        *((kind, {"sampling_group": 0}) for kind in KINDS),
        ("sinkhorn", {"epsilon": 0.0}),
        ("sinkhorn", {"epsilon": -0.1}),
        ("sinkhorn", {"epsilon": float("nan")}),
        ("sinkhorn", {"iterations": 0}),
        ("projected", {"directions": 0}),
        ("projected", {"seed": -1}),
        ("swaps", {"rounds": 0}),
        ("swaps", {"seed": -1}),
        ("ot", {"seed": 0}),
    ],
)
def test_bad_settings_are_refused(kind, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CouplingConfig.family[kind](**wrong)
