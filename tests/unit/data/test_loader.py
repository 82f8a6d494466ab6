"""The loader: any batch at any time, every image once per epoch."""

import numpy as np
import pytest
import torch

from couplet.data import Loader, Split, to_float

CPU = torch.device("cpu")


def make(n=10, *, batch=4, seed=0, flip=False, num_classes=0):
    """Image i is constant at i, but for its left column of 255."""
    images = np.repeat(np.arange(n, dtype=np.uint8), 16).reshape(n, 4, 4, 1)
    images[:, :, 0] = 255
    labels = np.arange(n, dtype=np.int64) % 3
    return Loader(Split(images, labels), batch=batch, seed=seed, flip=flip, num_classes=num_classes)


def seen(loader, steps):
    return np.concatenate([loader.indices(step) for step in range(steps)])


@pytest.mark.parametrize("batch", [2, 3, 4, 5, 7, 10, 23])
def test_every_image_is_seen_once_per_epoch(batch):
    """Also where batches straddle epochs, and where one is larger than the data set."""
    order = seen(make(batch=batch), 60 // batch + 1)[:60].reshape(6, 10)
    assert (np.sort(order, axis=1) == np.arange(10)).all()


def test_every_batch_is_full():
    loader = make(batch=7)
    assert {len(loader.indices(step)) for step in range(20)} == {7}


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("batch", [4, 23])
def test_a_batch_does_not_depend_on_those_before_it(batch, flip):
    sequential = make(batch=batch, flip=flip)
    wanted = [sequential.at(step, CPU)[0] for step in range(9)]
    for step in (8, 0, 5, 2):
        assert torch.equal(make(batch=batch, flip=flip).at(step, CPU)[0], wanted[step])


def test_epochs_have_orders_of_their_own():
    orders = {tuple(epoch) for epoch in seen(make(batch=5), 16).reshape(8, 10)}
    assert len(orders) == 8


def test_seeds_have_orders_of_their_own():
    assert not np.array_equal(seen(make(seed=0), 5), seen(make(seed=1), 5))


def test_images_are_those_of_the_indices():
    loader = make()
    for step in range(5):
        images, labels = loader.at(step, CPU)
        assert labels is None
        assert (images.shape, images.dtype) == ((4, 1, 4, 4), torch.float32)
        pixels = (images[:, 0, :, 1:] + 1) * 127.5
        wanted = torch.from_numpy(loader.indices(step)).float()
        torch.testing.assert_close(pixels, wanted[:, None, None].expand(4, 4, 3))


def test_labels_are_one_hot_and_stay_with_their_images():
    loader = make(num_classes=3)
    for step in range(5):
        _, labels = loader.at(step, CPU)
        assert (labels.shape, labels.dtype) == ((4, 3), torch.float32)
        assert torch.equal(labels, torch.eye(3)[torch.from_numpy(loader.indices(step) % 3)])


def test_about_half_of_the_images_is_mirrored():
    loader, plain = make(batch=50, flip=True), make(batch=50)
    mirrored = []
    for step in range(20):
        images, upright = loader.at(step, CPU)[0], plain.at(step, CPU)[0]
        is_mirrored = (images == upright.flip(3)).all(3).all(2)[:, 0]
        assert torch.equal(images[~is_mirrored], upright[~is_mirrored])
        mirrored.append(is_mirrored)
    share = torch.cat(mirrored).double().mean().item()
    assert share == pytest.approx(0.5, abs=4 * 0.5 / 1000**0.5)
    assert len({tuple(m.tolist()) for m in mirrored}) == 20


def test_nothing_is_mirrored_unless_wanted():
    images = torch.cat([make().at(step, CPU)[0] for step in range(10)])
    assert (images[:, :, :, 0] == 1).all()


def test_pixels_span_minus_one_to_one():
    pixels = np.array([0, 51, 255], dtype=np.uint8).reshape(1, 1, 3, 1)
    found = to_float(pixels, CPU)
    assert found.shape == (1, 1, 1, 3)
    assert found.flatten().tolist() == pytest.approx([-1, -0.6, 1])


def test_channels_come_first():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    found = (to_float(pixels, CPU) + 1) * 127.5
    assert found[1, 2, 0, 1].item() == pytest.approx(pixels[1, 0, 1, 2])


def test_default_generators_are_left_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    make(flip=True, num_classes=3).at(3, CPU)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
