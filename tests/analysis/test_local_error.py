"""Errors of steps on Gaussians, for which the exact flow is known."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import grids, solvers
from jaxdiff.analysis.local_error import (
    local_errors,
    reference_states,
    refined,
    truncation_errors,
)


def norm(a):
    return np.linalg.norm(np.asarray(a), axis=-1)


def test_truncation_errors_of_euler_steps(gaussian):
    x, r, s = gaussian.states, gaussian.denoised, gaussian.levels
    found = truncation_errors(s, x, r)
    for i in range(6):
        for j in range(6):
            jump = x[i] + (s[j] - s[i]) * (x[i] - r[i]) / s[i]
            exact = norm(jump - x[j]).mean() if j > i else 0.0
            np.testing.assert_allclose(found[i, j], exact, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(truncation_errors(s, x, r[:-1]), found, rtol=1e-12)


def test_grids_are_divided_to_the_lowest_level_and_no_further():
    grid, places = refined([20.0, 1.0, 0.05, 0.0], 4, low=0.01)
    assert grid[places].tolist() == [20.0, 1.0, 0.05, 0.0] and places.tolist() == [0, 4, 8, 13]
    assert grid[-2] == 0.01 and (np.diff(grid) < 0).all()
    grid, places = refined([20.0, 1.0, 0.01, 0.0], 4, low=0.05)  # below: the step as it is
    assert grid[-2:].tolist() == [0.01, 0.0] and places.tolist() == [0, 4, 8, 9]
    known = grids.karras(4)  # its lowest level is the default ``low`` but for rounding
    grid, places = refined(known, 4)
    np.testing.assert_array_equal(grid[places], known)
    assert len(grid) == 3 * 4 + 2 and (np.diff(grid) < 0).all()


def test_the_reference_is_the_exact_flow(gaussian):
    start = gaussian.path.states[0]
    levels = [20.0, 3.0, 0.3, 0.0]
    exact = np.stack([gaussian.model.flow(start, 20.0, s) for s in levels])
    errors = []
    for substeps in (32, 64):
        found = reference_states(
            gaussian.model.denoiser, levels, start, substeps=substeps, low=1e-4
        )
        errors.append(np.abs(found - exact).max())
    assert errors[1] < 1e-3 and 3.5 < errors[0] / errors[1] < 4.5  # order 2


@pytest.mark.parametrize(
    "solver, options", [(solvers.euler, {}), (solvers.heun, {}), (solvers.ipndm, {"order": 2})]
)
def test_errors_of_steps_and_what_they_cost(gaussian, solver, options):
    """By hand: one step from exact states, then the exact flow; a multistep solver remembers the
    outputs of exact states.
    """
    model, start = gaussian.model, gaussian.path.states[0]
    levels = grids.karras(4, 0.1, 20.0, zero=False)
    D, table = model.denoiser, jd.table(solver, levels, **options)
    found = local_errors(D, table, start, substeps=64)
    exact = [model.flow(start, 20.0, s) for s in levels]
    made = []
    for n in range(4):
        y, s, r = exact[n], levels[n], levels[n + 1]
        slopes = [(exact[k] - D(exact[k], levels[k])) / levels[k] for k in (n, n - 1) if k >= 0]
        euler = y + (r - s) * slopes[0]
        if solver is solvers.ipndm and n:
            made.append(y + (r - s) * (1.5 * slopes[0] - 0.5 * slopes[1]))
        elif solver is solvers.heun:
            made.append(y + (r - s) / 2 * (slopes[0] + (euler - D(euler, r)) / r))
        else:
            made.append(euler)
    local = np.stack([norm(m - x) for m, x in zip(made, exact[1:], strict=True)])
    np.testing.assert_allclose(found.local, local, atol=2e-3)
    ends = [model.flow(m, r, 0.1) for m, r in zip(made, levels[1:], strict=True)]
    carried = np.stack([norm(e - exact[-1]) for e in ends])
    np.testing.assert_allclose(found.carried, carried, atol=2e-3)
    assert local.max() > 0.02
    whole = norm(jd.sample(D, table, start) - exact[-1])
    np.testing.assert_allclose(found.total, whole, atol=2e-3)
    sizes = np.sqrt(np.mean(carried**2, axis=1))
    np.testing.assert_allclose(found.shares, sizes / sizes.sum(), atol=5e-3)


@pytest.mark.slow
def test_a_step_to_0_and_samples_of_any_shape_with_conditions(gaussian):
    def D(y, level, cond=None):
        return cond[:, None, None] + (y - cond[:, None, None]) / (1 + jnp.square(level))

    start, cond = gaussian.path.states[0].reshape(4, 5, 1), jnp.arange(4.0)
    table = jd.table(solvers.dpmpp, [20.0, 4.0, 1.0, 0.2, 0.0])
    found = local_errors(D, table, start, cond, substeps=16, low=0.05)
    assert found.local.shape == found.carried.shape == (4, 4)
    others = start.at[0].add(3.0).at[2:].multiply(2.0), cond.at[0].set(9.0)
    one = local_errors(D, table, *others, substeps=16, low=0.05)
    np.testing.assert_allclose(found.carried[:, 1], one.carried[:, 1], rtol=1e-12)
    bare = local_errors(D, table, start, cond, substeps=16, low=0.05, carried=False)
    assert bare.carried is None and np.array_equal(bare.local, found.local)
    sizes = np.sqrt(np.mean(np.square(bare.local), axis=1))
    np.testing.assert_allclose(bare.shares, sizes / sizes.sum())
    np.testing.assert_allclose(found.carried[-1], found.local[-1])  # nothing comes after


def test_what_has_no_local_errors_is_refused(gaussian):
    D, start = gaussian.model.denoiser, gaussian.path.states[0]
    with pytest.raises(ValueError, match="draws noise"):
        local_errors(D, jd.table(solvers.ddim, [20.0, 1.0], eta=1.0), start)
    with pytest.raises(ValueError, match="padded"):
        local_errors(D, jd.pad([jd.table(solvers.euler, [20.0, 1.0])])[0], start)
    for substeps, low in ((0, 0.01), (4, 0.0)):
        with pytest.raises(ValueError, match="substeps"):
            refined([2.0, 1.0], substeps, low)
    with pytest.raises(ValueError, match="measure"):
        truncation_errors(gaussian.levels, gaussian.states, gaussian.denoised, "l3")
    with pytest.raises(ValueError, match="as many levels"):
        truncation_errors(gaussian.levels[1:], gaussian.states, gaussian.denoised)
    with pytest.raises(ValueError, match="as many levels"):
        truncation_errors(gaussian.levels, gaussian.states, gaussian.denoised[:3])
    with pytest.raises(ValueError, match="same samples"):  # which would broadcast
        truncation_errors(gaussian.levels, gaussian.states, gaussian.denoised[:, :1])
    below = np.append(gaussian.levels[:-1], -1.0)
    for levels in (gaussian.levels[::-1], np.ones(6), below, np.full(6, np.nan)):
        with pytest.raises(ValueError, match="decrease strictly"):
            truncation_errors(levels, gaussian.states, gaussian.denoised)
