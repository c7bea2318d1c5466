"""Gaussian start: exact on Gaussians, its error predicted on mixtures, its fits against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, grids, solvers
from jaxdiff.sampling.gaussian_start import (
    LowRank,
    fit,
    fit_low_rank,
    jump,
    jump_errors,
    switch_level,
)
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table

LEVELS = np.geomspace(80.0, 0.5, 20)


@pytest.fixture(scope="module")
def mixture():
    rng = np.random.default_rng(0)
    half = 0.3 * rng.normal(size=(4, 3, 3))
    covariances = half @ half.transpose(0, 2, 1) + 0.01 * np.eye(3)
    return exact.GaussianMixture([0.4, 0.3, 0.2, 0.1], rng.normal(size=(4, 3)), covariances)


@pytest.fixture(scope="module")
def start():
    return 80.0 * jax.random.normal(jax.random.key(1), (32, 3))


def fine(truth, y, high):
    """The exact flow to level 0, always by one compiled program."""
    levels = np.append(np.geomspace(high, 0.01, 200), 0.0)
    return sample(truth.denoiser, table(solvers.unipc, levels), y)


def low_rank(rng, d=6, k=2):
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    variances, rest = np.array([3.0, 0.8]), 0.1
    spectrum = np.array([*variances, *[rest] * (d - k)])
    mean = rng.normal(size=d)
    numbers = (jnp.asarray(a) for a in (mean, variances, axes[:, :k], np.float64(rest)))
    return LowRank(*numbers), exact.Gaussian(mean, axes * spectrum @ axes.T)


def test_low_rank_is_the_gaussian_with_that_covariance(rng):
    few, whole = low_rank(rng)
    y = jnp.asarray(rng.normal(size=(5, 6)))
    for ours, exactly in (
        (few.denoiser(y, 0.7), whole.denoiser(y, 0.7)),
        (few.flow(y, 9.0, 0.2), whole.flow(y, 9.0, 0.2)),
        (few.flow(y, 9.0, 0.0), whole.flow(y, 9.0, 0.0)),
    ):
        np.testing.assert_allclose(ours, exactly, rtol=1e-12, atol=1e-12)


def test_jumps_compose_and_keep_shapes(rng):
    few, _ = low_rank(rng)
    y = jnp.asarray(80 * rng.normal(size=(5, 2, 3)))
    whole = jump(few, y, 80.0, 0.5)
    assert whole.shape == y.shape
    np.testing.assert_allclose(jump(few, jump(few, y, 80.0, 7.0), 7.0, 0.5), whole, rtol=1e-12)
    assert jump(few, y.astype(jnp.float32), 80.0, 0.5).dtype == jnp.float32


def test_full_fit_is_numpys_mean_and_covariance(rng):
    data = rng.normal(size=(50, 2, 2)) @ rng.normal(size=(2, 2)) + 3.0
    mean, covariance = fit(data, floor=0.0).moments()
    flat = data.reshape(50, 4)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(flat.T, bias=True), rtol=1e-10, atol=1e-12)


def test_simpler_fits(rng):
    data = rng.normal(size=(40, 3, 2)) * np.array([1.0, 5.0]) + rng.normal(size=(3, 2))
    variances = data.var(0)
    for kind, expected in (
        ("diagonal", variances),
        ("channel", np.broadcast_to(variances.mean(0), (3, 2))),
        ("isotropic", np.full((3, 2), variances.mean())),
    ):
        model = fit(data, kind, floor=0.0)
        assert model.axes is None
        np.testing.assert_allclose(model.variances, expected.reshape(-1), rtol=1e-12)


def test_low_rank_fit_keeps_the_largest_variances_and_the_total(rng):
    data = rng.normal(size=(30, 5)) * np.array([4.0, 2.0, 1.0, 0.5, 0.1])
    values = np.linalg.eigvalsh(np.cov(data.T, bias=True))[::-1]
    model = fit_low_rank(data, 2, floor=0.0)
    np.testing.assert_allclose(model.variances, values[:2], rtol=1e-10)
    np.testing.assert_allclose(model.rest, values[2:].mean(), rtol=1e-10)


def test_constant_pixels_and_few_examples_get_a_positive_covariance(rng):
    data = rng.normal(size=(4, 6))
    data[:, 2] = 1.0
    for model in (fit(data), fit(data, "diagonal")):
        assert model.variances.min() > 0
        assert np.isfinite(jump(model, 80.0 * jnp.ones((2, 6)), 80.0, 0.0)).all()


def test_on_a_gaussian_it_is_all_of_sampling(start):
    """No evaluation at all: the jump to level 0 is the sample, and its estimated error is 0."""
    truth = exact.Gaussian([0.3, -0.2, 0.1], [[1.0, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 0.2]])
    errors = jump_errors(truth.denoiser, truth, LEVELS, start)
    assert errors[0] == 0 and errors.max() < 1e-12
    assert switch_level(LEVELS, errors, 1e-9) == LEVELS[-1]
    gain = np.sqrt(truth.variances / (truth.variances + 6400.0))
    axes = np.asarray(truth.axes)
    mean = np.asarray(truth.mean)
    expected = mean + (np.asarray(start) - mean) @ (axes * gain @ axes.T)
    np.testing.assert_allclose(jump(truth, start, 80.0, 0.0), expected, rtol=1e-10, atol=1e-12)


def test_estimated_error_is_the_error_on_a_mixture(mixture, start):
    """Over decades it predicts what the jump does to the final samples, here within a factor 2.5:
    the Gaussian that carries the displacement to level 0 contracts less than the narrow components.
    """
    model = exact.Gaussian(*mixture.moments())
    errors = jump_errors(mixture.denoiser, model, LEVELS, start)
    assert (np.diff(errors) > 0).all()
    reference = fine(mixture, start, 80.0)
    for i in (9, 11, 13):
        moved = fine(mixture, jump(model, start, 80.0, LEVELS[i]), LEVELS[i]) - reference
        assert 1 / 2.5 < errors[i] / np.sqrt(np.mean(moved**2)) < 2.5, LEVELS[i]


def test_it_saves_evaluations_on_a_mixture(mixture, start):
    """Five steps after the jump beat eight from the start, and seven with an analytic first."""
    model = exact.Gaussian(*mixture.moments())
    switch = switch_level(LEVELS, jump_errors(mixture.denoiser, model, LEVELS, start), 0.02)
    reference = fine(mixture, start, 80.0)

    def error(levels, y, **options):
        x = sample(mixture.denoiser, table(solvers.euler, levels, **options), y)
        return np.sqrt(np.mean((x - reference) ** 2))

    ours = error(grids.karras(5, high=switch), jump(model, start, 80.0, switch))
    assert ours < error(grids.karras(8), start)
    assert ours < error(grids.karras(8), start, first=solvers.steps.unit_first)


def test_switch_level_takes_the_lowest_good_one_before_the_first_bad_one():
    levels, errors = [80.0, 40.0, 20.0, 10.0], np.array([0.0, 0.1, 0.3, 0.2])
    assert switch_level(levels, errors, 0.25) == 40.0
    assert switch_level(levels, errors, 0.3) == 10.0
    with pytest.raises(ValueError, match="no jump from level 80"):
        switch_level(levels, errors, 0.05)


def test_what_it_is_given_is_checked(rng, start):
    data, model = rng.normal(size=(5, 3)), exact.Gaussian(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="covariance must be one of"):
        fit(data, "banded")
    with pytest.raises(ValueError, match="n >= 2"):
        fit(data[:1])
    with pytest.raises(ValueError, match="data must be finite"):
        fit(data * np.nan)
    for rank in (0, 3):
        with pytest.raises(ValueError, match="rank must be 1 to 2"):
            fit_low_rank(data, rank)
    with pytest.raises(ValueError, match="a jump goes down"):
        jump(model, start, 1.0, 2.0)
    with pytest.raises(ValueError, match="strictly decrease"):
        jump_errors(model.denoiser, model, [1.0, 2.0], start)
