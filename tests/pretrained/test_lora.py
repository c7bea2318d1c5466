"""Low-rank changes of weights: every style of file, and what they make of a network."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.diffusers_cases import case, distance, folder, jit
from helpers.golden_numbers import SHARED
from safetensors.numpy import save_file

from jaxdiff.pretrained import load_pretrained
from jaxdiff.pretrained.lora import merge_lora
from jaxdiff.pretrained.lora_files import read_changes

LINEAR, CONVOLUTION = "down_blocks.0.attentions.0.to_q", "down_blocks.0.resnets.0.conv1"
RNG = np.random.default_rng(0)


def parameters(dtype=np.float32):
    """Two layers of a U-Net of two levels, as its parameters have them."""
    draw = lambda *shape: RNG.standard_normal(shape).astype(dtype)  # noqa: E731
    return {
        "down_0": {
            "attention_0": {"q": {"kernel": draw(6, 4), "bias": draw(4)}},
            "block_0": {"conv_in": {"kernel": draw(3, 3, 6, 4)}},
        },
        "up_0": {"block_0": {"conv_in": {"kernel": draw(3, 3, 6, 4)}}},
        "up_1": {"block_0": {"conv_in": {"kernel": draw(3, 3, 6, 4)}}},
    }


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


UP, DOWN = draw(4, 2), draw(2, 6)
PLAIN = UP @ DOWN
PEFT = {"unet.lora_alpha": 6, "unet.r": 2, "unet.alpha_pattern": {"to_q": 3}}
STYLES = {
    "kohya": ({
        "lora_unet_down_blocks_0_attentions_0_to_q.lora_up.weight": UP,
        "lora_unet_down_blocks_0_attentions_0_to_q.lora_down.weight": DOWN,
        "lora_unet_down_blocks_0_attentions_0_to_q.alpha": np.array(3, np.float32),
    }, {}, 1.5 * PLAIN),
    "without alpha": ({
        "lora_unet_down_blocks_0_attentions_0_to_q.lora_up.weight": UP,
        "lora_unet_down_blocks_0_attentions_0_to_q.lora_down.weight": DOWN,
    }, {}, PLAIN),
    "peft": ({
        f"unet.{LINEAR}.lora_B.default.weight": UP, f"unet.{LINEAR}.lora_A.default.weight": DOWN,
    }, {"lora_adapter_metadata": json.dumps(PEFT)}, 1.5 * PLAIN),
    "peft by the root of the rank": ({
        f"unet.{LINEAR}.lora_B.weight": UP, f"unet.{LINEAR}.lora_A.weight": DOWN,
    }, {"lora_adapter_metadata": json.dumps(
        {"unet.lora_alpha": 2, "unet.use_rslora": True})}, 2**0.5 * PLAIN),
    "processors": ({
        f"{LINEAR.removesuffix('.to_q')}.processor.to_q_lora.up.weight": UP,
        f"{LINEAR.removesuffix('.to_q')}.processor.to_q_lora.down.weight": DOWN,
    }, {}, PLAIN),
    "layers": ({
        f"unet.{LINEAR}.lora_linear_layer.up.weight": UP,
        f"unet.{LINEAR}.lora_linear_layer.down.weight": DOWN,
    }, {}, PLAIN),
    "loha": ({
        f"unet.{LINEAR}.hada_w1_a": UP, f"unet.{LINEAR}.hada_w1_b": DOWN,
        f"unet.{LINEAR}.hada_w2_a": UP, f"unet.{LINEAR}.hada_w2_b": DOWN,
        f"unet.{LINEAR}.alpha": np.array(1, np.float32),
    }, {}, 0.5 * PLAIN**2),
    "lokr": ({
        f"unet.{LINEAR}.lokr_w1": UP[:2, :2], f"unet.{LINEAR}.lokr_w2_a": UP[:2],
        f"unet.{LINEAR}.lokr_w2_b": DOWN[:, :3], f"unet.{LINEAR}.alpha": np.array(4, np.float32),
    }, {}, 2 * np.kron(UP[:2, :2], UP[:2] @ DOWN[:, :3])),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_changes_of_a_linear_layer(style, tmp_path):
    tensors, metadata, expected = STYLES[style]
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(tensors, tmp_path / "lora.safetensors", metadata)
    before = parameters()
    after = merge_lora(before, tmp_path / "lora.safetensors", 0.5)
    changed = after["down_0"]["attention_0"]["q"]["kernel"]
    own = before["down_0"]["attention_0"]["q"]["kernel"]
    np.testing.assert_allclose(changed - own, 0.5 * expected.T, atol=1e-6)
    after["down_0"]["attention_0"]["q"]["kernel"] = own
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_changes_of_a_convolution_in_the_dtype_of_the_parameters(tmp_path):
    up, down = draw(4, 2, 1, 1), draw(2, 6, 3, 3)
    name = f"lora_unet_{CONVOLUTION.replace('.', '_')}"
    tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    save_file(tensors, tmp_path / "lora.safetensors")
    before = parameters(np.float16)
    after = merge_lora(before, tmp_path / "lora.safetensors")
    made = after["down_0"]["block_0"]["conv_in"]["kernel"]
    assert made.dtype == np.float16
    own = before["down_0"]["block_0"]["conv_in"]["kernel"].astype(np.float32)
    expected = own + np.einsum("or,rikl->klio", up[:, :, 0, 0], down)
    np.testing.assert_allclose(made, expected.astype(np.float16), atol=2e-2)
    # Tucker's form: a core of its own between the two
    core = draw(2, 2, 3, 3)
    tensors = {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": np.ascontiguousarray(down[:, :, :1, :1]),
        f"{name}.lora_mid.weight": core,
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    made = read_changes(tmp_path / "lora.safetensors")["unet"]
    (change,) = made.values()
    expected = sum(
        np.multiply.outer(up[:, r, 0, 0], np.multiply.outer(down[s, :, 0, 0], core[r, s]))
        for r in range(2)
        for s in range(2)
    )
    np.testing.assert_allclose(change.delta((4, 6, 3, 3)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_unet_mid_block_x.lora_up.weight": UP,
          "lora_unet_mid_block_x.lora_down.weight": DOWN},
         "mid_block_x, a layer that the unet does not have"),
        ({f"unet.{LINEAR}.lora_B.weight": UP}, "lacks the factor 'down'"),
        ({f"unet.{LINEAR}.lora_B.weight": UP, f"unet.{LINEAR}.lora_A.weight": DOWN.T},
         "do not fit"),
        ({f"unet.{LINEAR}.lora_B.weight": UP[:3], f"unet.{LINEAR}.lora_A.weight": DOWN},
         r"has shape \[3, 6\]; the layer's weight has \[4, 6\]"),
        ({f"unet.{LINEAR}.diff": UP}, "without changed biases"),
        ({f"unet.{LINEAR}.lora_B.weight": UP, f"unet.{LINEAR}.lora_A.weight": DOWN,
          f"unet.{LINEAR}.dora_scale": UP[:3, :1]}, "has 3 norms in dora_scale; the layer has 4"),
        ({f"text_encoder.{LINEAR}.lora_B.weight": UP}, "changes text_encoder; not the unet"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tensors, message, tmp_path):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        merge_lora(parameters(), tmp_path / "x.safetensors")


@pytest.mark.slow
def test_golden_files_change_the_unet_of_stable_diffusion():
    model = load_pretrained(folder("pipelines_sd/sd15_0/unet"))
    run = jit(lambda p, *inputs: model.network.apply({"params": p}, *inputs))
    files = {
        "lora_peft/pytorch_lora_weights": (0.5, 1.0), "lora_kohya/kohya": (0.5, 1.0),
        "lora_diffusers_old/pytorch_lora_weights": (0.5, 1.0),
        "lora_kohya/kohya_mixed_alpha": (1.0,),
    }  # fmt: skip
    for file, scales in files.items():
        file = f"adapters/{file}.safetensors"
        _, arrays = case("adapters_io", file=file)
        inputs = arrays["x"], arrays["t"].astype(np.float32)
        for scale in scales:
            made = run(
                merge_lora(model.params, SHARED / file, scale),
                *inputs,
                {"tokens": jnp.asarray(arrays["encoder_hidden_states"])},
            )
            assert distance(made, arrays[f"unet_out_scale{scale}"]) < 1e-5, (file, scale)
