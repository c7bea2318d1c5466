"""CLIP's encoders and conditions made of a prompt, against their publishers' numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import SHARED, load
from safetensors.numpy import save_file

from jaxdiff.networks.clip import ClipText
from jaxdiff.pretrained import load_image_encoder, load_pretrained, load_text_encoder
from jaxdiff.pretrained.clip import TextEncoder
from jaxdiff.pretrained.prompts import encode_prompt, encode_prompt_xl, no_prompt_xl, size_ids

TINY = {
    "model_type": "clip_text_model", "vocab_size": 11, "hidden_size": 4, "intermediate_size": 8,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 6,
    "projection_dim": 3, "eos_token_id": 2, "hidden_act": "gelu",
}  # fmt: skip


def tensors(rng, prefix="text_model.", projected=False):
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    made = {"embeddings.token_embedding.weight": draw(11, 4)}
    made["embeddings.position_embedding.weight"] = draw(6, 4)
    for i in range(2):
        block = f"encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made |= {f"{block}self_attn.{name}.weight": draw(4, 4)}
            made |= {f"{block}self_attn.{name}.bias": draw(4)}
        for name, shape in (("mlp.fc1", (8, 4)), ("mlp.fc2", (4, 8))):
            made |= {f"{block}{name}.weight": draw(*shape), f"{block}{name}.bias": draw(shape[0])}
        for name in ("layer_norm1", "layer_norm2"):
            made |= {f"{block}{name}.weight": draw(4), f"{block}{name}.bias": draw(4)}
    made |= {"final_layer_norm.weight": draw(4), "final_layer_norm.bias": draw(4)}
    made = {prefix + name: value for name, value in made.items()}
    return made | ({"text_projection.weight": draw(3, 4)} if projected else {})


def write(folder, config, values):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(values, folder / "model.safetensors")
    return folder


def norm(h, scale, bias):
    h = h - h.mean(-1, keepdims=True)
    return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5) * scale + bias


def by_hand(t, ids):
    """One text through the encoder, token by token, in float64."""
    from scipy.special import erf

    get = lambda name: t[f"text_model.{name}"].astype(np.float64)  # noqa: E731
    dense = lambda h, name: h @ get(f"{name}.weight").T + get(f"{name}.bias")  # noqa: E731
    h = get("embeddings.token_embedding.weight")[ids]
    h = h + get("embeddings.position_embedding.weight")[: len(ids)]
    for i in range(2):
        b = f"encoder.layers.{i}."
        n = norm(h, get(f"{b}layer_norm1.weight"), get(f"{b}layer_norm1.bias"))
        q, k, v = (dense(n, f"{b}self_attn.{p}_proj") for p in "qkv")
        mixed = np.zeros_like(h)
        for token in range(len(ids)):
            for head in (slice(0, 2), slice(2, 4)):
                w = np.exp(k[: token + 1, head] @ q[token, head] / np.sqrt(2))
                mixed[token, head] = w @ v[: token + 1, head] / w.sum()
        h = h + dense(mixed, f"{b}self_attn.out_proj")
        n = norm(h, get(f"{b}layer_norm2.weight"), get(f"{b}layer_norm2.bias"))
        u = dense(n, f"{b}mlp.fc1")
        h = h + dense(u * (1 + erf(u / np.sqrt(2))) / 2, f"{b}mlp.fc2")
    return h, norm(h, get("final_layer_norm.weight"), get("final_layer_norm.bias"))


def test_a_text_encoder_is_a_causal_transformer_read_in_either_way_of_naming(tmp_path, rng):
    values = tensors(rng, projected=True)
    extra = {"text_model.embeddings.position_ids": np.arange(6)[None]}
    encoder = load_text_encoder(write(tmp_path / "a", TINY, values | extra))
    ids = np.array([[1, 5, 10, 3, 0], [9, 2, 7, 7, 7]])
    encoded = encoder(ids)
    for row, place in ((0, 2), (1, 0)):  # of the largest number
        before, last = by_hand(values, ids[row])
        np.testing.assert_allclose(encoded.hidden[-1][row], before, rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(encoded.last[row], last, rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(encoded.pooled[row], encoded.last[row, place], rtol=1e-5)
        expected = last[place] @ values["text_projection.weight"].T
        np.testing.assert_allclose(encoded.projected[row], expected, rtol=1e-3, atol=1e-5)
    plain = {name.removeprefix("text_model."): value for name, value in values.items()}
    other = load_text_encoder(write(tmp_path / "b", {**TINY, "eos_token_id": 7}, plain))
    found = other(ids)
    np.testing.assert_allclose(found.last, encoded.last, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.pooled[1], found.last[1, 2], rtol=1e-5)  # the first 7


def test_what_is_no_text_encoder_or_is_not_read_is_refused_by_name(tmp_path, rng):
    values = tensors(rng)
    folder = write(tmp_path / "a", TINY, values)
    with pytest.raises(ValueError, match="encoder of texts.*load_text_encoder"):
        load_pretrained(folder)
    for config, message in (
        ({**TINY, "hidden_act": "relu"}, "hidden_act must be"),
        ({**TINY, "num_attention_heads": 3}, "num_attention_heads must be a divisor"),
        ({**TINY, "use_attention_mask": True}, "use_attention_mask"),
        ({**TINY, "model_type": "t5"}, "that of a t5"),
        ({**TINY, "num_hidden_layers": 3}, "parameters without a tensor.*block_2"),
        ({**TINY, "vocab_size": 12}, "token_embedding.weight has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            load_text_encoder(write(tmp_path / "a", config, values))
    encoder = load_text_encoder(write(tmp_path / "a", TINY, values))
    with pytest.raises(ValueError, match="without a tokenizer"):
        encoder("a text")
    for ids, message in ((np.zeros((1, 7), int), "up to 6"), (np.zeros((1, 2)), "whole numbers")):
        with pytest.raises(ValueError, match=message):
            encoder(ids)


def encoders(folder):
    pairs = [("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")]
    return {e: load_text_encoder(folder / e, folder / t) for e, t in pairs if (folder / e).exists()}


def close(found, expected, what):
    size = max(np.abs(expected).max(), 1e-6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * size, err_msg=what)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_texts_and_prompts_have_their_publishers_numbers(kind):
    numbers = load("pipelines_sd_io", full=True)
    own = encoders(SHARED / "pipelines_sd" / f"{kind}_0")
    wanted = ("text_encoder", "encode_prompt")
    cases = [c for c in numbers.cases if c["kind"] == kind and c["what"].startswith(wanted)]
    assert len(cases) == {"sd15": 2, "sd21": 2, "sdxl": 5}[kind]
    for case in cases:
        get = lambda name, case=case: numbers.get(case, name)  # noqa: E731
        skip = case.get("clip_skip", 0)
        if case["what"] in own:
            encoded = own[case["what"]](case["prompts"])
            names = {
                "last_hidden_state": encoded.last, "pooler_output": encoded.pooled,
                "text_embeds": encoded.projected,
            }  # fmt: skip
            for name in set(case["arrays"]) - {"ids"}:
                part, _, number = name.partition(".")
                made = encoded.hidden[int(number)] if number else names[part]
                close(made[: get(name).shape[0]], get(name), name)
        elif kind != "sdxl":
            made = encode_prompt(own["text_encoder"], case["prompts"], skip=skip)
            close(made, get("prompt_embeds"), case["what"])
        else:
            empty = "negative_prompt=''" in case["what"]
            texts = "" if empty else case["prompts"]
            made = encode_prompt_xl(list(own.values()), texts, skip=skip)
            none = no_prompt_xl(made)
            for name in case["arrays"]:
                part = "pooled" if "pooled" in name else "tokens"
                close((none if name.endswith("none") else made)[part], get(name), name)


@pytest.mark.slow
def test_images_have_their_publishers_numbers():
    numbers = load("adapters_io", full=True)
    case = next(c for c in numbers.cases if c["what"] == "CLIPVisionModelWithProjection")
    encoder = load_image_encoder(SHARED / case["folder"])
    encoded = encoder(jnp.asarray(numbers.get(case, "pixel_values").transpose(0, 2, 3, 1)))
    close(encoded.projected, numbers.get(case, "image_embeds"), "projected")
    close(encoded.last, numbers.get(case, "last_hidden_state"), "last")
    close(encoded.hidden[-2], numbers.get(case, "hidden_states.-2"), "last but one")
    case = next(c for c in numbers.cases if c["what"].startswith("CLIPImageProcessor"))
    made = encoder.prepared(numbers.get(case, "image_uint8")[None])
    np.testing.assert_allclose(
        made.transpose(0, 3, 1, 2), numbers.get(case, "pixel_values"), rtol=0, atol=1e-6
    )
    with pytest.raises(ValueError, match="uint8"):
        encoder.prepared(np.zeros((1, 30, 30, 3)))
    with pytest.raises(ValueError, match="takes images"):
        encoder(jnp.zeros((1, 25, 24, 3)))


def test_a_prompt_of_too_few_layers_or_encoders_is_refused():
    network = ClipText(vocabulary=5, width=4, depth=1, heads=2, hidden=4)
    encoder = TextEncoder({}, network)
    with pytest.raises(ValueError, match="1 layers cannot leave out 2"):
        encode_prompt(encoder, "", skip=2)
    with pytest.raises(ValueError, match="1 layers cannot leave out 2"):
        encode_prompt_xl([encoder], "", skip=1)
    with pytest.raises(ValueError, match="one or two"):
        encode_prompt_xl([encoder] * 2, ["a", "b"], "c")
    ids = size_ids(2, (64, 32), original=(100, 50), corner=(1, 2))
    np.testing.assert_array_equal(ids, [[100, 50, 1, 2, 64, 32]] * 2)
    assert jax.tree.all(jax.tree.map(lambda x: (x == 0).all(), no_prompt_xl({
        "tokens": ids, "pooled": ids
    })))  # fmt: skip
