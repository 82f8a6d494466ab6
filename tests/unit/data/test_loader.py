"""The loader: batches of any step, epochs, processes and threads."""

import itertools
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from couplet.data import loader
from couplet.data.archive import Split, read_array
from couplet.data.loader import Loader, to_float
from couplet.errors import UserError
from couplet.model import ImageShape
from couplet.training import loop
from couplet.training.loop import initial_state, run

CPU = torch.device("cpu")


def make(n=10, *, batch=4, seed=0, flip=False, num_classes=0, labelled=None, **part):
    """A loader whose image i is constant at i except for its left column of 255; ``labelled`` have labels."""
    images = np.repeat(np.arange(n, dtype=np.uint8), 16).reshape(n, 4, 4, 1)
    images[:, :, 0] = 255
    labels = np.arange(n, dtype=np.int64)[:labelled] % 3
    return Loader(Split(images, labels), batch=batch, seed=seed, flip=flip, num_classes=num_classes, **part)


def seen(loader, steps):
    return np.concatenate([loader.indices(step) for step in range(steps)])


@pytest.mark.parametrize(
    ("step", "order", "mirrored"),
    [
        (0, [5, 8, 2, 9, 6, 4, 3, 1], [0, 0, 0, 0, 0, 0, 0, 0]),
        (1, [0, 7, 5, 2, 4, 1, 6, 8], [1, 0, 1, 1, 0, 0, 1, 1]),
        (2, [3, 9, 0, 7, 1, 6, 7, 3], [1, 0, 1, 1, 0, 1, 0, 0]),
        (1000, [1, 0, 4, 5, 3, 2, 8, 9], [0, 1, 0, 0, 1, 1, 0, 0]),
    ],
)
def test_order_and_flips_are_those_of_the_first_version(step, order, mirrored):
    """The draws of a seed must never change: a run may be resumed with a newer version."""
    loader = make(batch=8, seed=3, flip=True, num_classes=3)
    images, labels = loader.at(step, CPU)
    assert loader.indices(step).tolist() == order
    assert loader.mirrored(step).tolist() == mirrored
    assert (images[range(8), 0, 0, [3 if yes else 0 for yes in mirrored]] == 1).all()
    middle = (images[:, 0, 0, 1] + 1) * 127.5
    assert middle.tolist() == pytest.approx(order, abs=1e-4)
    assert labels.argmax(1).tolist() == [number % 3 for number in order]


@pytest.mark.parametrize("batch", [2, 3, 4, 5, 7, 10, 23])
def test_every_image_is_seen_once_per_epoch(batch):
    """Even if batches cross epochs or are larger than the data set."""
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


def assert_same(one, other):
    for (images, labels), (wanted, wanted_labels) in zip(one, other, strict=True):
        assert images.stride() == wanted.stride()
        assert torch.equal(images, wanted)
        assert (labels is None) == (wanted_labels is None)
        assert labels is None or torch.equal(labels, wanted_labels)


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (10, 12), (7, 24), (50, 8), (3, 1)])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_parts_of_all_ranks_are_the_whole_batch(n, batch, flip, num_classes):
    """In the order of the ranks, with the labels and flips that one process gives them."""
    settings = {"batch": batch, "flip": flip, "num_classes": num_classes, "seed": 5}
    whole = make(n, **settings)
    for world in (world for world in range(1, batch + 1) if batch % world == 0):
        ranks = [make(n, **settings, rank=rank, world=world) for rank in range(world)]
        for step in (0, 1, 6, 1000):
            indices = [rank.indices(step) for rank in ranks]
            assert {len(part) for part in indices} == {batch // world}
            assert np.concatenate(indices).tolist() == whole.indices(step).tolist()
            images, labels = zip(*(rank.at(step, CPU) for rank in ranks), strict=True)
            joined = torch.cat(images), torch.cat(labels) if num_classes else None
            wanted = whole.at(step, CPU)
            assert torch.equal(joined[0], wanted[0])
            assert joined[1] is wanted[1] is None or torch.equal(joined[1], wanted[1])


@pytest.mark.parametrize("world", [2, 5])
def test_ranks_never_share_an_image_within_an_epoch(world):
    ranks = [make(40, batch=10, rank=rank, world=world) for rank in range(world)]
    parts = [set(seen(rank, 4).tolist()) for rank in ranks]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(parts, 2))
    assert set.union(*parts) == set(range(40))


def test_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match=r"^batch = 10: must be a multiple of world = 4, .*processes$"):
        make(batch=10, world=4)


@pytest.mark.parametrize(("rank", "world"), [(-1, 2), (2, 2), (0, 0)])
def test_rank_outside_of_the_world_is_a_mistake_of_ours(rank, world):
    with pytest.raises(ValueError, match=f"rank = {rank}: .* world = {world}"):
        make(rank=rank, world=world)


@pytest.mark.parametrize("ahead", [None, 0, 1, 2, 5])
@pytest.mark.parametrize(("start", "stop"), [(0, 9), (6, 9), (8, 9), (1000, 1002), (3, 3), (5, 3)])
def test_batches_ahead_are_those_drawn_one_by_one(start, stop, ahead):
    settings = {"batch": 7, "flip": True, "num_classes": 3}
    wanted = [make(**settings).at(step, CPU) for step in range(start, stop)]
    assert_same(make(**settings).batches(start, stop, CPU, ahead), wanted)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("taken", [1, 3, 9])
def test_no_thread_outlives_the_iterator(taken):
    batches = make().batches(0, 9, CPU, ahead=2)
    for _ in range(taken):
        next(batches)
    assert len(threads()) == 1
    if taken == 9:
        assert next(batches, None) is None
    else:
        batches.close()
    assert threads() == []


def test_no_thread_outlives_an_error_of_the_consumer():
    def consume():
        for images, _ in make().batches(0, 9, CPU, ahead=2):
            raise ArithmeticError(len(images))

    with pytest.raises(ArithmeticError, match="4"):
        consume()
    assert threads() == []


def test_the_cpu_needs_no_thread():
    batches = make().batches(0, 9, CPU)
    next(batches)
    assert threads() == []


def test_no_more_than_wanted_is_gathered_ahead(monkeypatch):
    gathered = []
    source = make()
    original = source.gathered
    monkeypatch.setattr(
        source, "gathered", lambda step, **pin: gathered.append(step) or original(step, **pin)
    )
    batches = source.batches(0, 1000, CPU, ahead=2)
    for taken in range(1, 6):
        next(batches)
        assert len(gathered) <= taken + 2
    batches.close()
    assert gathered == list(range(len(gathered)))


@pytest.mark.parametrize("ahead", [0, 2])
def test_error_comes_at_its_step(ahead):
    """Labels that end early: earlier batches are delivered, and the thread ends."""
    source = make(12, labelled=9, num_classes=3)
    assert [(source.indices(step) < 9).all() for step in (1, 2)] == [True, False]
    delivered = []
    with pytest.raises(IndexError, match="out of bounds for axis 0 with size 9"):
        delivered.extend(source.batches(1, 9, CPU, ahead))
    assert_same(delivered, [source.at(1, CPU)])
    assert threads() == []


def test_the_interpreter_ends_while_batches_wait():
    """Even if nobody closes the iterator."""
    program = """
import numpy, torch
from couplet.data.archive import Split
from couplet.data.loader import Loader
split = Split(numpy.zeros((9, 4, 4, 1), numpy.uint8), numpy.zeros(9, numpy.int64))
batches = Loader(split, batch=4, seed=0, flip=True, num_classes=0).batches(0, 10**6, torch.device("cpu"), 3)
next(batches)
print("there")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("there\n", "", 0)


@pytest.fixture
def mapped(tmp_path):
    """Fifty images of 5/4 pages, as an array and mapped from a file."""
    shape = (50, 40, mmap.PAGESIZE // 32, 1)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    return images, read_array(tmp_path / "images.npy")


def test_mapped_file_gives_the_batches_of_its_array(mapped):
    batches = []
    for images in mapped:
        source = Loader(Split(images, np.zeros(50, np.int64)), batch=16, seed=0, flip=True, num_classes=2)
        batches.append([source.at(step, CPU) for step in range(5)])
    assert_same(*batches)


@pytest.mark.parametrize("ahead", [0, 2])
def test_file_that_is_cut_while_in_use_is_named(mapped, ahead):
    """Reading on would kill the process without a message."""
    source = Loader(Split(mapped[1], np.zeros(50, np.int64)), batch=16, seed=0, flip=False, num_classes=0)
    batches = source.batches(0, 9, CPU, ahead)
    next(batches)
    path, whole = Path(mapped[1].filename), Path(mapped[1].filename).stat().st_size
    os.truncate(path, 8192)
    message = rf"^{path}: truncated to 8192 bytes while in use, must have {whole}$"
    with pytest.raises(UserError, match=message):
        list(batches)
    assert threads() == []


def test_just_the_images_of_a_batch_are_read_ahead(mapped, monkeypatch):
    """The requested pages contain every chosen byte, and each contains one."""
    asked = []

    class Map(mmap.mmap):
        def madvise(self, option, start, length):
            assert option == mmap.MADV_WILLNEED
            assert start % mmap.PAGESIZE == 0
            asked.append(np.arange(start // mmap.PAGESIZE, (start + length - 1) // mmap.PAGESIZE + 1))
            super().madvise(option, start, length)

    monkeypatch.setattr(mmap, "mmap", Map)
    images = np.memmap(mapped[1].filename, np.uint8, "r", mapped[1].offset, mapped[1].shape)
    chosen = np.array([49, 3, 17])
    loader._announce(images, chosen)
    size = 5 * mmap.PAGESIZE // 4
    first = images.offset + chosen * size
    used = {(start + byte) // mmap.PAGESIZE for start in first.tolist() for byte in range(size)}
    assert set(np.concatenate(asked).tolist()) == used
    loader._announce(mapped[0], chosen)
    assert len(asked) == 3


@pytest.mark.parametrize("ahead", [0, 2])
def test_training_is_the_same_and_ends_its_thread(make_training, random_split, monkeypatch, ahead):
    training = make_training(steps=4, flip=True, conditional=True)

    class Ahead(Loader):
        def batches(self, start, stop, device):
            return super().batches(start, stop, device, ahead)

    def log(kind):
        source = kind(random_split, batch=4, seed=0, flip=True, num_classes=3)
        state = initial_state(training, ImageShape(channels=1, resolution=8, num_classes=3), CPU)
        return run(training, state, source)

    assert list(log(Ahead)) == list(log(Loader))
    stopped = log(Ahead)
    next(stopped)
    assert len(threads()) == min(ahead, 1)
    stopped.close()
    assert threads() == []

    monkeypatch.setattr(loop, "consistency_loss", lambda *args, **rest: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        next(log(Ahead))
    assert threads() == [], caught.tb  # the traceback still holds the loop's variables


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_gets_from_pinned_memory_what_it_gets_directly():
    source = make(n=100, batch=64, flip=True, num_classes=3)
    gpu = torch.device("cuda")
    assert all(part.is_pinned() for part in source.gathered(0, pin=True))
    assert_same(source.batches(0, 20, gpu), [source.at(step, gpu) for step in range(20)])
