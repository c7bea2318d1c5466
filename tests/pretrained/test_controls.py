"""ControlNets and T2I-Adapters: published names and shapes, golden outputs, steered denoisers."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.diffusers_cases import case, distance, drawn, folder, jit
from helpers.published_keys import published

from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.denoisers import conditioned, denoiser
from jaxdiff.networks import ControlNet, T2IAdapter, UNet2DCondition, from_linen
from jaxdiff.networks.controlnet import scaled
from jaxdiff.networks.t2i_adapter import averaged, folded
from jaxdiff.pretrained import (
    Control,
    load_controlnet,
    load_pretrained,
    load_t2i_adapter,
    with_controlnet,
    with_t2i_adapter,
)
from jaxdiff.pretrained.controls import adapter_shapes, controlnet, controlnet_layout, t2i_adapter
from jaxdiff.pretrained.diffusers import unet_shapes
from jaxdiff.pretrained.layout import check_layout

LEAST = 1e-5  # float32; observed are 1e-6
LEVEL = {
    "channels": (4,), "in_channels": 2, "down": ("plain",), "middle": "single", "blocks": (1,),
    "heads": (1,), "depth_down": ((1,),), "only_cross": (False,), "groups": 2, "token_width": 0,
}  # fmt: skip
NETWORK = UNet2DCondition(**LEVEL, out_channels=2, up=("plain",), depth_up=((1, 1),))
STEER = ControlNet(**LEVEL, control_widths=(2, 3))
SKETCH = T2IAdapter((4, 4), factor=2, blocks=1, halved=(False, False))


@pytest.fixture(scope="module")
def small():
    """A denoiser of a U-Net, two that steer it, a state and a picture."""
    params = drawn(unet_shapes(NETWORK, 2))
    D = denoiser(from_linen(NETWORK), params, prediction="edm")
    rng = np.random.default_rng(2)
    y, picture = (rng.standard_normal(s).astype(np.float32) for s in ((2, 2, 2, 2), (2, 4, 4, 3)))
    steer = Control(drawn(unet_shapes(STEER, 2), 1), STEER)
    return D, steer, Control(drawn(adapter_shapes(SKETCH), 3), SKETCH), y, picture


def test_a_steered_denoiser_is_the_unets_with_its_maps_added(small):
    D, steer, sketch, y, picture = small
    both = with_t2i_adapter(with_controlnet(D, steer, 0.5), sketch, 2.0, key="sketch")

    @jit
    def made(y, picture):
        x, label = y / jnp.float32(math.hypot(0.7, 0.5)), jnp.full(2, math.log(0.7) / 4, y.dtype)
        residuals = STEER.apply({"params": steer.params}, x, label, {"control": picture})
        maps = SKETCH.apply({"params": sketch.params}, picture)
        by_hand = {"residuals": scaled(residuals, 0.5), "adapter": scaled(maps, 2.0)}
        cond = {"control": picture, "sketch": picture}
        return (
            (conditioned(D, **by_hand)(y, 0.7), both(y, 0.7, cond)),
            (D(y, 0.7), both(y, 0.7)),
        )  # fmt: skip

    pairs = made(y, picture)
    for expected, got in pairs:
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert distance(pairs[0][0], np.asarray(pairs[1][0])) > 1e-2


def test_what_steered_denoisers_refuse(small):
    D, steer, sketch, y, picture = small
    steered = with_controlnet(D, steer)
    with pytest.raises(ValueError, match=r"cond\['control'\] must be \(2, 4, 4, 3\)"):
        steered(y, 0.7, {"control": picture[:, :2]})
    with pytest.raises(ValueError, match="height and width divisible by 2"):
        with_t2i_adapter(D, sketch)(y, 0.7, {"control": picture[:, :3]})
    with pytest.raises(TypeError, match="which may have control"):
        steered(y, 0.7, picture)
    with pytest.raises(TypeError, match="takes a ControlNet"):
        with_controlnet(D, sketch)
    with pytest.raises(TypeError, match="takes a T2I-Adapter"):
        with_t2i_adapter(D, steer)
    with pytest.raises(TypeError, match="only a denoiser of a UNet2DCondition"):
        with_controlnet(lambda y, level, cond=None: y, steer)
    with pytest.raises(ValueError, match="'tokens' of cond is taken"):
        with_controlnet(D, steer, key="tokens")
    with pytest.raises(ValueError, match="'control' of cond is taken"):
        with_controlnet(steered, steer)


def test_configurations_and_folders_that_are_refused(tmp_path):
    for config, message in (
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "ControlNetModel: mid_block_type"),
        ({"sample_size": 64}, "ControlNetModel has no field 'sample_size'"),
        ({"controlnet_conditioning_channel_order": "gbr"}, "must be 'rgb' or 'bgr'"),
        ({"conditioning_embedding_out_channels": 16}, "must be a list of positive whole"),
    ):
        with pytest.raises(ValueError, match=message):
            controlnet(config)
    with pytest.raises(ValueError, match="adapter_type must be"):
        t2i_adapter({"adapter_type": "multi"})
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    np.savez(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="has no weights"):
        load_controlnet(tmp_path)


def test_what_adapters_of_every_kind_return():
    """Sizes of the maps at 512 pixels, of published configurations (2302.08453)."""
    expected = {
        "full_adapter": ([64, 32, 16, 8], [320, 640, 1280, 1280]),
        "full_adapter_xl": ([64, 64, 32, 32], [320, 640, 1280, 1280]),
        "light_adapter": ([64, 32, 16, 8], [320, 640, 1280, 1280]),
    }
    picture = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    for kind, (sizes, channels) in expected.items():
        config = {"adapter_type": kind}
        config |= {"channels": [320, 640, 1280]} if kind == "light_adapter" else {}
        network = t2i_adapter(config)
        maps, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), picture)
        assert [(m.shape[1], m.shape[3]) for m in maps] == list(zip(sizes, channels, strict=True))


def test_folding_and_averaging():
    i = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4, 1)
    both = np.concatenate([i, i + 100], axis=-1)
    np.testing.assert_array_equal(folded(both, 2)[0, 0, 1], [2, 3, 6, 7, 102, 103, 106, 107])
    np.testing.assert_array_equal(averaged(i[:, :3])[0, :, :, 0], [[2.5, 4.5], [8.5, 10.5]])


def test_a_picture_is_kept_or_left_out_by_guidance():
    def D(y, level, cond):
        return y + cond["tokens"] + cond.get("control", 0.0)

    y, cond = jnp.zeros((2, 1)), {"tokens": jnp.ones((2, 1)), "control": jnp.full((2, 1), 10.0)}
    kept = classifier_free(D, 3.0, {"tokens": 0.0}, keep=("control",))
    np.testing.assert_allclose(kept(y, 1.0, cond), 10.0 + 3.0)
    left = classifier_free(D, 3.0, {"tokens": 0.0, "control": None})
    np.testing.assert_allclose(left(y, 1.0, cond), 3.0 * 11.0)
    with pytest.raises(ValueError, match="must be the same"):
        classifier_free(D, 3.0, {"tokens": 0.0})(y, 1.0, cond)
    with pytest.raises(ValueError, match="keep names 'picture'"):
        classifier_free(D, 3.0, {"tokens": 0.0}, keep=("picture",))(y, 1.0, cond)
    with pytest.raises(ValueError, match="needs null"):
        classifier_free(D, 3.0, keep=("control",))


@pytest.mark.slow
def test_every_published_tensor_has_its_place():
    tensors, config = published("controlnet_sd15")
    network = controlnet(config)
    shapes = unet_shapes(network, 4)
    check_layout(shapes, tensors, controlnet_layout(network))
    counted = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert (len(tensors), counted) == (340, 361_279_120)


def inputs(**fields):
    _, arrays = case("adapters_io", **fields)
    label = arrays["t"].astype(np.float32)
    return arrays, (arrays["x"], label, {"tokens": arrays["encoder_hidden_states"]})


def check_steered(model, given, expected):
    run = jit(lambda p: model.network.apply({"params": p}, *given))
    assert distance(run(model.params), expected) < LEAST


@pytest.mark.slow
def test_a_controlnet_and_the_unet_that_it_steers():
    control = load_controlnet(folder("adapters/controlnet_0"))
    arrays, (x, label, cond) = inputs(what="ControlNetModel")
    cond = cond | {"control": arrays["controlnet_cond"]}
    look = lambda module, _: module.name == "control_out"  # noqa: E731
    run = jit(
        lambda p: control.network.apply({"params": p}, x, label, cond, capture_intermediates=look)
    )
    made, inner = run(control.params)
    shown = inner["intermediates"]["control_out"]["__call__"][0]
    assert distance(shown, arrays["cond_embedding"]) < LEAST
    names = [*(f"down_res.{i}" for i in range(4)), "mid_res"]
    for name, got in zip(names, made, strict=True):
        assert distance(got, arrays[name]) < LEAST, name
    unet = load_pretrained(folder("pipelines_sd/sd15_0/unet"))
    for scale, guess, name in ((0.5, False, "scale0.5"), (1.0, True, "guess_mode")):
        model = with_controlnet(unet, control, scale, guess=guess)
        check_steered(model, (x, label, cond), arrays[f"unet_out_{name}"])
    assert "may have control" in model.cond
    with pytest.raises(ValueError, match="load_controlnet opens it"):
        load_pretrained(folder("adapters/controlnet_0"))
    with pytest.raises(ValueError, match="is no T2IAdapter"):
        load_t2i_adapter(folder("adapters/controlnet_0"))


@pytest.mark.slow
def test_residuals_of_flipped_pictures_and_their_means():
    control = load_controlnet(folder("adapters/controlnet_0"))
    arrays, (x, label, cond) = inputs(what="ControlNetModel")
    net = control.network.clone(flipped=True, pooled=True)
    flipped = arrays["controlnet_cond"][..., ::-1]
    run = jit(lambda p: net.apply({"params": p}, x, label, cond | {"control": flipped}))
    for i, got in enumerate(run(control.params)[:4]):
        mean = arrays[f"down_res.{i}"].mean(axis=(1, 2), keepdims=True)
        assert distance(got, np.broadcast_to(mean, got.shape)) < LEAST


@pytest.mark.slow
def test_an_adapter_and_the_unet_that_it_steers():
    control = load_t2i_adapter(folder("adapters/t2i_0"))
    arrays, (x, label, cond) = inputs(folder="adapters/t2i_0")
    run = jit(lambda p: control.network.apply({"params": p}, arrays["image"]))
    for i, got in enumerate(run(control.params)):
        assert distance(got, arrays[f"feature.{i}"]) < LEAST
    model = with_t2i_adapter(load_pretrained(folder("pipelines_sd/sd15_0/unet")), control, 0.6)
    given = x, label, cond | {"control": arrays["image"]}
    check_steered(model, given, arrays["unet_out_scale0.6"])
