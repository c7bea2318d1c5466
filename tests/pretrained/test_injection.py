"""IP-Adapters and GLIGEN: golden outputs, files in the published layout, no change at scale 0."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from helpers.diffusers_cases import case, distance, drawn, folder, jit

from jaxdiff.denoisers import denoiser
from jaxdiff.networks import ControlNet, IPAdapter, UNet2DCondition, from_linen
from jaxdiff.networks.grounding import fourier_boxes
from jaxdiff.networks.ip_adapter import adapter_for, cross_layers
from jaxdiff.networks.resampler import Resampler
from jaxdiff.pretrained import (
    Control,
    load_ip_adapter,
    load_pretrained,
    save_ip_adapter,
    with_controlnet,
    with_ip_adapter,
)
from jaxdiff.pretrained.diffusers import unet_shapes
from jaxdiff.pretrained.ip_adapter import ip_adapter_shapes
from jaxdiff.pretrained.saving import write_tensors
from jaxdiff.pretrained.unet2d_condition import unet2d_condition

LEAST = 1e-5  # float32; observed are 1e-6
LEVEL = {
    "channels": (4,), "in_channels": 2, "down": ("cross",), "middle": "cross", "blocks": (1,),
    "heads": (2,), "depth_down": ((1,),), "only_cross": (False,), "groups": 2, "token_width": 3,
    "boxes": True,
}  # fmt: skip
NETWORK = UNet2DCondition(**LEVEL, out_channels=2, up=("plain",), depth_up=((1, 1),))
PROMPT = adapter_for(NETWORK, count=2, image_width=5)


@pytest.fixture(scope="module")
def small():
    """A denoiser of a U-Net, the adapter's parameters, a state, a text, features and boxes."""
    D = denoiser(from_linen(NETWORK), drawn(unet_shapes(NETWORK, 2)), prediction="edm")
    rng = np.random.default_rng(2)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    boxes = {
        "boxes": rng.random((2, 2, 4)).astype(np.float32), "box_tokens": draw(2, 2, 3),
        "box_mask": np.ones((2, 2), np.float32),
    }  # fmt: skip
    own = jax.tree.map(lambda a: 3 * a, drawn(ip_adapter_shapes(PROMPT), 1))
    return D, own, draw(2, 2, 2, 2), {"tokens": draw(2, 3, 3)}, draw(2, 2, 5), boxes


@pytest.fixture(scope="module")
def made(small):
    """Outputs of the U-Net, prompted and not, with boxes and not."""
    D, own, y, text, features, boxes = small
    half, none = (with_ip_adapter(D, Control(own, PROMPT), s) for s in (0.5, 0.0))
    closed = jax.tree_util.tree_map_with_path(
        lambda path, a: a * (0 if "gate" in jax.tree_util.keystr(path) else 1), D
    )
    run = jit(lambda D, cond: D(y, np.float32(0.7), {**text, **cond}))
    mask = np.array([[1, 0], [0, 0]], np.float32)
    masked = {**boxes, "box_mask": mask}
    other = {**masked, "box_tokens": boxes["box_tokens"] + 9 * (1 - mask[..., None])}
    return {
        "plain": run(D, {}), "none": run(none, {"image": features}), "no picture": run(half, {}),
        "both": run(half, {"image": features}), "turned": run(half, {"image": features[:, ::-1]}),
        "first": run(half, {"image": features[:, 0]}),
        "same": run(half, {"image": np.stack([features[:, 0]] * 2, axis=1)}),
        "boxes": run(D, boxes), "closed": run(closed, boxes), "shut": run(closed, {}),
        "masked": run(D, masked), "masked, others": run(D, other),
    }  # fmt: skip


def test_scale_zero_and_closed_gates_are_the_unet_bit_for_bit(made):
    for name in ("none", "no picture"):
        np.testing.assert_array_equal(made[name], made["plain"], name)
    np.testing.assert_array_equal(made["closed"], made["shut"])
    for name in ("both", "boxes"):
        assert distance(made[name], np.asarray(made["plain"])) > 1e-3, name


def test_pictures_side_by_side_have_no_order_and_one_twice_is_that_one(made):
    np.testing.assert_allclose(made["turned"], made["both"], atol=1e-5)
    np.testing.assert_allclose(made["same"], made["first"], atol=1e-5)
    assert distance(made["first"], np.asarray(made["both"])) > 1e-3


def test_what_is_in_a_box_that_is_not_there_does_not_count(made):
    np.testing.assert_array_equal(made["masked"], made["masked, others"])
    assert distance(made["masked"], np.asarray(made["boxes"])) > 1e-3


def test_what_is_refused_before_anything_is_compiled(small):
    D, own, y, text, features, boxes = small
    prompted = with_ip_adapter(D, Control(own, PROMPT))
    for D_, cond, message in (
        (prompted, {"image": features[..., :4]}, "takes features \\(batch, 5\\)"),
        (prompted, {"image": features[0, 0]}, "takes features \\(batch, 5\\)"),
        (D, {"boxes": boxes["boxes"]}, r"without cond\['box_tokens'\]"),
        (D, {"box_mask": np.ones((2, 2))}, r"without cond\['boxes'\]"),
        (D, {**boxes, "boxes": boxes["boxes"][..., :3]}, "must be \\(batch, boxes, 4\\)"),
        (D, {**boxes, "box_tokens": boxes["box_tokens"][:, :1]}, "must be \\(2, 2, 3\\)"),
        (D, {**boxes, "box_mask": np.ones((2, 1))}, "must be \\(2, 2\\), one number per box"),
    ):
        with pytest.raises(ValueError, match=message):
            D_(y, 0.7, {**text, **cond})
    other = dataclasses.replace(PROMPT, widths=(4, 8))
    with pytest.raises(ValueError, match="of another U-Net: its 2 layers"):
        with_ip_adapter(D, Control(own, other))
    with pytest.raises(ValueError, match="tokens of width 7"):
        with_ip_adapter(D, Control(own, dataclasses.replace(PROMPT, token_width=7)))
    with pytest.raises(ValueError, match="'image' of cond is taken"):
        with_ip_adapter(prompted, Control(own, PROMPT))
    plain = {**LEVEL, "down": ("plain",), "middle": "single"}
    bare = UNet2DCondition(**plain, out_channels=2, up=("plain",), depth_up=((1, 1),))
    with pytest.raises(ValueError, match="no layer of this U-Net attends"):
        adapter_for(bare)
    with pytest.raises(ValueError, match='by "cross" stages'):
        jax.eval_shape(bare.init, jax.random.key(0), y, np.ones(2, np.float32), text)
    steer = ControlNet(**{**LEVEL, "boxes": False}, control_widths=(2, 3))
    with pytest.raises(TypeError, match="takes an IP-Adapter"):
        with_ip_adapter(D, Control({}, steer))
    with pytest.raises(TypeError, match="takes a ControlNet"):
        with_controlnet(D, Control(own, PROMPT))
    with pytest.raises(ValueError, match="'default' or 'gated'; 'gated-text-image'.* second"):
        unet2d_condition({"attention_type": "gated-text-image"})


def test_layers_of_stable_diffusion_are_in_the_publishers_order():
    network = unet2d_condition({"attention_head_dim": 8, "cross_attention_dim": 768})
    layers = cross_layers(network)
    assert [width for _, width in layers] == [
        *[320] * 2, *[640] * 2, *[1280] * 2, *[1280] * 3, *[640] * 3, *[320] * 3, 1280,
    ]  # fmt: skip
    assert layers[6][0] == "up_2/attention_0/block_0/cross"
    assert layers[-1][0] == "middle/attention_0/block_0/cross"


def test_waves_of_boxes():
    box = np.array([[[0.1, 0.2, 0.3, 0.4]]], np.float32)
    waves = np.asarray(fourier_boxes(box)).reshape(8, 2, 4)
    for i in (0, 5):
        angle = 100 ** (i / 8) * box[0, 0].astype(float)
        np.testing.assert_allclose(waves[i], [np.sin(angle), np.cos(angle)], atol=1e-5)


def plus_file(path, rng, *, widths=(4, 8), count=3, width=6, inner=64, seen=5, token=4, depth=2):
    """A file of random numbers in the layout of the form plus, and the numbers."""
    shapes = {
        "latents": (1, count, width), "proj_in.weight": (width, seen), "proj_in.bias": (width,),
        "proj_out.weight": (token, width), "proj_out.bias": (token,),
        "norm_out.weight": (token,), "norm_out.bias": (token,),
    }  # fmt: skip
    for i in range(depth):
        at = f"layers.{i}."
        shapes |= {f"{at}{n}.{k}": (width,) for n in ("0.norm1", "0.norm2", "1.0")
                   for k in ("weight", "bias")}  # fmt: skip
        shapes |= {
            f"{at}0.to_q.weight": (inner, width), f"{at}0.to_kv.weight": (2 * inner, width),
            f"{at}0.to_out.weight": (width, inner), f"{at}1.1.weight": (4 * width, width),
            f"{at}1.3.weight": (width, 4 * width),
        }  # fmt: skip
    shapes = {f"image_proj.{name}": shape for name, shape in shapes.items()}
    for i, w in enumerate(widths):
        shapes |= {f"ip_adapter.{2 * i + 1}.to_{n}_ip.weight": (w, token) for n in ("k", "v")}
    made = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    write_tensors(path, made, {})
    return made


def by_hand(numbers, x, depth=2, heads=1):
    """The tokens of the form plus, of its published names, in float64."""
    w = {k.removeprefix("image_proj."): v.astype(float) for k, v in numbers.items()}

    def norm(name, h):
        h = h - h.mean(-1, keepdims=True)
        h = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5)
        return h * w[f"{name}.weight"] + w[f"{name}.bias"]

    dense = lambda name, h: h @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)  # noqa: E731
    h, x = w["latents"][0], dense("proj_in", x.astype(float))
    erf = np.vectorize(math.erf)
    for i in range(depth):
        own = norm(f"layers.{i}.0.norm2", h)
        both = np.concatenate([norm(f"layers.{i}.0.norm1", x), own])
        k, v = np.split(dense(f"layers.{i}.0.to_kv", both), 2, axis=-1)
        q, out = dense(f"layers.{i}.0.to_q", own), []
        for a, b, c in zip(*(np.split(m, heads, axis=-1) for m in (q, k, v)), strict=True):
            logits = a @ b.T / 8
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            out.append(weights / weights.sum(-1, keepdims=True) @ c)
        h = h + dense(f"layers.{i}.0.to_out", np.concatenate(out, axis=-1))
        g = dense(f"layers.{i}.1.1", norm(f"layers.{i}.1.0", h))
        h = h + dense(f"layers.{i}.1.3", g * (1 + erf(g / np.sqrt(2))) / 2)
    return norm("norm_out", dense("proj_out", h))


def test_the_form_plus_is_read_and_written_and_its_resampler_is_its_formula(tmp_path):
    rng = np.random.default_rng(3)
    numbers = plus_file(tmp_path / "plus.safetensors", rng, inner=128)
    control = load_ip_adapter(tmp_path / "plus.safetensors")
    assert control.network == IPAdapter((4, 8), 3, 4, 5, 2, 6, 2)
    x = rng.standard_normal((1, 4, 5)).astype(np.float32)
    module = Resampler(3, 4, 2, 6, 2)
    tokens = jit(module.apply)({"params": control.params["image"]}, x)
    expected = by_hand(numbers, x[0], heads=2)
    assert distance(tokens[0], expected) < 1e-4
    save_ip_adapter(control, tmp_path / "again.safetensors")
    read = load_ip_adapter(tmp_path / "again.safetensors")
    assert read.network == control.network
    jax.tree.map(np.testing.assert_array_equal, read.params, control.params)


def test_files_that_are_no_adapters_are_refused_by_name(tmp_path):
    rng = np.random.default_rng(4)
    one = np.ones((2, 2), np.float32)
    for name, tensors, message in (
        ("none", {"weight": one}, "is no IP-Adapter"),
        ("gap", {f"ip_adapter.{n}.to_k_ip.weight": one for n in (1, 5)}, "by odd numbers"),
        (
            "face",
            {"ip_adapter.1.to_k_ip.weight": one, "image_proj.proj.0.weight": one},
            r"one of full face, whose perceptron .*proj\.0",
        ),
        (
            "id",
            {"ip_adapter.1.to_k_ip.weight": one, "ip_adapter.0.to_q_lora.down.weight": one},
            "is a FaceID file, whose LoRA",
        ),
    ):
        write_tensors(tmp_path / f"{name}.safetensors", tensors, {})
        with pytest.raises(ValueError, match=message):
            load_ip_adapter(tmp_path / f"{name}.safetensors")
    plus_file(tmp_path / "heads.safetensors", rng, inner=60)
    with pytest.raises(ValueError, match="must have 64 channels"):
        load_ip_adapter(tmp_path / "heads.safetensors")
    with pytest.raises(ValueError, match=r"saved as \.safetensors"):
        save_ip_adapter(Control({}, PROMPT), tmp_path / "a.bin")
    narrow = dataclasses.replace(PROMPT, depth=1, head_width=8)
    with pytest.raises(ValueError, match="this one's have 8"):
        save_ip_adapter(Control({}, narrow), tmp_path / "a.safetensors")


@pytest.mark.slow
def test_a_published_ip_adapter_and_the_unet_that_it_prompts(tmp_path):
    unet = load_pretrained(folder("pipelines_sd/sd15_0/unet"))
    control = load_ip_adapter(folder("adapters/ip_adapter_0.safetensors"))
    pickled = load_ip_adapter(folder("adapters/ip_adapter_0.bin"))
    jax.tree.map(np.testing.assert_array_equal, control.params, pickled.params)
    save_ip_adapter(control, tmp_path / "ip.safetensors")
    again = load_ip_adapter(tmp_path / "ip.safetensors")
    jax.tree.map(np.testing.assert_array_equal, control.params, again.params)
    _, arrays = case("adapters_io", what="IP-Adapter plain")
    x, label = arrays["x"], arrays["t"].astype(np.float32)
    cond = {"tokens": arrays["encoder_hidden_states"], "image": arrays["image_embeds"]}
    for scale in (0.0, 0.5, 1.0):
        model = with_ip_adapter(unet, control, scale)
        run = jit(lambda p, m=model: m.network.apply({"params": p}, x, label, cond))
        assert distance(run(model.params), arrays[f"unet_out_scale{scale}"]) < LEAST, scale


@pytest.mark.slow
def test_a_published_unet_with_boxes():
    model = load_pretrained(folder("adapters/gligen_0"))
    _, arrays = case("adapters_io", folder="adapters/gligen_0")
    x, label = arrays["x"], arrays["t"].astype(np.float32)
    text = {"tokens": arrays["encoder_hidden_states"]}
    boxes = {
        "boxes": arrays["boxes"], "box_tokens": arrays["positive_embeddings"],
        "box_mask": arrays["masks"],
    }  # fmt: skip
    run = jit(lambda p, cond: model.network.apply({"params": p}, x, label, cond))
    assert distance(run(model.params, text | boxes), arrays["out"]) < LEAST
    assert distance(run(model.params, text), arrays["out_without_gligen"]) < LEAST
    assert "may have mask, boxes" in model.cond
