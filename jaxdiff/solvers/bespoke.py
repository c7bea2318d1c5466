"""Bespoke solvers: a Runge-Kutta method after a change of scale and time that is learned.

With x(tau) = c(tau) y(s(tau)) the flow dy/ds = eps(y, s) becomes

    dx/dtau = (c'/c) x + s' c eps(x/c, s),

another ODE with the same ends for any c > 0 and decreasing s(tau). Euler's or the midpoint method
on it needs c, c', s' at its nodes only; step lengths in tau are absorbed into the derivatives here,
so that ds = s' h and dc = c' h are changes over one step.

Source: Shaul et al., arXiv 2310.19075, section 2.2 (their t_i, s_i are the levels and scales here).
"""

from collections.abc import Iterator, Sequence

from jaxdiff.solvers.orders import check_order
from jaxdiff.solvers.scalar import D, Scalar, State


def bespoke(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    order: int = 2,
    moves: Sequence[Scalar] | None = None,
    scales: Sequence[Scalar] | None = None,
    growths: Sequence[Scalar] | None = None,
) -> Iterator[State]:
    """RK1- and RK2-bespoke solvers (arXiv 2310.19075, eqs. 17 to 19).

    One evaluation at every level but the last. At order 2 the levels are in turn those of steps and
    of their intermediate levels, and states at these are yielded as well. Where that leaves the
    last step without one, at an odd number of evaluations, that step is Euler's; the paper has even
    numbers only.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        order: 1 is Euler's method after the change, 2 the midpoint method.
        moves: ds at every level but the last, over a step; by default :func:`plain_moves`, with
            which every state is at its own level: Euler's method, and DPM-Solver-2 on a grid whose
            intermediate levels are those uniform in log level.
        scales: c at every level but the first, whose scale is 1; ones by default.
        growths: dc at every level but the last, over a step; zeros by default.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an order it does not have, or as many numbers as do not fit.

    Source: Shaul et al., Bespoke Solvers for Generative Flow Models, arXiv 2310.19075, equations 17
    to 19.
    """
    check_order("bespoke", order, 2)
    gaps = len(levels) - 1
    ds = plain_moves(levels, order) if moves is None else moves
    dc = [0.0] * gaps if growths is None else growths
    given = [1.0] * gaps if scales is None else scales
    for name, option in (("moves", ds), ("scales", given), ("growths", dc)):
        if len(option) != gaps:
            raise ValueError(f"{name} has {len(option)} entries; the grid has {gaps} gaps")
    c = [1.0, *given]
    for i, j in steps_of(gaps, order):
        slope = dc[i] * y + (ds[i] * c[i]) * ((y - D(y, levels[i])) / levels[i])  # (c'/c) x = c' y
        if j == i + 2:
            m = i + 1
            z = (c[i] * y + 0.5 * slope) / c[m]
            yield z
            inner = (z - D(z, levels[m])) / levels[m]
            slope = dc[m] * z + (ds[m] * c[m]) * inner
        y = (c[i] * y + slope) / c[j]
        yield y


def steps_of(gaps: int, order: int) -> list[tuple[int, int]]:
    """Return the numbers of the levels that each step starts from and ends at."""
    return [(i, min(i + order, gaps)) for i in range(0, gaps, order)]


def plain_moves(levels: Sequence[Scalar], order: int) -> list[Scalar]:
    """Return the moves without any change of time: a step goes from its first level to its last,
    and from the first to the middle in half a step.
    """
    moves: list[Scalar] = []
    for i, j in steps_of(len(levels) - 1, order):
        halves = [2 * (levels[i + 1] - levels[i])] if j == i + 2 else []
        moves += [*halves, levels[j] - levels[i]]
    return moves
