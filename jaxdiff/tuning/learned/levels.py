"""Levels that decrease by construction: what gradient descent moves in place of a grid.

In a warped variable v of the level (its logarithm, usually) the grid's gaps are shares of the whole
way from the first level to the last,

    v_i = v_0 + (v_end - v_0) sum_{j <= i} p_j,     p = (1 - e) softmax(raw) + e/count,

so any real numbers ``raw`` make a valid grid: with e = 1e-3 no two levels come so close that the
weights of a solver would be rounding. The first level stays. The last one stays where the
grid does not end in 0; where it does, the last positive level is free above ``floor``, one more
share being what is left below it.

Source: Tong et al., arXiv 2405.15506 (LD3), section 3.2, with the variable of one's choice.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.grids.lists import from_list
from jaxdiff.solvers.scalar import Scalar
from jaxdiff.typing import Array

LEAST = 1e-3  # e of the shares
SMALL = 1e-6  # of a share at the start: a grid that lies on the floor can still leave it


class Warp(NamedTuple):
    """A monotone variable of the level, and the level of its values; both for arrays of JAX."""

    of: Callable[[Array], Array]
    level: Callable[[Array], Array]


LOG = Warp(jnp.log, jnp.exp)
ARCTAN = Warp(jnp.arctan, jnp.tan)


def power(rho: float = 7.0) -> Warp:
    """Level^(1/rho), in which Karras grids are uniform."""
    return Warp(lambda s: s ** (1 / rho), lambda v: v**rho)


class Moving(NamedTuple):
    """A grid to be moved: ``raw`` makes it as it is, ``levels(raw)`` any other."""

    raw: Array
    levels: Callable[[Array], list[Scalar]]


def moving(
    levels: Sequence[float] | np.ndarray, *, floor: float | None = None, warp: Warp = LOG
) -> Moving:
    """Parametrise a grid.

    Args:
        levels: strictly decreasing, as :func:`jaxdiff.grids.from_list` checks.
        floor: below every level of a grid that ends in 0; half its last positive level by default.
        warp: the variable whose gaps are shared out.

    Returns:
        The parametrised grid: its numbers at the start, and the levels that numbers give.

    Raises:
        ValueError: for a floor that is not below the last positive level, or not positive.
    """
    grid = from_list(levels)
    zero = grid[-1] == 0
    own = grid[:-1] if zero else grid
    lowest = own[-1] / 2 if floor is None else floor
    if zero and not 0 < lowest < own[-1]:
        raise ValueError(f"floor must lie in (0, {own[-1]:g}), below all levels; it is {lowest:g}")
    ends = (float(own[0]), float(lowest if zero else own[-1]))
    knots = np.asarray(warp.of(jnp.asarray([*own, lowest] if zero else own)), np.float64)
    gaps = np.diff(knots) / (knots[-1] - knots[0])
    free = (gaps - LEAST / len(gaps)) / (1 - LEAST)
    raw = jnp.asarray(np.log(np.maximum(free, SMALL)))

    def build(raw: Array) -> list[Scalar]:
        first, last = (warp.of(jnp.asarray(end, raw.dtype)) for end in ends)
        shares = (1 - LEAST) * jax.nn.softmax(raw) + LEAST / len(gaps)
        inner = first + (last - first) * jnp.cumsum(shares)[:-1]
        middle = list(warp.level(inner))
        return [ends[0], *middle, 0.0 if zero else ends[1]]

    return Moving(raw, build)


def snapped(
    levels: Sequence[float] | np.ndarray, allowed: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return a tuned grid moved to the levels that a discrete model knows, as many as before.

    Each level goes to the nearest allowed one in log level, or, if that is taken, to the nearest
    that is free and keeps the order: the assignment of least total squared distance, found by
    dynamic programming. A final 0 stays.

    Args:
        levels: a tuned grid.
        allowed: levels that the model knows.

    Returns:
        Levels out of ``allowed``, as many as there were.

    Raises:
        ValueError: if there are fewer allowed levels than levels.
    """
    grid, known = from_list(levels), np.sort(np.asarray(allowed, np.float64))[::-1]
    own = grid[grid > 0]
    if len(known) < len(own) or not (known > 0).all():
        raise ValueError(f"{len(own)} levels cannot go to {len(known)} different ones")
    apart = (np.log(own)[:, None] - np.log(known)[None]) ** 2
    best, chosen = np.zeros(len(known) + 1), []
    for row in apart:  # best[k]: the least cost of the levels so far on the first k allowed ones
        taken = np.concatenate([[math.inf], best[:-1] + row])
        best = np.minimum.accumulate(taken)
        chosen.append(taken)
    k, picks = len(known), []
    for taken in reversed(chosen):
        k = int(np.argmin(taken[: k + 1]))
        picks.append(known[k - 1])
        k -= 1
    return np.append(picks[::-1], [0.0] * (len(grid) - len(own)))
