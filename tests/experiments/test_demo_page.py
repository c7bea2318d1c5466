"""The page of the demo is that of its numbers, and what other pages say of it is there."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.demo.__main__ import page, write_pictures
from jaxdiff.app.demo import gap
from jaxdiff.app.sweep import SWEEP
from jaxdiff.report.demo import Shown, demo_page, in_words, quality_figure

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
    said = re.search(r"`sde_dpmpp` is level at 11 evaluations \(([\d.]+) against ([\d.]+) for "
                     r"`ipndm`\) and best at 35 \(([\d.]+), where deterministic solvers stay at "
                     r"([\d.]+) to ([\d.]+)\)", text)  # fmt: skip
    sweep = {(r["solver"], r["nfe"]): r["Frechet distance"] for r in NUMBERS["sweep"]}
    steady = [sweep[known.name, 35] for known in SWEEP if not known.stochastic]
    expected = *(sweep[n, 11] for n in ("sde_dpmpp", "ipndm")), sweep["sde_dpmpp", 35]
    assert said.groups() == tuple(f"{x:.2f}" for x in (*expected, min(steady), max(steady)))
    assert min(sweep, key=sweep.get) == ("sde_dpmpp", 35)


def test_the_pictures_are_those_of_the_report(tmp_path):
    report, kept = tmp_path / "report.json", tmp_path / "kept"
    with pytest.raises(FileNotFoundError, match=r"report\.html"):
        write_pictures(report, NUMBERS, kept)
    report.with_suffix(".html").write_text("<html>no picture</html>")
    with pytest.raises(ValueError, match="no picture"):
        write_pictures(report, NUMBERS, kept)
    first, second = (base64.b64encode(text).decode() for text in (b"digits", b"others"))
    source = '<img src="data:image/png;base64,{}" alt="x">'
    report.with_suffix(".html").write_text(source.format(first) + source.format(second))
    write_pictures(report, NUMBERS, kept)
    assert (kept / "digits.png").read_bytes() == b"digits"
    assert (kept / "quality.png").read_bytes()[1:4] == b"PNG"


def test_the_picture_of_quality_has_all_scores_and_names_the_best():
    axes = quality_figure(NUMBERS).axes[0]
    drawn = {tuple(point) for line in axes.lines for point in line.get_xydata()}
    assert drawn >= {(row["nfe"], row["Frechet distance"]) for row in NUMBERS["sweep"]}
    named = {text.get_text() for text in axes.texts}
    assert named >= {"ipndm", "ipndm_v", "deis", "dpmpp", "sde_dpmpp", "student"}


@pytest.mark.parametrize(("teacher", "said"), [(2.0, "closes 75.0 % of"), (6.0, "no gap to close")])
def test_a_share_of_the_gap_is_said_where_there_is_one(teacher, said):
    found = gap({"teacher, NFE 35": teacher, "student, NFE 1": 3.0, "Euler, NFE 1": 6.0})
    assert said in in_words(NUMBERS | {"student": found})


def test_the_page_of_the_demo_says_its_numbers(tmp_path):
    digits = np.linspace(-1, 1, 10 * 64).reshape(10, 8, 8, 1)
    shown = Shown(
        real=digits,
        samples={name: digits for name in NUMBERS["scores"]},
        states=np.stack([digits[:4]] * 4),
        denoised=np.stack([digits[:4]] * 3),
        levels=np.array([80.0, 5.0, 0.5, 0.0]),
        nodes=np.array([80.0, 5.0, 0.5]),
        losses={"teacher": [(1, 2.0), (2, 1.0)]},
        nearest=(digits[:3], digits[:3]),
        distances=np.arange(10.0),
        held_out=np.arange(10.0),
    )
    html = demo_page(tmp_path, NUMBERS, shown).read_text()
    student = NUMBERS["student"]
    for said in (f"{student[n]:.3g}" for n in ("teacher", "student at 1", "Euler at 1")):
        assert said in html and said in in_words(NUMBERS)
    (best,) = re.findall(r"<figcaption>([\w, ]+) are the best over all numbers", html)
    assert set(best.split(", ")) == {"ipndm", "ipndm_v", "deis", "dpmpp", "sde_dpmpp"}
    first = min(NUMBERS["sweep"], key=lambda row: row["Frechet distance"])
    score = f"{first['solver']} at NFE {first['nfe']} with {first['Frechet distance']:.3g}"
    assert f"The best of the sweep is {score}" in html
    assert html.count("data:image/") == 6
