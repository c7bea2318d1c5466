"""Pictures composed of symbols, and their captions."""

import dataclasses

import numpy as np
import pytest

from jaxdiff.data import load_digits
from jaxdiff.data.composed import INKS, VALUES, WORDS, caption, compose, resized, stroked

DIGITS = load_digits("train", limit=60)


@pytest.fixture(scope="module")
def made():
    return compose(DIGITS, 200, size=16, seed=3)


def test_the_ink_is_where_and_as_the_attributes_say(made):
    assert made.images.shape == (200, 16, 16, 3) and made.images.dtype == np.uint8
    for i, image in enumerate(made.images):
        side = (8, 12)[made.attributes["scale"][i]]
        far = 16 - side
        where = made.attributes["position"][i]
        top, left = ((0, 0), (0, far), (far, 0), (far, far), (far // 2, far // 2))[where]
        inside = np.zeros((16, 16), bool)
        inside[top : top + side, left : left + side] = True
        assert not image[~inside].any() and image[inside].any()
        bright = image.reshape(-1, 3)[image.sum(axis=2).argmax()].astype(float)
        ink = INKS[made.attributes["colour"][i]]
        np.testing.assert_allclose(bright / bright.max(), ink / ink.max(), atol=0.03)
    np.testing.assert_array_equal(made.attributes["class"], DIGITS.labels[made.source])


def test_thick_is_more_than_thin():
    grey = (DIGITS.images[..., 0] + 1) / 2
    thin, plain, thick = stroked(grey, False), resized(grey, 24), stroked(grey, True)
    assert (thin <= plain).all() and (plain <= thick).all()
    assert thin.mean() < 0.7 * plain.mean() and thick.mean() > 1.3 * plain.mean()


@pytest.mark.parametrize("side", [5, 8, 24])
def test_resizing_keeps_constants_and_mean(side):
    rng = np.random.default_rng(0)
    smooth = rng.uniform(size=(2, 2, 2)).repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_allclose(resized(np.full((1, 8, 8), 0.3), side), 0.3, atol=1e-12)
    np.testing.assert_allclose(resized(smooth, side).mean((1, 2)), smooth.mean((1, 2)), atol=0.02)


def test_captions_are_true_and_vary(made):
    words = {name: WORDS.get(name, (name,)) for values in VALUES.values() for name in values}
    mentioned = dict.fromkeys(VALUES, 0)
    for i, text in enumerate(made.captions):
        assert made.values["class"][made.attributes["class"][i]] in text
        for name, values in VALUES.items():
            said = [v for v in values if any(word in text for word in words[v])]
            assert said in ([], [values[made.attributes[name][i]]]), (text, name)
            mentioned[name] += len(said)
    assert all(150 < count < 190 for count in mentioned.values()), mentioned
    assert len({*made.captions}) > 180


def test_held_out_pairs_are_kept_apart(made):
    pairs = lambda c: {*zip(c.attributes["class"].tolist(), c.attributes["colour"].tolist())}  # noqa: E731, B905
    aside, whole = compose(DIGITS, 200, held_out=True), compose(DIGITS, 900, held_out=None)
    assert not made.held_out.any() and aside.held_out.all()
    assert not pairs(made) & pairs(aside)
    assert pairs(made) | pairs(aside) == pairs(whole) and len(pairs(whole)) == 40
    assert 0.2 < whole.held_out.mean() < 0.3


def test_a_seed_gives_the_same_pictures(made):
    again, other = compose(DIGITS, 200, seed=3), compose(DIGITS, 200, seed=4)
    np.testing.assert_array_equal(again.images, made.images)
    assert again.captions == made.captions and other.captions != made.captions


def test_nouns_are_the_names_of_classes_or_ones_own():
    named = dataclasses.replace(DIGITS, class_names=tuple("abcdefghij"))
    assert compose(named, 1).values["class"] == tuple("abcdefghij")
    assert compose(DIGITS, 1).values["class"][7] == "seven"
    assert "t-shirt" in compose(DIGITS, 1, nouns=["t-shirt"] * 10).captions[0]
    with pytest.raises(ValueError, match="10 classes need as many nouns, not 2"):
        compose(DIGITS, 1, nouns=["a", "b"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"count": 0}, "count must be at least 1"),
        ({"size": 10}, "multiple of 4"),
        ({"size": 4}, "at least 8"),
        ({"symbols": load_digits(labels="none")}, "grey images with labels"),
    ],
)
def test_what_cannot_be_composed(change, message):
    with pytest.raises(ValueError, match=message):
        compose(**{"symbols": DIGITS, "count": 2} | change)


def test_captions_may_say_all_or_the_class_alone():
    whole, bare = (compose(DIGITS, 30, seed=3, mentioned=p) for p in (1.0, 0.0))
    np.testing.assert_array_equal(whole.images, bare.images)
    assert min(len(text.replace(",", "").split()) for text in whole.captions) >= 5
    assert max(len(text.split()) for text in bare.captions) == 2
    with pytest.raises(ValueError, match="is a probability, not 2"):
        compose(DIGITS, 1, mentioned=2.0)


def test_a_caption_needs_a_class():
    with pytest.raises(ValueError, match="needs a class"):
        caption({"colour": "red"}, np.random.default_rng(0))
