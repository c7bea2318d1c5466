"""Interpolation of latents: norms, and samples of a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.analysis.latent import (
    coefficients,
    combine,
    interpolate,
    relative_norm,
    variance_factor,
)

MODES = ("spherical", "square_root", "linear", "covariance")
T = np.array([0.0, 0.25, 0.5, 1.0])


@pytest.fixture(scope="module")
def latents():
    return jnp.asarray(np.random.default_rng(7).normal(size=(2, 3, 40, 50)))


@pytest.mark.parametrize("mode", MODES)
def test_the_ends_are_the_latents_and_the_middle_is_noise_but_for_linear_weights(latents, mode):
    found = interpolate(*latents, T, mode)
    np.testing.assert_allclose(found[0], latents[0], atol=1e-12)
    np.testing.assert_allclose(found[-1], latents[1], atol=1e-12)
    size = relative_norm(found, 2)
    assert size.shape == (4, 3)
    if mode == "linear":
        np.testing.assert_allclose(size[2], 0.5**0.5, rtol=0.05)
        return
    np.testing.assert_allclose(size, 1.0, rtol=0.06)


def test_spherical_weights_keep_the_norm_of_one_norm(latents):
    one, two = (a / relative_norm(a, 2)[:, None, None] for a in latents)
    found = interpolate(one, two, T)
    np.testing.assert_allclose(relative_norm(found, 2), 1.0, rtol=1e-12)
    angle = lambda a, b: np.arccos(np.mean(a * b, axis=(1, 2)))  # noqa: E731
    np.testing.assert_allclose(angle(found[1], one), 0.25 * angle(one, two), rtol=1e-9)
    np.testing.assert_allclose(interpolate(one, one, T)[1], one, rtol=1e-9)  # no angle between


def test_gradients_are_finite_between_a_latent_and_itself(latents):
    one = jnp.array([[1.0, 0.0], [0.6, 0.8]])
    slope = jax.grad(lambda a: jnp.sum(interpolate(a, one, [0.25])))(one)
    np.testing.assert_allclose(slope, 0.75)  # that of the straight line
    apart = jax.grad(lambda a: jnp.sum(interpolate(a, 2 * latents[1], T)))(latents[0])
    assert np.isfinite(apart).all() and np.any(apart != 0)


def test_several_latents_and_their_weights(latents):
    np.testing.assert_allclose(coefficients([1, 0], "covariance"), [1, 0])  # integers too
    w = np.array([0.2, 0.8])
    for mode, c in (
        ("linear", w),
        ("square_root", np.sqrt(w)),
        ("covariance", w / np.sqrt(np.sum(w**2))),
    ):
        np.testing.assert_allclose(coefficients(w, mode), c, rtol=1e-12)
        made = c[0] * latents[0] + c[1] * latents[1]
        np.testing.assert_allclose(combine(latents, w, mode), made, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(variance_factor(w, mode), np.sum(c**2), rtol=1e-12)
        between = interpolate(latents[0], latents[1], [0.8], mode)[0]
        np.testing.assert_allclose(between, made, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES[1:])
def test_samples_of_a_gaussian_are_combined_as_the_latents_are(gaussian, mode):
    """With the data's variance but for linear weights, which halve it in the middle."""
    rng, high = np.random.default_rng(1), 1000.0
    model, m = gaussian.model, gaussian.mean
    z = jnp.asarray(rng.normal(size=(2, 4000, 5)))
    x = [model.flow(m[None] + high * a, high, 0.0) for a in z]
    middle = model.flow(m[None] + high * interpolate(z[0], z[1], [0.5], mode)[0], high, 0.0)
    c = np.asarray(coefficients(np.array([0.5, 0.5]), mode))
    middle, x = np.asarray(middle), np.asarray(x)
    np.testing.assert_allclose(middle - m, c[0] * (x[0] - m) + c[1] * (x[1] - m), atol=1e-9)
    share = np.var(middle, axis=0) / gaussian.variances
    np.testing.assert_allclose(share, variance_factor(np.array([0.5, 0.5]), mode), rtol=0.08)


def test_what_is_no_interpolation_is_refused(latents):
    with pytest.raises(ValueError, match="mode is"):
        interpolate(*latents, T, "cubic")
    with pytest.raises(TypeError, match="floating"):
        interpolate(*latents.astype(int), T)
    with pytest.raises(ValueError, match="one shape"):
        interpolate(latents[0], latents[1, :2], T)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        interpolate(*latents, [1.5])
    with pytest.raises(ValueError, match=r"shape \(weights,\)"):
        interpolate(*latents, 0.5)
    with pytest.raises(ValueError, match="mode is"):
        coefficients(np.array([0.5, 0.5]), "spherical")
    with pytest.raises(ValueError, match="sum to 1"):
        combine(latents, np.array([0.5, 0.6]))
    with pytest.raises(ValueError, match="not negative"):
        coefficients(np.array([-0.5, 1.5]), "square_root")
    with pytest.raises(ValueError, match="have not"):
        combine(latents, np.array([0.5, 0.2, 0.3]))
    with pytest.raises(ValueError, match="dims"):
        relative_norm(latents, 5)
