"""Linear multistep solvers of the probability-flow ODE: past outputs instead of more evaluations.

The solution between levels s > r, y_r = y_s + int_s^r eps ds', is discretised by interpolating
eps(y, s) = (y - D(y, s))/s over the last few levels: in the level itself (Adams-Bashforth), in the
knot's number (iPNDM) or in the time of a VP process (DEIS). One evaluation per step. Generators as
in :mod:`jaxdiff.sampling.singlestep`.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.sampling.scalar import (
    D,
    Scalar,
    State,
    expm1,
    is_zero,
    lagrange_integrals,
    log,
    sqrt,
    weighted,
)


def lms(D: D, y: State, levels: Sequence[Scalar], order: int = 4) -> Iterator[State]:
    """Variable-step Adams-Bashforth: eps interpolated by polynomials in the level and integrated
    exactly.

    Linear multistep of the given order; the same numbers are DEIS rho-AB (arXiv 2204.13902) and
    what iPNDM_v intends.
    """
    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        history = [(s, (y - D(y, s)) / s), *history][:order]
        weights = lagrange_integrals([level for level, _ in history], s, r)
        y = y + weighted(weights, [eps for _, eps in history])
        yield y


ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(D: D, y: State, levels: Sequence[Scalar], order: int = 4) -> Iterator[State]:
    """Improved PNDM: Adams-Bashforth with the coefficients of a uniform grid (arXiv 2204.13902
    appendix; PNDM 2202.09778).

    On a grid that is not uniform in the level its order is 2 whatever ``order`` says; at few steps
    it is among the best.
    """
    if not 1 <= order <= 4:
        raise ValueError(f"ipndm has orders 1 to 4, not {order}")
    history: list[State] = []
    for s, r in pairwise(levels):
        history = [(y - D(y, s)) / s, *history][:order]
        y = y + (r - s) * weighted(ADAMS_BASHFORTH[len(history) - 1], history)
        yield y


def ipndm_v(
    D: D, y: State, levels: Sequence[Scalar], order: int = 4, reference: bool = False
) -> Iterator[State]:
    """IPNDM with coefficients for a variable step: Adams-Bashforth, as :func:`lms`.

    Args:
        order: 1 to 4.
        reference: the published coefficients (diff-sampler and what is copied from it), which
            differ at orders 3 and 4 by three algebra slips; those of order 4 do not sum to 1.
    """
    if not 1 <= order <= 4:
        raise ValueError(f"ipndm_v has orders 1 to 4, not {order}")
    if not reference:
        yield from lms(D, y, levels, order)
        return
    history: list[State] = []
    for i, (s, r) in enumerate(pairwise(levels)):
        history = [(y - D(y, s)) / s, *history][:order]
        knots = [r, *reversed(levels[max(0, i + 1 - len(history)) : i + 1])]
        y = y + (r - s) * weighted(published_ipndm_v([a - b for a, b in pairwise(knots)]), history)
        yield y


def published_ipndm_v(steps: Sequence[Scalar]) -> list[Scalar]:
    """Published coefficients of iPNDM_v from the last one to four steps, newest first."""
    if len(steps) == 1:
        return [1.0]
    h0, h1, *older = steps
    if not older:
        return [1 + h0 / (2 * h1), -h0 / (2 * h1)]
    h2, *oldest = older
    ratio = h1 / h2
    a = 0.5 * (1 - h0 / (3 * (h0 + h1)) * h0 * (h0 + h1) / (h1 * (h1 + h2)))
    if not oldest:
        return [1 + h0 / (2 * h1) + a, -h0 / (2 * h1) - (1 + ratio) * a, ratio * a]
    h3 = oldest[0]
    inner = 0.5 * (1 - h0 / (3 * (h0 + h1)))
    inner = inner + (1 - h0 / (2 * (h0 + h1))) * h0 / (6 * (h0 + h1 + h2))
    b = inner * h0 * (h0 + h1) * (h0 + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    q = h1 * (h1 + h2) / (h2 * (h2 + h3))
    return [
        1 + h0 / (2 * h1) + a + b,
        -h0 / (2 * h1) - (1 + ratio) * a - (1 + ratio + q) * b,
        ratio * a + (ratio + q * (1 + h2 / h3)) * b,
        -b * q * ratio,
    ]


def deis(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    order: int = 4,
    low: float = 0.002,
    high: float = 80.0,
    smallest: float = 1e-3,
) -> Iterator[State]:
    """DEIS tAB (arXiv 2204.13902): eps interpolated in the time of a linear VP process.

        y_r = y_s + sum_j eps_j int (d level/du) l_j(u) du,
        level^2 = exp(b_d u^2/2 + b_min u) - 1,

    with b_d, b_min such that u runs from ``smallest`` to 1 over the levels [low, high] (the grid
    :func:`jaxdiff.grids.vp_time`). ``order`` 4 is the paper's tAB3. The published code has the
    integral by a sum of 10 000 points, right to about 1e-5.
    """
    slope = 2 * (log(1 + low**2) / smallest - log(1 + high**2)) / (smallest - 1)
    offset = log(1 + high**2) - slope / 2

    def time(s: Scalar) -> Scalar:
        return (sqrt(offset**2 + 2 * slope * log(1 + s * s)) - offset) / slope

    def rate(u: Scalar) -> Scalar:
        squared = expm1(slope * u * u / 2 + offset * u)
        return (slope * u + offset) * (squared + 1.0) / (2 * sqrt(squared))

    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        history = [(time(s), (y - D(y, s)) / s), *history][:order]
        if len(history) == 1 or is_zero(r):
            weights = [r - s, *[0.0] * (len(history) - 1)]
        else:
            weights = lagrange_integrals([u for u, _ in history], time(s), time(r), rate)
        y = y + weighted(weights, [eps for _, eps in history])
        yield y
