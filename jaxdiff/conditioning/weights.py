r"""Weights of guidance as functions of the noise level, and a denoiser for a part of the levels.

A weight is a number, one per sample, or any function w(level). Two of them have names:

    limited interval   w for low < s <= high, 1 (the conditional model) elsewhere
                       (Kynkaanniemi et al. 2404.07724, eq. 6)
    CFG++              w(s) = weight s/(s - r) in the DDIM step from s to r, which makes the step
                       y_r = D_w + (r/s)(y - D_u): the noise added back is the unconditional
                       model's, and the weight in [0, 1] interpolates (Chung et al. 2406.08070,
                       algorithm 2)
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arrays import check, expand
from jaxdiff.denoisers import as_partial
from jaxdiff.solvers.scalar import check_levels
from jaxdiff.typing import Array, Cond, Denoiser

Weight: TypeAlias = float | Array | Callable[[Array], Any]


def as_weight(weight: Weight) -> Any:
    """Return a weight as a leaf or node of a pytree. A plain function is compiled anew for each new
    function object. ValueError for numbers that are not finite.
    """
    if callable(weight):
        return weight if isinstance(weight, Partial) else Partial(weight)
    check("a weight must be finite", lambda w: np.isfinite(w).all(), weight)
    return weight


def weight_at(weight: Any, level: Array | float, y: Array) -> Array:
    """Return a weight at a level, shaped to multiply the states ``y``: () or (batch, 1, ...).

    Raises ValueError for numbers of another batch.
    """
    found: Any = weight(jnp.asarray(level, y.dtype)) if callable(weight) else weight
    return expand(found, y)


def interval(weight: Weight, low: float | Array, high: float | Array) -> Partial:
    """Return the weight for levels in (low, high], and 1 elsewhere (arXiv 2404.07724, eq. 6).

    Args:
        weight: a number, (batch,), or a function of the level.
        low, high: noise levels, 0 <= low < high; the paper has (0.19, 1.61) for EDM2-XXL on
            ImageNet-512.

    Raises:
        ValueError: unless 0 <= low < high.

    >>> interval(3.0, 0.5, 2.0)(jnp.asarray([0.5, 1.0, 2.0, 2.5])).tolist()
    [1.0, 3.0, 3.0, 1.0]
    """
    check("an interval of levels needs 0 <= low < high", lambda a, b: 0 <= a < b, low, high)
    return Partial(_interval, as_weight(weight), low, high)


def _interval(weight: Any, low: Array, high: Array, level: Array) -> Array:
    level = jnp.asarray(level)
    found = jnp.asarray(weight(level) if callable(weight) else weight, level.dtype)
    within = (jnp.asarray(low, level.dtype) < level) & (level <= jnp.asarray(high, level.dtype))
    return jnp.where(within, found, jnp.ones((), level.dtype))


def plus_plus(levels: Sequence[float] | np.ndarray | Array, weight: float | Array) -> Partial:
    """Return the weight of CFG++ on a grid (arXiv 2406.08070), for the Euler (DDIM) solver on it.

    ``sample(classifier_free(D, plus_plus(levels, 0.6)), table(solvers.euler, levels), ...)`` is
    the paper's algorithm 2. At a level that is not the grid's, the nearest one's weight counts.

    Args:
        levels: the sampler's decreasing grid.
        weight: lambda, in [0, 1]; the paper has 0.6 where CFG has 7.5.

    Raises:
        ValueError: for a weight outside [0, 1], or levels that are no grid.
    """
    between = lambda w: (w >= 0).all() and (w <= 1).all()  # noqa: E731
    check("the weight of CFG++ must be in [0, 1]", between, weight)
    knots = jnp.stack([jnp.asarray(s) for s in check_levels(levels)])
    return Partial(_plus_plus, knots, weight)


def _plus_plus(knots: Array, weight: Array, level: Array) -> Array:
    level = jnp.asarray(level)
    knots = knots.astype(level.dtype)
    at = jnp.argmin(jnp.abs(knots[:-1] - level[..., None]), axis=-1)
    return jnp.asarray(weight, level.dtype) * knots[at] / (knots[at] - knots[at + 1])


def within(low: float | Array, high: float | Array, inside: Denoiser, outside: Denoiser) -> Partial:
    """Return the denoiser ``inside`` for levels in (low, high], and ``outside`` for the others.

    At a scalar level only the one that counts is evaluated, so that guidance, or a controlled
    attention, costs nothing where it is off. Levels of each sample's own evaluate both.

    Raises ValueError unless 0 <= low < high.
    """
    check("an interval of levels needs 0 <= low < high", lambda a, b: 0 <= a < b, low, high)
    return Partial(_within, low, high, as_partial(inside), as_partial(outside))


def _within(
    low: Array, high: Array, inside: Partial, outside: Partial, y: Array, level: Array,
    cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    s = jnp.asarray(level, y.dtype)
    use = (jnp.asarray(low, y.dtype) < s) & (s <= jnp.asarray(high, y.dtype))
    if s.ndim == 0:
        one = lambda D: lambda: D(y, level, cond, **options).astype(y.dtype)  # noqa: E731
        return lax.cond(use, one(inside), one(outside))
    mine, other = inside(y, level, cond, **options), outside(y, level, cond, **options)
    return jnp.where(jax.vmap(lambda u, x: jnp.full(x.shape, u))(use, mine), mine, other)
