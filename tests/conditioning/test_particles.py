"""Sequential Monte Carlo: its parts, and that its error falls with the number of particles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import operators as ops
from jaxdiff import posterior
from jaxdiff.conditioning.posterior import particles
from jaxdiff.exact import GaussianMixture

MATRIX = np.array([[1.0, 0.5]])
OBSERVATION = jnp.array([0.3])
SEEN = ops.Measurement(ops.matrix(MATRIX), OBSERVATION, 0.3)
MIXTURE = GaussianMixture([0.5, 0.5], [[1.0, 0.0], [-1.0, 0.5]], np.full((2, 2), 0.1))
LEVELS = jd.grids.karras(20, 0.02, 10.0)
KEYS = jax.random.split(jax.random.key(0), 24)


def twisted(start, key):
    return posterior.tds(MIXTURE.denoiser, posterior.gaussian_twist(SEEN), LEVELS, start, key)


def filtering(start, key):
    return posterior.fps_smc(MIXTURE.denoiser, SEEN, LEVELS, start, key)


def error(sampler, count):
    """Root mean square error of the posterior mean that particles give."""

    def one(key):
        noise = jax.random.normal(jax.random.fold_in(key, 2**30), (count, 2))
        found = sampler(LEVELS[0] * noise, key)
        return jnp.exp(found.log_weights) @ found.states, found.effective

    means, effective = jax.jit(jax.vmap(one))(KEYS)
    assert effective.shape == (24, 19)
    assert 1 <= effective.min() <= effective.max() <= count * (1 + 1e-12)
    exact = MIXTURE.posterior(MATRIX, OBSERVATION, 0.3**2).moments()[0]
    return float(np.sqrt(np.mean(np.sum((np.asarray(means) - np.asarray(exact)) ** 2, axis=1))))


@pytest.mark.parametrize("sampler", [twisted, pytest.param(filtering, marks=pytest.mark.slow)])
def test_the_error_falls_with_the_number_of_particles(sampler):
    few, many = error(sampler, 4), error(sampler, 64)
    assert many < few / 2
    assert many < (0.3 if sampler is filtering else 0.2)


def test_systematic_resampling_keeps_the_means_and_least_of_the_randomness():
    weights = jnp.array([0.1, 0.4, 0.05, 0.45])
    for uniform in (0.0, 0.3, 0.99):
        chosen = particles.ancestors(jnp.log(weights), jnp.asarray(uniform))
        counts = np.bincount(chosen, minlength=4)
        assert (np.abs(counts - 4 * np.asarray(weights)) < 1).all()
    draws = jax.vmap(lambda u: particles.ancestors(jnp.log(weights), u))(jnp.arange(0, 1, 0.001))
    shares = np.bincount(np.ravel(draws), minlength=4) / 4000
    np.testing.assert_allclose(shares, weights, atol=1e-3)
    equal = particles.ancestors(jnp.zeros(4), jnp.asarray(0.5))
    np.testing.assert_array_equal(equal, np.arange(4))


def test_effective_numbers():
    assert float(particles.effective_number(jnp.zeros(7))) == pytest.approx(7)
    assert float(particles.effective_number(jnp.log(jnp.array([1.0, 1e-30])))) == pytest.approx(1)
    chosen, weights, effective = particles.choice(jnp.log(jnp.array([3.0, 1.0])), 0.5, 0.1)
    np.testing.assert_array_equal(chosen, [0, 1])  # worth 1.6 of 2: they stay
    assert float(effective) == pytest.approx(1.6)
    np.testing.assert_allclose(jnp.exp(weights), [3, 1])
    found = particles.Particles(jnp.arange(3.0)[:, None], jnp.log(jnp.array([0, 1.0, 0])), None)
    np.testing.assert_array_equal(posterior.resampled(found, jax.random.key(0)), 1.0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s, k: posterior.tds(jnp.sin, jnp.sum, (1.0, 2.0), s, k), ValueError, "decreasing"),
        (lambda s, k: posterior.tds(jnp.sin, 3, (2.0, 1.0), s, k), TypeError, "a likelihood"),
        (lambda s, k: posterior.tds(jnp.sin, jnp.sum, (2.0, 1.0), s, k, threshold=2.0), ValueError,
         "threshold"),
        (lambda s, k: posterior.tds(jnp.sin, jnp.sum, (2.0, 1.0), s, jax.random.PRNGKey(0)),
         TypeError, "key"),
        (lambda s, k: posterior.fps_smc(jnp.sin, rows(), (2.0, 1.0), s, k), ValueError, "vmap"),
        (lambda s, k: posterior.gaussian_twist(rows()), ValueError, "of all particles"),
        (lambda s, k: posterior.tds(jnp.sin, jnp.sum, (2.0, 1.0), s.astype(int), k), TypeError,
         "float32 or float64"),
    ],
)  # fmt: skip
def test_what_is_refused(call, error, words, key):
    with pytest.raises(error, match=words):
        call(jnp.ones((3, 2)), key)


@pytest.mark.parametrize("end", ["cond", "held by the denoiser"])
def test_conditions_go_with_their_particles(end, key):
    """The share of particles of a class is its probability given the measurement: half of them
    start as either, and what is near 0.3 is of the first.
    """
    apart = GaussianMixture([[1.0, 0.0], [0.0, 1.0]], [[0.3, 0.0], [-2.0, 0.5]], np.full(2, 0.1))
    labels = jnp.arange(64) % 2
    start = LEVELS[0] * jax.random.normal(key, (64, 2))
    held = lambda y, s, cond=None: apart.denoiser(y, s, labels)  # noqa: E731
    for sampler in (
        lambda D, cond: posterior.tds(D, posterior.gaussian_twist(SEEN), LEVELS, start, key, cond),
        lambda D, cond: posterior.fps_smc(D, SEEN, LEVELS, start, key, cond),
    ):
        if end != "cond":
            with pytest.raises(ValueError, match="per sample that it holds"):
                sampler(held, None)
            continue
        found = sampler(apart.denoiser, labels)
        weights = jnp.exp(found.log_weights)
        assert float(weights[found.cond == 0].sum()) > 0.99
        assert float(weights[jnp.abs(found.states[:, 0] - 0.3) < 1].sum()) > 0.99
        assert found.cond.dtype == labels.dtype


def test_particles_have_the_dtype_of_their_start(key):
    with jax.numpy_dtype_promotion("standard"):
        D = lambda y, s, cond=None: MIXTURE.denoiser(y, s).astype(jnp.bfloat16)  # noqa: E731
        start = jnp.ones((3, 2), jnp.float32)
        found = posterior.fps_smc(D, SEEN, (2.0, 1.0, 0.0), start, key)
    assert found.states.dtype == jnp.float32


def rows():
    return ops.Measurement(SEEN.operator, jnp.ones((3, 1)), 0.3)
