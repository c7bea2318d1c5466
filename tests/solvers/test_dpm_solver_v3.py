"""DPM-Solver-v3 and its statistics: what it becomes at the ends, exactness, orders, estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, grids, solvers
from jaxdiff.sampling.direct import direct
from jaxdiff.solvers.dpm_solver_v3 import dpm_v3
from jaxdiff.solvers.model_statistics import Statistics, estimate_statistics, gaussian_statistics
from jaxdiff.solvers.quadrature import lagrange_integrals
from jaxdiff.solvers.scalar import weighted

MEAN, VARIANCES = np.array([0.3, -0.5, 0.0, 1.0]), np.array([0.04, 0.25, 1.0, 2.5])
FINE = grids.log_snr(400, zero=False)
MIXTURE = exact.GaussianMixture(
    [0.3, 0.5, 0.2],
    [[-1.0, 0.3], [0.4, -0.2], [1.3, 0.1]],
    [[0.06, 0.02], [0.02, 0.1], [0.16, 0.05]],
)


def gaussian(y, s):
    return MEAN + VARIANCES / (VARIANCES + s * s) * (y - MEAN)


def mixture(y, s):
    """In NumPy."""
    weights, means, variances = (np.asarray(a) for a in jax.tree.leaves(MIXTURE))
    spread, apart = variances + s * s, y[:, None] - means
    logits = np.log(weights) - 0.5 * (apart**2 / spread + np.log(spread)).sum(-1)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    return (share[..., None] * (means + variances / spread * apart)).sum(1)


def constant(l, s, b=0.0, d=4):  # noqa: E741
    return Statistics(FINE, *(np.full((len(FINE), d), float(x)) for x in (l, s, b)))


def run(solver, D, y, levels, **options):
    *_, end = solver(D, y, [float(s) for s in levels], **options)
    return end


@pytest.fixture(scope="module")
def start():
    return 80 * np.random.default_rng(0).normal(size=(3, 4))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("prediction", "l", "s"), [("data", 1, 0), ("noise", 0, -1)])
def test_its_two_ends_are_unipc(start, prediction, l, s, order, zero):  # noqa: E741
    """(1, 0, 0) interpolates D and (0, -1, 0) eps: predictor and corrector of UniPC, exactly."""
    levels = grids.karras(7, zero=zero)
    ours = run(dpm_v3, gaussian, start, levels, statistics=constant(l, s), order=order)
    options = {"order": order, "prediction": prediction, "variant": "vary"}
    expected = run(solvers.unipc, gaussian, start, levels, **options)
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_its_predictor_is_the_exponential_adams_method(start, order):
    """For l = 1, s = 0: D interpolated in lambda, the exponential integrated exactly."""

    def adams(D, y, levels):
        history = []
        for s, r in zip(levels, levels[1:], strict=False):
            history = [(-np.log(s), D(y, s)), *history][:order]
            times = [t for t, _ in history]
            weights = lagrange_integrals(times, -np.log(s), -np.log(r), lambda t: float(np.exp(t)))
            y = r / s * y + r * weighted(weights, [m for _, m in history])
            yield y

    levels = grids.log_snr(8, zero=False)
    options = {"statistics": constant(1, 0), "order": order, "lower_final": False}
    ours = run(dpm_v3, gaussian, start, levels, corrector=False, **options)
    np.testing.assert_allclose(ours, run(adams, gaussian, start, levels), rtol=1e-9, atol=1e-10)


def test_one_step_is_exact_on_a_gaussian(start):
    """From level 80 to 0.002, and whatever the grid and the options."""
    statistics = gaussian_statistics(MEAN, VARIANCES, FINE)
    gain = np.sqrt((VARIANCES + 0.002**2) / (VARIANCES + 6400))
    truth = MEAN + gain * (start - MEAN)
    for options in ({}, {"pseudo": True}, {"corrector": False}, {"reference": True}):
        for levels in ([80.0, 0.002], [80.0, 3.0, 0.5, 0.002]):
            ours = run(dpm_v3, gaussian, start, levels, statistics=statistics, **options)
            np.testing.assert_allclose(ours, truth, rtol=2e-6, atol=1e-7)  # of 400 knots
    assert np.abs(run(solvers.unipc, gaussian, start, [80.0, 0.002]) - truth).max() > 0.1


def bent(levels):
    """Statistics of no model, smooth and different in each number: only good for orders."""
    t = -np.log(levels)[:, None] + np.array([0.0, 0.4])
    l = 1 / (1 + np.exp(2 * t))  # noqa: E741
    return Statistics(levels, l, -0.5 * np.cos(t / 3), 0.3 * np.sin(t))


@pytest.fixture(scope="module")
def reference():
    y = 20 * np.random.default_rng(1).normal(size=(40, 2))
    levels = np.geomspace(20, 0.05, 4001)
    end, h = y, np.log(levels[0] / levels[1])
    for s in levels[:-1]:
        field = lambda y, t, s=s: mixture(y, s * np.exp(-t)) - y  # noqa: E731
        a = field(end, 0.0)
        b = field(end + h / 2 * a, h / 2)
        c = field(end + h / 2 * b, h / 2)
        end = end + h / 6 * (a + 2 * b + 2 * c + field(end + h * c, h))
    return y, end


@pytest.mark.parametrize(
    ("options", "slope"),
    [
        *[({"order": k, "corrector": False}, k) for k in (1, 2, 3)],
        *[({"order": k}, k + 1) for k in (1, 2)],
        ({"order": 3, "corrector": False, "pseudo": True}, 2),
        ({"order": 2, "reference": True}, 2),
    ],
    ids=str,
)
def test_observed_order(reference, options, slope):
    y, truth = reference
    num_steps, errors = np.array([80, 160, 320]), []
    for n in num_steps:
        levels = grids.log_snr(n, 0.05, 20.0, zero=False)
        end = run(dpm_v3, mixture, y, levels, statistics=bent(FINE), lower_final=False, **options)
        errors.append(np.sqrt(np.mean((end - truth) ** 2)))
    observed = -np.polyfit(np.log(num_steps), np.log(errors), 1)[0]
    assert abs(observed - slope) < 0.25, (observed, errors)


def test_estimates_are_the_closed_form_on_a_gaussian(key):
    truth, levels = exact.Gaussian(MEAN, VARIANCES), grids.log_snr(60, zero=False)
    data = truth.sample(key, 64)
    known = gaussian_statistics(MEAN, VARIANCES, levels)
    for probes in (None, 1):  # dD/dy is diagonal: one sign per number gives it exactly
        ours = estimate_statistics(truth.denoiser, data, levels, key, probes=probes)
        np.testing.assert_allclose(ours.l, known.l, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ours.s, known.s, atol=1e-5)
        np.testing.assert_allclose(ours.b, known.b, atol=0.01)  # differences of l over the grid


@pytest.mark.slow
def test_estimates_on_a_mixture_agree_with_quadrature(key):
    """The definitions on a line of states weighted by their density, derivatives by differences."""
    truth = exact.GaussianMixture([0.3, 0.7], [[-1.0], [0.6]], [[0.05], [0.1]])
    levels, h = np.geomspace(5.0, 0.2, 25), 1e-5
    data = truth.sample(key, 20000)
    ours = estimate_statistics(
        truth.denoiser, data, levels, jax.random.key(5), probes=None, batch=10000
    )
    y = np.linspace(-25.0, 25.0, 2001)[:, None]

    def gain(s):
        return 1 - density(s) @ np.asarray(truth.divergence(jnp.asarray(y), s))

    def density(s):
        p = np.exp(np.asarray(truth.log_density(jnp.asarray(y), s)))
        return p / p.sum()

    def f(t, y):
        s = np.exp(-t)
        return ((1 - gain(s)) * y - np.asarray(truth.denoise(jnp.asarray(y), s)))[:, 0]

    for i in (5, 12, 19):
        s, t = levels[i], -np.log(levels[i])
        p, rate = density(s), np.asarray(truth.denoise(jnp.asarray(y), s)) - y
        value, change = f(t, y), (f(t + h, y + h * rate) - f(t - h, y - h * rate)) / (2 * h)
        a, b = p @ value, p @ change
        slope = (p @ (value * change) - a * b) / (p @ value**2 - a * a)
        np.testing.assert_allclose(ours.l[i, 0], gain(s), atol=0.005)
        np.testing.assert_allclose(ours.s[i, 0], slope, atol=0.05)
        np.testing.assert_allclose(ours.b[i, 0], b - slope * a, atol=0.02)


def test_with_estimated_statistics_it_beats_its_relatives(key, reference):
    """Eight and ten steps on a mixture, lowest level 0.05: error a third lower or better."""
    y, truth = reference
    data = MIXTURE.sample(key, 1024)
    levels = grids.log_snr(60, 0.05, 20.0, zero=False)
    statistics = estimate_statistics(MIXTURE.denoiser, data, levels, key, probes=None, batch=1024)
    for n in (8, 10):
        grid = np.geomspace(20.0, 0.05, n + 1)
        error = lambda end: np.sqrt(np.mean((end - truth) ** 2))  # noqa: E731
        ours = error(run(dpm_v3, mixture, y, grid, statistics=statistics))
        for solver, options in (
            (solvers.dpmpp, {}),
            (solvers.dpmpp, {"order": 3}),
            (solvers.unipc, {}),
        ):
            assert ours < error(run(solver, mixture, y, grid, **options)) / 1.5


def test_direct_execution_in_float32(key):
    """Images: statistics of a sample's shape, weights in the states' precision."""
    shape = (2, 2)
    truth = exact.Gaussian(np.zeros(4, np.float32), np.full(4, 0.3, np.float32))
    D = lambda y, s, c=None: truth.denoise(y.reshape(-1, 4), s).reshape(y.shape)  # noqa: E731
    statistics = gaussian_statistics(np.zeros(shape), np.full(shape, 0.3), FINE)
    y = 80 * jax.random.normal(key, (3, *shape), jnp.float32)
    end = direct(D, dpm_v3, [80.0, 1.0, 0.1], y, statistics=statistics, order=2)
    assert end.dtype == jnp.float32
    gain = np.sqrt((0.3 + 0.01) / (0.3 + 6400))
    np.testing.assert_allclose(end, gain * np.asarray(y), rtol=2e-5)


@pytest.mark.slow
def test_derivatives_with_respect_to_the_grid():
    """Three steps, the last to level 0, predicted and corrected; against central differences.

    Forward mode: the program of reverse mode takes several times longer to compile.
    """
    start, statistics = (
        jnp.array([[70.0, -30.0]]),
        gaussian_statistics([0.1, 0.2], [0.3, 0.4], FINE),
    )

    def size(levels):
        D = lambda y, s: 0.9 * jnp.tanh(y / (1 + s * s))  # noqa: E731
        *_, end = dpm_v3(D, start, [*levels, 0.0], statistics, lower_final=False)
        return jnp.sum(end**2)

    both = jax.jit(lambda levels, direction: jax.jvp(size, (levels,), (direction,)))
    levels = jnp.asarray(np.geomspace(70.0, 0.1, 3))
    for i in range(3):
        unit = jnp.zeros(3).at[i].set(levels[i])
        slope = both(levels, unit)[1]
        more, less = (both(levels + h * unit, unit)[0] for h in (1e-6, -1e-6))
        np.testing.assert_allclose(slope, (more - less) / 2e-6, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5])
def test_it_is_finite_at_any_number_of_steps(start, num_steps):
    statistics = gaussian_statistics(MEAN, VARIANCES, FINE)
    for order in (1, 2, 3):
        for zero in (True, False):
            for options in ({}, {"pseudo": True}, {"reference": True, "lower_final": False}):
                levels = [float(s) for s in grids.karras(num_steps, zero=zero)]
                states = list(dpm_v3(gaussian, start, levels, statistics, order=order, **options))
                assert len(states) == num_steps and np.isfinite(states[-1]).all()


def test_what_it_is_given_is_checked(key, start):
    statistics = gaussian_statistics(MEAN, VARIANCES, np.geomspace(80, 0.1, 9))
    with pytest.raises(ValueError, match="orders 1 to 3, not 4"):
        run(dpm_v3, gaussian, start, [80.0, 1.0], statistics=statistics, order=4)
    with pytest.raises(ValueError, match="cover levels 80 to 0.1; the grid has 80 to 0.05"):
        run(dpm_v3, gaussian, start, [80.0, 0.05], statistics=statistics)
    data, D = jnp.ones((4, 2)), MIXTURE.denoiser
    for levels, message in (([1.0, 0.5], "at least four"), ([9.0, 5, 1, 0.5], "evenly spaced")):
        with pytest.raises(ValueError, match=message):
            estimate_statistics(D, data, levels, key)
    with pytest.raises(ValueError, match="probes must be at least 1"):
        estimate_statistics(D, data, [8.0, 4.0, 2.0, 1.0], key, probes=0)
