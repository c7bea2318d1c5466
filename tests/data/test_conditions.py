"""Data sets whose samples have texts, numbers and pictures beside them."""

import numpy as np
import pytest

from jaxdiff.data import Dataset, batches, to_float, words_of

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 4, 4, 1), np.uint8)
TEXTS = [f"a {word}" for word in "red green blue one two three".split()]
GIVEN = {
    "text": TEXTS,
    "beside": IMAGES[..., ::-1] // 2,
    "vector": RNG.standard_normal((6, 3)),
    "index": np.arange(6),
}


def made(**changes):
    return Dataset(IMAGES, np.arange(6) % 2, 2, conditions=GIVEN | changes)


def test_a_batch_has_them_by_name_with_the_classes():
    tokenizer = words_of(TEXTS)
    batch = batches(made().tokenized(tokenizer), 4, seed=1)(0)
    label = batch["label"]
    rows = label["index"]
    assert {k: (v.dtype.name, v.shape) for k, v in label.items()} == {
        "text": ("int32", (4, 4)), "beside": ("float32", (4, 4, 4, 1)),
        "vector": ("float32", (4, 3)), "index": ("int32", (4,)), "classes": ("int32", (4,)),
    }  # fmt: skip
    np.testing.assert_array_equal(batch["image"], to_float(IMAGES[rows]))
    np.testing.assert_array_equal(label["text"], tokenizer([TEXTS[i] for i in rows]))
    np.testing.assert_array_equal(label["beside"], to_float(IMAGES[rows] // 2))
    np.testing.assert_array_equal(label["vector"], np.float32(GIVEN["vector"][rows]))
    np.testing.assert_array_equal(label["classes"], rows % 2)


def test_pictures_are_mirrored_with_their_images():
    data = Dataset(IMAGES, conditions={"beside": IMAGES})
    batch = batches(data, 12, flip=True)(0)
    np.testing.assert_array_equal(batch["image"], batch["label"]["beside"])
    assert (batch["image"] != batches(data, 12)(0)["image"]).any()
    np.testing.assert_array_equal(data.conditions["beside"], IMAGES)


def test_some_samples_take_theirs_along():
    taken = made().take([4, 1])
    assert taken.conditions["text"].tolist() == ["a two", "a green"]
    assert taken.conditions["index"].tolist() == [4, 1]


def test_they_are_described_and_part_of_what_data_are_known_by():
    line = made().describe()
    assert "text: 6 different texts, as 'a red'" in line and "vector: float32, 3" in line
    known = made().fingerprint()
    assert known == made().fingerprint()
    assert known != made(text=[*TEXTS[:5], "another"]).fingerprint()
    assert known != made(index=np.arange(6)[::-1]).fingerprint()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"text": TEXTS[:5]}, ValueError, "'text' has 5 rows for 6"),
        ({"text": [*TEXTS[:5], 3]}, TypeError, "'text' must be a text for each"),
        ({"vector": np.full((6, 2), np.nan)}, ValueError, "'vector' has NaN"),
        ({"index": np.arange(6) + 2**31}, ValueError, "'index' has whole numbers beyond"),
        ({"index": np.arange(6) + 0j}, TypeError, "'index' must be texts or numbers"),
        ({"classes": np.arange(6)}, ValueError, "'classes' is given by labels"),
    ],
)
def test_what_does_not_go_with_the_images(change, error, message):
    with pytest.raises(error, match=message):
        made(**change)


def test_texts_are_made_tokens_before_batches():
    with pytest.raises(ValueError, match=r"'text' is texts: make it tokens, dataset.tokenized"):
        batches(made(), 2)
