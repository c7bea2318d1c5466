"""The study of the published MNIST model: what bounds its tables, and what its page says of it."""

import jax
import numpy as np
import pytest

import jaxdiff as jd
from experiments.mnist_ddpm import __main__ as study
from experiments.mnist_ddpm.ends import kept, kept_arrays, spread
from experiments.mnist_ddpm.limits import RADIUS, filtered, hindsight, limits
from experiments.mnist_ddpm.page import page
from jaxdiff.denoisers import as_partial
from jaxdiff.recipes.tuning import Task


def test_hindsight_is_the_nearest_sum_of_each_samples_terms(rng):
    x = rng.standard_normal((3, 2, 5, 5, 1))
    own = rng.standard_normal((3, 2))
    images = np.einsum("bk,bkhwc->bhwc", own, x)
    np.testing.assert_allclose(hindsight(x, images), images, atol=1e-12)
    rest = images - hindsight(x[:, :1], images)  # what one term leaves is at right angles to it
    np.testing.assert_allclose(np.sum(rest * x[:, 0], axis=(1, 2, 3)), 0.0, atol=1e-12)


def test_filters_are_found(rng):
    x = rng.standard_normal((4, 2, 9, 9, 1))
    taps = rng.standard_normal((2, 2 * RADIUS + 1, 2 * RADIUS + 1))
    padded = np.pad(x, ((0, 0), (0, 0), (RADIUS,) * 2, (RADIUS,) * 2, (0, 0)), mode="edge")
    images = np.zeros((4, 9, 9, 1))
    for k, i, j in np.ndindex(taps.shape):
        images += taps[k, i, j] * padded[:, k, i : i + 9, j : j + 9]
    made = filtered(x[:3], images[:3], x[3:])
    np.testing.assert_allclose(made, images[3:], atol=0.01)


@pytest.mark.slow
def test_a_table_of_ones_own_is_nearer(rng):
    """Standard normal data, whose flow from level s ends in y/sqrt(1 + s^2)."""
    start = 4.0 * rng.standard_normal((3, 2, 2, 1))
    pairs = {"start": start, "image": start / np.sqrt(17.0)}
    D = as_partial(lambda y, s, cond=None: y / (1.0 + s**2))
    given = Task(D, 2, pairs, pairs, pairs["image"], num_updates=60, rate=0.05, sigma_data=1.0)
    made = jd.table(jd.solvers.euler, [4.0, 1.0, 0.0])
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        found = limits(given, made, pairs, 2)
    assert found["hindsight"] < 1e-6 < found["table"]  # one number of the start is enough here
    assert found["own table, few"] < 0.2 * found["table, few"]


def test_what_was_made_is_kept(tmp_path):
    assert kept(tmp_path / "a" / "one.json", lambda: [1.5]) == [1.5]
    assert kept(tmp_path / "a" / "one.json", lambda: pytest.fail("made twice")) == [1.5]
    for make in (lambda: {"x": np.arange(3)}, lambda: pytest.fail("made twice")):
        assert kept_arrays(tmp_path / "b.npz", make)["x"].tolist() == [0, 1, 2]


def test_a_folder_of_other_settings_is_refused(tmp_path):
    own = ["--weights", "w", "--data", "d", "--runs", str(tmp_path)]
    study.begin(study.parse(own))
    study.begin(study.parse([*own, "--json", "elsewhere.json"]))
    with pytest.raises(ValueError, match="made with other updates: give another --runs"):
        study.begin(study.parse([*own, "--updates", "7"]))


def test_the_page_says_whether_hindsight_reaches_the_aim():
    each = spread(np.full((2, 1), 0.1), np.zeros((2, 1)))
    assert each["distance"] == pytest.approx(0.1)
    rows = [
        {**each, "sampler": kind, "nfe": nfe, "distance": far, "name": "euler"}
        for nfe, tuned in ((4, 0.09), (5, 0.08), (6, 0.04))
        for kind, far in (("best baseline", 0.1), ("tuned", tuned))
    ]
    reasons = [
        {"nfe": nfe, "table of": "tuned", "table": 0.1, "filters": 0.1, "hindsight": low}
        for nfe, low in ((4, 0.06), (5, 0.04), (6, 0.06))
    ]
    quality = {"Frechet distance": 1.0, "precision": 0.9, "recall": 0.8}
    real = {"mean": quality, "std": 0.1, "of": "digits"}
    numbers = {
        "levels": (0.01, 100.0), "machine": "this one", "seconds": 1.0, "count": 2, "start": [],
        "accuracy": 0.01, "longer": 40, "solvers": rows, "reasons": reasons, "alone": 2,
        "tuning": {"updates": 1, "batch": 2, "count": 2, "rate": 0.1}, "guidance": [],
        "students": [], "paths": 1,
        "scores": {"rows": [], "samples": 2, "real": real},
    }  # fmt: skip
    text = page(numbers, "command", "stem")
    assert "The aim is missed at 4 and 5 evaluations." in text
    assert "At 4 not even hindsight reaches it" in text
    assert "| tuned / best | 0.90 | 0.80 | 0.40 |" in text and "stem_students.png" in text
