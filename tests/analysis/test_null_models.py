"""Null models: the moments they keep, and their trajectories in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.analysis.null_models import (
    as_denoiser,
    finite_data_set,
    flow_trajectory,
    gaussian_of,
    isotropic_of,
    mixture_of_classes,
)
from jaxdiff.analysis.trajectory import deviation


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(2)
    return rng.normal(size=(40, 6)).reshape(40, 3, 2) * [[1.0, 2.0]] + 0.5


def numpy_denoise(data, y, s, floor=1e-4, rank=None):
    flat = data.reshape(len(data), -1)
    mean, values = flat.mean(0), np.linalg.eigh(np.cov(flat.T, bias=True))
    l, axes = values[0][::-1].copy(), values[1][:, ::-1]
    if rank is not None:
        l[rank:] = l[rank:].mean()
    l = l + floor * l.mean()
    return mean + ((y.reshape(len(y), -1) - mean) @ axes * l / (l + s**2)) @ axes.T


@pytest.mark.parametrize("rank", [None, 2])
def test_a_gaussian_has_the_datas_mean_and_covariance(rng, images, rank):
    model, y = gaussian_of(images, rank), rng.normal(size=(4, 3, 2))
    D = jax.jit(as_denoiser(model))
    expected = numpy_denoise(images, y, 0.7, rank=rank).reshape(4, 3, 2)
    np.testing.assert_allclose(D(jnp.asarray(y), 0.7), expected, rtol=1e-9)
    each = D(jnp.asarray(y), jnp.array([0.7, 0.1, 0.7, 2.0]))
    np.testing.assert_allclose(each[2], expected[2], rtol=1e-9)
    np.testing.assert_allclose(each[1], numpy_denoise(images, y, 0.1, rank=rank)[1].reshape(3, 2))


def test_an_isotropic_model_goes_straight(images, key):
    model = isotropic_of(images)
    np.testing.assert_allclose(model.variances, images.reshape(40, 6).var(0).mean(), rtol=1e-12)
    start = jd.start(key, 20.0, 3, (3, 2), jnp.float64)
    path = flow_trajectory(model, [20.0, 3.0, 0.5, 0.0], start)
    assert np.abs(deviation(path.states)).max() < 1e-13


@pytest.mark.slow
def test_the_exact_trajectory_is_the_limit_of_fine_steps(images, key):
    model = gaussian_of(images)
    table = jd.table(jd.solvers.heun, jd.grids.karras(200, 0.01, 20.0))
    start = jd.start(key, table, 3, (3, 2), jnp.float64)
    fine = jd.trajectory(as_denoiser(model), table, start)
    exact = flow_trajectory(model, table.levels, start)
    assert exact.states.shape == fine.states.shape and exact.levels.tolist() == fine.levels.tolist()
    np.testing.assert_allclose(exact.states[::40], fine.states[::40], atol=1e-3)
    np.testing.assert_allclose(exact.denoised[100], as_denoiser(model)(*at(exact, 100)))


def at(path, n):
    return path.states[n], path.levels[n]


@pytest.mark.parametrize("conditional, rank", [(False, None), (True, None), (True, 2)])
def test_a_mixture_has_a_gaussian_for_every_class(rng, images, conditional, rank):
    labels = np.arange(40) % 4 // 2 + (np.arange(40) == 0)  # 19 and 21
    model = mixture_of_classes(images, labels, rank=rank, conditional=conditional)
    y = jnp.asarray(rng.normal(size=(2, 3, 2)))
    if conditional:
        found = jax.jit(as_denoiser(model))(y, 0.7, jnp.array([1, 1]))
        expected = numpy_denoise(images[labels == 1], np.asarray(y), 0.7, rank=rank)
        np.testing.assert_allclose(np.reshape(found, (2, 6)), expected, rtol=1e-9)
        return
    np.testing.assert_allclose(model.weights, [19 / 40, 21 / 40])
    flat = images.reshape(40, 6)
    weights, means, variances, axes = (
        np.asarray(a) for a in (model.weights, model.means, model.variances, model.axes)
    )
    np.testing.assert_allclose(weights @ means, flat.mean(0), rtol=1e-9, atol=1e-12)
    apart = means - flat.mean(0)
    inner = np.einsum("k,kij,kj,klj->il", weights, axes, variances, axes)
    covariance = inner + np.einsum("k,ki,kj->ij", weights, apart, apart)
    np.testing.assert_allclose(covariance, np.cov(flat.T, bias=True), atol=1e-3)  # the floor


def test_a_finite_data_set_ends_in_its_nearest_point(images):
    D = jax.jit(as_denoiser(finite_data_set(images, chunk=7)))
    y = jnp.asarray(images[[3, 9]] + 0.01)
    np.testing.assert_allclose(D(y, 0.05), images[[3, 9]], atol=1e-9)
    np.testing.assert_allclose(D(y, 1e4), np.stack([images.mean(0)] * 2), atol=1e-6)


def test_what_is_no_data_is_refused(images):
    broken = images.copy()
    broken[3, 1, 1] = np.nan
    for make in (gaussian_of, isotropic_of, finite_data_set):
        with pytest.raises(ValueError, match="finite"):
            make(broken)
    for make in (gaussian_of, isotropic_of):
        with pytest.raises(ValueError, match="n >= 2"):
            make(images[:1])
    with pytest.raises(ValueError, match="rank"):
        gaussian_of(images, 6)
    with pytest.raises(ValueError, match="one per example"):
        mixture_of_classes(images, np.zeros(39, int))
    with pytest.raises(ValueError, match="two examples"):
        mixture_of_classes(images, np.where(np.arange(40) == 3, 2, 0))
    with pytest.raises(ValueError, match="rank"):
        mixture_of_classes(images, np.zeros(40, int), rank=6)
    with pytest.raises(ValueError, match="finite"):
        mixture_of_classes(broken, np.zeros(40, int))
    with pytest.raises(ValueError, match=r"\(n, \*shape\)"):
        finite_data_set(np.ones(4))
    with pytest.raises(ValueError, match="axes"):
        jd.exact.Gaussian.of_axes(np.zeros(2), np.ones(2), np.eye(3))
    with pytest.raises(ValueError, match="axes"):
        jd.exact.GaussianMixture.of_axes([1.0], np.zeros((1, 2)), np.ones((1, 2)), np.eye(2))
