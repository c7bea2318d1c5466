r"""A learned denoiser against the optimal one of a finite data set.

With r the learned and r* the optimal denoiser, x and x* their trajectories from one start,

    |r(x) - r*(x)|, |r(x*) - r*(x*)|    the two at one state, on either trajectory
    |x - x*|, |r(x) - r*(x*)|           the two trajectories

The optimal denoiser of data x_1, ..., x_n is their mean with weights softmax(-|y - x_i|^2/(2 s^2)),
and its trajectory ends in one of them. So the learned one has to deviate, where 1/sum w_i^2, the
number of data that count, falls to 1; a Gaussian deviates there as well.

Source: Chen et al., A geometric perspective on diffusion models, arXiv 2305.19947, section 5
(score deviation); Karras et al., arXiv 2206.00364, appendix B.3 (the optimal denoiser).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from jaxdiff.analysis.denoising import denoise_all, denoising_trajectory
from jaxdiff.analysis.points import Profile, distances, floating, same_shape, states_of, vectors
from jaxdiff.arrays import einsum, on_device
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import norm
from jaxdiff.exact import Empirical
from jaxdiff.sampling.sample import Trajectory, trajectory
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Denoiser


class Coupled(NamedTuple):
    """Two probability flows from one start: Euclidean distances, each (points, batch).

    levels: (points,). states: |x - x*|. outputs: |r(x) - r*(x*)|. on_learned: |r(x) - r*(x)|.
    on_optimal: |r(x*) - r*(x*)|. learned, optimal: the trajectories.
    """

    __repr__ = short

    levels: Array
    states: Array
    outputs: Array
    on_learned: Array
    on_optimal: Array
    learned: Trajectory
    optimal: Trajectory


class Neighbours(NamedTuple):
    """The data nearest to points: Euclidean distances (points, batch, k), increasing, and which
    data they are, (points, batch, k).
    """

    __repr__ = short

    distance: Array
    index: Array


def score_deviation(
    learned: Denoiser, optimal: Denoiser, path: Trajectory, cond: Cond = None
) -> Profile:
    """Return |r(x_n) - r*(x_n)| at every state of a trajectory, whosever it is.

    Divided by s^2 it is the deviation of the scores.

    Args:
        learned, optimal: two denoisers; the second is not given the condition.
        path: of :func:`jaxdiff.trajectory`.
        cond: handed to ``learned``.

    Returns:
        (A + 1, batch), in units of the data; 0 at level 0, where both return the state.

    Raises:
        ValueError, TypeError: as :func:`jaxdiff.analysis.denoising_trajectory`.

    Source: Chen et al., arXiv 2305.19947, section 5.
    """
    own = denoising_trajectory(learned, path, cond)
    return distances(own, denoising_trajectory(optimal, path))


def coupled(
    learned: Denoiser, optimal: Denoiser, table: Table, start: Array, cond: Cond = None
) -> Coupled:
    """Return how far two denoisers lead apart from one start, and why.

    Args:
        learned, optimal: two denoisers; the second is not given the condition.
        table: a deterministic sampler; both follow it.
        start: (batch, *shape) at ``table.levels[0]``.
        cond: handed to ``learned``.

    Returns:
        :class:`Coupled`.

    Raises:
        ValueError, TypeError: as :func:`jaxdiff.trajectory`; for a stochastic table.

    Source: Chen et al., arXiv 2305.19947, section 5.
    """
    if table.stochastic:
        raise ValueError(f"{table!r} draws noise; two flows are compared without")
    paths = trajectory(learned, table, start, cond), trajectory(optimal, table, start)
    levels, (x, best) = paths[0].levels, (path.states for path in paths)
    own = denoising_trajectory(learned, paths[0], cond)
    ideal = denoising_trajectory(optimal, paths[1])
    there = denoise_all(as_partial(optimal), x, levels, None)
    back = denoise_all(as_partial(learned), best, levels, cond)
    pairs = (x, best), (own, ideal), (own, there), (back, ideal)
    states, outputs, on_learned, on_optimal = (distances(a, b) for a, b in pairs)
    return Coupled(levels, states, outputs, on_learned, on_optimal, *paths)


def nearest(
    points: Float[Array, "points batch *shape"], data: Array, count: int = 1, *, chunk: int = 1024
) -> Neighbours:
    """Return the nearest of the data to every point of trajectories.

    The data are streamed, ``chunk`` at a time; distances are found from inner products of centred
    numbers, and those of the neighbours computed from the difference, exactly 0 for a copy. A
    sample copies the data where its nearest is much nearer than its second: a ratio of a third is
    the common mark.

    Args:
        points: states or denoised outputs, (points, batch, *shape).
        data: (n, *shape).
        count: how many neighbours, k, 1 to n.
        chunk: data at a time.

    Returns:
        :class:`Neighbours`.

    Raises:
        ValueError, TypeError: for samples of two shapes, or another number of neighbours.

    Source: Chen et al., arXiv 2305.19947, section 5; Yoon et al., Diffusion probabilistic models
    generalize when they fail to memorize, 2023 (the ratio of a third).
    """
    flat = vectors("points", points, least=1)
    data = floating("data", on_device(data))
    same_shape("points", points[0], "data", data)
    if not 1 <= count <= len(data):
        raise ValueError(f"{len(data)} data have 1 to {len(data)} nearest, not {count}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1; got {chunk}")
    others = data.astype(flat.dtype).reshape(len(data), -1)
    return Neighbours(*_nearest(flat, others, count, min(chunk, len(data))))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _nearest(points: Array, data: Array, count: int, chunk: int) -> tuple[Array, Array]:
    centre, number = jnp.mean(data, axis=0, keepdims=True), len(data)

    def of_state(y: Array) -> tuple[Array, Array]:
        z = y - centre

        def body(best: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
            first = jnp.minimum(i * chunk, number - chunk)
            rows = lax.dynamic_slice_in_dim(data, first, chunk) - centre
            index = first + jnp.arange(chunk)
            half = 0.5 * jnp.sum(rows**2, axis=1)[None] - einsum("bd,nd->bn", z, rows)
            half = jnp.where((index >= i * chunk)[None], half, jnp.inf)  # the last chunk overlaps
            every = jnp.concatenate([best[0], half], axis=1)
            numbers = jnp.broadcast_to(index[None], half.shape)
            numbers = jnp.concatenate([best[1], numbers], axis=1)
            kept, at = lax.top_k(-every, count)
            return (-kept, jnp.take_along_axis(numbers, at, axis=1)), None

        start = jnp.full((len(y), count), jnp.inf, y.dtype), jnp.zeros((len(y), count), int)
        (_, index), _ = lax.scan(body, start, jnp.arange(-(-number // chunk)))
        apart = y[:, None] - data[index]
        distance = norm(apart.reshape(-1, y.shape[1])).reshape(index.shape)
        order = jnp.argsort(distance, axis=1)  # as rounded differently
        take = lambda a: jnp.take_along_axis(a, order, axis=1)  # noqa: E731
        return take(distance), take(index)

    return lax.map(of_state, points)


def effective_neighbours(data: Empirical, path: Trajectory) -> Profile:
    """Return 1/sum w_i^2 at every state: how many of the data the optimal denoiser averages.

    Args:
        data: the finite data set, n examples (:func:`jaxdiff.analysis.finite_data_set`).
        path: of :func:`jaxdiff.trajectory`, of any denoiser.

    Returns:
        (A + 1, batch), from n at high levels to 1 at low ones; 1 at level 0, the limit where one
        is the nearest.

    Raises:
        ValueError, TypeError: for a trajectory of other shapes.

    Source: as of the module.
    """
    states, levels = states_of(path)
    flat = vectors("path.states", states, least=1)
    check_data(data, flat)
    return _neighbours(data, flat, levels)


@jax.jit
def _neighbours(data: Empirical, flat: Array, levels: Array) -> Array:
    def at(pair: tuple[Array, Array]) -> Array:
        y, level = pair
        found = data.neighbours(y, jnp.where(level > 0, level, 1))
        return jnp.where(level > 0, found, found / found)  # of a state that is NaN it is NaN

    return lax.map(at, (flat, levels))


def check_data(data: Empirical, points: Array) -> None:
    """Raise ValueError unless points (points, batch, d) have as many numbers as the data."""
    if points.shape[-1] != data.data.shape[1]:
        raise ValueError(
            f"points of {points.shape[-1]} numbers do not go with data of {data.data.shape[1]}"
        )
