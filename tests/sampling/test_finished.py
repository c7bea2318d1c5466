"""Solves that choose their steps say which samples reached the end, and stop at NaN at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.exact import Gaussian
from jaxdiff.sampling.adaptive.dpm_solver import dpm_adaptive
from jaxdiff.sampling.adaptive.gotta_go_fast import gotta_go_fast
from jaxdiff.sampling.adaptive.probability_flow import adaptive
from jaxdiff.sampling.adaptive.reverse_sde import reverse_sde
from jaxdiff.sampling.likelihood import log_likelihood

HIGH, LOW = 10.0, 0.1
TRUTH = Gaussian(np.array([0.3]), np.array([0.04]))
START = HIGH * jnp.asarray([[0.1], [0.5], [-0.4]])
BROKEN = jnp.asarray([0.0, np.nan, 0.0])  # a condition for which the network fails
KEY = jax.random.key(0)

SOLVES = {
    "adaptive": lambda D, c, **k: adaptive(D, START, HIGH, LOW, c, **k),
    "reverse_sde": lambda D, c, **k: reverse_sde(D, START, HIGH, LOW, c, key=KEY, **k),
    "dpm_adaptive": lambda D, c, **k: dpm_adaptive(D, START, HIGH, LOW, c, **k),
    "gotta_go_fast": lambda D, c, **k: gotta_go_fast(D, START, HIGH, LOW, c, key=KEY, **k),
    "log_likelihood": lambda D, c, **k: log_likelihood(D, START / HIGH, HIGH, LOW, c, **k),
}


# the others share their way with one of these
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ("reverse_sde", "gotta_go_fast") else [])
    for name in SOLVES
]


def D(y, level, cond):
    return TRUTH.denoise(y, level) + cond.reshape(-1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_that_meets_nan_ends_at_once_and_alone(name):
    """It took 24,577 evaluations, with the advice to raise max_steps."""
    solve = SOLVES[name]
    out = solve(D, BROKEN, throw=False)
    np.testing.assert_array_equal(out.finished, [True, False, True])
    assert out.nfe[1] <= 8
    whole = solve(D, jnp.zeros(3), throw=False)
    assert whole.finished.all() and (whole.nfe[::2] == out.nfe[::2]).all()
    kept, all_ = (getattr(o, "states", getattr(o, "log_density", None)) for o in (out, whole))
    np.testing.assert_allclose(kept[::2], all_[::2], rtol=1e-12)
    with pytest.raises(RuntimeError, match="samples 1 met a number that is not finite"):
        solve(D, BROKEN)


@pytest.mark.parametrize("name", NAMES)
def test_a_solve_that_ran_out_of_steps_says_so(name):
    """A log density of -5.3 in place of 0.19 could not be distinguished from a finished one."""
    solve = SOLVES[name]
    out = solve(D, jnp.zeros(3), max_steps=1, throw=False)
    assert not out.finished.any()
    with pytest.raises(RuntimeError, match="samples 0, 1, 2 ran out of 1 steps: raise max_steps"):
        solve(D, jnp.zeros(3), max_steps=1)
    with pytest.raises(ValueError, match="max_steps"):
        solve(D, jnp.zeros(3), max_steps=0)


def test_what_is_denoised_last_has_the_dtype_of_the_states():
    def half(y, level, cond=None):
        return TRUTH.denoise(y, level).astype(jnp.bfloat16)

    loose = {"rtol": 0.1, "atol": 0.1, "denoise": True}
    for name in ("adaptive", "dpm_adaptive"):
        out = jax.eval_shape(lambda name=name: SOLVES[name](half, None, **loose).states)
        assert out.dtype == START.dtype, name


@pytest.mark.parametrize("wrong", [{"rtol": -0.1}, {"atol": np.nan}, {"rtol": 0.0, "atol": 0.0}])
def test_tolerances_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="rtol and atol must not be negative"):
        SOLVES["adaptive"](D, jnp.zeros(3), **wrong)
