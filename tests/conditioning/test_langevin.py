"""Langevin dynamics on a posterior: linear recursions of a Gaussian, whose laws are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import operators as ops
from jaxdiff import posterior
from jaxdiff.conditioning.posterior.langevin import chebyshev
from jaxdiff.exact import Gaussian

VARIANCE, LEVEL, NOISE, SEEN = 0.5, 0.2, 0.3, 0.7
CURVATURE = 1 / (VARIANCE + LEVEL**2) + 1 / NOISE**2
MEAN = SEEN / NOISE**2 / CURVATURE
D = Gaussian(jnp.zeros(2), jnp.full(2, VARIANCE)).denoiser
MEASUREMENT = ops.Measurement(ops.mask([1, 0]), jnp.array([SEEN, 0.0]), NOISE)


def polynomials(h, stages):
    """A and B of x' = A x + B sqrt(2h) z about the mean, as of SK-ROCK's stability polynomials."""
    a, p = 1 + 0.05 / stages**2, -CURVATURE * h
    T, angle = np.polynomial.Chebyshev.basis(stages), np.arccosh
    b = T(a) / T.deriv()(a)
    U = lambda x: np.sin(stages * np.arccos(x)) / np.sin(np.arccos(x))  # noqa: E731
    top = np.sinh(stages * angle(a)) / np.sinh(angle(a))
    return T(a + b * p) / T(a), U(a + b * p) / top * (1 + b * p / 2)


def run(method, x, key, h, **options):
    return jax.jit(lambda x: method(D, MEASUREMENT, x, LEVEL, h, key, **options))(x)


@pytest.mark.parametrize("stages", [0, 4])
def test_a_step_is_its_polynomial_and_the_law_is_the_one_it_leads_to(key, stages):
    """stages 0: ULA, whose polynomial is 1 - h L."""
    h = 1.5 / CURVATURE if stages == 0 else 6.0 / CURVATURE  # ULA is unstable at the second
    A, B = (1 - h * CURVATURE, 1.0) if stages == 0 else polynomials(h, stages)
    method = posterior.ula if stages == 0 else posterior.skrock
    more = {"num_stages": stages} if stages else {}
    x = np.zeros((2048, 2))
    x[::2] = [1.3, 0.4]
    one = np.asarray(run(method, jnp.asarray(x), key, h, num_steps=1, index=np.arange(2048) // 2,
                         **more))  # fmt: skip
    np.testing.assert_allclose(one[::2, 0] - one[1::2, 0], 1.3 * A, rtol=1e-9)
    found = np.asarray(run(method, jnp.asarray(x), key, h, num_steps=40, **more))[:, 0]
    variance = 2 * h * B**2 / (1 - A**2)
    assert abs(found.mean() - MEAN) < 5 * np.sqrt(variance / 2048)
    np.testing.assert_allclose(found.var(), variance, rtol=5 * np.sqrt(2 / 2048))


def test_short_steps_lead_to_the_posterior(key):
    """Mean and variance of the posterior of a prior that is as noisy as the level."""
    h = 0.1 / CURVATURE
    found = np.asarray(
        run(posterior.skrock, jnp.zeros((2048, 2)), key, h, num_steps=60, num_stages=4)
    )
    rest = VARIANCE + LEVEL**2  # of what is not measured, which is still on its way
    np.testing.assert_allclose(found[:, 0].mean(), MEAN, atol=5 / np.sqrt(CURVATURE * 2048))
    np.testing.assert_allclose(found[:, 0].var() * CURVATURE, 1, rtol=0.2)
    shrink = 1 - np.exp(-2 * 60 * h / rest)
    np.testing.assert_allclose(found[:, 1].var(), rest * shrink, rtol=0.2)


def test_coefficients_of_two_stages_by_hand():
    a = 1 + 0.05 / 4
    b = (2 * a * a - 1) / (4 * a)
    share = a / (2 * a * a - 1)
    wanted = [(b / a, b, 2 * b / a), (2 * b * share, 2 * a * share, 1 - 2 * a * share)]
    np.testing.assert_allclose(chebyshev(2), wanted, rtol=1e-12)


def test_likelihood_of_a_measurement_with_noise_of_its_own(key):
    """The mean over its noise is annealed Langevin's, and its deviation s^3 |A^T A|/(...)."""
    matrix, level = np.array([[1.0, 2.0], [0.5, -1.0]]), 0.8
    seen = ops.Measurement(ops.matrix(matrix), jnp.array([0.3, -0.2]), NOISE)
    y = jnp.array([[0.4, -0.6], [1.0, 2.0]])
    keys = jax.random.split(key, 2048)
    made = jax.jit(jax.vmap(lambda k: posterior.score_sde(D, seen, k)(y, level)))
    each = np.asarray(made(keys))
    plain = np.asarray(posterior.annealed_langevin(D, seen)(y, level))
    pull = level**3 / (NOISE**2 + level**2) * matrix.T @ matrix
    deviation = np.sqrt(np.diag(pull @ pull.T))
    assert (np.abs(each.mean(axis=0) - plain) < 5 * deviation / np.sqrt(2048)).all()
    np.testing.assert_allclose(each.std(axis=0), np.stack([deviation] * 2), rtol=0.1)
    np.testing.assert_allclose(each[:, 0] - plain[0], each[:, 1] - plain[1], atol=1e-9)  # one e


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"step": 0.0}, ValueError, "step must be positive"),
        ({"level": -1.0}, ValueError, "level must be positive"),
        ({"num_steps": 0}, ValueError, "at least one iteration"),
        ({"num_stages": 1}, ValueError, "two stages, not 1"),
        ({"key": jax.random.PRNGKey(0)}, TypeError, "key"),
        ({"measurement": ops.Measurement(MEASUREMENT.operator, jnp.zeros(2), 0.0)}, ValueError,
         "divides by the noise"),
    ],
)  # fmt: skip
def test_what_is_refused(change, error, words, key):
    given = {"measurement": MEASUREMENT, "level": LEVEL, "step": 0.1, "key": key} | change
    with pytest.raises(error, match=words):
        posterior.skrock(D, x=jnp.zeros((2, 2)), **given)
