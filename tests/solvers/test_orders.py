"""Observed orders of convergence, and closed-form tables of what solvers do on a Gaussian.

A multistep solver is given exact history: in its first steps the network is evaluated on the exact
trajectory and the states are put back onto it, so that what is measured is the method and not its
start.
"""

import numpy as np
import pytest
from helpers.every_solver import ALL, name

from experiments.samplers import orders, problems, rows
from experiments.samplers.rows import Row
from jaxdiff import grids, solvers
from jaxdiff.solvers.pndm import published_ipndm_v

ROWS = rows.ROWS + [
    Row(solvers.dpm2, {"ratio": 0.3}, 2),
    Row(solvers.lms, {"order": 1}, 1),
    Row(solvers.ipndm, {"order": 1}, 1),
    *[Row(solvers.ipndm_v, {"order": k}, k, k - 1) for k in (2, 4)],
    *[Row(solvers.dpmpp, {"order": 1, "prediction": p}, 1) for p in ("data", "noise")],
    *[
        Row(solvers.unipc, {"order": k, "variant": v, "prediction": p}, k + 1, k)
        for k in (1, 2, 3)
        for v, p in (("bh1", "data"), ("bh1", "noise"), ("bh2", "noise"), ("vary", "noise"))
    ],
    Row(solvers.dpmpp, {"order": 2, "second": "exact"}, 2, 1),
    Row(solvers.dpm_solver, {"order": 1}, 1),
    *[Row(solvers.deis, {"order": k, "variable": "log_level"}, k, k - 1) for k in (1, 2, 3)],
    Row(solvers.flow_lms, {"order": 1}, 1),
    Row(solvers.bdia, {"gamma": 0.9}, 1),
    Row(solvers.sde_dpmpp, {"order": 3, "prediction": "noise"}, 2, stochastic=True, finer=2),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_observed_order(row):
    """The order that is declared, of the state or (stochastic) of the distribution."""
    slope, errors = orders.observed(row)
    assert abs(slope - row.order) < 0.2, errors


def test_every_solver_has_its_row():
    nonlinear = {solvers.genie}
    no_order = {solvers.consistency, solvers.tcd}  # of students, whose steps do not shrink
    learned = {solvers.amed, solvers.amed_dpm2, solvers.amed_ipndm, solvers.amed_dpmpp}
    learned |= {solvers.epd, solvers.bespoke}  # whose numbers are fitted to a grid
    known = {row.solver for row in ROWS} | no_order | learned
    assert known == {solver for solver, _ in ALL} | nonlinear


@pytest.mark.parametrize("order", [2, 3, 4])
def test_ipndm_has_its_full_order_on_a_uniform_grid(order):
    num_steps = np.array([160, 320, 640])
    errors = [
        orders.state_error(solvers.ipndm, {"order": order}, np.linspace(3.0, 0.2, n + 1), order - 1)
        for n in num_steps
    ]
    observed = -np.polyfit(np.log(num_steps), np.log(errors), 1)[0]
    assert abs(observed - order) < 0.2, (observed, errors)


# Gain x(end)/x_exact(end) of each solver on N(0, 0.25), from level 80 to 0.002 (specified to the
# printed digits).
GAINS = {
    (5, "karras"): [0.54782, 1.7061, 1.48574, 0.75555, 0.89957, 1.01526, 0.76459, 0.7788, 0.78212],
    (5, "log_snr"): [0.57133, 1.92757, 1.4098, 0.78563, 0.93138, 0.95587, 0.85371, 1.06768, 1.1095],
    (10, "karras"): [
        0.75278,
        1.17462,
        1.09766,
        0.93327,
        1.01614,
        1.05447,
        1.08629,
        1.28466,
        1.33029,
    ],
    (10, "log_snr"): [
        0.76735,
        1.18849,
        1.08268,
        0.94089,
        1.01467,
        1.04658,
        1.03664,
        1.10452,
        1.10512,
    ],
    (20, "karras"): [0.86756, 1.0392, 1.0225, 0.982, 1.00993, 1.01472, 1.04268, 0.99968, 0.97574],
}
GAIN_SOLVERS = [
    (solvers.euler, {}),
    (solvers.heun, {}),
    (solvers.dpm2, {}),
    *[(solvers.ipndm, {"order": k}) for k in (2, 3, 4)],
    (solvers.dpmpp, {"order": 2}),
    (solvers.dpmpp, {"order": 3, "reference": True}),
    (solvers.dpmpp, {"order": 3}),
]


@pytest.mark.parametrize(("num_steps", "grid"), GAINS)
def test_gain_on_a_gaussian(num_steps, grid):
    levels = [float(s) for s in getattr(grids, grid)(num_steps, zero=False)]
    D = lambda y, s: 0.25 / (0.25 + s * s) * y  # noqa: E731
    truth = levels[0] * np.sqrt((0.25 + levels[-1] ** 2) / (0.25 + levels[0] ** 2))
    for (solver, options), expected in zip(GAIN_SOLVERS, GAINS[num_steps, grid], strict=True):
        *_, end = solver(D, levels[0], levels, **options)
        assert end / truth == pytest.approx(expected, abs=1.1e-5), (solver.__name__, options)


# Squared Frechet distance of what each solver makes of a Gaussian with the mean and covariance of
# CIFAR-10, at its default grid without a final zero; first column the steps of the first value.
SPECTRUM = [
    (solvers.euler, {}, "karras", 3, [185.2, 128.1, 91.5, 68.3, 53.0, 42.4, 34.7, 29.0]),
    (solvers.ipndm, {}, "karras", 3, [50.5, 10.9, 3.46, 2.50, 2.06, 1.66, 1.31, 1.04]),
    (
        solvers.ipndm_v,
        {"reference": True},
        "karras",
        3,
        [129.0, 47.1, 17.0, 6.66, 2.96, 1.49, 0.87, 0.59],
    ),
    (
        solvers.dpmpp,
        {"order": 3, "reference": True},
        "log SNR",
        3,
        [177.7, 43.0, 15.8, 31.3, 26.4, 14.2, 6.46, 2.98],
    ),
    (solvers.deis, {}, "VP time", 3, [197.2, 109.8, 61.7, 35.9, 22.1, 14.4, 9.91, 7.09]),
    (solvers.lms, {}, "karras", 3, [169.9, 104.2, 63.1, 38.6, 24.2, 15.6, 10.3, 6.95]),
    (solvers.heun, {}, "karras", 2, [13657, 2020, 497, 171]),
    (solvers.dpm2, {}, "karras", 2, [4207, 429, 131, 50.3]),
]


@pytest.mark.parametrize(("solver", "options", "grid", "first", "expected"), SPECTRUM, ids=name)
def test_distance_on_the_spectrum_of_natural_images(solver, options, grid, first, expected):
    mean, variances = problems.natural_spectrum()
    for num_steps, value in enumerate(expected, first):
        levels = [float(s) for s in rows.GRIDS[grid](num_steps, 0.002, 80.0, False)]
        *_, gain = solver(orders.denoiser(variances), np.ones(3072), levels, **options)
        spread = np.sum((np.abs(gain) * levels[0] - np.sqrt(variances)) ** 2)
        assert spread + np.sum((mean * gain) ** 2) == pytest.approx(value, rel=5e-3)


def test_euler_is_best_on_the_arctan_grid():
    """Each Euler step on N(0, c^2) multiplies the exact flow by cos(change of arctan(level/c))."""
    D = lambda y, s: 0.25 / (0.25 + s * s) * y  # noqa: E731
    for num_steps, expected in ((5, 0.78068), (10, 0.88492)):
        levels = [float(s) for s in grids.arctan(num_steps, scale=0.5, zero=False)]
        *_, end = solvers.euler(D, 1.0, levels)
        exact_end = np.sqrt((0.25 + levels[-1] ** 2) / (0.25 + levels[0] ** 2))
        angles = np.diff(np.arctan(np.array(levels) / 0.5))
        assert end / exact_end == pytest.approx(np.prod(np.cos(angles)), rel=1e-12)
        assert end / exact_end == pytest.approx(expected, abs=1e-5)


def mixture_1d(y, s):
    weights, means, stds = (
        np.array([0.3, 0.5, 0.2]),
        np.array([-1, 0.4, 1.3]),
        np.array([0.25, 0.15, 0.4]),
    )
    spread = stds**2 + s * s
    logits = np.log(weights) - 0.5 * (np.log(spread) + (y[:, None] - means) ** 2 / spread)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    return (share * (means + stds**2 / spread * (y[:, None] - means))).sum(1)


@pytest.fixture(scope="module")
def mixture_reference():
    y = np.random.default_rng(0).normal(size=64) * 20.0
    start, t = y.copy(), np.log(np.geomspace(20.0, 0.05, 4001))
    field = lambda y, t: y - mixture_1d(y, np.exp(t))  # noqa: E731
    for a, b in zip(t[:-1], t[1:], strict=True):
        h = b - a
        k1 = field(y, a)
        k2 = field(y + h / 2 * k1, a + h / 2)
        k3 = field(y + h / 2 * k2, a + h / 2)
        k4 = field(y + h * k3, b)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return start, y


# Root mean square error at 20 and 80 steps on a 1-D mixture, Karras grid from 20 to 0.05.
MIXTURE = [
    (solvers.euler, {}, 7.69e-2, 1.75e-2),
    (solvers.heun, {}, 8.21e-3, 4.75e-4),
    (solvers.dpm2, {}, 4.63e-3, 2.75e-4),
    (solvers.ipndm, {"order": 2}, 9.40e-3, 8.12e-4),
    (solvers.ipndm, {"order": 3}, 3.41e-3, 1.51e-4),
    (solvers.ipndm, {"order": 4}, 2.76e-3, 1.81e-4),
    (solvers.lms, {"order": 2}, 2.27e-2, 1.79e-3),
    (solvers.lms, {"order": 3}, 1.15e-2, 3.65e-4),
    (solvers.lms, {"order": 4}, 7.67e-3, 1.07e-4),
    (solvers.dpmpp, {"order": 3, "prediction": "noise"}, 3.67e-3, 1.27e-4),
    (solvers.dpmpp, {"order": 2}, 8.67e-3, 5.36e-4),
    (solvers.dpmpp, {"order": 3, "reference": True}, 4.26e-3, 1.39e-4),
    (solvers.dpmpp, {"order": 3}, 6.89e-3, 9.36e-5),
    (solvers.unipc, {"order": 1, "variant": "bh1"}, 1.36e-2, 1.01e-3),
    (solvers.unipc, {"order": 1}, 2.18e-2, 1.60e-3),
    (solvers.unipc, {"order": 2, "variant": "bh1"}, 5.73e-3, 8.93e-5),
    (solvers.unipc, {"order": 2}, 3.70e-3, 1.08e-4),
    (solvers.unipc, {"order": 3}, 6.98e-3, 1.13e-5),
]


@pytest.mark.parametrize(("solver", "options", "coarse", "fine"), MIXTURE, ids=name)
def test_errors_on_a_mixture(mixture_reference, solver, options, coarse, fine):
    start, truth = mixture_reference
    if solver in (solvers.dpmpp, solvers.unipc):
        options = options | {"lower_final": False}
    for num_steps, expected in ((20, coarse), (80, fine)):
        levels = [float(s) for s in grids.karras(num_steps, 0.05, 20.0, zero=False)]
        *_, y = solver(mixture_1d, start, levels, **options)
        assert np.sqrt(np.mean((y - truth) ** 2)) == pytest.approx(expected, rel=0.05)


def run(solver, levels, **options):
    *_, y = solver(mixture_1d, np.linspace(-20.0, 20.0, 7), levels, **options)
    return y


def test_published_ipndm_v_coefficients():
    """What is published, and how far from Adams-Bashforth: at order 4 the sum is not even 1."""
    uniform = published_ipndm_v([-1.0] * 4)
    np.testing.assert_allclose(uniform, [57 / 24, -65 / 24, 43 / 24, -11 / 24])
    levels = grids.karras(10, zero=False)
    num_steps = [levels[i + 1] - levels[i] for i in range(5, 1, -1)]
    np.testing.assert_allclose(
        published_ipndm_v(num_steps[:3]), [1.7209, -0.9687, 0.2478], atol=5e-5
    )
    sums = [sum(published_ipndm_v(np.diff(levels)[i - 4 : i][::-1])) for i in range(4, 11)]
    assert max(abs(s - 1) for s in sums) == pytest.approx(7.8e-4, rel=0.02)


def test_solvers_that_are_one():
    """Identities between solvers, to rounding."""
    levels = [float(s) for s in grids.karras(8, 0.05, 20.0, zero=False)]
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)  # noqa: E731
    euler = run(solvers.euler, levels)
    for options in ({"order": 1}, {"order": 1, "prediction": "noise"}):
        same(run(solvers.dpmpp, levels, **options), euler)
    same(run(solvers.lms, levels, order=1), euler)
    same(run(solvers.ipndm, levels, order=1), euler)
    same(run(solvers.ipndm_v, levels, order=4), run(solvers.lms, levels, order=4))
    same(run(solvers.deis, levels, order=1), euler)
    for variant in ("bh1", "bh2", "vary"):
        same(run(solvers.unipc, levels, order=1, corrector=False, variant=variant), euler)
    # the predictor UniP is DPM-Solver++, with the weight 1/2 of bh2 or the exact one
    plain = {"order": 3, "lower_final": False}
    two = run(solvers.unipc, levels, order=2, corrector=False)
    same(two, run(solvers.dpmpp, levels, order=2))
    three = run(solvers.unipc, levels, corrector=False, **plain)
    same(three, run(solvers.dpmpp, levels, **plain))
    exact = run(solvers.dpmpp, levels, second="exact", **plain)
    same(run(solvers.unipc, levels, corrector=False, variant="vary", **plain), exact)
    adams = {"predictor": 3, "corrector": 0, "tau": 0.0, "lower_final": False, "noise": None}
    same(run(solvers.sa_solver, levels, **adams), exact)
    noise = run(solvers.dpmpp, levels, second="exact", prediction="noise", **plain)
    same(run(solvers.deis, levels, order=3, variable="log_level"), noise)
    no_noise = {"noise": None, "eta": 0.0}
    same(run(solvers.sde_dpmpp, levels, **no_noise), run(solvers.dpmpp, levels, lower_final=False))
    same(run(solvers.dpm2_ancestral, levels, **no_noise), run(solvers.dpm2, levels))
    uniform = [float(s) for s in np.linspace(20.0, 4.0, 9)]
    same(run(solvers.ipndm, uniform, order=4), run(solvers.lms, uniform, order=4))
