"""Attributes read off pictures, and the page of conditions in the network."""

import json

import numpy as np
import pytest

from experiments.conditional import __main__ as page
from experiments.conditional import text
from jaxdiff.data import compose, to_float


@pytest.fixture(scope="module")
def read():
    return text.reader(compose(text.symbols(None, "train"), 3000, seed=11, held_out=None))


@pytest.mark.parametrize("held_out", [False, True])
def test_attributes_of_real_pictures_are_read(read, held_out):
    made = compose(text.symbols(None, "test"), 150, seed=7, held_out=held_out, mentioned=1.0)
    found = text.accuracies(read, to_float(made.images), made.attributes)
    assert min(found.values()) > 0.9 and min(found["position"], found["colour"]) > 0.98
    rolled = {name: np.roll(value, 1) for name, value in made.attributes.items()}
    wrong = text.accuracies(read, to_float(made.images), rolled)
    assert wrong["class"] < 0.25 and wrong["colour"] < 0.4 and wrong["all"] < 0.05


def test_the_page_is_made_of_the_rows_there_are(tmp_path):
    rows = [
        {"method": "guidance 3, seen", "seed": 0, "class": 0.51234, "guidance": 3.0},
        {"method": "guessing", "seed": 0, "class": 0.1, "trained": 7},
    ]
    numbers = {"settings": {"updates": 5}, "machine": "a machine", "notes": [], "rows": rows}
    (tmp_path / "text.json").write_text(json.dumps(numbers))
    images = np.zeros((6, 4, 4, 3), np.float32)
    for name in ("guidance 3, seen", "guidance 3, held out"):
        text.keep(tmp_path / "samples.npz", name, images, ["a red seven"] * 6)
    given = ["--page", "--results", str(tmp_path), "--samples", str(tmp_path / "samples.npz")]
    assert page.main(given) == 0
    made = (tmp_path / "conditional.md").read_text()
    assert "| method | seed | class | guidance | trained |" in made
    assert "| guidance 3, seen | 0 | 0.5123 | 3 |  |" in made
    assert "| guessing | 0 | 0.1 |  | 7 |" in made and "## Control" not in made
    assert json.loads((tmp_path / "conditional.json").read_text()) == {"text": numbers}
    assert (tmp_path / "conditional.png").stat().st_size > 1000


def test_no_page_without_rows(tmp_path):
    with pytest.raises(SystemExit, match="has no rows of any part"):
        page.main(["--page", "--results", str(tmp_path)])
