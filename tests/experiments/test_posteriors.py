"""The experiment on exact posteriors: its page, and what its table says."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.posteriors import __main__ as posteriors
from experiments.posteriors import students
from experiments.posteriors.methods import ROWS
from experiments.posteriors.problems import problem, scores

RESULTS = Path(__file__).parents[2] / "experiments/results/posteriors.json"


@pytest.mark.slow
def test_the_page_is_written_and_rows_are_replaced(tmp_path, monkeypatch):
    page, numbers = tmp_path / "page.md", tmp_path / "numbers.json"
    call = ["x", "--json", str(numbers), "--markdown", str(page), "--seeds", "1", "--beside", "2"]
    for samples in ("32", "64"):
        more = ["--samples", samples, "--budgets", "3", "--method", "prior"]
        monkeypatch.setattr(sys, "argv", call + more)
        posteriors.main()
        rows = json.loads(numbers.read_text())["rows"]
        assert [(r["method"], r["noise"]) for r in rows] == [("prior", n) for n in (0.05, 0.3, 0.0)]
    text = page.read_text()
    assert text.count("| prior |") == 6  # three of them beside the reference
    assert "64 samples" in text


def test_the_reference_is_within_its_deviation():
    """With noise, of distance and mean of every method it has, in the committed numbers."""
    rows = json.loads(RESULTS.read_text())["beside"]["rows"]
    listed = [row for row in ROWS if 0.05 in row.reference]
    assert len(listed) == 10
    for row in listed:
        for noise in (0.05, 0.3):
            (made,) = [r for r in rows if (r["method"], r["noise"]) == (row.name, noise)]
            apart = posteriors.deviations(made["scores"], row.reference[noise])
            assert np.abs(apart[:2]).max() < 2.5, (row.name, noise, apart)


def test_students_under_guidance_are_on_their_page():
    """And what it says of them holds in the committed numbers."""
    result = json.loads(RESULTS.with_name("guided_students.json").read_text())
    text = RESULTS.with_name("guided_students.md").read_text()
    assert text == students.page(result["rows"], result["settings"])
    at = lambda kind, name: np.mean([  # noqa: E731
        r["sliced"] for r in result["rows"] if (r["kind"], r["sampler"]) == (kind, name)
    ])  # fmt: skip
    several = [f"consistency, {n}" for n in (1, 2, 4)]
    for kind in ("PiGDM without Jacobian", "DPS, zeta 1", "replacement"):
        assert (np.diff([at(kind, name) for name in several]) < 0).all(), kind
    bare = "PiGDM without Jacobian"
    assert at(bare, several[2]) < 1.1 * at(bare, "teacher, 4")
    assert all(at("PiGDM", name) > 5 * at(bare, name) for name in (*several, "SIM, 1"))
    assert at("classes", "SIM, 1") < 0.1 < 0.5 < at("classifier-free, weight 2", "SIM, 1")


def test_exact_samples_score_what_chance_leaves():
    import jax

    given = problem(0, 0.3)
    draws = [given.posterior.sample(jax.random.key(i), 512) for i in (0, 1)]
    found = scores(*draws, given)
    assert found["sliced"] < 0.1
    assert found["covariance"] < 0.25
    far = scores(draws[0] + 1.0, draws[1], given)
    assert far["mean"] == pytest.approx(8**0.5, abs=0.2)


@pytest.mark.slow
def test_every_method_beats_the_prior_and_the_exact_denoiser_is_exact():
    """TMPD, whose sums can be negative, is left out: here some of its samples leave their path."""
    import jax

    count, given = 2048, [problem(1, 0.3)]
    floor = posteriors.floor(given, count)[0]["sliced"]
    found = {}
    for row in ROWS:
        quick = row.evaluations < 1000 and "one iteration" not in row.name
        if 0.3 in row.noises and "TMPD" not in row.name and quick:
            several = row.name in ("SNIPS", "DAPS")  # evaluations a step
            evaluations = row.evaluations if several else max(32, row.evaluations // 4)
            with jax.numpy_dtype_promotion("standard"):  # as methods run for users
                made = posteriors.measured(row, given, evaluations, count)
            found[row.name] = made["scores"][0]["sliced"]
    worst = found.pop("prior")
    assert all(score < worst for score in found.values()), found
    assert found["exact posterior, ODE"] < 2.5 * floor
    assert found["exact posterior, SDE"] < 2.5 * floor
    order = [found[n] for n in ("TDS", "MMPS, SDE", "PiGDM without Jacobian")]
    assert (np.diff(order) > 0).all(), found
