"""Single-step solvers: exact where their expansion is, their orders, plans of evaluations, and
truncated Taylor steps.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import name

from jaxdiff import grids, process, solvers
from jaxdiff.exact import Gaussian
from jaxdiff.sampling.direct import direct
from jaxdiff.sampling.table import load_table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.dpm_solver import dpm_solver, dpm_step
from jaxdiff.solvers.flow import flow_heun, flow_midpoint
from jaxdiff.solvers.genie import genie
from jaxdiff.solvers.planning import plan, plan_orders
from jaxdiff.solvers.probability_flow import probability_flow

VARIANCES = np.array([0.04, 0.25, 1.0, 2.5])
LEVELS = [float(s) for s in grids.karras(5, 0.05, 20.0, zero=False)]


def gaussian(y, s):
    return VARIANCES / (VARIANCES + s * s) * y


def last(solver, levels, D=gaussian, start=20.0, **options):
    *_, y = solver(D, np.full(4, start), levels, **options)
    return y


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize(
    ("degree", "options"),
    [
        (0, {"order": 1}),
        (1, {"order": 2, "variant": "taylor"}),
        (1, {"order": 2, "variant": "taylor", "ratios": (0.3,)}),
        (1, {"order": 3}),
        (1, {"order": 3, "ratios": (0.2, 0.9)}),
        (2, {"order": 3, "variant": "taylor"}),
        (2, {"order": 3, "variant": "taylor", "ratios": (0.2, 0.9)}),
    ],
    ids=name,
)
def test_exact_for_polynomials_in_log_level(prediction, degree, options):
    """The exponential is integrated exactly: nothing is left of a step but the expansion's error,
    whatever the step's length.
    """
    coefficients = [0.7, -0.4, 0.3][: degree + 1]
    s, r, start = 5.0, 0.1, 3.0
    predicted = lambda level: np.polynomial.Polynomial(coefficients)(-np.log(level))  # noqa: E731
    D = lambda y, level: predicted(level) if prediction == "data" else y - level * predicted(level)  # noqa: E731
    x, w = np.polynomial.legendre.leggauss(60)
    nodes = np.exp((np.log(s) + np.log(r)) / 2 + (np.log(r) - np.log(s)) / 2 * x)
    w = w * np.log(s / r) / 2
    if prediction == "data":
        expected = r / s * start + r * np.sum(w * predicted(nodes) / nodes)
    else:
        expected = start - np.sum(w * predicted(nodes) * nodes)
    (y,) = dpm_solver(D, start, [s, r], prediction=prediction, **options)
    assert y == pytest.approx(expected, rel=1e-12)
    raised = coefficients + [0.5]
    predicted = lambda level: np.polynomial.Polynomial(raised)(-np.log(level))  # noqa: E731
    (other,) = dpm_solver(D, start, [s, r], prediction=prediction, **options)
    assert abs(other - y) > 1e-2


def slope(solver, options):
    """Order of convergence on a Gaussian, whose trajectories are known."""
    steps, errors = np.array([40, 80, 160]), []
    for n in steps:
        levels = [float(s) for s in grids.karras(n, 0.05, 20.0, zero=False)]
        truth = 20.0 * np.sqrt((VARIANCES + levels[-1] ** 2) / (VARIANCES + 400.0))
        errors.append(np.sqrt(np.mean((last(solver, levels, **options) - truth) ** 2)))
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize(
    ("options", "order"),
    [
        *[({"order": k, "prediction": p}, k) for k in (1, 2, 3) for p in ("data", "noise")],
        ({"order": 2, "ratios": (0.3,)}, 2),
        ({"order": 2, "variant": "taylor", "prediction": "data"}, 2),
        ({"order": 3, "variant": "taylor"}, 3),
        ({"order": 3, "variant": "taylor", "prediction": "data", "ratios": (0.25, 2 / 3)}, 3),
        ({"order": 3, "ratios": (0.25, 2 / 3)}, 3),
        ({"order": 3, "ratios": (0.3, 0.8)}, 2),  # the last node must be at 2/3
        ({"order": 3, "variant": "taylor", "ratios": (0.3, 0.8)}, 2),
    ],
    ids=name,
)
def test_observed_order(options, order):
    assert abs(slope(dpm_solver, options) - order) < 0.2


@pytest.mark.parametrize(
    ("solver", "options", "order"),
    [
        (solvers.heun, {"ratio": 0.5}, 3),  # on a Gaussian; 2 otherwise
        (solvers.heun, {"ratio": 2 / 3}, 2),
        (probability_flow, {"process": process.RectifiedFlow(), "order": 1}, 1),
        (probability_flow, {"process": process.RectifiedFlow()}, 2),
        (probability_flow, {"process": process.VE(), "ratio": 0.5}, 2),
    ],
    ids=name,
)
def test_observed_order_in_other_times(solver, options, order):
    assert abs(slope(solver, options) - order) < 0.2


@pytest.mark.slow
def test_a_process_steps_in_its_own_time():
    """EDM's time is the level; rectified flow has its own solvers; VP is not DDIM; and only the
    published step to level 0 is an Euler step.
    """
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9)  # noqa: E731
    levels = [*LEVELS, 0.0]
    run = lambda which, **options: last(probability_flow, levels, process=which, **options)  # noqa: E731
    same(run(process.EDM(), order=1), last(solvers.euler, levels))
    same(run(process.EDM(), ratio=0.3), last(solvers.heun, levels, ratio=0.3))
    same(run(process.RectifiedFlow()), last(flow_heun, levels))
    same(run(process.RectifiedFlow(), ratio=0.5), last(flow_midpoint, levels))
    same(run(process.RectifiedFlow(), order=1), last(solvers.euler, levels))
    vp = run(process.VP(), order=1)
    assert np.abs(vp - last(solvers.euler, levels)).max() > 1e-2
    assert np.abs(vp - run(process.VP(), order=1, reference=True)).max() > 1e-3
    with pytest.raises(ValueError, match="orders 1 to 2, not 3"):
        run(process.VP(), order=3)

    def weights(levels):
        made = table(probability_flow, [*levels, 0.0], process=process.VP())
        return sum(jnp.sum(jnp.square(w)) for w in jax.tree.leaves(made))

    assert np.isfinite(jax.grad(weights)(jnp.array([20.0, 1.0]))).all()


def test_solvers_that_are_one():
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)  # noqa: E731
    for levels in (LEVELS, [*LEVELS, 0.0]):
        for prediction in ("data", "noise"):
            one = last(dpm_solver, levels, order=1, prediction=prediction)
            same(one, last(solvers.euler, levels))
        same(last(dpm_solver, levels, order=2), last(solvers.dpm2, levels))
        same(
            last(dpm_solver, levels, order=2, ratios=(0.3,)), last(solvers.dpm2, levels, ratio=0.3)
        )
        ancestral = last(solvers.dpmpp_2s_ancestral, levels, noise=None, eta=0.0)
        same(last(dpm_solver, levels, order=2, prediction="data"), ancestral)


@pytest.mark.parametrize(
    ("evaluations", "order", "expected"),
    [
        (1, 3, [1]),
        (2, 3, [2]),
        (3, 3, [2, 1]),
        (4, 3, [3, 1]),
        (10, 3, [3, 3, 3, 1]),
        (11, 3, [3, 3, 3, 2]),
        (12, 3, [3, 3, 3, 2, 1]),
        (1, 2, [1]),
        (5, 2, [2, 2, 1]),
        (4, 1, [1, 1, 1, 1]),
    ],
)
def test_planned_orders(evaluations, order, expected):
    assert plan_orders(evaluations, order) == expected


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("zero", [True, False])
def test_a_plan_evaluates_once_at_every_level_of_the_fine_grid(order, zero):
    for count in range(1, 14):
        levels = grids.vp_time(count, zero=zero)
        steps = plan(levels, order)
        for prediction in ("data", "noise"):
            options = {"orders": steps.orders, "ratios": steps.ratios, "prediction": prediction}
            visited = []

            def D(y, s, visited=visited):
                visited.append(s)
                return gaussian(y, s)

            states = list(dpm_solver(D, np.full(4, 80.0), steps.levels, **options))
            np.testing.assert_allclose(visited, levels[:-1], rtol=1e-12)
            assert len(states) == len(steps.levels) - 1 and np.isfinite(states).all()
    assert table(dpm_solver, plan(levels).levels, orders=plan(levels).orders).nfe == 13


def test_a_plan_of_given_orders():
    steps = plan(LEVELS, orders=[2, 3])
    assert steps.levels == [LEVELS[0], LEVELS[2], LEVELS[5]] and steps.orders == [2, 3]
    for (s, r), own in zip(pairwise(steps.levels), steps.ratios, strict=True):
        inner = [s ** (1 - c) * r**c for c in own]
        assert all(min(abs(np.array(LEVELS) / node - 1)) < 1e-12 for node in inner)
    with pytest.raises(ValueError, match="add up to 6, not to 5 steps"):
        plan(LEVELS, orders=[3, 3])
    with pytest.raises(ValueError, match="whole number of evaluations, not 0"):
        plan_orders(0)
    with pytest.raises(ValueError, match="strictly decrease"):
        plan(LEVELS[::-1])


@pytest.mark.slow
def test_tables_of_plans_differentiate_and_keep(tmp_path):
    """Mixed orders, also at the few steps at which other implementations crash, with gradients
    through the inner nodes.
    """
    inner = jnp.asarray(np.log(grids.karras(4)[:-1]))

    def weights(log_levels, denoised):
        steps = plan([*jnp.exp(log_levels), *[0.0] * denoised])
        made = table(dpm_solver, steps.levels, orders=steps.orders, ratios=steps.ratios)
        return sum(jnp.sum(jnp.square(w)) for w in jax.tree.leaves(made))

    slow = jax.grad(weights)(inner, True)
    step = 1e-5 * np.eye(4)[1]
    change = (weights(np.array(inner + step), True) - weights(np.array(inner - step), True)) / 2e-5
    assert np.isfinite(slow).all()
    np.testing.assert_allclose(slow[1], change, rtol=1e-6)
    assert np.isfinite(jax.grad(weights)(inner[:3], False)).all()
    steps = plan(grids.karras(6))
    made = table(dpm_solver, steps.levels, orders=steps.orders, ratios=steps.ratios)
    made.save(tmp_path / "t.json")
    assert load_table(tmp_path / "t.json").nfe == made.nfe == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 4}, "orders 1 to 3, not 4"),
        ({"orders": [3, 3, 3, 0, 1]}, "orders 1 to 3, not 0"),
        ({"orders": [3, 3]}, "2 entries for a grid of 5 steps"),
        ({"prediction": "flow"}, "'data' or 'noise', not 'flow'"),
        ({"variant": "midpoint"}, "variants 'dpm' and 'taylor', not 'midpoint'"),
        ({"order": 2, "ratios": (0.3, 0.6)}, "for order 3: no such step"),
        ({"order": 2, "ratios": [(0.3,)] * 4}, "need one inner node less"),
        ({"ratios": (0.6, 0.3)}, "ascend"),
        ({"ratios": (0.0, 0.3)}, "positive"),
    ],
    ids=name,
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        table(dpm_solver, LEVELS, **options)


def two_points(y, s, cond=None):
    """The denoiser of data at -1 and 1."""
    return jnp.tanh(y / (s * s))


def test_taylor_step_on_a_gaussian():
    """There y'' = v (y - m)/(v + s^2)^2."""
    mean, start = np.array([0.3, -0.2, 1.0, 0.0]), jnp.asarray(np.full((3, 4), 20.0))
    D = Gaussian(mean, VARIANCES).denoiser
    expected = np.array(start)
    for s, r in pairwise(LEVELS):
        spread, h = VARIANCES + s * s, r - s
        growth = 1 + h * s / spread + h * h / 2 * VARIANCES / spread**2
        expected = mean + growth * (expected - mean)
    got = direct(D, genie, LEVELS, start)
    np.testing.assert_allclose(got, expected, rtol=1e-11)
    np.testing.assert_allclose(
        direct(D, genie, [*LEVELS, 0.0], start), D(got, LEVELS[-1]), rtol=1e-11
    )


def test_order_of_the_taylor_method():
    denoise = jax.jit(gaussian)
    bare = lambda D, y, levels: genie(denoise, jnp.asarray(y), levels)  # noqa: E731
    assert abs(slope(bare, {}) - 2) < 0.2


def test_taylor_steps_follow_the_curvature():
    """The derivative is that of eps along the trajectory, at one call of the denoiser per step; in
    any batch, under jit, in single precision.
    """
    start, calls = np.random.default_rng(0).normal(size=(5, 2)), []

    def D(y, s):
        calls.append(1)
        return two_points(y, s)

    s, r, h = 1.2, 0.7, 1e-5
    eps = lambda y, s: (y - np.tanh(y / (s * s))) / s  # noqa: E731
    d = eps(start, s)
    bend = (eps(start + h * d, s + h) - eps(start - h * d, s - h)) / (2 * h)
    expected = start + (r - s) * d + (r - s) ** 2 / 2 * bend
    start = jnp.asarray(start)
    (y,) = genie(D, start, [s, r])
    np.testing.assert_allclose(y, expected, rtol=1e-8, atol=1e-8)
    assert len(calls) == 1
    np.testing.assert_allclose(
        jax.jit(lambda y: direct(two_points, genie, [s, r], y))(start[:2]), y[:2], rtol=1e-12
    )
    single = direct(two_points, genie, [s, r], start.astype(jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, y, atol=1e-6)


def test_taylor_steps_differentiate():
    start = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))

    @jax.jit
    def total(log_levels):
        return jnp.sum(direct(two_points, genie, [*jnp.exp(log_levels), 0.0], start))

    x, step = jnp.log(jnp.array([1.0, 0.5])), jnp.array([0.0, 1e-5])
    change = (total(x + step) - total(x - step)) / 2e-5
    np.testing.assert_allclose(jax.grad(total)(x)[1], change, rtol=1e-6)


def test_a_step_of_unequal_nodes_on_a_gaussian():
    """DPM-Solver-3's formulas, written out for one step."""
    s, r, (c1, c2), y = 2.0, 0.5, (0.25, 0.6), np.full(4, 1.5)
    h, eps = np.log(s / r), lambda y, s: (y - gaussian(y, s)) / s
    level = lambda c: s ** (1 - c) * r**c  # noqa: E731
    first = eps(y, s)
    u1 = y - level(c1) * np.expm1(c1 * h) * first
    d1 = eps(u1, level(c1)) - first
    bend = np.expm1(c2 * h) / (c2 * h) - 1
    u2 = y - level(c2) * np.expm1(c2 * h) * first - level(c2) * c2 / c1 * bend * d1
    d2 = eps(u2, level(c2)) - first
    expected = y - r * np.expm1(h) * first - r / c2 * (np.expm1(h) / h - 1) * d2
    np.testing.assert_allclose(dpm_step(gaussian, y, s, r, (c1, c2)), expected, rtol=1e-12)
