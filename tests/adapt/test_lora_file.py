"""LoRA and DoRA written and read back: names, shapes, ranks, alphas and norms."""

import functools
import json

import jax
import numpy as np
import pytest
from helpers.diffusers_cases import case, distance, folder, jit
from helpers.golden_numbers import SHARED

from jaxdiff.adapt import LowRank, load_lora, save_lora
from jaxdiff.networks.text_to_image import small_text_to_image
from jaxdiff.pretrained import load_pretrained, load_text_encoder, merge_lora
from jaxdiff.pretrained.safetensors import read_header
from jaxdiff.pretrained.tensors import open_tensors

RNG = np.random.default_rng(0)
near = functools.partial(jax.tree.map, functools.partial(np.testing.assert_allclose, atol=1e-5))


def numbers(tree, dtype=np.float32):
    return jax.tree.map(lambda a: RNG.standard_normal(a.shape).astype(dtype), tree)


def own_network():
    """A network of no published layout."""
    return {
        "down_0": {"conv": {"kernel": np.zeros((3, 3, 2, 6)), "bias": np.zeros(6)}},
        "mix": {"query": {"kernel": np.zeros((6, 4))}},
    }


@functools.cache
def text_to_image():
    module = small_text_to_image(20, 5, (1, 2, 2, 2, 2), channels=(16, 32), text_width=16)
    inputs = np.zeros((1, 8, 8, 3), np.float32), np.zeros(1, np.float32)
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


@pytest.mark.parametrize("layout", ["peft", "kohya"])
@pytest.mark.parametrize("dora", [False, True])
def test_files_are_read_back(layout, dora, tmp_path):
    base = numbers(own_network())
    lora = LowRank(2, alpha=3.0, dora=dora, ranks=(("mix*", 1),), alphas=(("down*", 5.0),))
    small = numbers(jax.eval_shape(lora.init, jax.random.key(0), base))
    path = tmp_path / "x.safetensors"
    save_lora(path, base, lora, small, layout)
    found, again = load_lora(path, base)
    near(again, small)
    changed = jax.jit(lora.apply)(base, small)
    near(jax.jit(found.apply)(base, again), changed)
    assert found.rank_of("mix/query/kernel") == 1 and found.rank_of("down_0/conv/kernel") == 2
    near(merge_lora(base, path), changed)
    half = merge_lora(base, path, 0.5)
    near(half, jax.tree.map(lambda a, b: (a + b) / 2, base, changed))


def test_names_are_the_published_ones(tmp_path):
    base = text_to_image()
    lora = LowRank(1, layers=("unet/*/cross/*/kernel", "encoder/*/attention/*kernel"), dora=True)
    small = numbers(jax.eval_shape(lora.init, jax.random.key(0), base))
    save_lora(tmp_path / "p.safetensors", base, lora, small)
    entries, said = read_header(tmp_path / "p.safetensors")
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
    assert entries[f"{name}.lora_A.weight"][0] == (1, 32)
    assert entries[f"{name}.lora_magnitude_vector"][0] == (32,)
    name = "text_encoder.text_model.encoder.layers.1.self_attn.k_proj"
    assert entries[f"{name}.lora_B.weight"][0] == (16, 1)
    said = json.loads(said["lora_adapter_metadata"])
    assert said["text_encoder.r"] == said["unet.lora_alpha"] == 1 and said["unet.use_dora"]
    save_lora(tmp_path / "k.safetensors", base, lora, small, "kohya")
    entries, _ = read_header(tmp_path / "k.safetensors")
    name = "lora_te_text_model_encoder_layers_0_self_attn_out_proj"
    assert entries[f"{name}.dora_scale"][0] == (16, 1) and entries[f"{name}.alpha"][0] == ()
    for file in "pk":
        near(load_lora(tmp_path / f"{file}.safetensors", base)[1], small)


def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path):
    base, lora = numbers(own_network()), LowRank(1)
    small = numbers(jax.eval_shape(lora.init, jax.random.key(0), base))
    path = tmp_path / "x.safetensors"
    other = {**base, "mix": {"query": {"kernel": np.zeros((6, 5))}}}
    with pytest.raises(ValueError, match=r"B of mix/query/kernel has shape \(1, 4\), where \(1, 5"):
        save_lora(path, other, lora, small)
    with pytest.raises(ValueError, match="'peft' and 'kohya', not 'tucker'"):
        save_lora(path, base, lora, small, "tucker")
    with pytest.raises(ValueError, match="no prefix for the transformer"):
        save_lora(path, base, lora, small, "kohya", part="transformer")
    assert not list(tmp_path.iterdir())
    save_lora(path, base, lora, small)
    with pytest.raises(ValueError, match=r"factors of shapes \[1, 6\] and \[4, 1\]; the layer's"):
        load_lora(path, other)
    with pytest.raises(ValueError, match="mix.query, a layer that the unet does not have"):
        load_lora(path, {"down_0": base["down_0"]})
    with pytest.raises(ValueError, match="changes unet; the base is text_encoder"):
        load_lora(path, base, part="text_encoder")


@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_golden_names_of_the_unet(layout, tmp_path):
    model = load_pretrained(folder("pipelines_sd/sd15_0/unet"))
    file = {"peft": "lora_peft/pytorch_lora_weights", "kohya": "lora_kohya/kohya"}[layout]
    path = SHARED / f"adapters/{file}.safetensors"
    lora, small = load_lora(path, model.params)
    assert (lora.rank, lora.alpha) == {"peft": (3, 6.0), "kohya": (2, 1.5)}[layout]
    near(jax.jit(lora.apply)(model.params, small), merge_lora(model.params, path))
    first = ("conv_shortcut", "proj_in", "proj_out")  # version 1's convolutions of size 1
    save_lora(tmp_path / "x.safetensors", model.params, lora, small, layout, pointwise=first)
    written, given = open_tensors(tmp_path / "x.safetensors"), open_tensors(path)
    there = {n: given[n] for n in given if n.startswith(("unet.", "lora_unet_"))}
    assert set(written) == set(there)
    for name, value in there.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)


@pytest.mark.slow
def test_golden_files_change_the_text_encoder():
    encoder = load_text_encoder(folder("pipelines_sd/sd15_0/text_encoder"))
    run = jit(lambda p, ids: encoder.network.apply({"params": p}, ids).last)
    for file in ("lora_peft/pytorch_lora_weights", "lora_kohya/kohya"):
        path = SHARED / f"adapters/{file}.safetensors"
        _, arrays = case("adapters_io", file=f"adapters/{file}.safetensors")
        for scale in (0.0, 0.5, 1.0):
            changed = merge_lora(encoder.params, path, scale, part="text_encoder")
            made = run(changed, arrays["ids"])[:, :8]
            assert distance(made, arrays[f"text_scale{scale}"]) < 1e-5, (file, scale)
        lora, small = load_lora(path, encoder.params, part="text_encoder")
        near(jax.jit(lora.apply)(encoder.params, small), changed)
