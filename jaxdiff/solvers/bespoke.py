"""Bespoke solvers: a Runge-Kutta method after a change of scale and time that is learned.

With x(tau) = c(tau) y(s(tau)) the flow dy/ds = eps(y, s) becomes

    dx/dtau = (c'/c) x + s' c eps(x/c, s),

another ODE with the same ends for any c > 0 and decreasing s(tau). Euler's or the midpoint method
on it needs c, c', s' at its nodes only; step lengths in tau are absorbed into the derivatives here,
so that ds = s' h and dc = c' h are changes over one step.

Source: Shaul et al., arXiv 2310.19075, section 2.2 (their t_i, s_i are the levels and scales here).
"""

from collections.abc import Iterator, Sequence

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
    of their middles, 2 steps + 1 in all, and states at the middles are yielded as well.

    Args:
        order: 1 is Euler's method after the change, 2 the midpoint method.
        moves: ds at every level but the last, over a step; by default :func:`plain_moves`, with
            which every state is at its own level: Euler's method, and DPM-Solver-2 on a grid whose
            middles are those of the log level.
        scales: c at every level but the first, whose scale is 1; ones by default.
        growths: dc at every level but the last, over a step; zeros by default.

    Raises:
        ValueError: for an order it does not have, an odd number of levels' gaps at order 2, or as
            many numbers as do not fit.
    """
    if order not in (1, 2):
        raise ValueError(f"bespoke has orders 1 and 2, not {order}")
    gaps = len(levels) - 1
    if gaps % order:
        raise ValueError(f"at order 2 a grid has an odd number of levels; this one has {gaps + 1}")
    ds = plain_moves(levels, order) if moves is None else moves
    dc = [0.0] * gaps if growths is None else growths
    given = [1.0] * gaps if scales is None else scales
    for name, option in (("moves", ds), ("scales", given), ("growths", dc)):
        if len(option) != gaps:
            raise ValueError(f"{name} has {len(option)} entries; the grid has {gaps} gaps")
    c = [1.0, *given]
    for n in range(0, gaps, order):
        i, j = n, n + order
        slope = dc[i] * y + (ds[i] * c[i]) * ((y - D(y, levels[i])) / levels[i])  # (c'/c) x = c' y
        if order == 2:
            m = n + 1
            z = (c[i] * y + 0.5 * slope) / c[m]
            yield z
            inner = (z - D(z, levels[m])) / levels[m]
            slope = dc[m] * z + (ds[m] * c[m]) * inner
        y = (c[i] * y + slope) / c[j]
        yield y


def plain_moves(levels: Sequence[Scalar], order: int) -> list[Scalar]:
    """The moves without any change of time: a step goes from its first level to its last, and from
    the first to the middle in half a step.
    """
    gaps = len(levels) - 1
    if order == 1:
        return [levels[n + 1] - levels[n] for n in range(gaps)]
    steps = [levels[n : n + 3] for n in range(0, gaps, 2)]
    return [move for s, m, r in steps for move in (2 * (m - s), r - s)]
