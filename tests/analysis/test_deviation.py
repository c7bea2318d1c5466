"""Against a finite data set: sums over the data by hand, and inequalities that always hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.analysis.deviation import coupled, effective_neighbours, nearest, score_deviation
from jaxdiff.analysis.mean_shift import log_likelihood_profile, mean_shift
from jaxdiff.analysis.null_models import as_denoiser, finite_data_set, gaussian_of
from jaxdiff.sampling.sample import Trajectory

COUNT = 30


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).normal(size=(COUNT, 3, 1)) + 0.3


@pytest.fixture(scope="module")
def table():
    return jd.table(jd.solvers.euler, jd.grids.karras(5, 0.05, 10.0))


def optimal(data, y, s):
    """Weights and mean by hand, y (batch, d)."""
    squares = np.sum((y[:, None] - data[None]) ** 2, -1)
    w = np.exp(-(squares - squares.min(1, keepdims=True)) / (2 * s**2))
    w /= w.sum(1, keepdims=True)
    return w, w @ data


def apart(a, b):
    return np.linalg.norm((np.asarray(a) - np.asarray(b)).reshape(*a.shape[:2], -1), axis=-1)


@pytest.mark.slow
def test_coupled_flows_and_their_four_distances(images, table, key):
    D, best = as_denoiser(gaussian_of(images)), as_denoiser(finite_data_set(images, chunk=8))
    start = jd.start(key, table, 4, (3, 1), jnp.float64)
    found = coupled(D, best, table, start)
    x, y = found.learned.states, found.optimal.states
    levels, x, y = (np.asarray(a) for a in (found.levels, x, y))
    out = {}
    for f in (D, best):
        denoise = jax.jit(f)
        for name, path in (("x", x), ("y", y)):
            outputs = [denoise(v, s) for v, s in zip(path[:-1], levels[:-1], strict=True)]
            out[f, name] = np.stack(outputs)
    np.testing.assert_allclose(found.states, apart(x, y), atol=1e-12)
    pairs = {
        "outputs": (out[D, "x"], out[best, "y"]),
        "on_learned": (out[D, "x"], out[best, "x"]),
        "on_optimal": (out[D, "y"], out[best, "y"]),
    }
    for name, (a, b) in pairs.items():
        np.testing.assert_allclose(getattr(found, name)[:-1], apart(a, b), atol=1e-9)
    np.testing.assert_allclose(found.states[0], 0.0)
    assert np.all(found.on_learned[-1] == 0)
    along = score_deviation(D, best, found.learned)
    np.testing.assert_allclose(along, found.on_learned, atol=1e-12)
    neighbour = nearest(y, images)
    assert np.all(neighbour.distance[-1] < 1e-6)  # learned by heart
    assert np.all(nearest(x, images).distance[-1] > 1e-2)


def test_the_nearest_data_and_their_distances(images, rng):
    points = rng.normal(size=(2, 4, 3, 1))
    points[0, 0] = images[17]
    flat, data = points.reshape(2, 4, 1, 3), images.reshape(1, 1, COUNT, 3)
    distances = np.linalg.norm(flat - data, axis=-1)
    order = np.argsort(distances, axis=-1)[..., :3]
    for chunk in (7, 1000):
        found = nearest(points, images, 3, chunk=chunk)
        assert np.array_equal(found.index, order)
        expected = np.take_along_axis(distances, order, axis=-1)
        np.testing.assert_allclose(found.distance, expected, rtol=1e-12)
        assert found.distance[0, 0, 0] == 0.0 and found.index[0, 0, 0] == 17


def test_how_many_data_count(images, table, key):
    model = finite_data_set(images, chunk=8)
    path = jd.trajectory(as_denoiser(model), table, jd.start(key, table, 4, (3, 1), jnp.float64))
    found = effective_neighbours(model, path)
    for n in range(len(path.levels) - 1):
        states = np.asarray(path.states[n]).reshape(4, 3)
        w, _ = optimal(images.reshape(COUNT, 3), states, float(path.levels[n]))
        np.testing.assert_allclose(found[n], 1 / np.sum(w**2, 1), rtol=1e-6)
    np.testing.assert_allclose(found[-1], 1.0, rtol=1e-6)
    assert np.all(found[0] > 25)


def test_at_level_0_one_of_the_data_counts():
    data = finite_data_set(np.random.default_rng(0).normal(size=(12, 3)))
    states = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 3))).at[1, 2, 0].set(jnp.nan)
    path = Trajectory(states, jnp.array([1.0, 0.0]), states[:1], jnp.ones(1))
    found = effective_neighbours(data, path)
    np.testing.assert_array_equal(found[1], [1, 1, np.nan, 1])
    np.testing.assert_allclose(found[0], data.neighbours(states[0], 1.0))
    assert np.all(found[0] > 1)


def test_density_and_mean_shift_on_a_thousand_points(images, rng):
    """The bound holds for any step, and is nearly reached; the mean shift itself gains."""
    data, s = images.reshape(COUNT, 3), np.array([0.2, 0.5, 1.0, 3.0])
    x = rng.normal(size=(4, 250, 3)) * 1.5
    model = finite_data_set(data, chunk=8)
    y = x + rng.normal(size=x.shape) * s[:, None, None]
    best = np.stack([optimal(data, x[n], s[n])[1] for n in range(4)])
    found = mean_shift(model, x, y, s)
    found = found._replace(**{k: np.asarray(a) for k, a in found._asdict().items()})
    slack = 1e-9 * (1 + np.abs(found.gain))
    assert np.all(found.gain >= found.bound - slack)
    assert np.min(found.gain - found.bound) < 0.05
    np.testing.assert_allclose(found.distance, apart(x, best), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.error, apart(y, best), rtol=1e-7, atol=1e-9)
    assert np.all(found.gain[found.error <= found.distance] >= -1e-9)
    assert np.any(found.gain < 0)  # steps that end farther away may lose
    shifted = mean_shift(model, x, best, s)
    assert np.all(shifted.gain >= 0.5 * (apart(x, best) / s[:, None]) ** 2 - 1e-7)
    squares = np.sum((x[1][:, None] - data) ** 2, -1) / (2 * s[1] ** 2)
    exact = np.log(np.mean(np.exp(-squares), 1)) - 1.5 * np.log(2 * np.pi * s[1] ** 2)
    profile = log_likelihood_profile(model, x, s[1])
    np.testing.assert_allclose(profile[1], exact, rtol=1e-9)


def test_what_does_not_go_together_is_refused(images, table, key):
    model, points = finite_data_set(images), jnp.zeros((2, 4, 3, 1))
    with pytest.raises(ValueError, match="same samples"):
        nearest(points[..., :2, :], images)
    for count in (0, COUNT + 1):
        with pytest.raises(ValueError, match=f"not {count}"):
            nearest(points, images, count)
    with pytest.raises(TypeError, match="data must be floating"):
        nearest(points, images.astype("uint8"))
    path = jd.Trajectory(points, np.ones(2), points[:1], np.ones(1))
    with pytest.raises(ValueError, match="one per point"):
        effective_neighbours(model, path._replace(levels=np.ones(3)))
    with pytest.raises(ValueError, match="do not go with data"):
        effective_neighbours(model, path._replace(states=points[:, :, :2]))
    with pytest.raises(ValueError, match="chunk"):
        nearest(points, images, chunk=0)
    with pytest.raises(ValueError, match="bandwidth"):
        log_likelihood_profile(model, points, 0.0)
    with pytest.raises(ValueError, match="do not go with data"):
        log_likelihood_profile(model, points[:, :, :2], 1.0)
    with pytest.raises(ValueError, match="one shape"):
        mean_shift(model, points, points[:1], np.ones(2))
    with pytest.raises(ValueError, match="one per point"):
        mean_shift(model, points, points, np.ones(3))
    with pytest.raises(ValueError, match="levels must be positive"):
        mean_shift(model, points, points, np.zeros(2))
    noisy = jd.table(jd.solvers.ddim, [1.0, 0.5, 0.0], eta=1.0)
    D = as_denoiser(model)
    with pytest.raises(ValueError, match="draws noise"):
        coupled(D, D, noisy, points[0])
