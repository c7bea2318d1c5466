r"""Empirical model statistics: how a denoiser behaves at each level, number by number.

With lambda = -log s the probability flow is dy/dlambda = D - y. The statistics l, s, b of
DPM-Solver-v3, each an array of a sample's shape at each of many levels, are

    l = 1 - E[diag dD/dy],                          f = (1 - l) y - D,
    (s, b) = argmin E[(df/dlambda - s f - b)^2]     along the flow, for every number,

over noisy data y. So l is what makes f depend least on y, and s f + b is how it changes:

    s = Cov(df/dlambda, f)/Var(f),    b = E[df/dlambda] - s E[f],
    df/dlambda = -l' y + (1 - l)(D - y) - dD/dlambda,

the last one a derivative in the direction (dy, ds)/dlambda = (D - y, -s) of the flow.

On a Gaussian N(m, v), v one per number, l = s^2/(v + s^2), s = 0 and b = 2 m l (1 - l): f = -m l
has no y left.

Source: Zheng et al. 2023, arXiv 2310.13268, section 3.1 (there of x = alpha y; the same numbers in
the frame where alpha = 1).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser, Key

_ROUNDING = 1e-8  # of f's terms' mean squares: a variance of f below it is rounding, or noise in l


class Statistics(NamedTuple):
    """Empirical model statistics on a grid; ``numpy.savez(path, **statistics._asdict())`` keeps
    them.

    levels: (count,) strictly decreasing and positive, evenly spaced in log level.
    l, s, b: (count, *shape).
    """

    __repr__ = short

    levels: np.ndarray
    l: np.ndarray  # noqa: E741
    s: np.ndarray
    b: np.ndarray


def gaussian_statistics(
    mean: ArrayLike, variances: ArrayLike, levels: Sequence[float] | np.ndarray
) -> Statistics:
    """Return the statistics of N(mean, variances), arrays of a sample's shape, in closed form.

    Of the data's own means and variances they cost nothing; they miss how the numbers depend on
    each other.
    """
    m, v = np.asarray(mean, np.float64)[None], np.asarray(variances, np.float64)[None]
    squared = np.asarray(levels, np.float64).reshape((-1,) + (1,) * (m.ndim - 1)) ** 2
    l = squared / (v + squared)  # noqa: E741
    return Statistics(np.asarray(levels, np.float64), l, np.zeros_like(l), 2 * m * l * (1 - l))


def estimate_statistics(
    denoiser: Denoiser,
    data: Array,
    levels: Sequence[float] | np.ndarray,
    key: Key,
    cond: Cond = None,
    *,
    probes: int | None = 1,
    batch: int = 256,
) -> Statistics:
    """Estimate the statistics of a denoiser by Monte Carlo, on data and noise.

    Every example gets one noise, the same at all levels, so that the statistics are as smooth in
    level as the model. Two evaluations with derivatives per example and level, and one more per
    further probe; the paper has 1200 levels and 1024 examples, or 120 and 4096.

    Args:
        denoiser: ``D(y, level, cond)``, differentiable in its state and level.
        data: (n, *shape), floating.
        levels: see :class:`Statistics`; at least 4.
        key: typed key, for noise and probes.
        cond: handed to the denoiser, its leaves (n, ...).
        probes: random signs per example to estimate the diagonal of dD/dy; None for the diagonal
            itself, by as many derivatives as a sample has numbers.
        batch: examples handled at once.

    Raises:
        ValueError: for levels that do not fit, or a number of probes below 1.
    """
    knots = check_grid(levels)
    if probes is not None and probes < 1:
        raise ValueError(f"probes must be at least 1, or None for the exact diagonal; got {probes}")
    model, count = as_partial(denoiser), data.shape[0]
    chunks = [slice(i, min(i + batch, count)) for i in range(0, count, batch)]
    parts = [(data[c], jax.tree.map(lambda a, c=c: a[c], cond)) for c in chunks]
    shares = [len(part) / count for part, _ in parts]

    def mean(function: Any, number: int, *more: Any) -> Any:
        """Mean over the data, in float64, of what a function gives for every chunk."""
        level = jnp.asarray(knots[number], data.dtype)
        own = [jax.random.fold_in(key, i) for i in range(len(parts))]
        each = [
            function(model, x, level, c, k, *more) for (x, c), k in zip(parts, own, strict=True)
        ]
        add = lambda *v: sum(w * np.asarray(a, np.float64) for w, a in zip(shares, v, strict=True))  # noqa: E731
        return jax.tree.map(add, *each)

    l = 1.0 - np.stack([mean(_diagonal, i, probes) for i in range(len(knots))])  # noqa: E741
    slope = np.gradient(l, -np.log(knots), axis=0, edge_order=2)
    centre = np.asarray(data, np.float64).mean(0)
    moments = []
    for i in range(len(knots)):
        arrays = (jnp.asarray(a, data.dtype) for a in (l[i], slope[i], l[i] * centre))
        moments.append(mean(_moments, i, *arrays))
    f, df, ff, fdf, scale = (np.stack(m) for m in zip(*moments, strict=True))
    s = (fdf - f * df) / np.maximum(ff - f * f + _ROUNDING * scale, np.finfo(np.float64).tiny)
    return Statistics(knots, l, s, df - s * (f - l * centre))


def _noisy(data: Array, level: Array, key: Key) -> Array:
    return data + level * jax.random.normal(jax.random.fold_in(key, 0), data.shape, data.dtype)


@functools.partial(jax.jit, static_argnames=("probes",))
def _diagonal(
    D: Denoiser, data: Array, level: Array, cond: Cond, key: Key, probes: int | None
) -> Array:
    """E[diag dD/dy], (*shape): E[v (dD/dy v)] over random signs v, or number by number."""
    y = _noisy(data, level, key)
    along = lambda v: jax.jvp(lambda y: D(y, level, cond), (y,), (v,))[1]  # noqa: E731
    if probes is not None:
        draw = lambda i: jax.random.rademacher(jax.random.fold_in(key, i), y.shape, y.dtype)  # noqa: E731
        signs = map(draw, range(1, probes + 1))
        return jnp.mean(sum(v * along(v) for v in signs) / probes, axis=0)
    size = math.prod(y.shape[1:])

    def one(i: Array) -> Array:
        unit = (jnp.arange(size, dtype=jnp.int32) == i).astype(y.dtype).reshape(1, *y.shape[1:])
        return jnp.mean(jnp.sum((unit * along(unit * jnp.ones_like(y))).reshape(-1, size), axis=1))

    return jax.lax.map(one, jnp.arange(size, dtype=jnp.int32)).reshape(y.shape[1:])


@jax.jit
def _moments(
    D: Denoiser,
    data: Array,
    level: Array,
    cond: Cond,
    key: Key,
    l: Array,  # noqa: E741
    slope: Array,
    centre: Array,
) -> tuple[Array, ...]:
    """Means of f + centre, df/dlambda, their products with the first, and E[y'^2 + D^2] in it."""
    y = _noisy(data, level, key)
    output = D(y, level, cond)
    rate = output - y  # dy/dlambda
    _, change = jax.jvp(lambda y, s: D(y, s, cond), (y, level), (rate, -level))
    f = (1 - l)[None] * y - output + centre[None]
    df = -slope[None] * y + (1 - l)[None] * rate - change
    scale = ((1 - l)[None] * y) ** 2 + output**2
    return tuple(jnp.mean(a, axis=0) for a in (f, df, f * f, f * df, scale))


def check_grid(levels: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the levels of statistics, in float64."""
    knots = np.asarray(levels, np.float64)
    if knots.ndim != 1 or len(knots) < 4 or not (knots > 0).all():
        raise ValueError(f"statistics need at least four positive levels; got {levels}")
    steps = -np.diff(np.log(knots))
    if not (steps > 0).all() or np.ptp(steps) > 1e-4 * steps.mean():
        raise ValueError("the levels of statistics must decrease, evenly spaced in log level")
    return knots


def unit_moment(level: float) -> float:
    """E|eps_hat|^2/d for N(0, I) data, in closed form.

    Args:
        level: the noise level, positive.

    Returns:
        s^2/(1 + s^2).
    """
    return level * level / (1.0 + level * level)


def second_moments(
    denoiser: Denoiser,
    data: Array,
    levels: Sequence[float] | np.ndarray,
    key: Key,
    cond: Cond = None,
) -> tuple[float, ...]:
    """E|eps_hat|^2/d at every level but the last, by Monte Carlo: one noise per item and level.

    Args:
        denoiser: ``D(y, level, cond)``.
        data: (n, *shape) clean data, evaluated as one batch; average the results of several.
        levels: the grid that :func:`jaxdiff.solvers.analytic_dpm` is to run on.
        key: typed key.
        cond: handed to the denoiser, for all of ``data``.
    """
    D = as_partial(denoiser)
    starts = [jnp.asarray(s, data.dtype) for s in levels[:-1]]
    return tuple(
        float(_second_moment(D, data, s, jax.random.fold_in(key, i), cond))
        for i, s in enumerate(starts)
    )


@jax.jit
def _second_moment(D: Denoiser, data: Array, level: Array, key: Key, cond: Cond) -> Array:
    y = data + level * jax.random.normal(key, data.shape, data.dtype)
    return jnp.mean(((y - D(y, level, cond)) / level) ** 2)
