"""The denoising trajectory on Gaussians, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import grids, solvers
from jaxdiff.analysis.denoising import (
    convergence,
    denoised_derivative,
    denoising_trajectory,
    flow_derivatives,
    jump_curve,
    nfe_of_states,
)
from jaxdiff.distance import squared


def test_outputs_at_every_state(gaussian):
    found = denoising_trajectory(gaussian.model.denoiser, gaussian.path)
    np.testing.assert_allclose(found, gaussian.denoised, rtol=1e-10)


def test_at_level_0_it_is_the_state_and_no_answer_of_the_denoiser(gaussian):
    def D(y, level, cond=None):
        return 3 * y / level  # infinite at level 0

    states = gaussian.path.states[:2]
    path = gaussian.path._replace(states=states, levels=jnp.array([2.0, 0.0]))
    found = denoising_trajectory(D, path)
    np.testing.assert_allclose(found[0], 1.5 * states[0], rtol=1e-12)
    assert np.array_equal(found[1], states[1])


def test_what_does_not_go_together_is_refused(gaussian):
    D = gaussian.model.denoiser
    with pytest.raises(ValueError, match="one per point"):
        denoising_trajectory(D, gaussian.path._replace(levels=gaussian.path.levels[1:]))
    with pytest.raises(ValueError, match="cond"):
        denoising_trajectory(D, gaussian.path, jnp.zeros(3))
    with pytest.raises(TypeError, match="batch of states"):
        flow_derivatives(D, jnp.zeros((2, 5), jnp.int32), 1.0)
    with pytest.raises(ValueError, match="order"):
        flow_derivatives(D, gaussian.path.states[0], 1.0, order=0)
    for derivative in (flow_derivatives, denoised_derivative):
        with pytest.raises(ValueError, match="level must be positive"):
            derivative(D, gaussian.path.states[0], 0.0)
        with pytest.raises(ValueError, match=r"scalar or \(4,\)"):
            derivative(D, gaussian.path.states[0], jnp.ones(3))
        with pytest.raises(ValueError, match="cond"):
            derivative(D, gaussian.path.states[0], 1.0, jnp.ones(3))
    with pytest.raises(ValueError, match="same samples"):
        convergence(gaussian.states, gaussian.denoised[:, :2])


def test_derivatives_of_the_flow_are_those_of_the_solution(gaussian):
    """x' = s a, x'' = l a/(l + s^2), x''' = -3 s l a/(l + s^2)^2, with a = (x - m)/(l + s^2)."""
    l, x, n = gaussian.variances, gaussian.states, 2
    s = np.array([3.0, 2.0, 1.0, 0.5])  # a level for each sample
    spread = l + s[:, None] ** 2
    a = (x[n] - gaussian.mean) / spread
    exact = s[:, None] * a, l * a / spread, -3 * s[:, None] * l * a / spread**2
    D = gaussian.model.denoiser
    found = jax.jit(flow_derivatives, static_argnames="order")(D, jnp.asarray(x[n]), s, order=3)
    for one, value in zip(found, exact, strict=True):
        np.testing.assert_allclose(one, value, rtol=1e-8, atol=1e-12)
    moved = jax.jit(denoised_derivative)(D, jnp.asarray(x[n]), s)
    np.testing.assert_allclose(moved, -s[:, None] * exact[1], rtol=1e-6, atol=1e-12)


def test_the_denoising_trajectory_moves_as_the_other_bends(rng):
    """r' = -s x'' to 1e-6 for a mixture, both by autodiff, and r' by finite differences."""
    model = jd.exact.GaussianMixture([0.4, 0.6], rng.normal(size=(2, 3)), [0.2, 0.1])
    D, y, s = jax.jit(model.denoiser), jnp.asarray(rng.normal(size=(4, 3))), 0.8

    @jax.jit
    def derivatives(y, s):
        field = lambda y, s: (y - D(y, s)) / s  # noqa: E731
        slope = field(y, s)
        second = jax.jvp(field, (y, s), (slope, 1.0))[1]
        return (slope, second), flow_derivatives(D, y, s, order=2), denoised_derivative(D, y, s)

    (slope, second), found, moved = map(np.asarray, derivatives(y, s))
    np.testing.assert_allclose(found, (slope, second), rtol=1e-8)
    np.testing.assert_allclose(moved, -s * second, rtol=1e-6, atol=1e-9)
    h = 1e-5
    y = np.asarray(y)
    ahead, back = (np.asarray(D(y + a * slope + a**2 / 2 * second, s + a)) for a in (h, -h))
    np.testing.assert_allclose(moved, (ahead - back) / (2 * h), rtol=1e-6, atol=1e-7)


def test_convergence_by_any_metric(gaussian):
    found = convergence(gaussian.states, gaussian.denoised)
    x, r = gaussian.states, gaussian.denoised
    np.testing.assert_allclose(found.states, np.linalg.norm(x - x[-1], axis=-1), rtol=1e-12)
    np.testing.assert_allclose(found.denoised, np.linalg.norm(r - r[-1], axis=-1), rtol=1e-12)
    assert np.all(found.denoised[:3] < found.states[:3])  # the outputs are there earlier
    other = convergence(gaussian.states, gaussian.denoised, squared)
    np.testing.assert_allclose(other.denoised, found.denoised**2 / 5, rtol=1e-12, atol=1e-30)
    one = convergence(x, r, lambda a, b: jnp.max(jnp.abs(a - b)))
    assert one.states.shape == (6,)


@pytest.mark.parametrize("solver, per_step", [(solvers.euler, 1), (solvers.heun, 2)])
def test_the_jump_curve_ends_where_the_sampler_does(gaussian, solver, per_step):
    table = jd.table(solver, grids.karras(4, 0.1, 20.0))
    D, start = gaussian.model.denoiser, gaussian.path.states[0]
    curve = jump_curve(D, table, start, lambda x: jnp.mean(x, axis=1))
    path = jd.trajectory(D, table, start)
    np.testing.assert_allclose(curve.states, np.mean(path.states, axis=2), rtol=1e-12)
    np.testing.assert_allclose(curve.denoised[0], np.mean(D(start, 20.0), axis=1), rtol=1e-12)
    assert np.array_equal(curve.states[-1], curve.denoised[-1])
    assert curve.nfe.tolist() == [0, *range(per_step, 3 * per_step + 1, per_step), table.nfe]
    assert nfe_of_states(table).tolist() == curve.nfe.tolist()
