r"""The shape of sampling trajectories: their deviation from a straight line, lengths and norms.

For the points x_T, ..., x_0 of a trajectory, u the direction from the first to the last,

    deviation    dev(x) = |(x - x_T) - <x - x_T, u> u|
    length       sum_n |x_{n+1} - x_n|,     its chord |x_0 - x_T|
    cosine       of eps(x_n) = (x_n - D(x_n))/s_n and x_n - x_0, which is 1 on a straight line

Every function takes points (points, batch, *shape), those of the sampling trajectory or of the
denoising trajectory alike, and a sample's numbers are its own: NaN in one stays there.

For data N(m, v I) every trajectory is straight. For N(m, S) with eigenvalues l of S, and m = 0,

    E |x|^2 = sum (l + s^2),   E |D|^2 = sum l^2/(l + s^2),   E |eps|^2 = sum s^2/(l + s^2).

Sources: Chen et al., A geometric perspective on diffusion models, arXiv 2305.19947, sections 3 and
4; Chen et al., On the trajectory regularity of ODE-based diffusion sampling, arXiv 2405.11326,
section 3.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from jaxdiff.analysis.points import (
    Profile,
    compiled,
    divide,
    floating,
    lengths,
    level_column,
    same_shape,
    vectors,
)
from jaxdiff.brief import short
from jaxdiff.distance import norm
from jaxdiff.typing import Array, PerSample, States


class Norms(NamedTuple):
    """Euclidean norms along trajectories, each (points, batch).

    states: |x_n|. denoised: |D(x_n)|. eps: |x_n - D(x_n)|/s_n, and 0 at level 0.
    """

    __repr__ = short

    states: Array
    denoised: Array
    eps: Array


@compiled()
def chord_deviation(point: States, start: States, end: States) -> PerSample:
    """Return the distance of points from the straight lines through ``start`` and ``end``.

    Args:
        point, start, end: (batch, *shape).

    Returns:
        (batch,), in units of the data; where start and end are one point, the distance from it.

    Source: Chen et al., arXiv 2305.19947, section 3.
    """
    chord, rest = ((end - a).reshape(len(end), -1) for a in (start, point))
    along = divide(jnp.sum(rest * chord, axis=1), jnp.sum(chord**2, axis=1))
    return norm(rest - along[:, None] * chord)


@compiled()
def deviation(points: Float[Array, "points batch *shape"]) -> Profile:
    """Return the distance of every point from the chord between the first and the last.

    Args:
        points: states, or denoised outputs, (points, batch, *shape), at least two points.

    Returns:
        (points, batch), in units of the data; 0 at both ends.

    Raises:
        ValueError, TypeError: for another shape or dtype.

    Source: Chen et al., arXiv 2305.19947, section 3.

    >>> line = jnp.array([[[4.0, 0.0]], [[2.0, 1.0]], [[0.0, 0.0]]])
    >>> deviation(line)[:, 0].tolist()
    [0.0, 1.0, 0.0]
    """
    return lengths(_complement(vectors("points", points)))


@compiled()
def chord_complement(
    points: Float[Array, "points batch *shape"],
) -> Float[Array, "points batch *shape"]:
    """Return what is left of the points, from the last one on, without the chord's direction.

    Its norm is :func:`deviation`; its principal components are those of the boomerang's plane
    (:mod:`jaxdiff.analysis.projection`).

    Args:
        points: (points, batch, *shape), at least two points.

    Returns:
        (points, batch, *shape), 0 at both ends.

    Raises:
        ValueError, TypeError: for another shape or dtype.

    Source: Chen et al., arXiv 2405.11326, section 3.
    """
    return _complement(vectors("points", points)).reshape(jnp.shape(points))


def _complement(flat: Array) -> Array:
    chord, rest = (flat[-1] - flat[0])[None], flat - flat[-1:]
    along = divide(jnp.sum(rest * chord, axis=2), jnp.sum(chord**2, axis=2))
    return rest - along[..., None] * chord


@compiled()
def chord_length(points: Float[Array, "points batch *shape"]) -> PerSample:
    """Return the distance of the first point of every trajectory from the last.

    Args:
        points: (points, batch, *shape), at least two points.

    Returns:
        (batch,), in units of the data.

    Raises:
        ValueError, TypeError: for another shape or dtype.
    """
    flat = vectors("points", points)
    return norm(flat[-1] - flat[0])


@compiled()
def path_length(points: Float[Array, "points batch *shape"]) -> PerSample:
    """Return the length of the polygon through the points of every trajectory.

    Args:
        points: (points, batch, *shape), at least two points.

    Returns:
        (batch,), in units of the data: at least :func:`chord_length`, and about s_T sqrt(d) for a
        sampling trajectory.

    Raises:
        ValueError, TypeError: for another shape or dtype.
    """
    return jnp.sum(lengths(jnp.diff(vectors("points", points), axis=0)), axis=0)


@compiled()
def distance_to_end(points: Float[Array, "points batch *shape"]) -> Profile:
    """Return how far every point is from the last of its trajectory.

    Args:
        points: (points, batch, *shape), at least two points.

    Returns:
        (points, batch), in units of the data.

    Raises:
        ValueError, TypeError: for another shape or dtype.
    """
    flat = vectors("points", points)
    return lengths(flat - flat[-1:])


@compiled()
def eps_of(
    states: Float[Array, "points batch *shape"],
    denoised: Float[Array, "points batch *shape"],
    levels: Float[Array, " points"],
) -> Float[Array, "points batch *shape"]:
    """Return eps(x_n) = (x_n - D(x_n))/s_n, the slope dx/ds of the probability flow.

    Args:
        states: (points, batch, *shape).
        denoised: D at every state, of the same shape
            (:func:`jaxdiff.analysis.denoising.denoising_trajectory`).
        levels: (points,).

    Returns:
        (points, batch, *shape); 0 at level 0, its limit where the data have a density.

    Raises:
        ValueError, TypeError: for arrays that do not go together.
    """
    states, denoised = floating("states", states), floating("denoised", denoised)
    if states.shape != denoised.shape:
        raise ValueError(
            "there must be a denoised output for every state; their shapes are "
            f"{denoised.shape} and {states.shape}"
        )
    return divide(states - denoised, level_column(levels, states))


@compiled()
def norms(
    states: Float[Array, "points batch *shape"],
    denoised: Float[Array, "points batch *shape"],
    levels: Float[Array, " points"],
) -> Norms:
    """Return the norms of states, denoised outputs and eps along trajectories.

    Args:
        states, denoised, levels: as in :func:`eps_of`.

    Returns:
        :class:`Norms`, each (points, batch).

    Raises:
        ValueError, TypeError: for arrays that do not go together.

    Source: Chen et al., arXiv 2305.19947, section 4 (magnitude expansion and shrinkage).
    """
    eps = eps_of(states, denoised, levels)
    return Norms(*(lengths(vectors("states", a, least=1)) for a in (states, denoised, eps)))


@compiled()
def chord_cosine(
    states: Float[Array, "points batch *shape"], eps: Float[Array, "some batch *shape"]
) -> Profile:
    """Return the cosine of eps(x_n) and x_n - x_0 at every point before the last.

    Args:
        states: (points, batch, *shape).
        eps: at the first so many of them, or all (:func:`eps_of`).

    Returns:
        (points - 1, batch), or as many as there are of ``eps``; NaN where either vector is 0.

    Raises:
        ValueError, TypeError: for another shape or dtype.

    Source: Chen et al., arXiv 2305.19947, section 3.
    """
    x, slope = vectors("states", states), vectors("eps", eps, least=1)
    same_shape("states", states, "eps", eps)
    count = min(len(x) - 1, len(slope))
    back, slope = x[:count] - x[-1:], slope[:count]
    return jnp.sum(back * slope, axis=2) / (lengths(back) * lengths(slope))


@compiled()
def effective_noise_dimension(eps: Float[Array, "points batch *shape"]) -> Profile:
    """Return |eps|^2: how many of a sample's d numbers are still noise.

    Args:
        eps: (points, batch, *shape), of :func:`eps_of`.

    Returns:
        (points, batch), between 0 and about d; for data N(m, S) it is sum s^2/(l + s^2) in the
        mean.

    Raises:
        ValueError, TypeError: for another shape or dtype.
    """
    return jnp.sum(vectors("eps", eps, least=1) ** 2, axis=2)
