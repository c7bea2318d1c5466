"""The page of the demo is that of its numbers, and what other pages say of it is there."""

import json
import re
from pathlib import Path

from experiments.demo.__main__ import page

RESULTS = Path(__file__).parents[2] / "experiments/results"
NUMBERS = json.loads((RESULTS / "demo.json").read_text())


def test_the_page_is_that_of_the_numbers():
    assert (RESULTS / "demo.md").read_text() == page(NUMBERS)
    (three,) = re.findall(r"^\| 3 \| (.*) \|$", page(NUMBERS), re.M)
    scores = [float(score) for score in re.findall(r"` ([\d.e+]+)", three)]
    assert scores == sorted(scores) and len(scores) == 16


def test_what_the_page_on_choosing_says_of_the_demo():
    text = (RESULTS.parent / "choosing_a_sampler.md").read_text().replace("\n", " ")
    said = re.search(r"\(([\d.]+) in the demo's Fréchet distance, where a consistency student has "
                     r"([\d.]+) and real images ([\d.]+)\)", text)  # fmt: skip
    student = NUMBERS["student"]
    real = NUMBERS["scores"]["student, NFE 1"]["Frechet distance"]["real_data"]["value"]
    expected = student["Euler at 1"], student["student at 1"], real
    assert said.groups() == tuple(f"{value:.2f}" for value in expected)
