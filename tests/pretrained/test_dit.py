"""DiT and SiT in their authors' files: golden outputs, sizes, and what is refused."""

import functools
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.published import apart, file, golden
from safetensors.numpy import load_file, save_file

from jaxdiff import guidance
from jaxdiff.networks.patches import positions
from jaxdiff.pretrained import load_pretrained
from jaxdiff.pretrained.dit import network_of, read_dit, shapes_of
from jaxdiff.pretrained.layout import check_layout
from jaxdiff.pretrained.model import Source
from jaxdiff.pretrained.pickles import Record
from jaxdiff.pretrained.tensors import tensors_in

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
EPS = 1e-4
SAID = ("num_heads", "learn_sigma", "num_classes", "class_dropout_prob", "input_size")


def opened(case):
    said = {name: case["init_kwargs"][name] for name in SAID if name in case["init_kwargs"]}
    return load_pretrained(file(f"golden/{case.get('state_dict') or case['file']}"), config=said)


def check(case, sign=1):
    """Output, features and one gradient of each kind, in one program."""
    model, a = opened(case), case["a"]
    x, t, y = a["x"], a["t"].astype(np.float32), a["y"]
    learned = model.network.learned_variance

    def run(params, x):
        out = model.network.apply({"params": params}, x, t, y, full=True, variance=learned)
        value, v = out if learned else (out, None)
        both = jnp.concatenate([value.value, v], axis=-1) if learned else value.value
        loss = jnp.sum(both * a["grad_w"]) if "grad_w" in a else jnp.float32(0)
        return loss, (both, value.features)

    (_, (out, features)), slopes = jit(jax.value_and_grad(run, (0, 1), has_aux=True))(
        model.params, x
    )
    assert apart(sign * out[..., : a["out"].shape[-1]], a["out"]) < EPS
    for i, tokens in enumerate(features):
        flat = tokens[:1].reshape(1, -1, tokens.shape[-1])
        assert apart(flat, a[f"act:blocks.{i}"]) < EPS
    if "grad_w" in a:
        kernel = slopes[0]["Embedding_0"]["Dense_0"]["kernel"]
        assert apart(kernel.T, a["grad:t_embedder.mlp.0.weight"]) < EPS
        assert apart(slopes[1], a["grad_x"]) < EPS
    return model


@pytest.mark.slow
def test_dit_without_null_class_has_the_golden_output():
    model = check(golden("networks_dit/io")[1])
    assert model.classes == 5 and not model.network.null_class and model.shape == (8, 8, 3)
    with pytest.raises(ValueError, match="none for no condition"):
        model.denoiser(np.zeros((2, 8, 8, 3)), 1.0)
    with pytest.raises(ValueError, match="numbered 0 to 4"):
        model.denoiser(np.zeros((2, 8, 8, 3)), 1.0, np.array([0, 5]))


@pytest.mark.slow
def test_dit_has_the_golden_output_and_guides_three_channels():
    case = golden("networks_dit/io")[0]
    model, a = check(case), case["a"]
    x, t, y = a["x"][:2], a["t"].astype(np.float32), a["y_cfg"]
    apply = jit(lambda x, t, y: model.network.apply({"params": model.params}, x, t, y))
    # its authors' two halves have the times of their own rows here
    plain, guided = apply(x, t[2:], y[2:]), apply(x, t[:2], y[:2])
    D = guidance.classifier_free(
        lambda y, s, c=None: plain if c is None else guided, 4.0, channels=3
    )
    assert apart(D(x, 1.0, y), a["out_cfg_scale4"][:2, ..., :4]) < EPS


@pytest.mark.slow
def test_sit_has_the_golden_velocity_with_its_sign_and_time_turned_round():
    (case,) = (c for c in golden("networks_transformers_io") if "SiT" in c.get("cls", ""))
    model, a = check(case, sign=-1), case["a"]
    D = guidance.classifier_free(model.denoiser, 4.0, channels=3)
    x, t = a["x"][:2], a["t_cfg"][:2].astype(np.float32)
    column = t[:, None, None, None]
    got = jit(D)(x / column, (1 - t) / t, a["y_cfg"][:2])
    assert apart(got, x + (1 - column) * a["out_cfg_scale4"][:2]) < EPS


@pytest.mark.parametrize("depth,width,patch,parameters", [
    pytest.param(28, 1152, 2, 675_129_632, marks=pytest.mark.slow), (12, 384, 8, None),
])  # fmt: skip
def test_published_sizes_have_their_places(depth, width, patch, parameters):
    shapes = published_shapes(depth, width, patch)
    if parameters:
        assert sum(map(math.prod, shapes.values())) == parameters
    network, layout = network_of(shapes, {}, "DiT")
    assert network.num_classes == 1000 and network.heads == {1152: 16, 384: 6}[width]
    check_layout(shapes_of(network, (32, 32, 4)), shapes, layout)


def published_shapes(depth, width, patch, channels=4, side=32, rows=1001, ratio=4):
    """Names and shapes as the authors' class makes them, with learned variances."""
    linear = {
        "t_embedder.mlp.0": (width, 256), "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (2 * patch**2 * channels, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }  # fmt: skip
    for i in range(depth):
        linear |= {
            f"blocks.{i}.attn.qkv": (3 * width, width), f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.mlp.fc1": (ratio * width, width),
            f"blocks.{i}.mlp.fc2": (width, ratio * width),
            f"blocks.{i}.adaLN_modulation.1": (6 * width, width),
        }  # fmt: skip
    linear["x_embedder.proj"] = (width, channels, patch, patch)
    shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes["y_embedder.embedding_table.weight"] = (rows, width)
    return {**shapes, "pos_embed": (1, (side // patch) ** 2, width)}


@pytest.fixture
def tensors(rng):
    shapes = published_shapes(1, 8, 2, side=4, rows=4)
    made = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**made, "pos_embed": positions(2, 2, 8, column_first=True)[None].astype(np.float32)}


@pytest.mark.parametrize("name,change,config,message", [
    ("dit.safetensors", {}, {"num_heads": 2}, None),
    ("x.safetensors", {}, {"num_heads": 2, "model": "SiT-B/2"}, None),
    ("x.safetensors", {}, {"num_heads": 2}, "which have the same tensors"),
    ("dit.safetensors", {}, {}, "width 8, .* give config={'num_heads'"),
    ("dit.safetensors", {}, {"num_heads": 3}, "3 heads do not divide"),
    ("dit.safetensors", {}, {"num_heads": 2, "num_classes": 4}, "num_classes = 4, by its shapes 3"),
    ("dit.safetensors", {}, {"heads": 2}, "config has heads"),
    ("sit.safetensors", {}, {"num_heads": 2, "path_type": "GVP"}, "path 'GVP'"),
    ("dit.safetensors", {"pos_embed": 2.0}, {"num_heads": 2}, "are not the fixed ones"),
    ("dit.safetensors", {"extra": 1.0}, {"num_heads": 2}, "without a place.*extra"),
    ("dit.safetensors", {"final_layer.linear.bias": None}, {"num_heads": 2}, "Dense_2/bias"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(tmp_path, tensors, name, change, config, message):
    for key, factor in change.items():
        value = tensors.pop(key, np.ones(3, np.float32))
        tensors |= {} if factor is None else {key: np.float32(factor) * value}
    save_file(tensors, tmp_path / name)
    if message:
        with pytest.raises(ValueError, match=message):
            load_pretrained(tmp_path / name, config=config)
    else:
        model = load_pretrained(tmp_path / name, config=config)
        assert model.metadata["family"] == ("SiT" if "model" in config else "DiT")
        assert model.classes == 3 and model.grid(5)[-1] == 0 and len(model.grid(5)) == 6
        assert re.search("4x4x4", repr(model)) and load_file(tmp_path / name)


def test_a_training_checkpoint_says_what_it_is_and_its_average_is_read(tensors):
    args = Record("Namespace", {"model": "SiT-B/2", "num_classes": 3, "path_type": "Linear"})
    zeros = {name: np.zeros_like(value) for name, value in tensors.items()}
    made = {"model": zeros, "ema": tensors, "opt": {"state": {}}, "args": args}
    path = pathlib.Path("0400000.pt")
    model = read_dit(Source(path, {"num_heads": 2}, made, tensors_in(made, str(path))))
    assert model.metadata["family"] == "SiT" and model.prediction == "flow"
    np.testing.assert_array_equal(
        model.params["Dense_2"]["bias"], tensors["final_layer.linear.bias"]
    )
    args.state["path_type"] = "VP"
    with pytest.raises(ValueError, match="path 'VP'"):
        read_dit(Source(path, {"num_heads": 2}, made, tensors_in(made, str(path))))
