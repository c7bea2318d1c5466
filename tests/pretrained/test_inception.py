"""Inception's weights in every form they go about in."""

import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load
from helpers.published_inception import SHAPES, scripted
from safetensors.numpy import save_file

from jaxdiff.pretrained.inception import (
    MODULES,
    _placed,
    inception_of,
    inception_shapes,
    load_inception,
    place,
)
from jaxdiff.pretrained.layout import fill
from jaxdiff.pretrained.opening import load_pretrained
from jaxdiff.pretrained.tensors import open_tensors, tensors_of

SAME = [
    ("Conv2d_4a_3x3.conv.weight", "conv_4/conv2d_params"),
    ("Mixed_5b.branch1x1.bn.bias", "mixed/conv/batchnorm/beta"),
    ("Mixed_5d.branch5x5_2.bn.running_var", "mixed_2/tower/conv_1/batchnorm/moving_variance"),
    ("Mixed_5c.branch3x3dbl_3.bn.weight", "mixed_1/tower_1/conv_2/batchnorm/gamma"),
    ("Mixed_6a.branch3x3.conv.weight", "mixed_3/conv/conv2d_params"),
    ("Mixed_6a.branch3x3dbl_1.conv.weight", "mixed_3/tower/conv/conv2d_params"),
    ("Mixed_6e.branch7x7_3.bn.running_mean", "mixed_7/tower/conv_2/batchnorm/moving_mean"),
    ("Mixed_6b.branch7x7dbl_5.conv.weight", "mixed_4/tower_1/conv_4/conv2d_params"),
    ("Mixed_7a.branch3x3_2.conv.weight", "mixed_8/tower/conv_1/conv2d_params"),
    ("Mixed_7a.branch7x7x3_4.conv.weight", "mixed_8/tower_1/conv_3/conv2d_params"),
    ("Mixed_7b.branch3x3_2a.conv.weight", "mixed_9/tower/mixed/conv/conv2d_params"),
    ("Mixed_7c.branch3x3dbl_3b.conv.weight", "mixed_10/tower_1/mixed/conv_1/conv2d_params"),
    ("Mixed_7c.branch_pool.conv.weight", "mixed_10/tower_2/conv/conv2d_params"),
    ("fc.weight", "softmax/weights"),
    ("fc.bias", "softmax/biases"),
    ("Conv2d_1a_3x3.conv.weight", "layers.conv.weight"),
    ("Conv2d_1a_3x3.conv.weight", "layers.conv.conv.weight"),
    ("Conv2d_1a_3x3.bn.bias", "layers.conv.beta"),
    ("Conv2d_1a_3x3.bn.running_mean", "layers.conv.bn.running_mean"),
    ("Mixed_7c.branch3x3dbl_3b.bn.bias", "layers.mixed_10.tower_1_mixed_conv_1.bn.bias"),
    ("Mixed_7c.branch3x3dbl_3b.bn.running_var", "layers.mixed_10.tower_1.mixed.conv_1.var"),
    ("fc.weight", "output.weight"),
    ("Mixed_6c.branch7x7_2.conv.weight", "Mixed_6c.branch7x7_2.conv.kernel"),
    ("Mixed_6c.branch7x7_2.bn.weight", "Mixed_6c.branch7x7_2.bn.scale"),
]  # fmt: skip


NODES = {  # TensorFlow's, the parts of "mixed_10_tower_1_mixed_conv_1" divided
    path: re.sub("_(tower|mixed|conv)", r"/\1", name)
    for name, path in MODULES.items()
    if name.startswith(("conv", "mixed"))
}


def last(shape):
    return (*shape[2:], shape[1], shape[0]) if len(shape) > 1 else shape


def tensorflow(name, shape):
    """The name and shape that TensorFlow's graph has of one of PyTorch's tensors."""
    if name.startswith("fc"):
        return f"softmax/{'weights' if name.endswith('weight') else 'biases'}", last(shape)
    module, _, kind = place(name).rsplit("/", 2)
    node = NODES[module]
    if kind == "kernel":
        return f"{node}/conv2d_params", last(shape)
    said = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    return f"{node}/batchnorm/{said[kind]}", shape


def scripts(name, shape):
    """The same of a TorchScript archive, which has no scales; None for those."""
    node, shape = tensorflow(name, shape)
    if name.startswith("fc"):
        return f"output.{name[3:]}", SHAPES[name]
    if node.endswith("gamma"):
        return None
    node = node.replace("/batchnorm/moving_variance", "/var").replace(
        "/batchnorm/moving_mean", "/mean"
    )
    node = node.replace("/batchnorm/beta", "/beta").replace("/conv2d_params", "/weight")
    return "layers." + node.replace("/", "."), SHAPES[name]


def jax_fid(name, shape):
    words = {"weight": "scale", "running_mean": "mean", "running_var": "var"}
    head, leaf = name.rsplit(".", 1)
    if head.endswith("conv") or name == "fc.weight":
        return f"{head}.kernel", last(shape)
    return f"{head}.{words.get(leaf, leaf)}", shape


FORMS = {
    "pytorch": lambda name, shape: (name, shape), "tensorflow": tensorflow, "scripts": scripts,
    "jax-fid": jax_fid,
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes():
    return inception_shapes()


def form(kind):
    named = {n: s for n, s in SHAPES.items() if not n.endswith("tracked") or kind == "pytorch"}
    pairs = [FORMS[kind](name, shape) for name, shape in named.items()]
    return {p[0]: np.broadcast_to(np.zeros((), np.float32), p[1]) for p in pairs if p is not None}


@pytest.mark.parametrize("kind", FORMS)
def test_every_tensor_of_every_form_finds_its_place(kind, shapes):
    placed, layout = _placed(tensors_of(form(kind)))
    filled = fill(shapes, placed, layout, put=lambda path, value: value.shape)
    assert len(jax.tree.leaves(filled, is_leaf=lambda x: isinstance(x, tuple))) == 94 * 5 + 2
    ours = jax.tree.leaves(shapes["params"])
    assert sum(np.prod(leaf.shape) for leaf in ours) == 23850960


def test_names_are_those_of_the_published_file():
    golden = load("inception_fid")
    published = {name: tuple(shape) for name, shape in golden.extra["state_dict"].items()}
    assert published == SHAPES and len(published) == 566


@pytest.mark.parametrize(("torch", "other"), SAME)
def test_the_forms_name_the_same_tensors(torch, other):
    assert place(torch) == place(other) != torch


def test_kernels_are_turned_and_missing_scales_are_one(rng):
    kernel = rng.standard_normal((7, 1, 128, 192)).astype(np.float32)
    node = "mixed_4/tower/conv_2"
    given = {f"{node}/conv2d_params": kernel, f"{node}/batchnorm/beta": kernel[0, 0, 0]}
    placed, layout = _placed(tensors_of(given))
    name = "mixed_6b/7x7_3/conv/kernel"
    assert placed.shapes[name] == (192, 128, 7, 1)
    np.testing.assert_array_equal(layout.change(name, placed[name]), kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(placed["mixed_6b/7x7_3/norm/scale"], np.ones(192))


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    whole = form("pytorch")

    def refused(message, changed):
        with pytest.raises(ValueError, match=message):
            inception_of(tensors_of(changed, None, "file.pth"))

    missing = {k: v for k, v in whole.items() if k != "Mixed_6c.branch7x7_2.bn.running_var"}
    refused(r"parameters without a tensor \(1\): batch_stats/mixed_6c/7x7_2/norm/var", missing)
    refused(r"tensors without a place .*: Mixed_9z.weight", whole | {"Mixed_9z.weight": np.ones(3)})
    wide = np.ones((32, 3, 3, 1), np.float32)
    refused(r"\[32, 3, 3, 1\], which does not fit", whole | {"Conv2d_1a_3x3.conv.weight": wide})
    refused("AuxLogits, as torchvision's", whole | {"AuxLogits.conv0.conv.weight": wide})
    refused("no weights of Inception-v3", {"conv.weight": wide})
    refused("one tensor under two names", whole | {"softmax/weights": np.ones((2048, 1008))})
    with pytest.raises(ValueError, match="graph of TensorFlow's"):
        load_inception(tmp_path / "classify_image_graph_def.pb")


def test_weights_of_inception_are_no_model_to_sample_from(tmp_path):
    save_file({"Mixed_7c.branch3x3dbl_3b.conv.weight": np.ones((1, 1, 1, 1), np.float32)},
              tmp_path / "a.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match="load_inception"):
        load_pretrained(tmp_path / "a.safetensors")


def test_a_torchscript_archive_is_read_without_its_program(tmp_path, rng):
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    conv = {"weight": weight, "beta": weight[:, 0, 0, 0].copy(), "training": False}
    scripted(tmp_path / "net.pt", {"layers": {"conv": conv}})
    opened = open_tensors(tmp_path / "net.pt")
    assert opened.shapes == {"layers.conv.weight": (4, 3, 3, 3), "layers.conv.beta": (4,)}
    np.testing.assert_array_equal(opened["layers.conv.weight"], weight)


def test_dictionaries_of_parameters_are_joined_by_dots(tmp_path, rng):
    tree = {"params": {"conv": {"kernel": rng.standard_normal((2, 3))}}, "step": 3}
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(tree))
    opened = open_tensors(tmp_path / "net.pickle")
    assert opened.shapes == {"params.conv.kernel": (2, 3)} and opened.metadata == {"step": 3}


@pytest.mark.slow
def test_a_file_gives_features_and_logits(tmp_path):
    from helpers.published_inception import tensor

    save_file({n: tensor(n, s) for n, s in SHAPES.items()}, tmp_path / "inception.safetensors")
    made = load_inception(tmp_path / "inception.safetensors")
    assert len(made.digest) == 64 and made.name == "Inception" and "1008" in repr(made)
    images = jnp.linspace(-1, 1, 2 * 16 * 16, dtype=jnp.float32).reshape(2, 16, 16, 1)
    both = made.features_and_logits(images)
    assert both.shape == (2, 2048 + 1008)
    assert jax.eval_shape(made.features, images).shape == (2, 2048)
    headless = {n: tensor(n, s) for n, s in SHAPES.items() if not n.startswith("fc")}
    save_file(headless, tmp_path / "features.safetensors")
    made = load_inception(tmp_path / "features.safetensors", convention="pytorch")
    assert made.module.num_classes == 0 and "pytorch-fid" in made.name
    with pytest.raises(ValueError, match="no last layer"):
        made.features_and_logits(images)
