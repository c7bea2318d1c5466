"""Stochastic samplers: closed forms on Gaussians, identities, published numbers, gradients.

A sampler is linear in its start and its noises, so that on a Gaussian the variance of what it
returns is a sum of squares: ``outcome`` runs it on unit vectors and needs no random numbers.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import name
from helpers.golden_numbers import Counted, load, teacher

from experiments.samplers.orders import outcome, state_error
from jaxdiff import grids, solvers
from jaxdiff.denoisers import latent_consistency
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.grids.times import earlier_levels
from jaxdiff.prediction import boundary_scalings
from jaxdiff.pretrained.schedulers import read_scheduler
from jaxdiff.process import VP, time
from jaxdiff.sampling.direct import direct
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.analytic_dpm import analytic_dpm
from jaxdiff.solvers.churn import churn
from jaxdiff.solvers.consistency import consistency
from jaxdiff.solvers.er_sde import er_scale, er_sde, ode_scale, remainder, sde_scale
from jaxdiff.solvers.extended_analytic_dpm import HEADS, extended_analytic_dpm
from jaxdiff.solvers.improved_ddpm import ddpm_learned
from jaxdiff.solvers.model_statistics import second_moments
from jaxdiff.solvers.predictor_corrector import langevin_step, predictor_corrector
from jaxdiff.solvers.quadrature import lagrange_integrals
from jaxdiff.solvers.restart import knots, restart
from jaxdiff.solvers.sa_solver import adams, sa_solver
from jaxdiff.solvers.sde_dpmpp import sde_dpmpp
from jaxdiff.solvers.tcd import tcd

LEVELS = [float(s) for s in grids.karras(8, 0.05, 20.0, zero=False)]
LOOSE = [(0.3, 2.0, 2, 1)]  # an interval of restarts that fits any grid here
EVERYWHERE = {"low": 0.0, "high": math.inf}
TABLES = [
    *[(sa_solver, {"predictor": p, "corrector": c}) for p, c in ((1, 0), (2, 2), (3, 4), (4, 1))],
    (sa_solver, {"tau": 0.5, "reference": True} | EVERYWHERE),
    *[(er_sde, {"order": k}) for k in (1, 2, 3)],
    (er_sde, {"scale": ode_scale}),
    (er_sde, {"reference": True}),
    (restart, {"intervals": LOOSE}),
    (predictor_corrector, {}),
    (predictor_corrector, {"predictor": "none", "corrector_steps": 2}),
    (analytic_dpm, {"moments": lambda s: s * s / (1.0 + s * s), "bound": 1.0, "clip": 0.1}),
    (analytic_dpm, {"moments": lambda s: s / s, "eta": 0.0}),
    (tcd, {}),
    (tcd, {"gamma": 0.0}),
    (consistency, {}),
    (churn, {}),
    *[(sde_dpmpp, {"order": k, "second": "exact", "prediction": "noise"}) for k in (1, 2, 3)],
]


@pytest.fixture(scope="module")
def mixture():
    means = np.array([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.2]])
    return GaussianMixture(np.array([0.5, 0.3, 0.2]), means, np.full((3, 2), 0.05))


def D(y, s):
    """The denoiser of N(0.3, 0.25)."""
    return 0.3 + 0.25 / (0.25 + s * s) * (y - 0.3)


def run(solver, levels=LEVELS, seed=0, **options):
    """The last state, from fixed start and noises."""
    random = np.random.default_rng(seed)
    extra = {"noise": lambda: random.normal(size=7)}
    start = np.linspace(-20.0, 20.0, 7)
    *_, y = solver(D, start, levels, **extra, **options)
    return y


def same(a, b, **tolerance):
    np.testing.assert_allclose(a, b, **({"rtol": 1e-12, "atol": 1e-12} | tolerance))


# All of them: finite, differentiable, traceable


@pytest.mark.parametrize(("solver", "options"), TABLES, ids=name)
def test_finite_for_one_to_five_steps(solver, options):
    """Every step changes the state, the last to 0 gives the denoised output."""
    for num_steps in range(1, 6):
        for zero in (True, False):
            levels = [float(s) for s in grids.log_snr(num_steps + zero, 0.1, 80.0, zero=zero)]
            noise = lambda: np.full(3, 0.7)  # noqa: E731
            start = np.array([-80.0, 1.0, 100.0])
            states = [start, *solver(D, start, levels, noise, **options)]
            assert len(states) == len(levels) and np.isfinite(states).all()
            assert all(np.abs(b - a).max() > 1e-6 for a, b in zip(states, states[1:], strict=False))


@pytest.mark.parametrize(("solver", "options"), TABLES, ids=name)
def test_weights_are_differentiable_with_respect_to_the_grid(solver, options):
    """Finite derivatives, and those of finite differences, with and without a final zero."""
    for zero in (True, False):
        point = jnp.asarray(grids.log_snr(3, 0.1, 30.0, zero=False)[: None if zero else 3])
        weights = lambda v, z=zero: table(solver, [*v, 0.0] if z else list(v), **options)  # noqa: E731
        made, tangent = jax.jvp(weights, (point,), (point * 0.1,))
        host = weights([float(s) for s in point])
        moved = [weights([float(s) for s in point * (1 + h)]) for h in (1e-6, -1e-6)]
        for mine, slope, theirs, up, down in zip(
            *map(jax.tree.leaves, (made, tangent, host, *moved)), strict=True
        ):
            window = theirs.shape[-1]  # weights that happen to be zero are trimmed on the host
            same(mine[..., :window], theirs, rtol=1e-9, atol=1e-9)
            same(slope[..., :window], (up - down) / 2e-6 * 0.1, rtol=1e-5, atol=1e-5)
            assert np.isfinite(slope).all()


def test_weights_can_be_traced_by_jit():
    """Quadrature stays a handful of operations in the program, and restart says what it needs."""
    levels = jnp.asarray(LEVELS[:4])
    for solver, options in TABLES:
        weights = lambda v, s=solver, o=options: table(s, [*v, 0.0], **o)  # noqa: E731
        if solver is restart:
            with pytest.raises(ValueError, match="under jit"):
                jax.eval_shape(weights, levels)
        else:
            assert len(jax.make_jaxpr(weights)(levels).eqns) < 1500


# Stochastic Adams


def test_sa_solver_identities():
    """tau^2 is eta; without noise the predictor is Euler, DPM-Solver++ or Adams in lambda."""
    plain = {"tau": 0.0, "corrector": 0, "lower_final": False}
    same(run(sa_solver, predictor=1, **plain), run(solvers_euler))
    third_adams = table(sa_solver, LEVELS, predictor=3, **plain)
    third = table(solvers.dpmpp, LEVELS, order=3, lower_final=False)  # but for its second step
    same(third_adams.denoised[3:], third.denoised[3:])
    same(third_adams.states, third.states)
    once = [20.0, 3.0, 0.0]
    for tau in (0.5, 1.0, 1.3):
        noisy = run(sa_solver, once, predictor=1, corrector=0, tau=tau, **EVERYWHERE)
        same(noisy, run(solvers.sde_dpmpp, once, order=1, eta=tau**2))
    ending = [*LEVELS, 0.0]  # so that the last step is one to level 0 in both
    options = {"predictor": 3, "corrector": 0, "lower_final": False, **EVERYWHERE}
    same(run(sa_solver, ending, **options), run(solvers.sde_dpmpp, ending, order=3))


def test_published_rescaling_is_bh1_of_unipc():
    """With two nodes and no noise the published weight h/2 is that of UniPC's B(h) = h."""
    one = {"predictor": 1, "corrector": 2, "tau": 0.0, "lower_final": False, "reference": True}
    bh1 = {"order": 1, "variant": "bh1", "lower_final": False}
    same(run(sa_solver, **one), run(deterministic(solvers.unipc), **bh1))


def deterministic(solver):
    """A deterministic solver that is handed a noise."""
    return lambda D, y, levels, noise, **options: solver(D, y, levels, **options)


solvers_euler = deterministic(solvers.euler)


def test_sa_solver_weights_are_those_of_fine_quadrature():
    """Corrector of three nodes, tau = 1.2, against 20 000 midpoints."""
    times, end, h, k = [0.3, -0.4, -1.5], 0.3, 0.7, 1 + 1.2**2
    outputs = np.array([0.2, -1.0, 2.0])
    t = end - h + h * (np.arange(20_000) + 0.5) / 20_000
    curve = np.polyval(np.polyfit(times, outputs, 2), t)
    expected = np.mean(k * np.exp(k * (t - end)) * curve) * h
    history = list(zip(times, outputs, strict=True))
    assert adams(history, h, end, 1.2**2, False) == pytest.approx(expected, rel=1e-8)


def test_sa_solver_evaluates_once_per_step_and_shares_the_noise():
    made = table(sa_solver, [*LEVELS, 0.0], **EVERYWHERE)
    assert (made.nfe, len(made.draws)) == (len(LEVELS), len(LEVELS) - 1)
    assert len(table(sa_solver, LEVELS, **EVERYWHERE).draws) == len(LEVELS) - 2  # last step: none
    inside = [s for s in LEVELS[1:-1] if 0.72 <= s <= 25.1]
    assert len(table(sa_solver, LEVELS).draws) == len(inside)
    assert len(table(sa_solver, LEVELS, tau=lambda s: 0.0).draws) == 0


@pytest.mark.parametrize(
    ("predictor", "corrector", "order"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4), (1, 2, 2), (2, 3, 3), (3, 4, 4)],
)
def test_order_of_sa_solver_without_noise(predictor, corrector, order):
    options = {"predictor": predictor, "corrector": corrector, "tau": 0.0, "lower_final": False}
    history = max(predictor, corrector) - 1
    assert slope(sa_solver, options | {"noise": None}, history) == pytest.approx(order, abs=0.3)


def slope(solver, options, history, num_steps=(40, 80, 160)):
    errors = [
        state_error(solver, options, grids.karras(n, 0.05, 20.0, zero=False), history)
        for n in num_steps
    ]
    return -np.polyfit(np.log(num_steps), np.log(errors), 1)[0]


def test_noise_predicting_sde_solver():
    """Without noise it is the ODE solver; one step is the published one."""
    for order in (1, 2):
        options = {"order": order, "prediction": "noise", "lower_final": False}
        same(
            run(sde_dpmpp, order=order, eta=0.0, prediction="noise"),
            run(deterministic(solvers.dpmpp), **options),
        )
    s, r = 2.0, 0.5
    made = table(sde_dpmpp, [s, r], prediction="noise")
    same(made.noises[-1, -1], [math.sqrt(s * s - r * r)])
    same(made.denoised[-1, -1], [2 * r * math.expm1(math.log(s / r)) / s])
    with pytest.raises(ValueError, match="midpoint"):
        table(sde_dpmpp, LEVELS, second="heun")


# Extended reverse-time SDE


def test_er_sde_identities():
    same(run(er_sde, order=1, scale=ode_scale), run(solvers_euler))
    same(run(er_sde, order=1, scale=sde_scale), run(solvers.ddim, eta=1.0))
    assert len(table(er_sde, LEVELS, scale=ode_scale).draws) == 0
    assert len(table(er_sde, [*LEVELS, 0.0]).draws) == len(LEVELS) - 1


def test_er_sde_interpolates_the_output_in_the_level():
    """phi(u) = u: y_r/r = y_s/s + int D d(1/u), by Lagrange polynomials over the same levels."""
    made = table(er_sde, LEVELS, scale=ode_scale, order=3)
    s, r = LEVELS[4:6]
    past = LEVELS[4:1:-1]
    expected = lagrange_integrals(past, s, r, lambda u: -r / (u * u))
    same(made.denoised[5, -1], expected, rtol=1e-10)
    same(made.states[5, -1], [r / s])


def test_order_of_er_sde_without_noise():
    for order in (1, 2, 3):
        options = {"order": order, "scale": ode_scale, "noise": None}
        assert slope(er_sde, options, order - 1, (160, 320, 640)) == pytest.approx(order, abs=0.3)


def test_published_er_sde():
    """The sums of 100 points are right to a few percent; at order 1 there are none."""
    args = (2.0, 1.2, er_scale)
    for k in (1, 2):
        exact, sums = (remainder(k, *args, reference) for reference in (False, True))
        assert sums == pytest.approx(exact, rel=0.1) and sums != pytest.approx(exact, rel=1e-3)
    same(run(er_sde, order=1, reference=True), run(er_sde, order=1))
    same(run(er_sde, order=3, reference=True), run(er_sde, order=3), atol=0.03)


def test_er_sde_refuses_negative_variance():
    with pytest.raises(ValueError, match="must not decrease"):
        run(er_sde, scale=lambda x: x**0.5)


# Variance in closed form


@pytest.mark.parametrize(
    ("solver", "options", "finest"),
    [
        (sa_solver, {}, 2e-3),
        (sa_solver, EVERYWHERE, 5e-3),
        (sa_solver, {"predictor": 2, "corrector": 2, "tau": 0.7} | EVERYWHERE, 5e-3),
        (er_sde, {"order": 1}, 0.08),
        (er_sde, {}, 1e-3),
        (er_sde, {"scale": sde_scale}, 5e-3),
        (er_sde, {"reference": True}, 0.01),
        (sde_dpmpp, {"order": 2, "prediction": "noise"}, 0.02),
        (sde_dpmpp, {"order": 3, "eta": 0.5, "prediction": "noise"}, 0.02),
        (restart, {}, 0.01),
        (predictor_corrector, {"snr": 0.05}, 0.1),
        (predictor_corrector, {"predictor": "ancestral", "snr": 0.05}, 0.1),
    ],
    ids=name,
)
def test_variance_on_a_gaussian(solver, options, finest):
    """What comes out has the variance of the data, better with four times the steps."""
    variances = np.array([0.25, 1.0])
    errors = []
    for num_steps in (20, 80):
        levels = grids.karras(num_steps, 0.05, 20.0, zero=False)
        got = outcome(solver, options, levels, variances)
        errors.append(np.abs(got / (variances + levels[-1] ** 2) - 1).max())
    assert errors[1] < min(finest, errors[0]), errors


# Restart


def test_restart_counts_evaluations_as_published():
    """CIFAR-10: 43. ImageNet-64, N = 36: 203 (points become steps, one fewer)."""
    assert table(restart, grids.karras(18)).nfe == 43
    published = [
        (19.35, 40.79, 1, 3),
        (1.09, 1.92, 1, 3),
        (0.59, 1.09, 5, 3),
        (0.30, 0.59, 5, 3),
        (0.06, 0.30, 6, 5),
    ]
    made = table(restart, grids.karras(36), intervals=published, inflate=1.003)
    assert (made.nfe, len(made.draws)) == (203, 18)


def test_restart_starts_from_the_nearest_level_and_returns_to_it():
    grid = [4.0, 2.0, 1.0, 0.5]
    made = table(restart, grid, intervals=[(1.3, 3.0, 1, 2)], step=solvers.steps.euler_step)
    back = knots(3.0, 1.0, 2, 7.0)
    same(made.nodes, [4.0, 2.0, *back[:2], 1.0])
    assert back[0] == 3.0 and back[-1] == 1.0 and 1.0 < back[1] < 3.0
    plain = run(solvers_euler, grid[:3])
    raised = plain + np.sqrt(8.0) * np.random.default_rng(0).normal(size=7)
    *_, down = solvers.euler(D, raised, back)
    *_, expected = solvers.euler(D, down, grid[2:])
    same(run(restart, grid, intervals=[(1.3, 3.0, 1, 2)], step=solvers.steps.euler_step), expected)
    same(run(restart, intervals=[]), run(deterministic(solvers.heun)))


# Langevin dynamics


def test_langevin_leaves_a_level_as_it_is():
    """Stationary variance w/(1 - step/(2 w)), w = v + r^2: wrong by O(step), zero in the limit."""
    v, r = np.array([0.04, 1.0]), 0.5
    w = v + r * r
    for snr in (0.16, 0.04):
        step = 2 * (snr * r) ** 2
        assert step / (2 * w.min()) < 0.05
        spread = w.copy()
        for _ in range(int(30 / snr**2)):
            pull = langevin_step(lambda y, s: v / (v + s * s) * y, np.ones(2), r, snr, np.zeros(2))
            kick = langevin_step(lambda y, s: y * 0.0, np.zeros(2), r, snr, np.ones(2))
            spread = pull**2 * spread + kick**2
        same(spread, w / (1 - step / (2 * w)), rtol=1e-9)


def test_langevin_step_is_the_paper_s():
    """With the actual norms: x + step score + sqrt(2 step) z, step = 2 (snr |z|/|score|)^2."""
    random = np.random.default_rng(1)
    y, z, r, snr = random.normal(size=(4, 3)), random.normal(size=(4, 3)), 0.7, 0.16
    score = (D(y, r) - y) / r**2
    step = 2 * (snr * np.linalg.norm(z, axis=1) / np.linalg.norm(score, axis=1)) ** 2
    expected = y + step[:, None] * score + np.sqrt(2 * step)[:, None] * z
    same(langevin_step(D, y, r, snr, z, measured=True), expected)
    many, noise = random.normal(size=(2, 2, 100_000)) * np.array([[[r]], [[1.0]]])
    zero = lambda y, s: y * 0.0  # eps = y/r is then standard normal, its norm the expected one # noqa: E731
    measured, linear = (langevin_step(zero, many, r, snr, noise, m) for m in (True, False))
    same(measured, linear, rtol=0.02, atol=0.02)


def test_measured_norms_run_directly_and_sample_by_sample(key):
    levels = [2.0, 1.0, 0.0]
    options = {"measured": True, "key": key}
    denoiser = Gaussian(np.array([0.3, 0.3]), np.array([0.25, 0.25])).denoiser
    start = jnp.asarray(np.random.default_rng(2).normal(size=(5, 2)) * 2.0)
    whole = direct(denoiser, predictor_corrector, levels, start, **options)
    one = direct(denoiser, predictor_corrector, levels, start[3:4], index=jnp.array([3]), **options)
    same(one, whole[3:4])
    with pytest.raises(TypeError, match="not linear"):
        table(predictor_corrector, levels, measured=True)


def test_predictors():
    """Reverse diffusion adds all the noise that was removed, the ancestral one the posterior's."""
    s, r = 2.0, 0.5
    for predictor, width in (("reverse", math.sqrt(s**2 - r**2)), ("ancestral", None)):
        made = table(predictor_corrector, [s, r], predictor=predictor, corrector_steps=0)
        width = width or table(solvers.ddim, [s, r]).noises[-1, -1, 0]
        assert made.noises[-1, -1, 0] == pytest.approx(width) and made.nfe == 1
    made = table(predictor_corrector, [s, r, 0.0], corrector_steps=3)
    assert (made.nfe, len(made.draws)) == (5, 4)


# Variances of the reverse step


def test_learned_variance_lies_between_small_and_large():
    """v = 0 and 1 are DDPM's two variances, between them is geometric."""
    pair = lambda v: lambda y, s: (D(y, s), np.full(7, v))  # noqa: E731
    start = np.linspace(-20.0, 20.0, 7)

    def ends(denoise, solver, **options):
        random = np.random.default_rng(0)
        return [*solver(denoise, start, LEVELS, lambda: random.normal(size=7), **options)]

    for v, variance in ((0.0, "small"), (1.0, "large")):
        same(ends(pair(v), ddpm_learned), ends(D, solvers.ddpm, variance=variance))
    mean, *widths = (
        next(ddpm_learned(pair(v), start, LEVELS, lambda z=z: np.full(7, z)))
        for v, z in ((0.5, 0.0), (0.0, 1.0), (0.5, 1.0), (1.0, 1.0))
    )
    small, middle, large = (w - mean for w in widths)
    same(middle**2, small * large)


def test_learned_variance_runs_directly(mixture, key):
    small = table(solvers.ddpm, [3.0, 1.0, 0.3, 0.0], variance="small")
    pair = lambda y, s, cond=None: (mixture.denoiser(y, s), jnp.zeros_like(y))  # noqa: E731
    start = jnp.asarray(np.random.default_rng(2).normal(size=(5, 2)) * 3.0)
    got = direct(pair, ddpm_learned, small.levels, start, key=key)
    same(got, sample(mixture.denoiser, small, start, key=key))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_analytic_variance_is_exact_on_an_isotropic_gaussian(eta):
    """In any number of steps, for DDPM and DDIM; and it is that of the true reverse step."""
    v = 0.4
    moments = lambda s: s * s / (v + s * s)  # noqa: E731
    for num_steps in (1, 2, 5):
        levels = grids.karras(num_steps, 0.05, 20.0, zero=False)
        got = outcome(analytic_dpm, {"moments": moments, "eta": eta}, levels, np.array([v]))
        same(got, v + levels[-1] ** 2)
    s, r = 2.0, 0.5
    made = table(analytic_dpm, [s, r], moments=moments, eta=1.0)
    truth = (v + r * r) * (s * s - r * r) / (v + s * s)
    assert made.noises[-1, -1, 0] ** 2 == pytest.approx(truth)


def test_analytic_variance_is_nearer_the_truth_in_few_steps():
    """On an anisotropic Gaussian, Frechet distance, against DDPM's two variances."""
    variances = np.array([0.02, 0.05, 0.2, 0.5])
    moments = lambda s: float(np.mean(s * s / (variances + s * s)))  # noqa: E731
    for num_steps in (3, 5, 10):
        levels = grids.karras(num_steps, 0.05, 20.0, zero=False)

        def distance(solver, options, levels=levels):
            got = outcome(solver, options, levels, variances)
            return np.sum((np.sqrt(got) - np.sqrt(variances + levels[-1] ** 2)) ** 2)

        optimal = distance(analytic_dpm, {"moments": moments})
        for variance in ("small", "large"):
            assert optimal < 0.5 * distance(solvers.ddpm, {"variance": variance})


@pytest.mark.slow
def test_second_moments(mixture, key):
    """On N(0, v): s^2/(v + s^2). On a mixture 1 - E tr(dD/dy)/d, by the same states."""
    gaussian = Gaussian(np.zeros(2), np.array([0.4, 0.4]))
    levels = [3.0, 0.6, 0.0]
    data = gaussian.sample(key, 20_000)
    got = second_moments(gaussian.denoiser, data, levels, jax.random.key(2))
    np.testing.assert_allclose(got, [s * s / (0.4 + s * s) for s in levels[:-1]], rtol=0.03)
    data = mixture.sample(key, 20_000)
    y = data + 0.6 * jax.random.normal(jax.random.key(1), data.shape)
    expected = 1 - float(mixture.divergence(y, 0.6).mean()) / 2
    got = second_moments(mixture.denoiser, data, levels, jax.random.key(2))
    assert got[1] == pytest.approx(expected, 0.03)


def test_bounds_of_the_analytic_variance():
    """Data within [-b, b], and the last noise that is seen."""
    levels, moments = [4.0, 1.0, 0.5, 0.0], (0.9, 0.5, 0.1)
    widths = lambda **o: table(analytic_dpm, levels, moments=moments, **o).noises[1:, -1, 0]  # noqa: E731
    free, bounded, clipped = widths(), widths(bound=0.3), widths(clip=4 / 255)
    for (s, r), width in zip([(4.0, 1.0), (1.0, 0.5)], bounded, strict=False):
        least = r * r * (s * s - r * r) / s**2
        most = least + (1 - (r / s) ** 2) ** 2 * 0.3**2
        assert least < width**2 <= most * (1 + 1e-12)
    assert (bounded[:2] < free[:2]).all()
    same(clipped[0], free[0])
    assert clipped[1] * math.sqrt(2 / math.pi) == pytest.approx(4 / 255)
    largest = table(analytic_dpm, levels, moments=(1.2, 1.2, 1.2)).noises[1:, -1, 0]
    same(largest[:2], table(solvers.ddpm, levels).noises[1:, -1, 0][:2])


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_extended_analytic_variance_is_that_of_the_true_reverse_step(mixture, head, eta):
    """With exact heads one step has the first two moments of q(y_r | y_s), element by element.

    q(y_r | y_s) is the posterior of a mixture with variances v + r^2 seen at level^2 = s^2 - r^2.
    The variance of the step with eta < 1 is another, of the same form.
    """
    s, r = 1.5, 0.6
    y = jnp.asarray(np.random.default_rng(3).normal(size=(5, 2)) * s)
    output, jacobian = mixture.denoiser(y, s), mixture.jacobian(y, s)
    npr = jnp.diagonal(jacobian, axis1=1, axis2=2)
    given = npr if head == "npr" else npr + ((y - output) / s) ** 2

    def step(z):
        options = {"noise": lambda: z * jnp.ones_like(y), "head": head, "eta": eta}
        return next(extended_analytic_dpm(lambda y, s: (output, given), y, [s, r], **options))

    variance = (step(1.0) - step(0.0)) ** 2
    between = math.sqrt(s * s - r * r)
    later = GaussianMixture(mixture.weights, mixture.means, mixture.variances + r * r)
    if eta == 1.0:
        covariance = between**2 * later.jacobian(y, between)
        same(step(0.0), later.denoiser(y, between))
        same(variance, jnp.diagonal(covariance, axis1=1, axis2=2))
    else:
        down, up = solvers_levels(s, r, eta)
        same(step(0.0), output + down * (y - output) / s)
        same(variance, up**2 + (1 - down / s) ** 2 * s * s * npr)


def solvers_levels(s, r, eta):
    up = eta * r / s * math.sqrt(s * s - r * r)
    return math.sqrt(r * r - up * up), up


# Consistency


def test_multistep_consistency_is_exact_with_an_exact_function():
    """With the flow to the smallest level, every state has its level's variance."""
    variances, smallest = np.array([0.1, 1.0]), 0.05
    f = lambda y, s: y * np.sqrt((variances + smallest**2) / (variances + s * s))  # noqa: E731
    levels, spread = [20.0, 3.0, 0.5, smallest], variances + 400.0
    y, units = np.sqrt(spread) * np.eye(1, 4, 0).T, iter(range(1, 4))
    noise = lambda: np.eye(1, 4, next(units)).T * np.ones(2)  # noqa: E731
    states = consistency(f, y, levels, noise, smallest=smallest)
    for level, state in zip(levels[1:], states, strict=True):
        same((state**2).sum(0), variances + level**2)


def test_tcd_between_euler_and_consistency():
    same(run(tcd, gamma=0.0), run(solvers_euler))
    same(run(tcd, gamma=1.0), run(consistency))
    same(earlier_levels(VP(), LEVELS, 0.0), LEVELS[1:], rtol=1e-9)
    lower = earlier_levels(VP(), LEVELS, 0.3)
    assert all(0 < q < r for q, r in zip(lower, LEVELS[1:], strict=True))
    for levels, gamma in ((LEVELS, 1.5), (LEVELS, float("nan")), (LEVELS[::-1], 0.3)):
        with pytest.raises(ValueError, match="share of the time|strictly decrease"):
            earlier_levels(VP(), levels, gamma)
    made = table(tcd, LEVELS, lower=lower)
    s, r, q = *LEVELS[:2], lower[0]
    same([made.denoised[1, -1, 0], made.noises[1, -1, 0]], [1 - q / s, math.sqrt(r * r - q * q)])


# Options


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        (sa_solver, {"predictor": 5}, "predictors"),
        (sa_solver, {"corrector": -1}, "correctors"),
        (er_sde, {"order": 4}, "orders"),
        (restart, {"intervals": [(1.0, 0.5, 1, 2)]}, "high above"),
        (restart, {"intervals": [(1.0, 5.0, 0, 2)]}, "repeats"),
        (predictor_corrector, {"predictor": "euler"}, "predictor is one of"),
        (predictor_corrector, {"snr": 0.0}, "snr > 0"),
        (analytic_dpm, {}, "second moment"),
        (analytic_dpm, {"moments": [0.5] * 3}, "8 numbers, not 3"),
        (analytic_dpm, {"moments": [0.5] * 8, "eta": 2.0}, "eta"),
        (tcd, {"gamma": 1.5}, "gamma"),
        (tcd, {"lower": [0.1]}, "one level per step"),
        (tcd, {"lower": LEVELS[:-1]}, "cannot go lower"),
        (consistency, {"smallest": 0.1}, "smallest"),
    ],
)
def test_helpful_errors(solver, options, message):
    with pytest.raises(ValueError, match=message):
        table(solver, LEVELS, **options)


# Published numbers


GOLDEN = ("LCMScheduler", "TCDScheduler", "CMStochasticIterativeScheduler")


def golden_case(numbers, case):
    """Solver, options, denoiser, levels, and alpha of every state, as the configuration says."""
    denoise, name = teacher(case["mixture"]), case["scheduler"]
    sd = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    own = read_scheduler({"_class_name": name, **sd, **case["config"]})
    solver, levels, options = own.plan(case["num_inference_steps"])
    if name == GOLDEN[2]:
        assert (own.sigma_min, own.sigma_data) == (0.002, 0.5)

        def boundary(y, s):
            scalings = boundary_scalings(jnp.asarray(s), own.sigma_data, own.sigma_min)
            return float(scalings.c_skip) * y + float(scalings.c_out) * denoise(y, s)

        same(levels, numbers.get(case, "sched_sigmas"), rtol=1e-9)
        return solver, options, boundary, levels, np.ones(len(levels))
    timesteps = numbers.get(case, "timesteps")
    t = np.asarray(time(own.process, np.asarray(levels[: len(timesteps)])))
    np.testing.assert_array_equal(own.label(t), timesteps)
    if name == "TCDScheduler" and case["step_kwargs"]["eta"] == 0:  # not of a configuration
        options = {"gamma": 0.0}
    return solver, options, denoise, levels, 1 / np.sqrt(1 + levels**2)


@pytest.mark.parametrize("scheduler", GOLDEN)
def test_published_consistency_samplers(scheduler):
    numbers = load("solvers_diffusers")
    cases = [case for case in numbers.cases if case["scheduler"] == scheduler]
    assert cases
    for case in cases:
        solver, options, denoise, levels, alphas = golden_case(numbers, case)
        D = Counted(denoise)
        noise = iter(numbers.get(case, "noise") if "noise" in case["arrays"] else ())
        start = load("teacher")["z"] * (levels[0] if scheduler == GOLDEN[2] else 1 / alphas[0])
        states = [start, *solver(D, start, levels, lambda noise=noise: next(noise), **options)]
        assert len(D.levels) == case["nfe"]
        got = [np.asarray(y) * alpha for y, alpha in zip(states, alphas, strict=True)]
        same(got[-1], numbers.get(case, "final"), rtol=1e-6, atol=1e-6)
        traj = np.stack([y[:4] for y in got])
        same(traj, numbers.get(case, "traj"), rtol=1e-6, atol=1e-6)


def test_boundary_of_a_latent_consistency_model_is_that_of_its_scheduler():
    own = read_scheduler({"_class_name": "LCMScheduler"})
    _, levels, options = own.plan(4)
    y, s = jnp.linspace(-2.0, 2.0, 4)[:, None], jnp.asarray(levels[:4])
    f = latent_consistency(lambda y, s, cond=None: jnp.sin(y), own.process)
    skip, out = (np.asarray(options[k])[:, None] for k in ("skip", "out"))
    same(f(y, s), skip * y + out * np.sin(y), rtol=1e-7)
    below = 1e-3 * float(np.sqrt(1 / 0.99915 - 1))  # the first timestep's level is 0.029
    same(f(y, below), y, rtol=1e-6)


def test_every_published_consistency_sampler_is_covered():
    cases = load("solvers_diffusers", full=True).cases
    assert [sum(case["scheduler"] == s for case in cases) for s in GOLDEN] == [6, 6, 3]
