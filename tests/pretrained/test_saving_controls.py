"""Networks that steer, and U-Nets with text, saved in diffusers' layout and read back."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers.diffusers_cases import folder

from jaxdiff.networks import ControlNet, T2IAdapter, UNet2DCondition
from jaxdiff.networks.text_to_image import small_text_to_image
from jaxdiff.pretrained import (
    Control,
    load_controlnet,
    load_pretrained,
    load_t2i_adapter,
    save_controlnet,
    save_diffusers,
    save_t2i_adapter,
)
from jaxdiff.pretrained.condition_config import condition_config
from jaxdiff.pretrained.controls import adapter_shapes, t2i_adapter
from jaxdiff.pretrained.diffusers import unet_shapes
from jaxdiff.pretrained.tensors import open_tensors
from jaxdiff.pretrained.unet2d_condition import unet2d_condition

WEIGHTS = "diffusion_pytorch_model.safetensors"
LEVELS = {
    "channels": (4, 8), "in_channels": 2, "down": ("cross", "plain"), "middle": "cross",
    "blocks": (1, 1), "heads": (2, 4), "depth_down": ((1,), (2,)), "depth_middle": 2,
    "only_cross": (False, False), "groups": 2, "token_width": 3,
}  # fmt: skip


def drawn(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)


def test_a_controlnet_and_an_adapter_are_read_back(tmp_path):
    steer = ControlNet(**LEVELS, control_channels=1, control_widths=(2, 3), flipped=True)
    sketch = T2IAdapter((4, 8), 1, 1, 2, (False, True))
    for network, shapes, save, load in (
        (steer, unet_shapes(steer, 2), save_controlnet, load_controlnet),
        (sketch, adapter_shapes(sketch), save_t2i_adapter, load_t2i_adapter),
    ):
        control = Control(drawn(shapes), network)
        save(control, tmp_path / "made")
        again = load(tmp_path / "made")
        assert again.network == network
        jax.tree.map(np.testing.assert_array_equal, again.params, control.params)


def test_kinds_of_adapters_are_told_apart():
    from jaxdiff.pretrained.condition_config import t2i_adapter_config

    for kind in ("full_adapter", "full_adapter_xl", "light_adapter"):
        channels = [320, 640, 1280] if kind == "light_adapter" else [320, 640, 1280, 1280]
        config = {"adapter_type": kind, "channels": channels}
        assert t2i_adapter_config(t2i_adapter(config))["adapter_type"] == kind


def test_what_has_no_place_is_refused_before_anything_is_written(tmp_path):
    steer = ControlNet(**LEVELS, centred=True)
    sketch = T2IAdapter((4, 8), halved=(True, True))
    for call, error, message in (
        (lambda: save_controlnet(Control({}, steer), tmp_path / "a"), ValueError, "has centred"),
        (lambda: save_t2i_adapter(Control({}, sketch), tmp_path / "a"), ValueError, "has halved"),
        (lambda: save_controlnet(Control({}, sketch), tmp_path / "a"), TypeError, "a ControlNet"),
        (lambda: save_t2i_adapter(Control({}, steer), tmp_path / "a"), TypeError, "a T2I-Adapter"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert not (tmp_path / "a").exists()
    network = UNet2DCondition(
        **{**LEVELS, "depth_middle": 3}, up=("plain", "cross"), depth_up=((1, 1), (2, 2))
    )
    with pytest.raises(ValueError, match="has depth_up"):
        condition_config(network, (8, 8, 4))


def test_networks_made_here_have_a_configuration():
    for classes in (0, 3):
        unet = small_text_to_image(9, 4, (0, 1), num_classes=classes).unet
        config = condition_config(unet, (8, 8, 3))
        read = unet2d_condition(json.loads(json.dumps(config)))
        assert dataclasses.replace(read, heads_up=(), zero_out=True) == unet


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["adapters/controlnet_0", "adapters/t2i_0", "pipelines_sd/sd15_0/unet"]
)
def test_published_tensors_keep_their_names_and_shapes(tmp_path, name):
    there = folder(name)
    if name.endswith("unet"):
        save_diffusers(load_pretrained(folder("pipelines_sd/sd15_0")), tmp_path)
        here = tmp_path / "unet"
        assert load_pretrained(tmp_path).network == load_pretrained(there).network
    else:
        load, save = {
            "controlnet_0": (load_controlnet, save_controlnet),
            "t2i_0": (load_t2i_adapter, save_t2i_adapter),
        }[there.name]  # fmt: skip
        save(load(there), here := tmp_path / "made")
    old, new = (open_tensors(at / WEIGHTS) for at in (there, here))
    assert {*old} == {*new}
    for key in old:
        linear = ".proj_in." in key or ".proj_out." in key  # one of two layouts, said in the config
        assert linear or old.shapes[key] == new.shapes[key], key
        np.testing.assert_array_equal(old[key].reshape(new.shapes[key]), new[key])
