"""Curvature and torsion: a circle, a helix, and Gaussians in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.analysis.frenet import curvatures, fitted_frenet, frenet

RADIUS, RISE = 2.0, 0.7
CURVATURE, TORSION = (a / (RADIUS**2 + RISE**2) for a in (RADIUS, RISE))


def helix(t, rise=RISE, order=0):
    """Return derivative ``order`` of (R cos t, R sin t, rise t)."""
    turned = t + order * np.pi / 2
    last = [rise * t, rise + 0 * t, 0 * t, 0 * t][order]
    return np.stack([RADIUS * np.cos(turned), RADIUS * np.sin(turned), last], axis=-1)


@pytest.mark.parametrize("rise", [0.0, RISE])
def test_formulas_on_a_circle_and_a_helix_at_any_speed(rise, rng):
    """Also embedded in more dimensions, and walked at a speed of its own."""
    t = np.array([0.3, 1.7, 4.0])
    d1, d2, d3 = (helix(t, rise, k) for k in (1, 2, 3))
    u1, u2, u3 = 3 * t[:, None] ** 2, 6 * t[:, None], 6.0  # t = u^3, u where t is now
    d1, d2, d3 = d1 * u1, d2 * u1**2 + d1 * u2, d3 * u1**3 + 3 * d2 * u1 * u2 + d1 * u3
    turn, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    found = curvatures(*(jnp.asarray(np.pad(d, [(0, 0), (0, 4)]) @ turn) for d in (d1, d2, d3)))
    scale = RADIUS**2 + rise**2
    np.testing.assert_allclose(found.curvature, RADIUS / scale, rtol=1e-9)
    np.testing.assert_allclose(found.torsion, rise / scale, rtol=1e-8, atol=1e-9)


def test_a_denoiser_whose_flow_is_a_helix(gaussian):
    """D = y - s x'(s) of the curve x(s): the exact way sees through it."""

    def D(y, level, cond=None):
        s = jnp.broadcast_to(level, y.shape[:1])
        slope = jnp.stack([-RADIUS * jnp.sin(s), RADIUS * jnp.cos(s), RISE + 0 * s], axis=1)
        return y - s[:, None] * slope

    levels = jnp.array([6.0, 2.0, 0.5, 0.0])
    states = jnp.asarray(helix(np.asarray(levels)))[:, None]
    found = frenet(D, gaussian.path._replace(states=states, levels=levels))
    np.testing.assert_allclose(found.curvature[:3, 0], CURVATURE, rtol=1e-9)
    np.testing.assert_allclose(found.torsion[:3, 0], TORSION, rtol=1e-9)
    assert np.isnan(found.curvature[3, 0]) and np.isnan(found.torsion[3, 0])


def test_trajectories_of_a_gaussian(gaussian, isotropic):
    l, s = gaussian.variances, gaussian.levels[:, None, None]
    spread = l + s**2
    a = (gaussian.states - gaussian.mean) / spread
    d1, d2, d3 = s * a, l * a / spread, -3 * s * l * a / spread**2
    found = frenet(gaussian.model.denoiser, gaussian.path)
    for i in range(4):
        exact = curvatures(*(jnp.asarray(d[:, i]) for d in (d1, d2, d3)))
        np.testing.assert_allclose(found.curvature[:, i], exact.curvature, rtol=1e-6)
        np.testing.assert_allclose(found.torsion[:, i], exact.torsion, rtol=1e-6)
    # |x' ^ x''|/|x'|^3 by Lagrange's identity
    wedge = np.sum(d1**2, -1) * np.sum(d2**2, -1) - np.sum(d1 * d2, -1) ** 2
    np.testing.assert_allclose(
        found.curvature, np.sqrt(wedge) / np.sum(d1**2, -1) ** 1.5, rtol=1e-6
    )
    straight = frenet(isotropic.model.denoiser, isotropic.path)
    assert np.all(straight.curvature < 1e-12)


@pytest.mark.parametrize("rise", [0.0, RISE])
def test_the_fit_finds_a_circle_and_a_helix_to_1_percent(rise):
    t = np.linspace(0, 4, 301)
    curves = np.stack([helix(t, rise), 3 * helix(2 * t, rise)], axis=1)
    found, scale = fitted_frenet(curves, 21), RADIUS**2 + rise**2
    inner = slice(10, -10)
    np.testing.assert_allclose(found.curvature[inner, 0], RADIUS / scale, rtol=0.01)
    np.testing.assert_allclose(found.curvature[inner, 1], RADIUS / scale / 3, rtol=0.01)
    np.testing.assert_allclose(found.torsion[inner, 0], rise / scale, rtol=0.01, atol=1e-9)
    np.testing.assert_allclose(found.curvature[:, 0], RADIUS / scale, rtol=0.05)  # one-sided


def test_what_is_no_window_or_no_curve_is_defined(gaussian):
    curves = gaussian.states
    for window in (4, 3, 7):
        with pytest.raises(ValueError, match="window must be odd, 5 to 6"):
            fitted_frenet(curves, window)
    with pytest.raises(ValueError, match="at least 5 points"):
        fitted_frenet(curves[:4], 5)
    assert np.isnan(fitted_frenet(jnp.ones((6, 1, 3)), 5).curvature).all()
    still = curvatures(*(jnp.zeros((2, 3)),) * 3)
    assert np.all(still.curvature == 0) and np.all(still.torsion == 0)
    line = curvatures(jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.ones((2, 1)))  # dimension 1
    assert np.all(line.curvature == 0) and np.all(line.torsion == 0)
