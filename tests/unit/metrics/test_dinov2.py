"""DINOv2's class token, on a tiny vision transformer of timm's."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from couplet.config.extractors import DinoV2Config
from couplet.config.variants import build
from couplet.errors import UserError
from couplet.files import sha256
from couplet.metrics.extractor.dinov2 import DinoV2Extractor, positions_at

timm = pytest.importorskip("timm")
CPU = torch.device("cpu")


def network(side: int):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model("test_vit", pretrained=False, img_size=side, num_classes=0)
        for parameter in model.parameters():  # lively weights: timm's are nearly zero
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def extractor(path, **settings) -> DinoV2Extractor:
    defaults = {"architecture": "test_vit", "sha256": sha256(path)}
    config = DinoV2Config(weights=str(path), **(defaults | settings))
    return DinoV2Extractor(config, path.parent, CPU)


def test_features_are_the_class_token_of_images_that_torchvision_prepares(tmp_path, pictures):
    from PIL import Image
    from torchvision import transforms

    model = network(224)
    path = tmp_path / "vit.safetensors"
    save_file(model.state_dict(), path)
    prepare = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with torch.no_grad():
        batch = torch.stack([prepare(Image.fromarray(image)) for image in pictures[:6]])
        expected = model.forward_features(batch)[:, 0]
    features = extractor(path, batch=4)(pictures[:6])
    assert features.logits is None
    np.testing.assert_allclose(features.values, expected, rtol=1e-3, atol=1e-4)
    assert np.std(features.values, axis=0).mean() > 1e-3


def test_a_file_as_dinov2_publishes_it(tmp_path, pictures):
    """Of torch.save, with the mask token of training, and positions of another size."""
    state = network(320).state_dict()
    path = tmp_path / "vit_pretrain.pth"
    torch.save({**state, "mask_token": torch.zeros(1, 64)}, path)
    model = network(224)
    model.load_state_dict({**state, "pos_embed": positions_at(state["pos_embed"], 14)})
    fitted = tmp_path / "vit.safetensors"
    save_file(model.state_dict(), fitted)
    published, converted = extractor(path), extractor(fitted)
    np.testing.assert_array_equal(published(pictures[:3]).values, converted(pictures[:3]).values)
    assert published.name == f"dinov2-{sha256(path)[:8]}"


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.75, torch's choice."""
    x, a = np.abs(x), -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def test_positions_are_interpolated_as_dinov2_does():
    """37² patches to 16²: bicubic, scaled by 16.1 / 37, nothing averaged away."""
    before, after, scale = 37, 16, 37 / 16.1
    embedding = torch.randn(1, 1 + before**2, 3, generator=torch.Generator().manual_seed(0))
    centre = (np.arange(after) + 0.5) * scale - 0.5
    weights = np.zeros((after, before))
    for offset in range(-1, 3):
        at = np.floor(centre).astype(int) + offset
        np.add.at(weights, (np.arange(after), at.clip(0, before - 1)), cubic(centre - at))
    grid = embedding[0, 1:].reshape(before, before, 3).double().numpy()
    expected = np.einsum("ip,jq,pqd->ijd", weights, weights, grid).reshape(after**2, 3)
    features = positions_at(embedding, after)
    np.testing.assert_array_equal(features[0, 0], embedding[0, 0])
    np.testing.assert_allclose(features[0, 1:], expected, rtol=1e-4, atol=1e-5)
    assert positions_at(embedding, before) is embedding


def test_grey_images_and_batches(tmp_path, pictures):
    path = tmp_path / "vit.safetensors"
    save_file(network(224).state_dict(), path)
    grey = pictures[:5, ..., :1]
    features = extractor(path)(grey).values
    np.testing.assert_array_equal(features, extractor(path)(grey.repeat(3, -1)).values)
    np.testing.assert_allclose(features, extractor(path, batch=2)(grey).values, rtol=1e-4, atol=1e-4)


def test_refuses(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file({"norm.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"vit\.safetensors: not weights of test_vit"):
        extractor(path)
    with pytest.raises(UserError, match="its SHA-256 is"):
        extractor(path, sha256="0" * 64)
    for name in ("vit_that_nobody_made", "test_resnet"):
        with pytest.raises(UserError, match=f"architecture = '{name}': timm has no vision transformer"):
            extractor(path, architecture=name)
    path.write_bytes(b"else")
    with pytest.raises(UserError, match=r"vit\.safetensors: not a file of tensors"):
        extractor(path)


def test_without_timm(tmp_path, monkeypatch):
    path = tmp_path / "vit.safetensors"
    save_file(network(224).state_dict(), path)
    monkeypatch.setitem(sys.modules, "timm", None)
    config = DinoV2Config(architecture="test_vit", weights=str(path), sha256=sha256(path))
    with pytest.raises(UserError, match=r"extractor dinov2: timm is not installed; pip install timm$"):
        build(config, path.parent, CPU)
