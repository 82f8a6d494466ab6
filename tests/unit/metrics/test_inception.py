"""Inception as clean-fid runs it, on a stand-in with its interface; files that are wrong."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from PIL import Image
from pooch import HTTPDownloader
from torch.nn import functional as F

from couplet.config.extractors import ADDRESSES, INCEPTION_TORCHSCRIPT, InceptionConfig
from couplet.errors import UserError
from couplet.files import sha256
from couplet.metrics.distances import frechet_distance
from couplet.metrics.extractor.inception import InceptionExtractor
from couplet.metrics.measure import measure

CPU = torch.device("cpu")


def extractor(path: Path, **settings) -> InceptionExtractor:
    config = InceptionConfig(weights=str(path), **{"sha256": sha256(path), "batch": 16, **settings})
    return InceptionExtractor(config, path.parent, CPU)


def loaded(path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.load(str(path))


def as_png(images: np.ndarray, folder: Path) -> str:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{i:05}.png")
    return str(folder)


def folder_features(folder: str, model, mode: str) -> np.ndarray:
    from cleanfid import fid

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fid.get_folder_features(
            folder, model=model, num_workers=0, batch_size=8, device=CPU, mode=mode, verbose=False
        )


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_features_are_those_of_clean_fid_for_png_files(inception_file, pictures, tmp_path, mode):
    from cleanfid.inception_torchscript import InceptionV3W

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = InceptionV3W(str(inception_file.parent), False, resize_inside=mode != "clean").eval()
    expected = folder_features(as_png(pictures, tmp_path / "png"), theirs, mode)
    features = extractor(inception_file, mode=mode)(pictures)
    assert features.values.dtype == np.float32
    np.testing.assert_allclose(features.values, expected, rtol=1e-4, atol=1e-5)


def test_fid_is_that_of_clean_fid_for_png_files(narrow_inception_file, pictures, tmp_path):
    from cleanfid.fid import fid_from_feats

    network = loaded(narrow_inception_file)
    other = pictures[:25] // 2 + 60

    def model(batch):
        return network.layers((batch - 128) / 128).flatten(1)

    theirs = [
        folder_features(as_png(images, tmp_path / name), model, "clean")
        for name, images in (("a", pictures), ("b", other))
    ]
    ours = [
        measure(extractor(narrow_inception_file), images, lambda done: None).moments
        for images in (pictures, other)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = fid_from_feats(*theirs)
    assert expected > 1e-3
    assert frechet_distance(*ours) == pytest.approx(expected, rel=1e-4)


def test_legacy_pytorch_is_clean_fid_with_the_weights_of_pytorch_fid(pictures, tmp_path, monkeypatch):
    from cleanfid import features, inception_pytorch

    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", _first_state)
    path = tmp_path / "pt_inception.pth"
    torch.save(_state(), path)
    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: torch.load(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = features.build_feature_extractor("legacy_pytorch", CPU, use_dataparallel=False)
    expected = folder_features(as_png(pictures[:3], tmp_path / "png"), theirs, "legacy_pytorch")
    monkeypatch.undo()
    cache = torch.hub.get_dir()
    ours = extractor(path, mode="legacy_pytorch")
    assert torch.hub.get_dir() == cache
    result = ours(pictures[:3])
    assert result.values.shape == (3, 2048)
    np.testing.assert_allclose(result.values, expected, rtol=1e-4, atol=1e-5)
    assert result.logits.shape == (3, 1008)
    assert ours.name == f"inception-legacy_pytorch-{ours.digest[:8]}"


def _state() -> dict[str, torch.Tensor]:
    """Random weights of pytorch-fid's network, of a size that keeps activations in range."""
    from cleanfid import inception_pytorch

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network = inception_pytorch.fid_inception_v3()
    return network.state_dict()


def _first_state(*_, **__) -> dict[str, torch.Tensor]:
    """A state of the right names and shapes for a network that insists on loading one."""
    from cleanfid import inception_pytorch as module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = module._inception_v3(num_classes=1008, aux_logits=False, pretrained=False)
    for name, block in {
        "Mixed_5b": module.FIDInceptionA(192, pool_features=32),
        "Mixed_5c": module.FIDInceptionA(256, pool_features=64),
        "Mixed_5d": module.FIDInceptionA(288, pool_features=64),
        "Mixed_6b": module.FIDInceptionC(768, channels_7x7=128),
        "Mixed_6c": module.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6d": module.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6e": module.FIDInceptionC(768, channels_7x7=192),
        "Mixed_7b": module.FIDInceptionE_1(1280),
        "Mixed_7c": module.FIDInceptionE_2(2048),
    }.items():
        setattr(net, name, block)
    return net.state_dict()


def test_logits_are_the_last_layer_without_its_bias(narrow_inception_file, pictures):
    network = loaded(narrow_inception_file)
    features = extractor(narrow_inception_file, mode="legacy_tensorflow")(pictures)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network(pixels, no_output_bias=True)
        biased = network(pixels)
    probabilities = F.softmax(torch.from_numpy(features.logits), 1)
    torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=1e-6)
    assert (probabilities - biased).abs().max() > 1e-2


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_the_batch_changes_nothing_but_rounding(narrow_inception_file, pictures, mode):
    whole = extractor(narrow_inception_file, mode=mode, batch=64)(pictures)
    for batch in (1, 7):
        features = extractor(narrow_inception_file, mode=mode, batch=batch)(pictures)
        np.testing.assert_allclose(features.values, whole.values, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(features.logits, whole.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_grey_images_stand_in_all_three_channels(narrow_inception_file, pictures, mode):
    grey = pictures[:5, ..., :1]
    inception = extractor(narrow_inception_file, mode=mode)
    np.testing.assert_array_equal(inception(grey).values, inception(grey.repeat(3, -1)).values)
    with pytest.raises(UserError, match="images of 2 channels: this extractor takes 1 or 3"):
        inception(pictures[..., :2])


def test_names_tell_modes_apart(narrow_inception_file):
    digest = sha256(narrow_inception_file)[:8]
    assert extractor(narrow_inception_file).name == f"inception-{digest}"
    other = extractor(narrow_inception_file, mode="legacy_tensorflow")
    assert other.name == f"inception-legacy_tensorflow-{digest}"
    assert other.config.label == f"inception_legacy_tensorflow_{digest}"


def test_a_file_with_another_digest_is_refused_and_not_run(inception_file, monkeypatch):
    def run(*_, **__):
        raise AssertionError("TorchScript was loaded")

    monkeypatch.setattr(torch.jit, "load", run)
    with pytest.raises(UserError) as caught:
        extractor(inception_file, sha256="0" * 64)
    message = str(caught.value)
    assert str(inception_file) in message
    assert sha256(inception_file) in message
    assert "0" * 64 in message
    assert "\n" not in message


def test_a_file_that_is_missing(tmp_path):
    config = InceptionConfig(weights=str(tmp_path / "none.pt"))
    with pytest.raises(UserError, match=r"none\.pt: cannot be read \(No such file.*features\.NAME\.weights"):
        InceptionExtractor(config, tmp_path, CPU)


def test_a_file_that_is_something_else(tmp_path):
    path = tmp_path / "else.pt"
    path.write_bytes(b"not a network")
    with pytest.raises(UserError, match=r"else\.pt: not the Inception network of mode clean"):
        extractor(path)
    with pytest.raises(UserError, match=r"else\.pt: not a file of tensors"):
        extractor(path, mode="legacy_pytorch")
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match=r"else\.pt: not the Inception network of mode legacy_pytorch"):
        extractor(path, mode="legacy_pytorch")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_a_program_without_inceptions_interface(tmp_path):
    path = tmp_path / "linear.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    with pytest.raises(UserError, match=r"linear\.pt: not the Inception network"):
        extractor(path)


@pytest.fixture
def cache(tmp_path):
    """The published file's place in a cache of torch's that is empty."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub" / "checkpoints" / "inception-2015-12-05.pt"
    torch.hub.set_dir(before)


@pytest.fixture
def published(inception_file, monkeypatch):
    """A file on this machine in the place of the published one, by its address and digest."""

    def publish(digest):
        monkeypatch.setitem(ADDRESSES, digest, f"http://localhost/{inception_file.name}")
        return InceptionConfig(sha256=digest)

    def download(self, url, output_file, pooch, check_only=False):
        shutil.copyfile(inception_file, output_file)

    monkeypatch.setattr(HTTPDownloader, "__call__", download)
    return publish


@pytest.mark.parametrize("error", [ConnectionError("no\nroute to host"), ValueError("another hash")])
def test_a_download_that_fails_says_what_to_do(cache, monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(pooch, "retrieve", download)
    with pytest.raises(UserError) as caught:
        InceptionExtractor(InceptionConfig(), cache.parent, CPU)
    message = str(caught.value)
    assert message.startswith("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/")
    assert "features.NAME.weights" in message
    assert "another extractor: classifier, dinov2" in message
    assert "\n" not in message
    assert not cache.exists()


def test_a_download_goes_to_the_cache_once(cache, published, inception_file, monkeypatch):
    config = published(sha256(inception_file))
    for _ in range(2):
        assert InceptionExtractor(config, cache.parent, CPU).digest == config.sha256
        monkeypatch.setattr(pooch, "retrieve", None)
    assert cache.read_bytes() == inception_file.read_bytes()
    assert list(cache.parent.iterdir()) == [cache]


def test_a_download_with_another_digest_leaves_nothing(cache, published):
    with pytest.raises(UserError, match=r"^http://localhost/inception.*cannot be downloaded .*hash"):
        InceptionExtractor(published("2" * 64), cache.parent, CPU)
    assert list(cache.parent.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_refused(cache):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"{INCEPTION_TORCHSCRIPT} as features\.NAME\.sha256 asks"):
        InceptionExtractor(InceptionConfig(), cache.parent, CPU)


def test_nothing_is_downloaded_for_a_digest_that_nobody_published(cache):
    with pytest.raises(UserError, match="not a published file; give the file's path as features"):
        InceptionExtractor(InceptionConfig(sha256="1" * 64), cache.parent, CPU)
