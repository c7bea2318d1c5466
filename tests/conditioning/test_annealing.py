"""DAPS, ReSample and RED-diff: exact where a prior makes them so, and their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import operators as ops
from jaxdiff import posterior
from jaxdiff.exact import Gaussian

RNG = np.random.default_rng(2)
MATRIX = np.array([[1.0, 0.5, 0.0]])
SEEN = ops.Measurement(ops.matrix(MATRIX), jnp.array([0.8]), 0.3)
MEAN = np.array([0.3, -0.2, 0.5])
D = Gaussian(MEAN, np.full(3, 0.7)).denoiser
COUNT = 4000


@pytest.mark.slow
def test_a_step_of_daps_draws_from_what_langevin_leads_to(key):
    """Of a point, x' = m: the draw of N(x0; m, s^2) given u."""
    point = lambda y, level, cond=None: jnp.broadcast_to(jnp.asarray(MEAN)[None], y.shape)  # noqa: E731
    start = jnp.zeros((COUNT, 3))
    expected = jd.exact.GaussianMixture([1.0], MEAN[None], np.full((1, 3), 0.25))
    mean, covariance = expected.posterior(MATRIX, SEEN.observation, 0.09).moments()
    for more in ({}, {"step": 0.02, "num_langevin": 60}):
        run = lambda s, more=more: jd.direct(  # noqa: E731
            point, posterior.daps, [0.5, 0.0], s, key=key, measurement=SEEN, num_ode_steps=1, **more
        )
        x = np.asarray(run(start))
        np.testing.assert_allclose(x.mean(0), mean, atol=0.04)
        np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.04)


def test_resample_is_ddim_until_it_puts_the_measurement_in():
    start = jnp.asarray(RNG.normal(size=(2, 3)))
    noise = jnp.asarray(RNG.normal(size=(1, 2, 3)))
    levels, gamma = [2.0, 1.0, 0.5, 0.0], 3.0
    found = jd.direct(
        D, posterior.resample, levels, start, noise=noise, measurement=SEEN, every=2, gamma=gamma
    )
    y = start
    for i, (s, r) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        x0 = D(y, s)
        y = x0 + r / s * (y - x0)
        x = x0 + SEEN.residual(x0) @ np.linalg.pinv(MATRIX).T
        if i == 1:
            g = gamma * r**2 * (s**2 - r**2)
            y = (g * x + r**2 * y) / (g + r**2) + np.sqrt(g * r**2 / (g + r**2)) * noise[0]
        if i == 2:
            y = x
    np.testing.assert_allclose(found, y, rtol=1e-9)
    slow = jd.direct(
        D, posterior.resample, levels, start, noise=noise, measurement=SEEN, every=2, gamma=gamma,
        step=0.5, num_iterations=60,
    )  # fmt: skip
    np.testing.assert_allclose(slow, y, rtol=1e-6)
    project = ops.nonlinear(lambda x: x @ MATRIX.T.astype(x.dtype), (3,))
    seen = ops.Measurement(project, SEEN.observation, SEEN.noise)
    own = jd.direct(
        D, posterior.resample, levels, start, noise=noise, measurement=seen, every=2, gamma=gamma
    )
    np.testing.assert_allclose(own, y, rtol=1e-6)  # Polyak's steps, to the same minimum


def test_the_regularisers_gradient_pulls_to_the_mean():
    x, level = jnp.asarray(RNG.normal(size=(3, 3))), jnp.array([0.5, 1.0, 2.0])
    e = jnp.asarray(RNG.normal(size=(3, 3)))
    both = lambda x: jnp.sum(  # noqa: E731  # e and -e: the noise cancels
        posterior.red_diff(D, x, level, e) + posterior.red_diff(D, x, level, -e)
    )
    s2 = np.asarray(level)[:, None] ** 2
    expected = 2 * 0.25 * s2 / (0.7 + s2) * (np.asarray(x) - MEAN)
    np.testing.assert_allclose(jax.grad(both)(x), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run(posterior.daps, step=-1.0), "positive step"),
        (lambda run: run(posterior.daps, num_ode_steps=0), "at least one iteration"),
        (lambda run: run(posterior.daps, measurement=curved()), "needs step="),
        (lambda run: run(posterior.resample, gamma=0.0), "positive gamma"),
        (lambda run: posterior.red_diff(D, jnp.ones((2, 3)), 0.0, jnp.ones((2, 3))), "positive"),
        (lambda run: posterior.red_diff(D, jnp.ones((2, 3)), 1.0, jnp.ones(3)), "shape of x"),
    ],
)
def test_what_is_refused(call, words, key):
    def run(solver, **options):
        options = {"measurement": SEEN, **options}
        return jd.direct(D, solver, [1.0, 0.5], jnp.ones((2, 3)), key=key, **options)

    with pytest.raises(ValueError, match=words):
        call(run)


def curved():
    return ops.Measurement(ops.nonlinear(jnp.tanh, (3,)), jnp.zeros(3), 0.1)
