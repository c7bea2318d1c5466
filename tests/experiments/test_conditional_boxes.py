"""Boxes learnt by a run of texts, in small; samples that are where boxes say count as such."""

import json

import numpy as np
import pytest

from experiments.conditional import boxes, text
from jaxdiff.app.models import Model
from jaxdiff.app.text import words
from jaxdiff.data import compose, to_float
from jaxdiff.data.words import words_of


def test_samples_in_their_boxes_are_hits(monkeypatch):
    made = compose(text.symbols(None, "test"), 60, seed=7)
    read = text.reader(compose(text.symbols(None, "train"), 1500, seed=11, held_out=None))
    known = vars(words(words_of(made.captions)))
    model = Model(lambda y, s, c=None: y, {}, (16, 16, 3), 0, False, {"tokenizer": known})
    given = []

    def drawn(sampler, count, shape, cond, **options):
        given.append(cond)
        return np.roll(to_float(made.images), shift, axis=0)

    monkeypatch.setattr(boxes, "generate", drawn)
    shift = 0
    found = boxes.hits(model, made, 1.0, read, 2, False)
    assert min(found.values()) > 0.9 and set(given[0]) == {"text"}
    shift = 1
    assert boxes.hits(model, made, 1.0, read, 2, False)["position"] < 0.5


@pytest.mark.slow
def test_boxes_are_learnt_and_measured_in_small(tmp_path):
    given = [
        "--run", str(tmp_path / "run"), "--text-updates", "1", "--updates", "1", "--test", "8",
        "--batch", "4", "--steps", "1", "--pictures", "300", "--size", "8", "--channels", "16",
        "--out", str(tmp_path / "rows.json"),
    ]  # fmt: skip
    assert boxes.main(given) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    names = [f"{what}, guidance {w}" for what in ("text alone", "boxes") for w in (1, 3)]
    assert [row["method"] for row in rows] == names
    assert all(0 <= row[name] <= 1 for row in rows for name in ("position", "scale", "class"))
    file = tmp_path / "run-boxes.safetensors"
    assert rows[2]["bytes"] == file.stat().st_size and boxes.main(given) == 0
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 4
