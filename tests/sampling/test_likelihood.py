"""Likelihood against closed forms: densities, gradients, Hutchinson's variance, prior bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.sampling.dequantisation import bits_per_dimension, dequantise
from jaxdiff.sampling.likelihood import _log_prior, jacobian_diagonal, log_likelihood

LOW = 0.05


@pytest.fixture(scope="module")
def gaussian():
    random = np.random.default_rng(0)
    root = random.normal(size=(3, 3))
    return Gaussian(np.array([0.3, -0.2, 1.0]), root @ root.T / 3 + 0.05 * np.eye(3))


@pytest.fixture(scope="module")
def classes():
    means = np.array([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.2]])
    weights = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    return GaussianMixture(weights, means, np.full((3, 2), 0.05))


@pytest.fixture(scope="module")
def diagonal():
    return Gaussian(np.array([0.3, -0.2, 1.0]), np.array([0.1, 0.4, 1.2]))


@pytest.mark.slow
def test_fixed_steps_and_the_bias_of_the_prior(diagonal):
    """Log density, latent, evaluation count; and how much N(0, s_T^2) for a prior loses."""
    random = np.random.default_rng(1)
    mean, variances = np.asarray(diagonal.mean), np.asarray(diagonal.variances)
    x = jnp.asarray(mean + np.sqrt(variances + LOW**2) * random.normal(size=(4096, 3)))
    found = log_likelihood(diagonal.denoiser, x, 3.0, LOW, prior=diagonal, num_steps=30)
    truth = diagonal.log_density(x, LOW)
    np.testing.assert_allclose(found.log_density, truth, atol=2e-6)
    np.testing.assert_allclose(found.latent, diagonal.flow(x, LOW, 3.0) / 3.0, atol=1e-6)
    assert (found.nfe == 1 + 6 * 30).all() and (found.num_steps == 30).all()

    plain = log_likelihood(diagonal.denoiser, x, 3.0, LOW, num_steps=30)
    bias, ratio = np.asarray(plain.log_density - truth), variances / 9.0
    normal = -0.5 * np.sum(np.asarray(found.latent) ** 2 + np.log(2 * np.pi * 9.0), axis=1)
    at_top = np.asarray(diagonal.log_density(3.0 * found.latent, 3.0))
    np.testing.assert_allclose(bias, normal - at_top, atol=1e-5)
    expected = -(np.sum(mean**2) / 9.0 + np.sum(ratio - np.log1p(ratio))) / 2
    assert expected < -0.05 and abs(bias.mean() - expected) < 4 * bias.std() / 64


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"num_steps": 40}, pytest.param({"rtol": 1e-7, "atol": 1e-7}, marks=pytest.mark.slow)],
    ids=str,
)
def test_gradients_with_respect_to_parameters_and_data(diagonal, options):
    """Those of the closed form: the Gaussian is the denoiser and the prior."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))

    def solved(model, x):
        found = log_likelihood(model.denoiser, x, 20.0, LOW, prior=model, **options)
        return jnp.sum(found.log_density)

    exact = lambda model, x: jnp.sum(model.log_density(x, LOW))  # noqa: E731
    got, expected = (jax.jit(jax.grad(f, argnums=(0, 1)))(diagonal, x) for f in (solved, exact))
    for mine, theirs in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module")
def by_class(classes):
    """Data, labels, and their likelihood by error control, compiled once."""
    random = np.random.default_rng(3)
    x = classes.means[np.array([0, 1, 2, 2, 2, 0])] + 0.25 * random.normal(size=(6, 2))

    @jax.jit
    def run(x, labels, prior):
        return log_likelihood(classes.denoiser, x, 80.0, LOW, labels, prior=prior)

    return x, np.array([0, 0, 1, 1, 1, 0]), run


@pytest.mark.slow
def test_error_control_on_a_mixture(classes, by_class):
    """Well below 1e-3 nats per dimension at the default tolerances, each sample under its class."""
    x, labels, run = by_class
    density, moments = jax.jit(classes.log_density), jax.jit(classes.moments)
    expected = density(x, LOW, labels)
    assert np.abs(expected - density(x, LOW, 1 - labels)).min() > 0.1
    for label in (0, 1):
        found = run(x, labels, Gaussian(*moments(0.0, label)))
        own = labels == label
        np.testing.assert_allclose(found.log_density[own], expected[own], atol=4e-4)
        assert (found.nfe == 1 + 6 * found.num_steps).all() and len(
            set(found.num_steps.tolist())
        ) > 1


def test_a_sample_does_not_feel_its_neighbours(classes, by_class):
    x, labels, run = by_class
    prior, order = Gaussian(np.zeros(2), np.ones((2, 2)) * 0.1 + np.eye(2)), [3, 1, 5, 0, 4, 2]
    other = x[np.array(order)] * np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])[:, None]
    pair = run(x, labels, prior), run(other, labels[order], prior)
    for mine, theirs in zip(*map(jax.tree.leaves, pair), strict=True):
        np.testing.assert_allclose(theirs[:3], np.asarray(mine)[order[:3]], rtol=1e-9)


def test_jacobian_diagonal_is_exact_with_unit_vectors(classes):
    y = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
    run = jax.jit(jacobian_diagonal)
    output, diagonal = run(classes.denoiser, y, 0.4, None, jnp.eye(2).reshape(2, 1, 2))
    np.testing.assert_allclose(output, classes.denoiser(y, 0.4), rtol=1e-12)
    expected = np.einsum("bii->bi", classes.jacobian(y, 0.4))
    np.testing.assert_allclose(diagonal, expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_with_the_variance_of_the_formula(gaussian, distribution):
    """On a Gaussian the estimate is v^T M v, M the integral of dD/dy over log level: v is kept
    through the whole solve.
    """
    count, l = 4096, np.asarray(gaussian.variances)
    axes = np.asarray(gaussian.axes)
    x = jnp.broadcast_to(gaussian.sample(jax.random.key(1), 1), (count, 3))
    found = log_likelihood(
        gaussian.denoiser, x, 3.0, LOW, prior=gaussian, num_steps=20,
        probes=2, distribution=distribution, key=jax.random.key(5),
    )  # fmt: skip
    error = np.asarray(found.log_density - gaussian.log_density(x, LOW))
    M = axes * (np.log1p(l / LOW**2) - np.log1p(l / 9.0)) / 2 @ axes.T
    variance = 2 * np.sum(M**2) - 2 * np.sum(np.diag(M) ** 2) * (distribution == "rademacher")
    variance = variance / 2  # of two probes
    assert abs(error.mean()) < 3 * np.sqrt(variance / count)
    spread = np.sqrt(np.var((error - error.mean()) ** 2) / count)
    assert abs(error.var() - variance) < 4 * spread + 1e-4


def test_probes_belong_to_the_sample(gaussian):
    x = gaussian.sample(jax.random.key(1), 4096)

    def run(x, key, index=None):
        return log_likelihood(
            gaussian.denoiser, x, 3.0, LOW, num_steps=20, probes=2, key=key, index=index
        ).log_density

    key, order = jax.random.key(5), np.random.default_rng(0).permutation(4096)
    np.testing.assert_allclose(run(x[order], key, jnp.asarray(order)), run(x, key)[order])
    assert np.abs(run(x, key) - run(x, jax.random.key(6))).max() > 0.1


def test_precision_and_shapes_under_tracing(classes):
    """Single precision stays single; any shape of data; levels may be traced."""
    scale = lambda y, s, cond: y / (1 + s * s)  # noqa: E731
    images = jax.ShapeDtypeStruct((2, 2, 2, 1), jnp.float32)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    for options in ({}, {"num_steps": 3}, {"probes": 2, "key": jax.random.key(0)}):
        run = lambda x, low, o=options: log_likelihood(scale, x, 20.0, low, **o)  # noqa: E731
        out = jax.eval_shape(run, images, number)
        assert (out.log_density.shape, out.log_density.dtype) == ((2,), jnp.float32)
        assert (out.latent.shape, out.latent.dtype) == ((2, 2, 2, 1), jnp.float32)
        assert out.nfe.dtype == out.num_steps.dtype == jnp.int32


def test_bits_per_dimension_of_pixels():
    """Uniform pixels cost 8 bits each; dequantised ones are uniform within their cell."""
    np.testing.assert_allclose(bits_per_dimension(jnp.full(2, -12 * np.log(2.0)), 12), 8.0)
    np.testing.assert_allclose(bits_per_dimension(jnp.zeros(1), 3, spacing=1 / 8), 3.0)
    key = jax.random.key(0)
    pixels = np.random.default_rng(0).integers(0, 256, size=(200, 8, 8, 1), dtype=np.uint8)
    images = jnp.asarray(pixels)
    run = jax.jit(dequantise)
    x = np.asarray(run(images, key, jnp.arange(200)))
    assert x.dtype == np.float32 and x.min() >= -1 and x.max() <= 1
    within = (x.astype(np.float64) + 1) * 128 - pixels
    assert within.min() >= 0 and within.max() <= 1
    assert abs(within.mean() - 0.5) < 0.01 and abs(within.var() - 1 / 12) < 0.002
    np.testing.assert_array_equal(
        run(jnp.asarray(pixels[[5, 2]]), key, jnp.array([5, 2])), x[[5, 2]]
    )
    with pytest.raises(TypeError, match="integers"):
        dequantise(jnp.asarray(x), key)


def test_errors(classes):
    x, D = jnp.zeros((2, 2)), classes.denoiser
    with pytest.raises(ValueError, match="low < high"):
        log_likelihood(D, x, LOW, 20.0)
    with pytest.raises(ValueError, match="positive"):
        log_likelihood(D, x, 20.0, 0.0)
    with pytest.raises(ValueError, match="random probes need key="):
        log_likelihood(D, x, 20.0, LOW, probes=1)
    with pytest.raises(ValueError, match="rademacher or gaussian, not 'uniform'"):
        log_likelihood(D, x, 20.0, LOW, probes=1, key=jax.random.key(0), distribution="uniform")
    with pytest.raises(TypeError, match="typed key"):
        log_likelihood(D, x, 20.0, LOW, probes=1, key=jnp.zeros(2, jnp.uint32))
    for wrong in ({"num_steps": 0}, {"num_steps": 2.5}, {"probes": 0, "key": jax.random.key(0)}):
        with pytest.raises(ValueError, match="whole number, at least 1"):
            log_likelihood(D, x, 20.0, LOW, **wrong)
    with pytest.raises(TypeError, match="batch of states"):
        log_likelihood(D, jnp.zeros((2, 2), jnp.int32), 20.0, LOW)


def test_the_default_prior_is_off_by_the_mean_in_units_of_the_level():
    """For a sample by about |m|/s_T, not |m|^2/(2 s_T^2): 0.25 and 0.03 nats here."""
    truth, level = Gaussian(np.full(4, 10.0), np.ones(4)), 80.0
    noise = np.random.default_rng(0).normal(size=(20_000, 4))
    y = jnp.asarray(10.0 + np.sqrt(level**2 + 1) * noise)
    lost = np.asarray(truth.log_density(y, level) - _log_prior(None, y, jnp.asarray(level)))
    np.testing.assert_allclose(lost.mean(), 20.0**2 / (2 * level**2), atol=0.006)
    np.testing.assert_allclose(lost.std(), 20.0 / level, rtol=0.02)
