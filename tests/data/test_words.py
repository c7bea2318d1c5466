"""A tokenizer of the words of captions, and its file."""

import json

import numpy as np
import pytest

from jaxdiff.data.words import WordTokenizer, read_words, words_of

CAPTIONS = ["a red seven", "a red One, small", "a blue seven"]


def test_words_by_how_often_they_occur():
    tokenizer = words_of(CAPTIONS)
    assert [*tokenizer.vocabulary] == [
        "<pad>", "<start>", "<end>", "<unk>", "a", "red", "seven", ",", "blue", "one", "small",
    ]  # fmt: skip
    assert tokenizer.length == 7 and tokenizer.empty == (1, 2, 0, 0, 0, 0, 0)
    made = tokenizer(["A  blue\tone", "a red one, small"])
    assert made.dtype == np.int32
    assert made.tolist() == [[1, 4, 8, 9, 2, 0, 0], [1, 4, 5, 9, 7, 10, 2]]
    assert [*words_of(CAPTIONS, least=2).vocabulary][4:] == ["a", "red", "seven"]


def test_long_texts_are_cut_and_named():
    tokenizer = words_of(CAPTIONS, length=4)
    with pytest.warns(UserWarning, match="longer than the 2 tokens.*cut: 'a red seven'$"):
        assert tokenizer(["a red seven", "seven"]).tolist() == [[1, 4, 5, 2], [1, 6, 2, 0]]


def test_words_that_are_not_known_are_named():
    with pytest.warns(UserWarning, match="the word 'green', 'é': read as <unk>"):
        assert words_of(CAPTIONS)("a green e\u0301").tolist() == [[1, 4, 3, 3, 2, 0, 0]]


def test_the_file_gives_the_same_numbers(tmp_path):
    tokenizer = words_of([*CAPTIONS[:2], "größe 12!?"])
    tokenizer.save(tmp_path / "tokenizer.json")
    read = read_words(tmp_path / "tokenizer.json")
    assert read == tokenizer
    # as the package tokenizers has them, of this file
    assert read("GRÖßE 12 !?").tolist() == [[1, 9, 8, 6, 2, 0, 0]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": {"type": "BPE", "unk_token": "<unk>", "vocab": {}}}, "BPE, not WordLevel"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer is not that"),
        ({"truncation": None}, "no file of a tokenizer"),
        ({"truncation": {"max_length": 2}}, "at least 3 tokens"),
        (
            {"model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"a": 0}}},
            "has no <pad>",
        ),
    ],
)
def test_another_file_is_refused(tmp_path, change, message):
    path = tmp_path / "tokenizer.json"
    words_of(CAPTIONS).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as error:
        read_words(path)
    assert str(path) in str(error.value)


def test_what_makes_no_tokenizer():
    with pytest.raises(ValueError, match="no word of 3 captions occurs 4 times"):
        words_of(CAPTIONS, least=4)
    with pytest.raises(ValueError, match="must be 0, 1, 2"):
        WordTokenizer({"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 4}, 5)


def test_new_words_follow_the_last_and_may_stand_for_several(tmp_path):
    own = words_of(["a red seven", "a one"])
    more = own.with_token("zorp", 2).with_token("blik")
    n = len(own)
    assert more.encode("a zorp, blik") == [*own.encode("a"), n, n + 1, *own.encode(","), n + 2]
    assert len(more) == n + 3
    with pytest.raises(ValueError, match="'zorp' stands for 2 numbers"):
        more.save(tmp_path / "tokenizer.json")
    for wrong, message in (("red", "there already"), ("<a>", "letters"), ("Red", "lower case")):
        with pytest.raises(ValueError, match=message):
            own.with_token(wrong)
