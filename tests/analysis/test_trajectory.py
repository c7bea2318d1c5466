"""Shapes of trajectories: straight lines, Gaussians, and points counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.analysis.components import (
    principal_components,
    reconstruction_error,
    shares_per_sample,
    streamed_components,
)
from jaxdiff.analysis.projection import boomerang, overlay
from jaxdiff.analysis.trajectory import (
    chord_complement,
    chord_cosine,
    chord_deviation,
    chord_length,
    deviation,
    distance_to_end,
    effective_noise_dimension,
    eps_of,
    norms,
    path_length,
)


def norm(a):
    return np.linalg.norm(a, axis=-1)


def test_isotropic_data_have_straight_trajectories(isotropic):
    size = float(chord_length(isotropic.states).max())
    assert np.abs(deviation(isotropic.states)).max() < 1e-14 * size
    assert np.abs(deviation(isotropic.denoised)).max() < 1e-14 * size
    np.testing.assert_allclose(path_length(isotropic.states), chord_length(isotropic.states))
    cosine = chord_cosine(isotropic.states, eps_of(*triple(isotropic)))
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-12)


def triple(known):
    return known.states, known.denoised, known.levels


def test_deviation_is_the_distance_from_the_chord(gaussian):
    x = gaussian.states
    chord = x[-1] - x[0]
    t = np.sum((x - x[0]) * chord, -1) / np.sum(chord**2, -1)
    expected = norm(x - x[0] - t[..., None] * chord)
    found = jax.jit(deviation)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)
    assert expected[1:-1].min() > 0.05  # anisotropic data do bend
    np.testing.assert_allclose(norm(chord_complement(x)), found, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(chord_deviation(x[2], x[0], x[-1]), expected[2], rtol=1e-9)
    images = x.reshape(6, 4, 1, 5, 1)
    np.testing.assert_allclose(deviation(images), found, rtol=1e-12, atol=1e-13)


def test_lengths_norms_and_cosines_of_a_gaussian(gaussian):
    x, r, eps = gaussian.states, gaussian.denoised, gaussian.eps
    np.testing.assert_allclose(eps_of(*triple(gaussian)), eps, rtol=1e-9)
    found = jax.jit(norms)(*triple(gaussian))
    for one, exact in zip(found, (x, r, eps), strict=True):
        np.testing.assert_allclose(one, norm(exact), rtol=1e-9)
    np.testing.assert_allclose(path_length(x), norm(np.diff(x, axis=0)).sum(0), rtol=1e-12)
    np.testing.assert_allclose(chord_length(x), norm(x[-1] - x[0]), rtol=1e-12)
    np.testing.assert_allclose(distance_to_end(x), norm(x - x[-1]), rtol=1e-12)
    cosine = np.sum(eps * (x - x[-1]), -1)[:-1] / (norm(eps) * norm(x - x[-1]))[:-1]
    np.testing.assert_allclose(chord_cosine(x, jnp.asarray(eps)), cosine, rtol=1e-9)
    np.testing.assert_allclose(effective_noise_dimension(eps), norm(eps) ** 2, rtol=1e-12)


def test_mean_square_norms_are_their_sums_over_eigenvalues(key, gaussian):
    """E |x|^2, E |D|^2 and E |eps|^2 over samples of the noisy data, to 3 standard errors."""
    model, l, m = gaussian.model, gaussian.variances, gaussian.mean
    for s in (0.3, 3.0):
        noise = s * jax.random.normal(jax.random.fold_in(key, 1), (4000, 5))
        y = model.sample(key, 4000) + noise
        found = norms(y[None], model.denoiser(y, s)[None], jnp.array([s]))
        exact = (
            np.sum(l + s**2) + m @ m,
            np.sum(l**2 / (l + s**2)) + m @ m,
            np.sum(s**2 / (l + s**2)),
        )
        for one, value in zip(found, exact, strict=True):
            squares = np.asarray(one) ** 2
            assert abs(squares.mean() - value) < 3 * squares.std() / 4000**0.5


def test_eps_is_0_at_level_0_and_the_sample_stays_alone(gaussian):
    x = jnp.concatenate([gaussian.path.states, gaussian.path.states[-1:]])
    r = jnp.concatenate([jnp.asarray(gaussian.denoised), x[-1:]])
    levels = np.append(gaussian.levels, 0.0)
    eps = eps_of(x, r, levels)
    assert np.all(eps[-1] == 0) and np.isfinite(eps).all()
    broken = x.at[2, 1].set(jnp.nan)
    for f in (deviation, path_length, distance_to_end):
        found = np.asarray(f(broken))
        assert np.isnan(found[..., 1]).any() and np.isfinite(found[..., [0, 2, 3]]).all()
    ends = np.asarray(deviation(x.at[0, 1].set(jnp.nan)))
    assert np.isnan(ends[:, 1]).all()  # without a start there is no chord


def test_one_step_one_sample_one_dimension_and_a_point_are_defined():
    line = jnp.asarray([[[3.0]], [[1.0]]])
    assert deviation(line).tolist() == [[0.0], [0.0]]
    assert shares_per_sample(line, complement=True).tolist() == [[0.0]]
    np.testing.assert_allclose(boomerang(line)[:, 0], [[-2.0, 0, 0], [0, 0, 0]])
    still = jnp.ones((3, 2, 4))
    assert np.all(deviation(still) == 0) and np.all(boomerang(still) == 0)
    assert np.isnan(chord_cosine(still, still[:2])).all()


@pytest.mark.parametrize(
    "points, error, message",
    [
        (jnp.zeros((1, 2, 3)), ValueError, "at least 2 points"),
        (jnp.zeros(3), ValueError, r"shape \(points, batch"),
        (jnp.zeros((3, 0, 2)), ValueError, r"shape \(points, batch"),
        (jnp.zeros((3, 2, 2), jnp.int32), TypeError, "floating"),
    ],
)
def test_what_is_no_trajectory_is_refused(points, error, message):
    for f in (deviation, path_length, shares_per_sample, boomerang):
        with pytest.raises(error, match=message):
            f(points)


def test_arrays_that_do_not_go_together_are_refused(gaussian):
    x, r, levels = triple(gaussian)
    with pytest.raises(TypeError, match="floating"):
        eps_of(x.astype(int), r, levels)
    with pytest.raises(ValueError, match="negative"):
        boomerang(x, -1)
    with pytest.raises(ValueError, match="for every state"):
        eps_of(x, r[:-1], levels)
    with pytest.raises(ValueError, match="one per point"):
        norms(x, r, levels[1:])
    with pytest.raises(ValueError, match="same samples"):
        chord_cosine(x, jnp.asarray(gaussian.eps[:, :2]))
    components = principal_components(jnp.asarray(x).reshape(-1, 5), 2)
    with pytest.raises(ValueError, match="do not go with"):
        reconstruction_error(x[..., :3], components)
    with pytest.raises(ValueError, match="components, not 6"):
        principal_components(jnp.asarray(x).reshape(-1, 5), 6)
    with pytest.raises(ValueError, match="NaN"):
        streamed_components([jnp.asarray(x).at[0, 0, 0].set(jnp.nan)], 2)
    with pytest.raises(ValueError, match="no blocks"):
        streamed_components([], 2)
    with pytest.raises(ValueError, match="reference"):
        overlay(boomerang(x), jnp.zeros((6, 2)))
    with pytest.raises(TypeError, match="reference must be floating"):
        overlay(boomerang(x), jnp.zeros((6, 3), int))
    with pytest.raises(TypeError, match="floating"):
        principal_components(jnp.ones((6, 3), int), 2)
    with pytest.raises(ValueError, match=r"shape \(\.\.\., d\)"):
        principal_components(jnp.ones(3), 1)


# principal components


def numpy_components(rows, centred):
    rows = rows - rows.mean(0) if centred else rows
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    return values**2 / len(rows), axes


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("count", [30, 3])
def test_components_are_those_of_numpys_svd(rng, centred, count):
    """More points than dimensions, and fewer; pooled at once, and by blocks."""
    states = rng.normal(size=(count, 2, 7)) * np.arange(7, 0, -1) + 1.0
    variances, axes = numpy_components(states.reshape(-1, 7), centred)
    rows = jnp.asarray(states).reshape(-1, 7)
    blocks = [states[:, :1], states[:, 1:]]
    for found in (
        principal_components(rows, 4, centred=centred),
        streamed_components(blocks, 4, centred=centred),
    ):
        np.testing.assert_allclose(found.variances, variances[:4], rtol=1e-9)
        np.testing.assert_allclose(np.abs(found.axes @ axes[:4].T), np.eye(4), atol=1e-9)
        np.testing.assert_allclose(found.total, variances.sum(), rtol=1e-9)
        np.testing.assert_allclose(found.shares, (variances / variances.sum())[:4], rtol=1e-9)
        mean = states.reshape(-1, 7).mean(0) if centred else np.zeros(7)
        np.testing.assert_allclose(found.mean, mean, atol=1e-12)


def test_a_few_of_many_streamed_components(rng):
    """By Lanczos iteration: the same as by a full decomposition."""
    states = rng.normal(size=(30, 2, 60)) * 0.9 ** np.arange(60)
    variances, axes = numpy_components(states.reshape(-1, 60), True)
    found = streamed_components([states], 2)
    np.testing.assert_allclose(found.variances, variances[:2], rtol=1e-9)
    np.testing.assert_allclose(np.abs(found.axes @ axes[:2].T), np.eye(2), atol=1e-8)
    np.testing.assert_allclose(found.total, variances.sum(), rtol=1e-9)
    assert np.all(np.max(found.axes, axis=1) == np.max(np.abs(found.axes), axis=1))


def test_streamed_components_of_the_complement(gaussian):
    rows = np.asarray(chord_complement(gaussian.states)).reshape(-1, 5)
    variances, _ = numpy_components(rows, True)
    blocks = (gaussian.states[:, i : i + 2] for i in (0, 2))
    found = streamed_components(blocks, 3, complement=True)
    np.testing.assert_allclose(found.variances, variances[:3], rtol=1e-8)


@pytest.mark.parametrize("complement", [True, False])
def test_shares_of_each_trajectorys_own_components(gaussian, complement):
    found = shares_per_sample(gaussian.states, complement=complement)
    for i in range(4):
        rows = gaussian.states[:, i]
        if complement:
            rows = np.asarray(chord_complement(gaussian.states))[:, i]
        variances, _ = numpy_components(rows, True)
        np.testing.assert_allclose(found[i], variances / variances.sum(), atol=1e-9)


def test_reconstruction_by_more_components_is_better_and_by_all_exact(gaussian):
    rows = gaussian.states.reshape(-1, 5)
    errors = reconstruction_error(gaussian.states, principal_components(jnp.asarray(rows), 5))
    apart = rows - rows.mean(0)
    axes = numpy_components(rows, True)[1]
    for k in range(1, 6):
        rest = apart - apart @ axes[:k].T @ axes[:k]
        expected = (norm(rest) / norm(apart)).reshape(6, 4)
        np.testing.assert_allclose(errors[k - 1], expected, atol=1e-7)
    assert np.all(np.diff(errors, axis=0) <= 1e-9)


def test_the_boomerang_keeps_distances_and_its_signs(gaussian):
    full = np.asarray(boomerang(gaussian.states, 4))
    x = gaussian.states
    np.testing.assert_allclose(norm(full), norm(x - x[-1]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(norm(full[2] - full[4]), norm(x[2] - x[4]), rtol=1e-9)
    np.testing.assert_allclose(full[0, :, 0], -np.asarray(chord_length(x)), rtol=1e-12)
    np.testing.assert_allclose(full[[0, -1], :, 1:], 0.0, atol=1e-12)
    np.testing.assert_allclose(norm(full[..., 1:]), deviation(x), rtol=1e-7, atol=1e-9)
    three = np.asarray(jax.jit(boomerang)(x))
    np.testing.assert_allclose(three, full[..., :3], atol=1e-9)
    np.testing.assert_allclose(boomerang(-x), three, atol=1e-9)  # signs do not follow the axes
    assert np.all(three[..., 1].sum(0) > 0)


def test_procrustes_turns_a_turned_curve_back(rng, gaussian):
    curve = np.asarray(boomerang(gaussian.states))[:, 0]
    turn, _ = np.linalg.qr(rng.normal(size=(2, 3, 3)))
    turned = np.einsum("ni,bij->nbj", curve, turn)
    np.testing.assert_allclose(overlay(turned, curve), np.stack([curve] * 2, 1), atol=1e-10)


def test_the_namespace_has_them():
    assert jd.analysis.deviation is deviation
    assert all(hasattr(jd.analysis, name) for name in jd.analysis.__all__)


@pytest.mark.slow
def test_a_gaussian_with_the_spectrum_of_pictures_has_the_published_shape(key):
    """3,072 variances k^-1.3 of mean 0.25: norms by level, and how nearly two-dimensional it is.

    The peak of the deviation, 14 near level 12, is that reported for a network of CIFAR-10 (arXiv
    2305.19947); the norms are the sums over eigenvalues in the module's docstring.
    """
    variances = np.arange(1, 3073.0) ** -1.3
    model = jd.exact.Gaussian(np.zeros(3072), variances * 768 / variances.sum())
    levels = jd.grids.karras(20, zero=False)
    path = jd.analysis.flow_trajectory(model, levels, jd.start(key, levels, 12, (3072,), "float64"))
    away = np.asarray(deviation(path.states))
    assert 12 < away.max(0).mean() < 16.5 and 8 < levels[away.mean(1).argmax()] < 18
    ratio = away.max(0) / np.asarray(chord_length(path.states))
    np.testing.assert_allclose(ratio.mean(), 0.0033, rtol=0.15)
    raw, rest = (shares_per_sample(path.states, complement=c) for c in (False, True))
    np.testing.assert_allclose(raw[:, 0], 0.99998, atol=2e-5)
    np.testing.assert_allclose(np.sum(rest[:, :2], axis=1).mean(), 0.995, atol=0.002)
    for s, x, r, eps in ((80.0, 4434.14, 2.979, 55.42), (2.5, 141.31, 22.194, 55.03)):
        noisy = model.sample(key, 1024) + s * jax.random.normal(jax.random.key(1), (1024, 3072))
        found = norms(noisy[None], model.denoiser(noisy, s)[None], jnp.array([s]))
        rms = [np.sqrt(np.mean(np.square(a))) for a in found]
        np.testing.assert_allclose(rms, (x, r, eps), rtol=0.06)
