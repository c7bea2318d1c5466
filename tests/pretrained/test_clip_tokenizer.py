"""CLIP's tokenizer: its rules one by one, then the numbers that its publishers' gives."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from helpers.golden_numbers import SHARED, load

from jaxdiff.pretrained.clip_tokenizer import joined, normal, read_tokenizer, words

LETTERS = "abcdefgrx!'1é"
SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": {"content": "<|endoftext|>"}}


@pytest.fixture
def folder(tmp_path):
    """Single letters, with and without the end of a word, and three merges."""
    signs = [*"abcdefgrx!'1", "Ã", "©"]
    merges = [("a", "b"), ("ab", "c</w>"), ("c", "d")]
    names = [*signs, *(s + "</w>" for s in signs), *("".join(m) for m in merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({n: i for i, n in enumerate(names)}))
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{lines}")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    return tmp_path


def named(tokenizer, text):
    names = {n: name for name, n in tokenizer.vocabulary.items()}
    return [names.get(n, n) for n in tokenizer.encode(text)]


def test_pairs_are_joined_in_the_order_of_the_merges(folder):
    tokenizer = read_tokenizer(folder)
    assert named(tokenizer, "abc") == ["abc</w>"]
    assert named(tokenizer, "abcd") == ["ab", "c", "d</w>"]  # (c, d) is not (c, d</w>)
    assert named(tokenizer, "cdx ABC") == ["cd", "x</w>", "abc</w>"]
    assert joined(list("aaa"), {("a", "a"): 0}) == ["aa", "a"]
    assert joined(list("abab"), {("a", "b"): 1, ("b", "a"): 0}) == ["a", "ba", "b"]


def test_a_text_is_composed_lower_case_with_single_blanks_and_falls_into_words():
    assert normal("A\u0301  B\t\n\u3000C") == "á b c"
    assert normal("ΣΑΣ") == "σασ"  # letter by letter: no final sigma
    assert list(words("it's 12 a!?b, x's 're")) == [
        "it", "'s", "1", "2", "a", "!?", "b", ",", "x", "'s", "'re"
    ]  # fmt: skip
    assert list(words("½a 'x")) == ["½", "a", "'", "x"]


def test_bytes_stand_for_what_is_not_in_the_vocabulary(folder):
    tokenizer = read_tokenizer(folder)
    assert named(tokenizer, "É") == ["Ã", "©</w>"]
    assert tokenizer.encode("z") == [tokenizer.unknown]


def test_special_tokens_are_cut_out_and_texts_padded_and_cut(folder):
    tokenizer = read_tokenizer(folder)
    assert named(tokenizer, "a<|ENDOFTEXT|>b") == ["a</w>", "<|endoftext|>", "b</w>"]
    with pytest.warns(UserWarning, match="longer than the 75 tokens.*cut: 'a a a"):
        ids = tokenizer(["a b", "a " * 100, ""])
    assert ids.shape == (3, 77) and ids.dtype == np.int32
    a, b = (tokenizer.vocabulary[f"{c}</w>"] for c in "ab")
    start, end = tokenizer.start, tokenizer.end
    np.testing.assert_array_equal(ids[0], [start, a, b, *[end] * 74])
    np.testing.assert_array_equal(ids[1], [start, *[a] * 75, end])
    np.testing.assert_array_equal(ids[2], [start, *[end] * 76])


def test_the_token_of_the_padding_is_cut_out_of_words_too(folder):
    (folder / "special_tokens_map.json").write_text(json.dumps({**SPECIAL, "pad_token": "!"}))
    tokenizer = read_tokenizer(folder)
    assert named(tokenizer, "a!!b") == ["a</w>", "!", "!", "b</w>"]
    assert tokenizer("a")[0, -1] == tokenizer.vocabulary["!"]


def test_new_tokens_follow_the_last_number(folder):
    tokenizer = read_tokenizer(folder)
    count = len(tokenizer)
    more = tokenizer.with_tokens(["<cat>", "abx"])
    assert more.encode("<CAT> cabxc")[:2] == [count, more.encode("c")[0]]
    assert named(more, "cabxc") == ["c</w>", count + 1, "c</w>"]
    assert len(more) == count + 2
    for wrong in ("abc</w>", ""):
        with pytest.raises(ValueError, match="empty, or there already"):
            tokenizer.with_tokens([wrong])


def test_a_tokenizer_of_one_file_is_the_same(folder, tmp_path):
    first = read_tokenizer(folder)
    model = {
        "type": "BPE", "vocab": dict(first.vocabulary), "end_of_word_suffix": "</w>",
        "merges": [" ".join(pair) for pair in first.ranks],
    }  # fmt: skip
    added = [{"id": first.end, "content": "<|endoftext|>", "normalized": False}]
    whole = tmp_path / "whole"
    whole.mkdir()
    text = {"model": model, "added_tokens": added}
    (whole / "tokenizer.json").write_text(json.dumps(text))
    second = read_tokenizer(whole)
    for prompt in ("abc, É z", "a<|endoftext|>b"):
        assert second.encode(prompt) == first.encode(prompt)
    (whole / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    with pytest.raises(ValueError, match="not a tokenizer of CLIP's kind"):
        read_tokenizer(whole)
    for changed, message in (
        ({"merges": 3}, "no list of merges"), ({"merges": [3]}, "3 is not a pair"),
        ({"merges": [["a", 1]]}, "not a pair"), ({"vocab": [1]}, "no vocabulary"),
    ):  # fmt: skip
        (whole / "tokenizer.json").write_text(json.dumps({"model": {**model, **changed}}))
        with pytest.raises(ValueError, match=message):
            read_tokenizer(whole)
    (whole / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": [{}]}))
    with pytest.raises(ValueError, match="an added token is a text and a number"):
        read_tokenizer(whole)
    (whole / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer_config.json is not a dictionary"):
        read_tokenizer(whole)


def test_damaged_files_are_refused_by_name(folder):
    with pytest.raises(OSError):
        read_tokenizer(folder / "nothing")
    (folder / "merges.txt").write_text("a b\nc\n")
    with pytest.raises(ValueError, match=r"merges.txt.*not a pair"):
        read_tokenizer(folder)
    (folder / "merges.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"merges.txt is not a text"):
        read_tokenizer(folder)
    (folder / "vocab.json").write_text(json.dumps({"a": "b"}))
    with pytest.raises(ValueError, match=r"vocab.json is no vocabulary"):
        read_tokenizer(folder)
    (folder / "vocab.json").write_text(json.dumps({"a": 0}))
    (folder / "merges.txt").write_text("")
    with pytest.raises(ValueError, match=r"startoftext.*not in the vocabulary"):
        read_tokenizer(folder)


def test_prompts_have_their_publishers_numbers():
    numbers = load("pipelines_sd_io", full=True)
    cases = [case for case in numbers.cases if case["what"] == "tokenize"]
    assert len(cases) == 4
    for case in cases:
        tokenizer = read_tokenizer(SHARED / case["folder"] / case["tokenizer"])
        most = max(len(tokenizer.encode(prompt)) for prompt in case["prompts"])
        cut = pytest.warns(UserWarning, match="and cut") if most > 75 else contextlib.nullcontext()
        with cut:
            ids = tokenizer(case["prompts"])
        np.testing.assert_array_equal(ids, numbers.get(case, "ids"))


def test_words_of_textual_inversion_are_cut_out_before_pairs_are_joined(tmp_path):
    source = SHARED / "pipelines_sd" / "sd15_0" / "tokenizer"
    if not source.exists():
        pytest.skip(f"the tokenizer of the golden numbers ({source.name}) is not at hand")
    shutil.copytree(source, tmp_path / "tokenizer")
    tokenizer = read_tokenizer(tmp_path / "tokenizer").with_tokens(["<s>", "<s>_1"])
    assert tokenizer.encode("a <s> <s>_1") == [*tokenizer.encode("a"), 618, 619]
