"""Solvers in flow time against the flow itself, PNDM's starts, DEIS in log level, UniPC_v."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import name

from jaxdiff import grids
from jaxdiff.exact import Gaussian
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.deis import deis
from jaxdiff.solvers.dpmpp import dpmpp
from jaxdiff.solvers.euler import euler
from jaxdiff.solvers.flow import flow_heun, flow_lms, flow_midpoint, flow_time
from jaxdiff.solvers.pndm import ipndm, pndm
from jaxdiff.solvers.quadrature import phi
from jaxdiff.solvers.unipc import unipc, unipc_weights

VARIANCES = np.array([0.04, 0.25, 1.0, 2.5])
NEW = [
    (flow_heun, {}),
    (flow_midpoint, {}),
    (flow_lms, {"order": 1}),
    (flow_lms, {"order": 4}),
    *[(pndm, {"order": k}) for k in (1, 2, 3, 4)],
    (pndm, {"warm_up": "heun"}),
    *[(deis, {"order": k, "variable": "log_level"}) for k in (1, 2, 3, 4)],
    (deis, {"order": 3, "variable": "log_level", "lower_final": True}),
    *[(unipc, {"order": k, "variant": "vary"}) for k in (1, 2, 3)],
    *[(unipc, {"order": k, "variant": "vary", "reference": True}) for k in (1, 2, 3)],
    (dpmpp, {"order": 2, "second": "exact"}),
]


def gaussian(y, s):
    return VARIANCES / (VARIANCES + s * s) * y


def floats(levels):
    return [float(s) for s in levels]


def last(solver, levels, D=gaussian, **options):
    levels = floats(levels)
    *_, y = solver(D, np.full(4, levels[0]), levels, **options)
    return y


def in_flow_time(D, x, times, method):
    """A method for dx/dtau = u, written for the flow's own state x = (1 - tau) x0 + tau eps."""

    def u(x, tau):
        y = x / (1 - tau)
        denoised = D(y, tau / (1 - tau))
        return (x - (1 - tau) * denoised) / tau - denoised

    past, before = [], 1.0
    for tau, end in zip(times[:-1], times[1:], strict=True):
        h, slope = end - tau, u(x, tau)
        past = [slope, *past][:2]
        if method == "heun":
            slope = (slope + u(x + h * slope, end)) / 2
        elif method == "midpoint":
            slope = u(x + h / 2 * slope, tau + h / 2)
        elif method == "adams" and len(past) == 2:
            ratio = h / before
            slope = (1 + ratio / 2) * past[0] - ratio / 2 * past[1]
        x, before = x + h * slope, h
    return x


@pytest.mark.parametrize(
    ("solver", "options", "method"),
    [
        (euler, {}, "euler"),
        (flow_heun, {}, "heun"),
        (flow_midpoint, {}, "midpoint"),
        (flow_lms, {"order": 2}, "adams"),
    ],
    ids=name,
)
def test_they_are_the_methods_in_flow_time(solver, options, method):
    """Flow-matching Euler is euler, exactly; so are the others those of the flow's own state."""
    for levels in (grids.flow(6, zero=False), grids.flow(5, shift=3.0, end=0.1, zero=False)):
        times = levels / (1 + levels)
        x = in_flow_time(gaussian, np.full(4, levels[0]) * (1 - times[0]), times, method)
        ours = last(solver, levels, **options) * (1 - times[-1])
        np.testing.assert_allclose(ours, x, rtol=1e-11)


def test_an_almost_infinite_level_is_the_start_of_the_flow():
    """From tau = 1 the first Euler step uses the mean of the data and the noise itself."""
    mean, noise = np.array([0.3, -0.2, 1.0, 0.1]), np.array([0.5, -1.0, 2.0, 0.1])
    D = lambda y, s: mean + VARIANCES / (VARIANCES + s * s) * (y - mean)  # noqa: E731
    levels = grids.flow(5, start=1 - 1e-8)
    first = next(euler(D, noise * levels[0], floats(levels)))
    np.testing.assert_allclose(first, mean + levels[1] * noise, rtol=1e-6)
    assert flow_time(1e8) == pytest.approx(1 - 1e-8, rel=1e-15)
    assert flow_time(3.0, 1.0) == pytest.approx(0.75 - 0.5)


def two_modes(y, s):
    """D of an equal mixture of N(-0.7, 0.1) and N(0.7, 0.1) in each dimension."""
    spread = 0.1 + s * s
    return (0.1 * y + s * s * 0.7 * np.tanh(0.7 * y / spread)) / spread


def observed_order(solver, options, num_steps, maker):
    """From the last states of n, 2n and 4n steps, of which no exact one is needed."""
    ends = []
    for n in (num_steps, 2 * num_steps, 4 * num_steps):
        levels = floats(maker(n))
        own = {k: v(levels) if callable(v) else v for k, v in options.items()}
        *_, y = solver(two_modes, np.linspace(0.3, 1.0, 4) * levels[0], levels, **own)
        ends.append(y)
    return np.log2(np.linalg.norm(ends[0] - ends[1]) / np.linalg.norm(ends[1] - ends[2]))


def vp_level(t):
    """Level of VP with its default betas."""
    return np.sqrt(np.expm1(19.9 * t**2 / 2 + 0.1 * t))


def vp_time(n):
    return vp_level(np.linspace(0.9, 0.3, n + 1))


def vp_midpoints(levels):
    times = np.linspace(0.9, 0.3, len(levels))
    return floats(vp_level((times[1:] + times[:-1]) / 2))


def uniform(n):
    return np.linspace(3.0, 0.5, n + 1)


ORDERS = [
    (flow_heun, {}, 2, 40, lambda n: grids.flow(n, start=0.9, end=0.2, zero=False)),
    (flow_midpoint, {}, 2, 40, lambda n: grids.flow(n, start=0.9, end=0.2, zero=False)),
    (flow_lms, {"order": 2}, 2, 160, uniform),
    (pndm, {"order": 4}, 4, 160, uniform),
    (pndm, {"order": 3}, 3, 160, uniform),
    (pndm, {"order": 4, "intermediate_levels": vp_midpoints}, 2, 160, vp_time),
    (unipc, {"order": 2, "variant": "vary", "lower_final": False}, 3, 80, uniform),
    (dpmpp, {"order": 2, "second": "exact", "lower_final": False}, 2, 160, uniform),
]


@pytest.mark.parametrize(("solver", "options", "order", "num_steps", "maker"), ORDERS, ids=name)
def test_observed_orders_from_their_own_start(solver, options, order, num_steps, maker):
    """No exact history: PNDM's Runge-Kutta start keeps order 4 where Adams-Bashforth has it."""
    assert abs(observed_order(solver, options, num_steps, maker) - order) < 0.25


def test_what_pndm_is_made_of():
    """Its first slope is the classical Runge-Kutta step; its evaluations are as documented."""
    s, r = 3.0, 2.0
    eps = lambda y, s: (y - gaussian(y, s)) / s  # noqa: E731
    y = np.full(4, s)
    k1 = eps(y, s)
    k2 = eps(y + (r - s) / 2 * k1, 2.5)
    k3 = eps(y + (r - s) / 2 * k2, 2.5)
    k4 = eps(y + (r - s) * k3, r)
    expected = y + (r - s) / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    np.testing.assert_allclose(last(pndm, [s, r]), expected, rtol=1e-13)
    levels = grids.karras(10, zero=False)
    assert table(pndm, levels).nfe == 10 + 3 * 3
    assert table(pndm, levels, order=2).nfe == 10 + 3
    assert table(pndm, levels, warm_up="heun").nfe == 11
    assert table(pndm, grids.karras(2)).nfe == 2 + 3
    np.testing.assert_allclose(last(pndm, levels, order=1), last(euler, levels), rtol=1e-13)
    heun = last(pndm, levels[:2], warm_up="heun")
    assert np.abs(heun - last(ipndm, levels[:2])).max() > 1e-3


def test_deis_in_log_level():
    """At order 3 it is DPM-Solver's exact noise prediction, at order 2 that with the exact weight;
    its weights of eps sum to the step.
    """
    levels = grids.karras(8, zero=False)
    for order, exact in ((2, {"second": "exact"}), (3, {"second": "exact"})):
        theirs = last(dpmpp, levels, order=order, prediction="noise", lower_final=False, **exact)
        ours = last(deis, levels, order=order, variable="log_level")
        np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    constant = lambda y, s: y - s * 0.7  # noqa: E731
    ours = last(deis, levels, constant, order=4, variable="log_level")
    np.testing.assert_allclose(ours, levels[0] + 0.7 * (levels[-1] - levels[0]), rtol=1e-9)


def test_unipc_v_has_no_shortcut():
    """One weight z phi_2 where the others have B/2; the same from three differences on."""
    z, ratios = -0.7, [-1.3, -0.6]
    assert unipc_weights([1.0], z, None)[0] == pytest.approx(z * phi(2, z), rel=1e-12)
    assert unipc_weights([1.0], z, z) == [z / 2]
    np.testing.assert_allclose(unipc_weights(ratios, z, None), unipc_weights(ratios, z, 1.0))
    levels = grids.karras(6, zero=False)
    others = [last(unipc, levels, order=3, variant=v) for v in ("bh1", "bh2", "vary")]
    assert np.abs(others[2] - others[0]).max() > 1e-6
    published = last(unipc, levels, order=3, variant="vary", reference=True)
    assert np.abs(published - others[2]).max() > 1e-6


@pytest.mark.parametrize(("solver", "options"), NEW, ids=name)
def test_finite_for_few_steps(solver, options):
    """Weights of the table and states, and a last step to 0 that is finite."""
    for num_steps in (1, 2, 3, 5):
        for zero in (True, False):
            levels = grids.karras(num_steps, 0.01, 40.0, zero=zero)
            made = table(solver, levels, **options)
            assert np.isfinite(made.states).all() and np.isfinite(made.denoised).all()
            assert np.isfinite(last(solver, levels, **options)).all()


GRADIENTS = [(flow_lms, {"order": 3}), (unipc, {"order": 3, "variant": "vary", "reference": True})]


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "options"), GRADIENTS, ids=name)
def test_gradients_with_respect_to_the_grid(solver, options):
    """Of the last state, against differences of the textbook execution."""
    levels = grids.karras(4, 0.1, 10.0, zero=False)

    def total(knots):
        *_, y = solver(gaussian_jax, jnp.full(4, 10.0), list(knots), **options)
        return jnp.sum(y)

    gradient = jax.grad(total)(jnp.asarray(levels))
    step = np.zeros(5)
    step[2] = 1e-5 * levels[2]
    up, down = (
        sum(list(solver(gaussian, np.full(4, 10.0), floats(levels + d), **options))[-1])
        for d in (step, -step)
    )
    assert np.isfinite(gradient).all()
    assert gradient[2] == pytest.approx((up - down) / (2 * step[2]), rel=1e-5)


def gaussian_jax(y, s):
    return jnp.asarray(VARIANCES) / (jnp.asarray(VARIANCES) + s * s) * y


def test_on_a_table():
    """A flow solver sampled from a table reaches the Gaussian's own flow."""
    model = Gaussian(jnp.array([0.3, -0.2]), jnp.array([0.04, 0.5]))
    levels = grids.flow(60, start=0.99, end=0.01, zero=False)
    start = levels[0] * jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
    expected = model.flow(start, levels[0], levels[-1])
    got = sample(model.denoiser, table(flow_heun, levels), start)
    np.testing.assert_allclose(got, expected, atol=5e-3)


def test_errors():
    levels = grids.karras(4)
    for solver, options, message in (
        (flow_lms, {"order": 0}, "orders 1, 2"),
        (pndm, {"order": 5}, "orders 1 to 4"),
        (pndm, {"warm_up": "euler"}, "warms up with"),
        (pndm, {"intermediate_levels": [1.0]}, "needs 3 intermediate"),
        (deis, {"variable": "level"}, "interpolates in"),
        (unipc, {"variant": "bh3"}, "variants"),
        (dpmpp, {"second": "heun"}, "second"),
    ):
        with pytest.raises(ValueError, match=message):
            table(solver, levels, **options)
