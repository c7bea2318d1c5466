r"""Kernel density of a finite data set along trajectories: sampling as annealed mean shift.

p_h(x) = (1/n) sum_i N(x; x_i, h^2) has the posterior mean r*(x) = sum_i w_i x_i, to which one step
of the mean shift algorithm goes. By Jensen's inequality, for any x and y,

    log p_h(y) - log p_h(x) >= (|r*(x) - x|^2 - |r*(x) - y|^2)/(2 h^2).

So a step to y raises the density wherever it lands nearer to r*(x) than it began: for y = r*(x)
itself; for a learned denoiser's r(x), if its error |r - r*| is below |r* - x|; and for any point
between x and such a y, as Euler's method has them.

Sources: Comaniciu and Meer 2002, doi 10.1109/34.1000236 (mean shift); Chen et al., A geometric
perspective on diffusion models, arXiv 2305.19947, sections 4 and A (the inequality for r).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from jaxdiff.analysis.deviation import check_data
from jaxdiff.analysis.points import Profile, lengths, same_shape, vectors
from jaxdiff.arrays import check
from jaxdiff.brief import short
from jaxdiff.exact import Empirical
from jaxdiff.typing import Array


class MeanShift(NamedTuple):
    """Change of the density by steps x -> y, each (points, batch).

    gain: log p_h(y) - log p_h(x), in nats. bound: what it is at least. error: |r*(x) - y|.
    distance: |r*(x) - x|; the gain is certain where the error is below it.
    """

    __repr__ = short

    gain: Array
    bound: Array
    error: Array
    distance: Array


def log_likelihood_profile(
    data: Empirical, points: Float[Array, "points batch *shape"], bandwidth: float
) -> Profile:
    """Return log p_h of a finite data set at every point of trajectories.

    Args:
        data: of :func:`jaxdiff.analysis.finite_data_set`, streamed in its own chunks.
        points: states or denoised outputs, (points, batch, *shape).
        bandwidth: h, positive, in units of the data; one for all points.

    Returns:
        (points, batch), in nats.

    Raises:
        ValueError, TypeError: for another shape, or a bandwidth that is not positive.

    Source: Chen et al., arXiv 2305.19947, section 4.
    """
    flat = vectors("points", points, least=1)
    check_data(data, flat)
    check("bandwidth must be positive", lambda h: (h > 0).all(), bandwidth)
    return _log_densities(data, flat, jnp.full(len(flat), bandwidth, flat.dtype))


@jax.jit
def _log_densities(data: Empirical, flat: Array, levels: Array) -> Array:
    return lax.map(lambda pair: data.log_density(*pair), (flat, levels))


def mean_shift(
    data: Empirical,
    points: Float[Array, "points batch *shape"],
    moved: Float[Array, "points batch *shape"],
    levels: Float[Array, " points"],
) -> MeanShift:
    """Return the gain in density of steps from points, and its bound.

    Args:
        data: of :func:`jaxdiff.analysis.finite_data_set`.
        points: x, (points, batch, *shape).
        moved: y, of the same shape: a denoiser's outputs at x, or the next states.
        levels: (points,), the bandwidth h of each, positive: the states' own levels.

    Returns:
        :class:`MeanShift`.

    Raises:
        ValueError, TypeError: for arrays that do not go together, or levels not positive.

    Source: Chen et al., arXiv 2305.19947, section A.
    """
    x, y = vectors("points", points, least=1), vectors("moved", moved, least=1)
    if x.shape != y.shape:
        raise ValueError(f"points and moved must have one shape; theirs are {x.shape}, {y.shape}")
    same_shape("points", points, "moved", moved)
    check_data(data, x)
    check("levels must be positive", lambda s: (s > 0).all(), levels)
    h = jnp.asarray(levels, x.dtype)
    if h.shape != x.shape[:1]:
        raise ValueError(f"levels must have shape ({len(x)},), one per point; got {h.shape}")
    return MeanShift(*_mean_shift(data, x, y, h))


@jax.jit
def _mean_shift(data: Empirical, x: Array, y: Array, h: Array) -> tuple[Array, ...]:
    gain = _log_densities(data, y, h) - _log_densities(data, x, h)
    best = lax.map(lambda pair: data.denoise(*pair), (x, h))
    error, distance = lengths(best - y), lengths(best - x)
    return gain, (distance**2 - error**2) / (2 * h[:, None] ** 2), error, distance
