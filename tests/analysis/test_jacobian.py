"""Jacobians: symmetric ones of exact denoisers, and a linear one whose matrix is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.analysis.jacobian import jacobian_asymmetry, jacobian_trace, singular_values

MATRIX = np.random.default_rng(4).normal(size=(6, 6))


def linear(y, level, cond=None):
    """J = A/level, times a number of each sample's own."""
    scale = jnp.ones(len(y)) if cond is None else cond
    flat = y.reshape(len(y), -1) @ jnp.asarray(MATRIX).T / level
    return (scale[:, None] * flat).reshape(y.shape)


@pytest.fixture
def y(rng):
    return jnp.asarray(rng.normal(size=(3, 2, 3)))


def test_asymmetry_of_a_known_matrix(y, key):
    cond = jnp.array([1.0, 2.0, 0.0])
    found = jacobian_asymmetry(linear, y, 0.5, cond)
    size, apart = (np.linalg.norm(a) / 0.5 for a in (MATRIX, MATRIX - MATRIX.T))
    np.testing.assert_allclose(found.size, size * np.asarray(cond), rtol=1e-10)
    np.testing.assert_allclose(found.difference, apart * np.asarray(cond), rtol=1e-10)
    np.testing.assert_allclose(found.ratio, [apart / size, apart / size, 0], rtol=1e-10)
    random = jacobian_asymmetry(linear, y, 0.5, probes=400, key=key)
    np.testing.assert_allclose(random.ratio, apart / size, rtol=0.1)


def test_an_exact_denoiser_is_symmetric_and_keeps_its_trace(gaussian):
    D, x = gaussian.model.denoiser, gaussian.path.states[2]
    assert np.all(jacobian_asymmetry(D, x, 3.0).ratio < 1e-12)
    exact = np.sum(gaussian.variances / (gaussian.variances + 9))
    np.testing.assert_allclose(jacobian_trace(D, x, 3.0), exact, rtol=1e-10)


@pytest.mark.slow
def test_trace_by_probes(y, key):
    exact = np.trace(MATRIX) / 0.5
    np.testing.assert_allclose(jacobian_trace(linear, y, 0.5), exact, rtol=1e-10)
    found = jacobian_trace(linear, y, 0.5, probes=2000, key=key)
    sym = (MATRIX + MATRIX.T) / 2 / 0.5
    deviation = np.sqrt(2 * (np.sum(sym**2) - np.sum(np.diag(sym) ** 2)) / 2000)
    assert np.all(np.abs(found - exact) < 4 * deviation)
    one = jacobian_trace(linear, y[1:2], 0.5, probes=2000, key=key, index=jnp.array([1]))
    np.testing.assert_allclose(one[0], found[1], rtol=1e-9)


def test_largest_singular_values(y, key):
    exact = np.linalg.svd(MATRIX)[1] / 0.5
    found = singular_values(linear, y, 0.5, key=key, count=3, iterations=200)
    np.testing.assert_allclose(found, np.stack([exact[:3]] * 3), rtol=1e-6)
    every = singular_values(linear, y, 0.5, key=key, count=6, iterations=1)
    np.testing.assert_allclose(every[0], exact, rtol=1e-8)  # all of them need no iteration


def test_what_does_not_go_together_is_refused(y, key):
    for count, iterations in ((0, 5), (7, 5), (1, 0)):
        with pytest.raises(ValueError, match="count"):
            singular_values(linear, y, 1.0, key=key, count=count, iterations=iterations)
    for level, message in (
        (0.0, "positive"), (jnp.array([1.0, -1.0, 1.0]), "positive"), (jnp.ones(2), r"or \(3,\)"),
        (jnp.ones((3, 1)), r"or \(3,\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            jacobian_asymmetry(linear, y, level)
        with pytest.raises(ValueError, match=message):
            jacobian_trace(linear, y, level)
        with pytest.raises(ValueError, match=message):
            singular_values(linear, y, level, key=key)
    with pytest.raises(ValueError, match="none are drawn"):
        jacobian_trace(linear, y, 1.0, key=key)
    with pytest.raises(ValueError, match="key"):
        jacobian_asymmetry(linear, y, 1.0, probes=3)
    with pytest.raises(ValueError, match="cond"):
        jacobian_trace(linear, y, 1.0, jnp.ones(2))
    with pytest.raises(ValueError, match="returned shape"):
        jacobian_trace(lambda y, s, cond=None: y[:, 0], y, 1.0)
    with pytest.raises(TypeError, match="typed key"):
        singular_values(linear, y, 1.0, key=jax.random.PRNGKey(0))
