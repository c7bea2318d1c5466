"""Stable Diffusion's original files: their names, made from a network here and read back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.published_keys import published as published_shapes
from safetensors.numpy import save_file

from jaxdiff.networks.autoencoder_kl import AutoencoderKL
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.pretrained import load_pretrained
from jaxdiff.pretrained.diffusers import unet_shapes
from jaxdiff.pretrained.lora import merge_lora
from jaxdiff.pretrained.names import published, unturned
from jaxdiff.pretrained.original_names import original_autoencoder_pairs, original_unet_pairs
from jaxdiff.pretrained.unet2d_condition import unet2d_condition

NETWORK = UNet2DCondition(
    channels=(32, 64), down=("plain", "cross"), up=("plain", "cross"), blocks=(1, 1), heads=(1, 1),
    depth_down=((1,), (2,)), depth_up=((1, 1), (2, 2)), depth_middle=2, only_cross=(False, False),
    added="text_time", added_width=3 * 256, token_width=2048,
)  # fmt: skip
CODER = AutoencoderKL(channels=(32, 64), down=("plain",) * 2, up=("plain",) * 2, blocks=1)


@functools.cache
def drawn():
    """Parameters of both, every one another number."""
    x = jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.float32)
    shapes = unet_shapes(NETWORK, 4), jax.eval_shape(CODER.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(0)
    draw = lambda s: rng.standard_normal(s.shape).astype(np.float16)  # noqa: E731
    return jax.tree.map(draw, shapes)


def tensors():
    """The file's tensors, with others that are not read."""
    made = {"cond_stage_model.logit_scale": np.zeros(1), "model_ema.decay": np.zeros(1)}
    for params, pairs, prefix in (
        (drawn()[0], original_unet_pairs(2, 1), "model.diffusion_model."),
        (drawn()[1], original_autoencoder_pairs(), "first_stage_model."),
    ):
        for name, (at, leaf) in published(params, pairs).items():
            value = unturned(at, leaf)
            point = value.ndim == 2 and ("skip" in name or ".attn_1." in name or "quant" in name)
            made[prefix + name] = value[:, :, None, None] if point else value
    return made


def test_an_original_file_is_read_back(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    model = load_pretrained(tmp_path / "model.safetensors")
    assert model.network == NETWORK and model.shape == (128, 128, 4) and model.prediction == "eps"
    jax.tree.map(np.testing.assert_array_equal, model.params, drawn()[0])
    coder = model.parts["vae"]
    assert coder.network == CODER and coder.scale == 0.13025 and coder.factor == 2
    jax.tree.map(np.testing.assert_array_equal, coder.params, drawn()[1])


@pytest.mark.slow
def test_what_an_original_file_does_not_say_is_asked_for(tmp_path):
    path = tmp_path / "model.safetensors"
    narrow = {
        n: v[:, :1024] if "attn2.to_k" in n or "attn2.to_v" in n else v
        for n, v in tensors().items()
    }
    save_file({n: np.ascontiguousarray(v) for n, v in narrow.items()}, path)
    with pytest.raises(ValueError, match="prediction_type"):
        load_pretrained(path)
    model = load_pretrained(path, config={"prediction_type": "v_prediction", "image_size": 512})
    assert model.prediction == "v" and model.shape == (64, 64, 4)
    odd = {n: v[:, :500] if "attn2.to_k" in n else v for n, v in tensors().items()}
    save_file({n: np.ascontiguousarray(v) for n, v in odd.items()}, path)
    with pytest.raises(ValueError, match=r"texts of width \[500\]"):
        load_pretrained(path)


@pytest.mark.slow
def test_changes_in_original_names_are_merged(tmp_path):
    rng = np.random.default_rng(1)
    up, down = rng.standard_normal((64, 2)), rng.standard_normal((2, 64))
    name = "lora_unet_input_blocks_3_1_transformer_blocks_1_attn1_to_q"
    changes = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    save_file({n: v.astype(np.float32) for n, v in changes.items()}, tmp_path / "x.safetensors")
    before = jax.tree.map(lambda a: a.astype(np.float32), drawn()[0])
    after = merge_lora(before, tmp_path / "x.safetensors")
    at = lambda tree: tree["down_1"]["attention_0"]["block_1"]["self"]["q"]["kernel"]  # noqa: E731
    np.testing.assert_allclose(at(after) - at(before), (up @ down).T, atol=1e-5)


@pytest.mark.slow
def test_known_names_of_published_files():
    _, config = published_shapes("sd15")
    network = unet2d_condition(config)
    names = published(unet_shapes(network, 4), original_unet_pairs(4, 2))
    for name in (
        "output_blocks.11.0.skip_connection.weight",
        "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
        "output_blocks.5.2.conv.weight", "middle_block.1.proj_in.weight", "time_embed.2.bias",
        "input_blocks.9.0.op.weight", "output_blocks.2.1.conv.bias",
    ):  # fmt: skip
        assert name.replace("5.2.conv", "5.1.conv") in names  # either is read
