"""Other types, transformations and devices: what every function of the package goes through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.scripts import last_line

import jaxdiff as jd
from jaxdiff.training.devices import over_batch

A = jd.analysis


def summary(frozen, start):
    """The numbers of each sample, batch first, as devices are given it."""
    D, table = frozen
    path = jd.trajectory(D, table, start)
    outputs = A.denoising_trajectory(D, path)
    numbers = (
        A.deviation(path.states),
        A.norms(path.states, outputs, path.levels).eps,
        A.frenet(D, path).curvature[:-1],
    )
    return tuple(jnp.moveaxis(a, 1, 0) for a in numbers), A.shares_per_sample(path.states)


@pytest.mark.slow
def test_devices_have_the_numbers_of_the_whole_batch(gaussian):
    D, table = gaussian.model.denoiser, jd.table(jd.solvers.euler, [20.0, 3.0, 0.5, 0.0])
    start = gaussian.path.states[0]
    whole = summary((D, table), start)
    for found in (over_batch(summary, (D, table))(start), jax.jit(summary)((D, table), start)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, whole)
    one = jax.vmap(lambda y: summary((D, table), y[None]))(start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:, 0], b, rtol=1e-9), one, whole)


@pytest.mark.slow
def test_numbers_have_the_dtype_of_the_states(gaussian):
    """In float32, with levels in float64 as grids have them."""
    model = jd.exact.Gaussian(gaussian.mean, gaussian.variances)
    D, table = model.denoiser, jd.table(jd.solvers.heun, [20.0, 3.0, 0.5, 0.1])
    start = jnp.asarray(gaussian.states[0], jnp.float32)
    path = jd.trajectory(D, table, start)
    outputs, x = A.denoising_trajectory(D, path), path.states
    levels, data = np.asarray(table.levels), A.finite_data_set(np.ones((6, 5)) * np.arange(5))
    eps = A.eps_of(x, outputs, levels)
    found = {
        "deviation": A.deviation(x),
        "norms": A.norms(x, outputs, levels),
        "cosine": A.chord_cosine(x, eps),
        "convergence": A.convergence(x, outputs),
        "components": A.principal_components(x.reshape(-1, 5), 2),
        "reconstruction": A.reconstruction_error(x, A.streamed_components([x], 2)),
        "boomerang": A.boomerang(x),
        "regularity": A.regularity(x)._replace(peak=None),
        "frenet": A.frenet(D, path),
        "fit": A.fitted_frenet(jnp.concatenate([x, x + 1.0]), 5),
        "derivatives": A.flow_derivatives(D, start, 20.0),
        "coupled": A.coupled(D, A.as_denoiser(data), table, start),
        "nearest": A.nearest(x, np.ones((3, 5)), 2).distance,
        "neighbours": A.effective_neighbours(data, path),
        "mean shift": A.mean_shift(data, x, outputs, levels),
        "density": A.log_likelihood_profile(data, x, 0.5),
        "errors": A.local_errors(D, table, start, substeps=4)._replace(levels=None),
        "asymmetry": A.jacobian_asymmetry(D, start, 3.0),
        "trace": A.jacobian_trace(D, start, 3.0),
        "singular": A.singular_values(D, start, 3.0, key=jax.random.key(0)),
        "interpolation": A.interpolate(start, start + 1, [0.3]),
        "flow": A.flow_trajectory(model, levels, start),
    }
    for name, numbers in found.items():
        for leaf in jax.tree.leaves(numbers):
            assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all(), name


def test_gradients_of_straight_and_bent_trajectories_are_finite(gaussian, isotropic):
    for known in (gaussian, isotropic):
        f = lambda x: jnp.sum(A.deviation(x)) + jnp.sum(A.path_length(x))  # noqa: E731
        slope = jax.grad(f)(known.path.states)
        assert np.isfinite(slope).all()
    h, x = 1e-6, gaussian.states
    step = np.zeros_like(x)
    step[2, 1, 3] = h
    found = float(f(x + step) - f(x - step)) / (2 * h)
    np.testing.assert_allclose(jax.grad(f)(gaussian.path.states)[2, 1, 3], found, rtol=1e-5)


@pytest.mark.slow
def test_trajectories_on_eight_devices_have_the_same_numbers():
    assert "same everywhere" in last_line("multidevice_analysis.py", devices=8)
