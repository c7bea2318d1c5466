"""What the experiment of personalisation measures with."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.conditional.symbols import (
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


def test_the_page_on_adapters_has_the_measured_shares():
    root = Path(__file__).parents[2]
    measured = json.loads((root / "experiments/results/personalisation.json").read_text())
    text = (root / "docs/howto/text_and_adapters.md").read_text()
    rows = re.findall(r"^\| (.+) \| (\d+%) \| (\d+%) \| (?:-|([\d.]+) kB) \|$", text, re.M)
    assert len(rows) == len(measured["rows"]) and rows[0][0] == "the network before"
    for (name, fidelity, prior, size), row in zip(rows, measured["rows"], strict=True):
        assert name in (row["method"], "the network before")
        assert (fidelity, prior) == (f"{row['fidelity']:.0%}", f"{row['prior']:.0%}")
        assert not size or abs(float(size) - row["bytes"] / 1000) < 0.005 * float(size)
    assert f"in {measured['settings']['updates']} updates" in text
