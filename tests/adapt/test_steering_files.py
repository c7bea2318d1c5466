"""What steers a U-Net is saved alone, known by its names and put beside a base."""

import jax
import numpy as np
import pytest

from jaxdiff.adapt import load_steering, save_steering, steered, steering_of
from jaxdiff.adapt.steering_files import steering_kind
from jaxdiff.denoisers import denoiser
from jaxdiff.networks import ControlNet, T2IAdapter, UNet, UNet2DCondition, UNetControl, from_linen
from jaxdiff.networks.ip_adapter import adapter_for
from jaxdiff.pretrained import Control
from jaxdiff.pretrained.controls import adapter_shapes
from jaxdiff.pretrained.diffusers import unet_shapes
from jaxdiff.pretrained.ip_adapter import ip_adapter_shapes
from jaxdiff.pretrained.saving import write_tensors

LEVEL = {
    "channels": (4,), "in_channels": 2, "down": ("cross",), "middle": "single", "blocks": (1,),
    "heads": (2,), "depth_down": ((1,),), "only_cross": (False,), "groups": 2, "token_width": 3,
}  # fmt: skip
NETWORK = UNet2DCondition(**LEVEL, out_channels=2, up=("plain",), depth_up=((1, 1),))
SMALL = {"channels": 4, "multipliers": (1, 2), "groups": 2, "num_classes": 3}


def drawn(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)


def every():
    steer, sketch = ControlNet(**LEVEL, control_widths=(2,)), T2IAdapter((4,), 3, 1, 1, (False,))
    prompt, small = adapter_for(NETWORK, image_width=5), UNetControl(**SMALL, control_channels=2)
    one = {"Conv_0": {"kernel": np.ones((3, 3, 1, 4), np.float32)}}
    return {
        "controlnet": Control(drawn(unet_shapes(steer, 2)), steer),
        "t2i": Control(drawn(adapter_shapes(sketch)), sketch),
        "ip": Control(drawn(ip_adapter_shapes(prompt)), prompt), "small": Control(one, small),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["controlnet", "t2i", "ip", "small"])
def test_every_kind_is_read_back_and_put_beside_its_base(tmp_path, kind):
    control = every()[kind]
    path = tmp_path / ("made" if kind in ("controlnet", "t2i") else "made.safetensors")
    save_steering(control, path)
    assert steering_kind(path) == kind
    again = load_steering(path)
    assert again.network == control.network
    jax.tree.map(np.testing.assert_array_equal, again.params, control.params)
    base = UNet(**SMALL) if kind == "small" else NETWORK
    D = denoiser(from_linen(base), {}, prediction="edm")
    made = steering_of(steered(D, again, 0.5, key="mine"))
    assert made.network == control.network
    module = steered(D, again, 0.5, key="mine").func.apply.module
    assert (module.scales, module.pictures) == ((0.5,), ("mine",))
    default = steered(D, again).func.apply.module
    assert default.pictures == ("image" if kind == "ip" else "control",)


def test_what_is_refused(tmp_path):
    made = every()
    with pytest.raises(ValueError, match="is saved as a folder"):
        save_steering(made["t2i"], tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"is saved as a \.safetensors"):
        save_steering(made["ip"], tmp_path / "a")
    other = UNetControl(**SMALL, features=lambda label, width, scale: label)
    with pytest.raises(ValueError, match="other features"):
        save_steering(Control({}, other), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no folder of a ControlNet"):
        load_steering(tmp_path / "empty")
    write_tensors(tmp_path / "a.safetensors", {"w": np.ones(2, np.float32)}, {})
    with pytest.raises(ValueError, match="holds nothing that steers"):
        load_steering(tmp_path / "a.safetensors")
    write_tensors(tmp_path / "b.safetensors", {}, {"format": "jaxdiff control", "fields": "[1]"})
    with pytest.raises(ValueError, match="is damaged"):
        load_steering(tmp_path / "b.safetensors")
    with pytest.raises(FileNotFoundError):
        load_steering(tmp_path / "none.safetensors")
