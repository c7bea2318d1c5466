"""How alike trajectories are, and grids found on a few of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import grids
from jaxdiff.analysis.local_error import truncation_errors
from jaxdiff.analysis.null_models import flow_trajectory, gaussian_of
from jaxdiff.analysis.regularity import regularity, searched_grids
from jaxdiff.analysis.trajectory import deviation
from jaxdiff.grids.dynamic import shortest


def curve(size, angle, turn, points=9):
    """A chord along the first axis, an arc and as large a wave across it, in a plane of their own:
    no component is the first, so that only turning makes them alike.
    """
    t = np.linspace(0, 1, points)
    across = size * np.stack([np.sin(np.pi * t), np.sin(2 * np.pi * t)], axis=1)
    c, s = np.cos(angle), np.sin(angle)
    across = across @ np.array([[c, s], [-s, c]])
    whole = np.concatenate([100 * (1 - t)[:, None], across, np.zeros((points, 3))], axis=1)
    return whole @ turn.T


def test_one_shape_in_any_plane_and_size_has_no_residual(rng):
    turns = [np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(4)]
    sizes = [1.0, 2.0, 0.5, 3.0]
    points = np.stack([curve(z, a, q) for z, a, q in zip(sizes, range(4), turns, strict=True)], 1)
    found = regularity(points)
    np.testing.assert_allclose(found.residual, 0.0, atol=1e-9)
    np.testing.assert_allclose(found.spread, 0.0, atol=1e-9)
    np.testing.assert_allclose(found.size, np.max(deviation(points), axis=0))
    assert len(set(np.asarray(found.peak).tolist())) == 1 and float(found.mean.max()) == 1.0


def test_other_shapes_have_one_and_straight_lines_have_none(rng, isotropic):
    walk = jnp.asarray(np.cumsum(rng.normal(size=(9, 4, 6)), axis=0))
    found = regularity(walk)
    assert np.all(found.residual > 0.02) and float(found.spread.max()) > 0.05
    one = regularity(walk[:, :1])  # one sample is like itself
    assert float(one.spread.max()) == 0.0
    np.testing.assert_allclose(one.residual, 0.0, atol=1e-9)
    line = jnp.linspace(0, 1, 5)[:, None, None] * jnp.ones((1, 2, 3))
    assert np.all(regularity(line * 0).mean == 0)


@pytest.mark.slow
def test_grids_of_a_few_trajectories_and_of_the_gaussian(rng):
    """On a Gaussian's own trajectories one finds almost the grid of all of them."""
    data = rng.normal(size=(60, 12)) * np.exp(-np.arange(12) / 3)
    model, levels = gaussian_of(data), grids.karras(20, 0.05, 20.0, zero=False)
    start = jnp.asarray(20.0 * rng.normal(size=(16, 12)))
    path = flow_trajectory(model, levels, start)
    found = searched_grids(levels, path.states, path.denoised, 5, counts=(1, 4, 16), measure="l2")
    assert found.places.shape == (3, 6) and found.counts == (1, 4, 16)
    assert np.abs(found.places - found.places[-1]).max() <= 2
    for n, grid, places in zip(found.counts, found.grids, found.places, strict=True):
        assert np.array_equal(grid, levels[places])
        costs = truncation_errors(levels, path.states[:, :n], path.denoised[:, :n], "l2")
        assert np.array_equal(shortest(costs, 5, 1.15), places)


def test_counts_that_there_are_not_are_refused(gaussian):
    for counts in ((5,), (0,), ()):
        with pytest.raises(ValueError, match="counts are 1 to 4"):
            searched_grids(gaussian.levels, gaussian.states, gaussian.denoised, 2, counts=counts)
    with pytest.raises(ValueError, match="1 to 5 steps"):
        searched_grids(gaussian.levels, gaussian.states, gaussian.denoised, 6, counts=(1,))
