"""The table of every sampler: what it measures where nothing is sampled, and how it reads."""

import numpy as np
import pytest
from helpers.every_solver import name

from experiments.samplers import __main__ as samplers
from experiments.samplers import problems
from experiments.samplers.rows import ROWS, Row
from jaxdiff import grids, solvers


@pytest.mark.parametrize(
    ("solver", "options", "num_steps"),
    [(solvers.euler, {}, 10), (solvers.heun, {}, 5), (solvers.restart, {}, None)],
    ids=name,
)
def test_a_budget_is_kept(solver, options, num_steps):
    row = Row(solver, options, 1, stochastic=solver is solvers.restart)
    levels = samplers.grid_for(row, 10)
    assert levels is None if num_steps is None else len(levels) == num_steps + 1
    assert levels is None or samplers.evaluations(row, levels) <= 10


def test_euler_on_the_gaussian_is_a_product():
    """Each mode is multiplied by (v + s r)/(v + s^2) in a step."""
    _, variances = problems.natural_spectrum()
    levels = grids.karras(8)
    gain = np.prod(
        [
            (variances + s * r) / (variances + s * s)
            for s, r in zip(levels, levels[1:], strict=False)
        ],
        axis=0,
    )
    ends = gain * np.sqrt(variances + levels[0] ** 2)
    expected = np.sqrt(np.sum((ends - np.sqrt(variances)) ** 2) / variances.sum())
    found = samplers.gaussian_errors(Row(solvers.euler, {}, 1), levels)
    assert found["state"] == pytest.approx(expected) == found["distribution"]


def test_a_stochastic_solver_without_noise_has_the_distribution_of_the_deterministic_one():
    levels = grids.karras(8)
    quiet = Row(solvers.ddim, {"eta": 0.0}, 1, stochastic=True)
    found = samplers.gaussian_errors(quiet, levels)
    plain = samplers.gaussian_errors(Row(solvers.euler, {}, 1), levels)
    assert found == {"distribution": pytest.approx(plain["distribution"])}


def test_the_table_has_a_line_for_every_row():
    rows = [samplers.measure(row, (5,), []) for row in ROWS[:2] + ROWS[-1:]]
    result = {
        "machine": {"jax": "0", "device": "cpu", "seconds": 1.0},
        "real_data": {"mixture": 0.02},
        "beyond": [{"name": "adaptive", "nfe": 12.0, "calls": 20, "state": 0.5}],
        "rows": rows,
    }
    text = samplers.markdown(result, (5,))
    assert text.count("| `euler` |") == 2 and text.count("| `predictor_corrector` |") == 1
    assert "| adaptive | 12 | 20 | 0.5 |" in text
    assert samplers.number(None) == "-" and samplers.number(2.3456e-5) == "2e-5"
