"""Classifiers of small images: counted sizes, layers in closed form, golden and published ones."""

import functools
import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import SHARED, load

from jaxdiff.method import WithState
from jaxdiff.networks import (
    VGG,
    ImageClassifier,
    MobileNetV2,
    ResNetCIFAR,
    ShuffleNetV1,
    ShuffleNetV2,
    WideResNet,
)
from jaxdiff.networks.classifier_layers import depthwise
from jaxdiff.networks.shufflenet import V2_WIDTHS, shuffled
from jaxdiff.pretrained.cifar_resnet import IMAGENET, load_cifar_resnet

X2, X4 = (16, 32, 64, 128), (32, 64, 128, 256)
# of 100 classes, as the literature on distillation counts its networks; of 10 the published files
SIZES = [
    (ResNetCIFAR(1, X4, 100), 1_233_540), (ResNetCIFAR(5, X4, 100), 7_433_860),
    (ResNetCIFAR(2, X2, 100), 703_732), (ResNetCIFAR(18, X2, 100), 6_911_220),
    (ResNetCIFAR(3, num_classes=100), 278_324), (ResNetCIFAR(18, num_classes=100), 1_736_564),
    (ResNetCIFAR(3, shortcut="padded"), 269_722), (ResNetCIFAR(9, shortcut="padded"), 853_018),
    (WideResNet(40, 2, 100), 2_255_156), (WideResNet(16, 2, 100), 703_284),
    (VGG(1, num_classes=100), 3_965_028), (VGG(2, num_classes=100), 9_462_180),
    (MobileNetV2(0.5, 100), 812_836), (ShuffleNetV1(num_classes=100), 949_258),
    (ShuffleNetV2(V2_WIDTHS[1.0], num_classes=100), 1_355_528),
]  # fmt: skip
SMALL = [
    ResNetCIFAR(1, (4, 4, 6, 8)),
    ResNetCIFAR(1, (4, 4, 6, 8), shortcut="padded", bottleneck=True),
    WideResNet(10, 1),
    VGG(1, (4, 4, 6, 6, 8)),
    MobileNetV2(0.25),
    ShuffleNetV1(2, (32, 48, 64), (1, 2, 1)),
    ShuffleNetV2((8, 12, 16, 20), (1, 2, 1)),
]


@pytest.mark.slow
def test_networks_have_the_published_numbers_of_parameters():
    found = [ImageClassifier(module, (32, 32, 3)).num_parameters() for module, _ in SIZES]
    assert found == [size for _, size in SIZES]


@pytest.mark.parametrize("module", [ResNetCIFAR(1, X4, 100), ResNetCIFAR(3, shortcut="padded")])
def test_two_networks_have_the_published_numbers_of_parameters(module):
    assert ImageClassifier(module, (32, 32, 3)).num_parameters() == dict(SIZES)[module]


def test_multiply_adds_are_those_of_pixels_times_kernels():
    resnet = ImageClassifier(ResNetCIFAR(1, (4, 4, 6, 8), 5, "padded"), (8, 8, 3))
    stages = 64 * 9 * (4 * 4 + 4 * 4) + 16 * 9 * (4 * 6 + 6 * 6) + 4 * 9 * (6 * 8 + 8 * 8)
    assert resnet.multiply_adds() == 64 * 9 * 3 * 4 + stages + 8 * 5
    grouped = ImageClassifier(ShuffleNetV1(2, (32,), (1,), 5), (8, 8, 3))
    # f has 32 - 24 channels, 2 within: 1 x 1, depthwise on a quarter of the pixels, 1 x 1 in groups
    assert grouped.multiply_adds() == 64 * (3 * 24 + 24 * 2) + 16 * (9 * 2 + 2 * 8 // 2) + 32 * 5


@functools.cache
def drawn(module, shape=(16, 16, 3)):
    network = ImageClassifier(module, shape)
    return network, jax.jit(network.init)(jax.random.key(0))


def features_are_those_of(module, quick):
    network, variables = drawn(module)
    x = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
    full = jax.jit(functools.partial(network, full=True))(variables, x)
    assert full.value.shape == (4, 10) and full.value.dtype == np.float32
    *maps, pooled = full.features
    assert all(m.ndim == 4 for m in maps) and len(maps) >= 4
    np.testing.assert_allclose(pooled, np.mean(maps[-1], axis=(1, 2)), rtol=1e-4, atol=1e-5)
    fc = variables.value["fc"]
    np.testing.assert_allclose(full.value, pooled @ fc["kernel"] + fc["bias"][None], atol=1e-4)
    assert np.min(maps[-1]) >= 0  # what SimKD's projector ends in a ReLU for
    shapes = network.outputs()
    assert [f.shape[1:] for f in shapes.features] == [f.shape[1:] for f in full.features]
    if quick:
        return
    alone = jax.jit(network)(variables, x[1:2])
    np.testing.assert_allclose(alone, full.value[1:2], rtol=1e-4, atol=1e-4)

    def energy(params):
        outputs, state = network.training(WithState(params, variables.state), x)
        return jnp.mean(outputs.value**2), state

    gradient, state = jax.jit(jax.grad(energy, has_aux=True))(variables.value)
    assert jax.tree.structure(state) == jax.tree.structure(variables.state)
    assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(gradient))
    moved = [
        np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (state, variables.state)), strict=True)
    ]
    assert all(moved)


def test_features_of_a_resnet_end_with_what_the_logits_are_linear_in():
    features_are_those_of(SMALL[0], quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("module", SMALL, ids=lambda m: type(m).__name__)
def test_features_of_every_network(module):
    features_are_those_of(module, quick=isinstance(module, MobileNetV2 | ShuffleNetV1))


def test_images_and_depths_that_do_not_fit_are_refused():
    network, variables = drawn(SMALL[0])
    with pytest.raises(ValueError, match=r"takes images \(batch, 16, 16, 3\); got \(2, 16, 16, 1"):
        network(variables, jnp.zeros((2, 16, 16, 1)))
    with pytest.raises(TypeError, match="takes floats"):
        network(variables, jnp.zeros((2, 16, 16, 3), jnp.uint8))
    with pytest.raises(ValueError, match="at least 16 x 16"):
        ImageClassifier(MobileNetV2(), (8, 8, 3)).num_parameters()
    with pytest.raises(ValueError, match="6 n \\+ 4"):
        ImageClassifier(WideResNet(11), (8, 8, 3)).num_parameters()
    with pytest.raises(ValueError, match="do not divide into 3 groups"):
        ImageClassifier(ShuffleNetV1(3, (32,), (1,)), (8, 8, 3)).num_parameters()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_is_one_of_as_many_groups(rng, stride):
    x, w = rng.standard_normal((2, 7, 6, 5)), rng.standard_normal((3, 3, 1, 5))
    wanted = jax.lax.conv_general_dilated(
        x, w, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=5,
    )  # fmt: skip
    np.testing.assert_allclose(depthwise(jnp.asarray(x), jnp.asarray(w), stride, 1), wanted)


def test_shuffling_writes_by_rows_and_reads_by_columns():
    x = jnp.arange(6)[None, None, None]
    np.testing.assert_array_equal(shuffled(x, 2)[0, 0, 0], [0, 3, 1, 4, 2, 5])


# --- golden numbers


@pytest.fixture(scope="module")
def golden():
    family = load("networks_kd/io", full=True)
    network, variables = load_cifar_resnet(SHARED / "networks_kd" / "resnet8.safetensors")
    get = functools.partial(family.get, family.cases[0])
    return network, variables, get, np.moveaxis(get("x"), 1, -1)


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, 1) if np.ndim(x) == 4 else np.asarray(x)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_golden_resnet_in_evaluation(golden):
    network, variables, get, x = golden
    assert network.num_parameters() == 78_042
    out = jax.jit(functools.partial(network, full=True))(variables, x)
    close(out.value, get("logits_eval"))
    assert len(out.features) == 5
    for i, f in enumerate(out.features):
        wanted = get(f"feat_eval{i}")
        f = channels_first(f)
        close(f[:1, :, :16, :16] if f.ndim == 4 else f, wanted)


def test_a_golden_resnet_in_training(golden):
    network, variables, get, x = golden

    def loss(params):
        out, state = network.training(WithState(params, variables.state), x)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(out.value), get("labels")[:, None], 1)
        return -jnp.mean(chosen), (out.value, state)

    made = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.value)
    (value, (logits, state)), gradient = made
    close(logits, get("logits_train"))
    close(value[None], get("ce_train"))
    close(gradient["fc"]["kernel"].T, get("grad_fc_weight"))
    wanted = get("grad_conv1_weight")
    close(np.transpose(gradient["stem_conv"]["kernel"], (3, 2, 0, 1)), wanted)
    after, before = (s["batch_stats"]["stem_norm"] for s in (state, variables.state))
    close(after["mean"], get("bn1_running_mean_after"))
    n = x.shape[0] * 32 * 32  # PyTorch's running variance is of sum / (n - 1)
    moved = (np.asarray(get("bn1_running_var_after")) - 0.9 * before["var"]) * (n - 1) / n
    close(after["var"], 0.9 * before["var"] + moved)


# --- published weights


def test_a_file_of_another_network_is_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "other.safetensors"
    save_file({"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)}, path)
    with pytest.raises(ValueError, match="other.safetensors holds no residual network"):
        load_cifar_resnet(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, score", [("resnet20-12fca82f", 0.815), ("resnet56-4bfd9763", 0.835)]
)
def test_published_resnets_score_what_they_do_on_these_images(name, score):
    """On 1000 test images of CIFAR-10 after JPEG, on which an independent reading found these."""
    data = SHARED.parent / "data"
    if not (data / "weights" / f"{name}.th").exists():
        pytest.skip("the published weights and CIFAR-10 are not beside this checkout")
    images, labels = jpeg_images(data / "cifar10-test-32x32.zip", 1000)
    network, variables = load_cifar_resnet(data / "weights" / f"{name}.th")
    x = ((images / 255 - IMAGENET[0]) / IMAGENET[1]).astype(np.float32)
    found = np.concatenate([jax.jit(network)(variables, part) for part in np.split(x, 10)])
    assert abs(np.mean(found.argmax(1) == labels) - score) < 0.015


def jpeg_images(path, count):
    """The first of every class, in turn, of a zip in EDM's format."""
    import json

    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        names = json.loads(archive.read("dataset.json"))["labels"]
        by_class = {c: [n for n, label in names if label == c][: count // 10] for c in range(10)}
        pairs = [(name, c) for c, members in by_class.items() for name in members]
        read = lambda name: Image.open(io.BytesIO(archive.read(name))).convert("RGB")  # noqa: E731
        images = np.stack([np.asarray(read(name)) for name, _ in pairs])
    return images, np.array([c for _, c in pairs])
