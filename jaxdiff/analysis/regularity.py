r"""How alike trajectories are, and what that buys: a schedule searched on a few of them.

Divided by its own largest deviation, every trajectory's deviation from its chord is nearly the
same function of the level, and turned onto each other (:func:`jaxdiff.analysis.overlay`) the curves
nearly coincide: linear, bent, linear. So a grid found by GITS on one trajectory serves all, and the
mean and covariance of the data alone, whose trajectories have this shape too, give about that grid
without a network.

Sources: Chen et al., On the trajectory regularity of ODE-based diffusion sampling, arXiv
2405.11326, sections 3 and 4; Chen et al., arXiv 2506.10177.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdiff.analysis.local_error import Measure, truncation_errors
from jaxdiff.analysis.points import compiled, divide, lengths, vectors
from jaxdiff.analysis.projection import boomerang, overlay
from jaxdiff.analysis.trajectory import deviation
from jaxdiff.brief import short
from jaxdiff.grids.dynamic import shortest
from jaxdiff.typing import Array, Grid


class Regularity(NamedTuple):
    """How alike trajectories are.

    mean, spread: (points,), mean and standard deviation over the batch of the deviation, each
    trajectory's divided by its largest. peak: (batch,), the point where it is largest. size:
    (batch,), that largest deviation. residual: (batch,), the share of each curve's squares that is
    left when it is turned onto the mean curve, 0 for one shape, about 1 for none. One with NaN
    spoils what is pooled, and so every residual.
    """

    __repr__ = short

    mean: Array
    spread: Array
    peak: Array
    size: Array
    residual: Array


@compiled()
def regularity(points: Float[Array, "points batch *shape"]) -> Regularity:
    """Return how alike the shapes of trajectories are, whoever made them.

    The curves that are turned onto each other are the two coordinates across the chord of
    :func:`jaxdiff.analysis.boomerang`, each curve over its own size; the mean curve is that of all
    curves turned onto the first.

    Args:
        points: (points, batch, *shape), at least two points.

    Returns:
        :class:`Regularity`; straight trajectories have the shape 0.

    Raises:
        ValueError, TypeError: for another shape or dtype.

    Source: Chen et al., arXiv 2405.11326, section 3.
    """
    away = deviation(points)
    size = jnp.max(away, axis=0)
    share = divide(away, size[None])
    curves = divide(boomerang(points)[..., 1:], size[None, :, None])
    target = jnp.mean(overlay(curves, curves[:, 0]), axis=1)
    apart = lengths(overlay(curves, target) - target[:, None])
    left = divide(jnp.sum(apart**2, axis=0), jnp.sum(lengths(curves) ** 2, axis=0))
    spread = jnp.std(share, axis=1)
    return Regularity(jnp.mean(share, axis=1), spread, jnp.argmax(away, axis=0), size, left)


class SearchedGrids(NamedTuple):
    """Grids found on the first so many trajectories, one for each of ``counts``.

    counts: as given. places: (len(counts), num_steps + 1), which of the levels they are. grids:
    likewise, the levels.
    """

    __repr__ = short

    counts: tuple[int, ...]
    places: np.ndarray
    grids: list[Grid]


def searched_grids(
    levels: Sequence[float] | np.ndarray | Array,
    states: Float[Array, "points batch *shape"],
    denoised: Float[Array, "points batch *shape"],
    num_steps: int,
    *,
    counts: Sequence[int] = (1, 4, 16, 256),
    discount: float = 1.15,
    measure: Measure = "dev",
) -> SearchedGrids:
    """Return the grids that GITS finds on one trajectory, on a few, on many.

    Of a teacher, or of the Gaussian of its data (:func:`jaxdiff.analysis.flow_trajectory` of
    :func:`jaxdiff.analysis.gaussian_of`), for which no network is evaluated.

    Args:
        levels: (points,), decreasing.
        states, denoised: trajectories on them, as of
            :func:`jaxdiff.analysis.truncation_errors`.
        num_steps: of the grids, 1 to points - 1.
        counts: how many of the trajectories, each at least 1 and at most all.
        discount, measure: as of :func:`jaxdiff.tuning.gits`, with the published defaults.

    Returns:
        :class:`SearchedGrids`.

    Raises:
        ValueError: for counts of trajectories that there are not, and as of
            :func:`jaxdiff.analysis.truncation_errors` and :func:`jaxdiff.tuning.shortest`.

    Source: Chen et al., arXiv 2405.11326, section 4.
    """
    batch = vectors("states", states).shape[1]
    if not len(counts) or any(not 1 <= n <= batch for n in counts):
        raise ValueError(f"counts are 1 to {batch}, as many as there are; got {tuple(counts)}")
    known, paths = np.asarray(levels, np.float64), []
    for n in counts:
        costs = truncation_errors(levels, states[:, :n], denoised[:, :n], measure)
        paths.append(shortest(costs, num_steps, discount))
    return SearchedGrids(tuple(counts), np.stack(paths), [known[path] for path in paths])
