"""What the experiment of personalisation measures with."""

import numpy as np
import pytest

from experiments.conditional.personalisation import (
    NAMES,
    SYMBOL,
    WORD,
    Captioned,
    classifier,
    symbol,
    words,
)
from jaxdiff.data.dataset import to_float
from jaxdiff.data.digits import load_digits


@pytest.mark.slow
def test_symbols_are_told_from_digits():
    predict, others = classifier(), symbol(50, 123)
    assert others.shape == (50, 8, 8, 1) and np.abs(others).max() <= 1
    assert (predict(others) == SYMBOL).mean() > 0.9
    digits = load_digits("test")
    assert (predict(to_float(digits.images)) == np.asarray(digits.labels)).mean() > 0.9


def test_captions_name_their_pictures():
    tokenizer, images = words(), np.arange(3.0).reshape(3, 1, 1, 1)
    batch = Captioned(images, [*NAMES[:2], WORD], tokenizer, 20)(0)
    each = [tokenizer.vocabulary[name] for name in (*NAMES[:2], WORD)]
    for image, ids in zip(batch["image"], batch["label"]["text"], strict=True):
        found = [number for number in ids if number in each]
        assert found[-1] == each[int(image.squeeze())]  # after "one" in "one seven"
