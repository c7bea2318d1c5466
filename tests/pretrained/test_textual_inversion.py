"""Learned tokens: every layout of file, and what they make of prompts."""

import numpy as np
import pytest
from helpers.diffusers_cases import case, distance, folder
from helpers.golden_numbers import SHARED

from jaxdiff.pretrained import load_pretrained, load_text_encoder, text_condition
from jaxdiff.pretrained.textual_inversion import (
    read_tokens,
    with_textual_inversion,
    with_tokens,
    write_tokens,
)

FILES = SHARED / "adapters/textual_inversion"


def encoder():
    at = folder("pipelines_sd/sd15_0")
    return load_text_encoder(at / "text_encoder", at / "tokenizer")


def test_golden_tokens_of_stable_diffusion(tmp_path):
    own = encoder()
    found, arrays = case("adapters_io", id="c0013")
    rows = []
    for name in ("learned_embeds.bin", "learned_embeds_2vec.safetensors", "a1111.pt"):
        own = with_tokens(own, FILES / name)
        (entry,) = read_tokens(FILES / name)
        rows.append(entry.vectors["text_encoder"])
        write_tokens(tmp_path / "x.safetensors", {entry.token: rows[-1]})
        (again,) = read_tokens(tmp_path / "x.safetensors")
        assert again.token == entry.token
        np.testing.assert_array_equal(again.vectors["text_encoder"], rows[-1])
    assert len(own.tokenizer) == own.network.vocabulary == found["vocab_after"]
    np.testing.assert_array_equal(np.concatenate(rows), arrays["new_rows"])
    np.testing.assert_array_equal(own.tokenizer(found["prompts"]), arrays["ids"])
    assert distance(own(found["prompts"]).last, arrays["last_hidden_state"]) < 1e-5


@pytest.mark.slow
def test_golden_tokens_of_two_encoders():
    model = load_pretrained(folder("pipelines_sd/sdxl_0"))
    found, arrays = case("adapters_io", id="c0014")
    path = FILES / "sdxl_embed.safetensors"
    made = text_condition(with_textual_inversion(model, path, "<xx>"), found["prompts"])
    assert distance(made.positive["tokens"], arrays["prompt_embeds"]) < 1e-5
    assert distance(made.positive["pooled"], arrays["pooled"]) < 1e-5
    with pytest.raises(ValueError, match="does not say its token"):
        with_textual_inversion(model, path)
    with pytest.raises(ValueError, match="no vectors for the text_encoder_2"):
        with_textual_inversion(model, FILES / "learned_embeds.bin")


def test_what_does_not_fit_is_named(tmp_path):
    own = encoder()
    with pytest.raises(ValueError, match="vectors of 12 numbers, and the encoder's have 16"):
        with_tokens(own, FILES / "sdxl_embed.safetensors", "<xx>")
    more = with_tokens(own, FILES / "learned_embeds.bin", "<other>")
    assert more.tokenizer("<other>")[0, 1] == 618
    with pytest.raises(ValueError, match="'<other>' is empty, or there already"):
        with_tokens(more, FILES / "learned_embeds.bin", "<other>")
    with pytest.raises(ValueError, match="is no file of textual inversion"):
        read_tokens(SHARED / "adapters/lora_kohya/kohya.safetensors")
    with pytest.raises(ValueError, match=r"rows \(vectors, width\)"):
        write_tokens(tmp_path / "x.safetensors", {"<a>": np.zeros(3)})
    assert not list(tmp_path.iterdir())
