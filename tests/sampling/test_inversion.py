"""Inversion: solvers on reversed grids, fixed points, exactly invertible solvers, all against exact
flows.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import DETERMINISTIC, name
from helpers.golden_numbers import load, teacher

from jaxdiff import grids, solvers
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.sampling.direct import direct
from jaxdiff.sampling.inversion import (
    decode,
    encode,
    fixed_point,
    inverse_table,
    invert,
    latent_statistics,
)
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.table import load_table, pad
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.bdia import bdia, bdia_inverse
from jaxdiff.solvers.edict import edict, edict_inverse
from jaxdiff.solvers.steps import dpm2_step, euler_step, heun_step

VARIANCES = np.array([0.04, 0.25, 1.0, 2.5])


def gaussian(y, s):
    return VARIANCES / (VARIANCES + s * s) * y


def flow(y, s, r):
    return y * np.sqrt((VARIANCES + r * r) / (VARIANCES + s * s))


def last(states):
    *_, end = states
    return end


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def slope(error, num_steps):
    return -np.polyfit(np.log(num_steps), np.log([error(n) for n in num_steps]), 1)[0]


@pytest.fixture(scope="module")
def mixture():
    random = np.random.default_rng(0)
    means, variances = random.normal(size=(4, 6)), random.uniform(0.05, 0.3, size=(4, 6))
    return GaussianMixture(np.full(4, 0.25), means, variances)


@pytest.fixture(scope="module")
def data(mixture):
    return mixture.sample(jax.random.key(1), 64)


@pytest.fixture(scope="module")
def D(mixture):
    """The mixture's denoiser on NumPy arrays."""
    call = jax.jit(lambda y, s: mixture.denoise(y, s))
    return lambda y, s: np.asarray(call(y, s))


def vp_grid(num_steps):
    """Uniform in the time of the linear VP process, levels as in ``process.VP``."""
    time = np.linspace(1.0, 1e-3, num_steps + 1)
    return np.sqrt(np.expm1(0.5 * 19.9 * time**2 + 0.1 * time)).tolist()


@pytest.mark.parametrize(("solver", "options"), DETERMINISTIC, ids=name)
def test_every_deterministic_solver_runs_on_the_reversed_grid(solver, options):
    """Data to noise along the exact flow of a Gaussian, and finite from one step on."""
    x = np.array([0.3, -0.6, 1.1, -2.0])

    def error(n):
        levels = grids.karras(n, 0.1, 20.0, zero=False)
        made = inverse_table(solver, levels, **options)
        assert made.name == f"{solver.__name__} inverse" and made.nfe >= n
        np.testing.assert_array_equal(made.levels, levels[::-1])
        end = last(solver(gaussian, x, [float(s) for s in made.levels], **options))
        return rms((end - flow(x, 0.1, 20.0)) / 20.0)

    assert all(np.isfinite(error(n)) for n in (1, 2, 3, 4, 5))
    assert error(160) < 0.03 and error(160) < 0.4 * error(40)


@pytest.mark.parametrize(
    ("solver", "options", "order"),
    [
        (solvers.euler, {}, 1),
        (solvers.heun, {}, 2),
        (solvers.dpm2, {}, 2),
        (solvers.dpmpp, {"order": 2, "lower_final": False}, 2),
        (fixed_point, {"iterations": 60}, 1),
        (fixed_point, {"iterations": 60, "step": solvers.steps.heun_step}, 2),
    ],
    ids=name,
)
def test_order_of_inversion(solver, options, order):
    x = np.array([0.3, -0.6, 1.1, -2.0])

    def error(n):
        up = [float(s) for s in grids.karras(n, 0.05, 20.0, zero=False)[::-1]]
        return rms((last(solver(gaussian, x, up, **options)) - flow(x, 0.05, 20.0)) / 20.0)

    assert abs(slope(error, [40, 80, 160]) - order) < 0.2


def test_an_inverse_table_is_a_table(tmp_path):
    """It runs as the textbook solver does, is saved, differentiated, and gives z = y_T/s_T."""
    model = Gaussian(np.zeros(4), VARIANCES)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)))
    levels = grids.karras(6, 0.1, 20.0, zero=False)
    made = inverse_table(solvers.dpmpp, levels, order=2)
    expected = last(solvers.dpmpp(gaussian, np.asarray(x), made.levels.tolist(), order=2))
    np.testing.assert_allclose(sample(model.denoiser, made, x), expected, rtol=1e-11)
    made.save(tmp_path / "up.json")
    np.testing.assert_array_equal(load_table(tmp_path / "up.json").levels, levels[::-1])
    z = invert(model.denoiser, solvers.dpmpp, levels, x, order=2)
    np.testing.assert_allclose(z, expected / 20.0, rtol=1e-11)

    @jax.jit
    def size(levels):
        made = inverse_table(solvers.dpmpp, levels, order=1)
        return jnp.sum(made.denoised**2) + made.levels[-1]

    gradient, nudge = jax.grad(size)(jnp.asarray(levels)), np.eye(7)[3] * 1e-6
    difference = (size(levels + nudge) - size(levels - nudge)) / 2e-6
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[3], difference, rtol=1e-6)


def test_what_has_no_inverse_is_refused(mixture, data):
    levels = grids.karras(3, zero=False)
    with pytest.raises(ValueError, match="ddim draws noise, so it has no inverse"):
        inverse_table(solvers.ddim, levels, eta=0.0)
    with pytest.raises(ValueError, match="leave out the final 0"):
        invert(mixture.denoiser, solvers.euler, grids.karras(3), data)
    with pytest.raises(TypeError, match="euler has no option 'order'"):
        inverse_table(solvers.euler, levels, order=2)
    with pytest.raises(ValueError, match="strictly decrease"):
        inverse_table(solvers.euler, levels[::-1])
    with pytest.raises(ValueError, match="at least 1 iteration"):
        inverse_table(fixed_point, levels, iterations=0)
    with pytest.raises(ValueError, match="heun is not exactly invertible"):
        encode(mixture.denoiser, solvers.heun, levels, data)
    with pytest.raises(TypeError, match="edict has no option 'gamma'"):
        encode(mixture.denoiser, edict, levels, data, gamma=1.0)
    with pytest.raises(ValueError, match=r"shape \(batch, 2, ...\), not \(64, 6\)"):
        decode(mixture.denoiser, edict, levels, data)
    for solver, options, message in (
        (edict, {"mixing": 1.0}, "0 < mixing < 1"),
        (bdia, {"gamma": 1.5}, "0 < gamma <= 1"),
        (bdia, {"frame": "flow"}, "frames are 'vp' and 've'"),
    ):
        with pytest.raises(ValueError, match=message):
            table(solver, levels, **options)


# Round trip and standard deviation of z on a mixture in 6 dimensions, grids uniform in the time of
# the linear VP process: Euler up and down, one iteration, ten iterations.
ROUND_TRIPS = {
    10: (0.27, 0.15, 0.03),
    20: (0.16, 0.08, 0.01),
    50: (0.07, 0.033, 1e-5),
    200: (0.02, 0.0085, 1e-10),
}


@pytest.mark.parametrize("num_steps", ROUND_TRIPS)
def test_round_trip_of_ddim_inversion(D, data, num_steps):
    levels, x = vp_grid(num_steps), np.asarray(data)
    up = levels[::-1]
    back = lambda y: rms(last(solvers.euler(D, y, levels)) - x)  # noqa: E731
    naive, once, often = ROUND_TRIPS[num_steps]
    assert back(last(solvers.euler(D, x, up))) == pytest.approx(naive, rel=0.5)
    assert back(last(fixed_point(D, x, up, iterations=1))) == pytest.approx(once, rel=0.5)
    y = last(fixed_point(D, x, up))
    assert back(y) < 2 * often
    assert rms(y / levels[0]) == pytest.approx(1.0, abs=0.4 if num_steps == 10 else 0.2)


@pytest.mark.parametrize("step", [euler_step, heun_step, dpm2_step])
def test_a_fixed_point_inverts_its_step(D, data, step):
    levels, x = [float(s) for s in grids.karras(30, 0.05, 80.0, zero=False)], np.asarray(data[:8])
    errors = []
    for iterations in (5, 10, 40):
        y = last(fixed_point(D, x, levels[::-1], step=step, iterations=iterations))
        for s, r in zip(levels, levels[1:], strict=False):
            y = step(D, y, s, r)
        errors.append(rms(y - x))
    assert errors[1] < 0.1 * errors[0] and errors[2] < 1e-9, errors


def test_ddim_inversion_as_published():
    """One iteration gives the states of diffusers' DDIMInverseScheduler."""
    numbers = load("solvers_diffusers")
    (case,) = [c for c in numbers.cases if c["scheduler"] == "DDIMInverseScheduler"]
    kept = numbers[f"alphas_cumprod/{case['betas']}"]
    kept = kept[np.append(0, numbers.get(case, "timesteps"))]
    levels = [float(s) for s in np.sqrt(1 / kept - 1)]
    means = load("teacher")["mix/mu"]
    x = means[np.arange(16) % 5]
    states = [x / np.sqrt(kept[0])]
    states += fixed_point(teacher(), states[0], levels, iterations=1)
    got = np.stack(states) * np.sqrt(kept)[:, None, None]
    np.testing.assert_allclose(got[:, :4], numbers.get(case, "traj"), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(got[-1], numbers.get(case, "final"), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("num_steps", [10, 20, 50, 200])
@pytest.mark.parametrize(
    ("solver", "inverse", "options"),
    [(edict, edict_inverse, {}), (bdia, bdia_inverse, {}), (bdia, bdia_inverse, {"frame": "ve"})],
    ids=name,
)
def test_exact_inversion_with_stable_settings(D, data, solver, inverse, options, num_steps):
    """Back to the data to rounding, and latents of the right size."""
    levels, x = vp_grid(num_steps), np.asarray(data)
    latents = last(inverse(D, x, levels, **options))
    assert rms(last(solver(D, latents, levels, **options)) - x) < 1e-11
    assert rms(latents[0] / levels[0]) == pytest.approx(1.0, abs=1.5 / num_steps + 0.03)


@pytest.mark.parametrize(
    ("inverse", "options", "ratio"),
    [(edict_inverse, {"mixing": 0.93}, 0.93**-2), (bdia_inverse, {"gamma": 0.9}, 1 / 0.9)],
    ids=name,
)
def test_too_much_mixing_ruins_the_latent(D, data, inverse, options, ratio):
    """The paper's fixed settings explode with the number of steps, at the rate of the formula."""
    size = {}
    for num_steps in (200, 300):
        pair = last(inverse(D, np.asarray(data), vp_grid(num_steps), **options))
        size[num_steps] = rms(pair[0] / vp_grid(num_steps)[0])
    assert size[200] > 100.0
    assert np.log(size[300] / size[200]) / 100 == pytest.approx(np.log(ratio), rel=0.2)


@pytest.mark.parametrize("solver", [edict, bdia])
@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_encode_and_decode(mixture, data, solver, zero, num_steps):
    """Exact at any number of steps, whatever the end of the grid."""
    levels = grids.karras(num_steps, 0.1, 20.0, zero=zero)
    latents = encode(mixture.denoiser, solver, levels, data)
    assert latents.shape == (64, 2, 6)
    again = decode(mixture.denoiser, solver, levels, latents)
    np.testing.assert_allclose(again, data, atol=1e-10 * 0.93 ** (-2 * num_steps))


def test_encoding_is_of_each_sample_alone_and_differentiable(mixture, data):
    levels = grids.karras(2, 0.1, 20.0)
    whole = encode(mixture.denoiser, edict, levels, data)
    turned = encode(mixture.denoiser, edict, levels, data[::-1])
    np.testing.assert_allclose(turned[::-1], whole, rtol=1e-12)
    latents, x = whole[:5], np.asarray(data[:5])

    @jax.jit
    def decoded(latents):
        return jnp.sum(jnp.sin(decode(mixture.denoiser, edict, levels, latents)))

    gradient = jax.grad(decoded)(latents)
    nudge = np.zeros(latents.shape)
    nudge[2, 1, 3] = 1e-6
    difference = (decoded(latents + nudge) - decoded(latents - nudge)) / 2e-6
    np.testing.assert_allclose(gradient[2, 1, 3], difference, rtol=1e-5)
    np.testing.assert_allclose(decode(mixture.denoiser, edict, levels, latents), x, atol=1e-11)


@pytest.mark.parametrize(
    ("solver", "options", "order"),
    [
        (edict, {}, 1),
        (edict, {"frame": "ve"}, 1),
        (bdia, {}, 2),
        (bdia, {"frame": "ve"}, 2),
        (bdia, {"gamma": 0.9}, 1),
    ],
    ids=name,
)
def test_order_of_reversible_solvers(solver, options, order):
    """From one state, on the exact flow of a Gaussian."""
    x = np.array([0.3, -0.6, 1.1, -2.0])
    start = flow(x, 0.05, 20.0)

    def error(n):
        levels = grids.karras(n, 0.05, 20.0, zero=False).tolist()
        return rms(last(solver(gaussian, start, levels, **options)) - x)

    assert abs(slope(error, [100, 200, 400]) - order) < 0.1 and error(400) < 0.02


@pytest.mark.parametrize("solver", [edict, bdia])
def test_reversible_solvers_sample_from_tables(solver):
    """The same numbers as in textbook form, on a grid that ends in 0, and executed directly."""
    model, levels = Gaussian(np.zeros(4), VARIANCES), grids.karras(5, 0.05, 20.0)
    start = 20.0 * np.random.default_rng(0).normal(size=(5, 4))
    made = table(solver, levels)
    assert made.nfe == (10 if solver is edict else 5) and not made.stochastic
    got = sample(model.denoiser, made, jnp.asarray(start))
    np.testing.assert_allclose(got, last(solver(gaussian, start, levels.tolist())), rtol=1e-10)
    np.testing.assert_allclose(direct(model.denoiser, solver, levels, jnp.asarray(start)), got)


def tuned(zero=False, rows=solvers.dpmpp):
    """A table of a few steps whose weights are no solver's."""
    made = table(rows, grids.karras(6, low=0.05, zero=zero))
    factors = 1 + 0.05 * np.random.default_rng(0).normal(size=made.denoised.shape)
    return dataclasses.replace(made, denoised=made.denoised * factors)


def test_a_tuned_table_is_inverted_by_its_own_weights(data, mixture):
    made = tuned()
    latent = invert(mixture.denoiser, made, None, data, tolerance=1e-7)
    np.testing.assert_allclose(sample(mixture.denoiser, made, 80.0 * latent), data, atol=1e-5)
    again = invert(mixture.denoiser, made, made.levels, data[:2], tolerance=1e-7)
    np.testing.assert_allclose(again, latent[:2], atol=1e-12)  # each has its own sweeps


def test_a_table_that_ends_in_zero_leads_to_what_becomes_of_the_data_there(data, mixture):
    made = tuned(True, solvers.euler)
    latent = invert(mixture.denoiser, made, None, data, tolerance=1e-7)
    expected = made.denoised[-1, -1, 0] * mixture.denoiser(data, made.nodes[-1])
    np.testing.assert_allclose(sample(mixture.denoiser, made, 80.0 * latent), expected, atol=1e-5)


def test_tables_that_are_not_inverted(data, mixture):
    D, made = mixture.denoiser, tuned()
    for wrong, words in (
        (table(solvers.ddpm, [2.0, 1.0, 0.5]), "draws noise"),
        (pad([made])[0], "padded"),
        (table(solvers.jump, [2.0, 1.0, 0.5]), "flow map"),
        (inverse_table(solvers.euler, [2.0, 1.0]), "an inverse already"),
        (table(solvers.euler, [2.0, 0.0]), "forgets its start"),
    ):
        with pytest.raises(ValueError, match=words):
            invert(D, wrong, None, data)
    with pytest.raises(ValueError, match="levels of its own"):
        invert(D, made, [3.0, 1.0], data)
    with pytest.raises(TypeError, match="give its levels"):
        invert(D, solvers.euler, None, data)
    with pytest.raises(RuntimeError, match=r"after 1 sweeps a state of samples \[0, 1, .* lacks"):
        invert(D, made, None, data, sweeps=1)
    with pytest.raises(Exception, match="did not settle to 0.0001 in 1 sweeps"):
        jax.block_until_ready(jax.jit(lambda x: invert(D, made, None, x, sweeps=1))(data))
    for wrong in ({"tolerance": np.nan}, {"tolerance": np.inf}, {"data_std": 0.0}):
        with pytest.raises(ValueError, match="must be positive and finite"):
            invert(D, made, None, data, **wrong)
    with pytest.raises(ValueError, match="at least 1, not 0 and 4"):
        invert(D, made, None, data, sweeps=0)
    with pytest.raises(RuntimeError, match=r"samples \[1\] are not finite"):
        invert(D, made, None, data[:2].at[1].set(jnp.nan))
    with pytest.raises(TypeError, match="traced table"):
        jax.eval_shape(lambda t: invert(D, t, None, data), made)


def test_latent_statistics():
    random = np.random.default_rng(0)
    z = jnp.asarray(random.normal(size=(4000, 5, 4)))
    x = 0.6 * z + 0.8 * jnp.asarray(random.normal(size=z.shape))
    found = latent_statistics(z, x)
    assert found.norm.shape == (4000,) and found.mean.shape == (5, 4)
    assert abs(found.norm.mean() - 1) < 0.02 and abs(found.norm.std() - 1 / np.sqrt(40)) < 0.02
    n = 4000
    for value, middle, spread in (
        (found.mean, 0, 1 / np.sqrt(n)),
        (found.variance, 1, np.sqrt(2 / n)),
        (found.kurtosis, 0, np.sqrt(24 / n)),
        (found.correlation, 0.6, 1 / np.sqrt(n)),
    ):
        assert (np.abs(value - middle) < 4.5 * spread).all()
    assert latent_statistics(z).correlation is None
    with pytest.raises(ValueError, match="same shape"):
        latent_statistics(z, x[:5])
    with pytest.raises(ValueError, match="at least two"):
        latent_statistics(z[:1])
