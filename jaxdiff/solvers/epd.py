"""EPD-Solver (Zhu et al. 2025, arXiv 2507.14797): several parallel evaluations inside a step.

With K intermediate levels m_k = r^a_k s^(1 - a_k) between s and r and their slopes eps_k,

    y_r = y + (r - s) sum_k w_k c_k eps_k,     c_k = 1 + o_k, t_k = 1 + delta_k in the paper,

so that a step takes the time of two evaluations if they are made at once
(:mod:`jaxdiff.sampling.parallel`). A step to level 0 has none: it is y = D(y, s). The numbers
may be floats, traced scalars or one per sample (:mod:`jaxdiff.solvers.intermediate`).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias, cast

from jaxdiff.solvers.intermediate import (
    PerStep,
    check_ratios,
    inner_slope,
    intermediate_level,
    is_number,
)
from jaxdiff.solvers.orders import check_order
from jaxdiff.solvers.pndm import adams_bashforth
from jaxdiff.solvers.scalar import D, Scalar, State, is_zero, weighted

Inner: TypeAlias = (
    PerStep | Sequence[Sequence[Scalar]]
)  # one, one per intermediate level, or these per step


def epd(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    ratios: Inner = (1 / 3, 2 / 3),
    weights: Inner | None = None,
    directions: Inner = 1.0,
    times: Inner = 1.0,
    order: int = 1,
) -> Iterator[State]:
    """EPD-Solver (arXiv 2507.14797): K intermediate levels that do not depend on one another.

    1 + K evaluations per step, the K of which can be made at once; one in a step to level 0. Order
    2 if the weights sum to 1, the mean ratio is 1/2 and the factors are 1; K = 1 is :func:`amed`.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        ratios: of the K intermediate levels in a step, each in (0, 1): K numbers, or K for every
            step.
        weights: of the slopes there, likewise; 1/K by default.
        directions: factors 1 + o_k of the slopes, one number or likewise.
        times: factors 1 + delta_k of the levels that condition the network, one number or likewise.
            As in the published code, the slope is divided by the state's own level.
        order: the intermediate states are reached by iPNDM steps of this order, over the slopes
            that steps begin with: 1 is EPD-Solver, 4 its plug-in on iPNDM.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for ratios not within (0, 1), or numbers that do not fit the ratios or the grid.

    Source: Zhu et al., Distilling Parallel Gradients for Fast ODE Solvers of Diffusion Models,
    arXiv 2507.14797.
    """
    check_order("epd", order, 4)
    numbers, past = _points(len(levels) - 1, ratios, weights, directions, times), ()
    for (s, r), (own, gains, factors) in zip(pairwise(levels), numbers, strict=True):
        past = ((y - D(y, s)) / s, *past)[:order]
        slope = adams_bashforth(past)
        if is_zero(r):
            y = y + (r - s) * past[0]
        else:
            inner = [intermediate_level(s, r, a) for a in own]
            pairs = zip(inner, factors, strict=True)
            slopes = [inner_slope(D, y + (m - s) * slope, m, t) for m, t in pairs]
            y = y + (r - s) * weighted(gains, slopes)
        yield y


def _points(
    num_steps: int, ratios: Inner, weights: Inner | None, directions: Inner, times: Inner
) -> list[tuple[list[Scalar], list[Scalar], list[Scalar]]]:
    """Ratios, weights times directions, and times of every step."""
    rows = _rows(ratios, num_steps, "ratios")
    counts = [len(row) for row in rows]
    for row in rows:
        check_ratios(row)
    given = {"weights": weights, "directions": directions, "times": times}
    if weights is None:
        given["weights"] = [[1 / k] * k for k in counts]
    columns = []
    for name, option in given.items():
        one = is_number(option)
        columns.append([[option] * k for k in counts] if one else _rows(option, num_steps, name))
        if [len(row) for row in columns[-1]] != counts:
            raise ValueError(f"{name} must have as many entries in every step as ratios: {counts}")
    gains = [[w * c for w, c in zip(*pair, strict=True)] for pair in zip(*columns[:2], strict=True)]
    return list(zip(rows, gains, columns[2], strict=True))


def _rows(option: Inner, num_steps: int, name: str) -> list[list[Scalar]]:
    """One row of numbers for every step: given, or the same for all."""
    entries = list(cast(Iterable[Any], option))
    nested = [not is_number(x) for x in entries]
    rows = [list(row) for row in entries] if all(nested) else [entries] * num_steps
    if len(rows) != num_steps or not all(rows):
        raise ValueError(f"{name} must be some numbers, or some for each of {num_steps} steps")
    return rows
