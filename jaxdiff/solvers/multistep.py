"""Linear multistep solvers of the probability-flow ODE: past outputs instead of more evaluations.

The solution between levels s > r, y_r = y_s + int_s^r eps ds', is discretised by interpolating
eps(y, s) = (y - D(y, s))/s over the last few levels: in the level itself (Adams-Bashforth), in the
knot's number (PNDM, iPNDM) or in the time of a VP process or the log level (DEIS). One evaluation
per step. Generators as in :mod:`jaxdiff.solvers.singlestep`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

from jaxdiff.solvers.exponential import step_order
from jaxdiff.solvers.quadrature import lagrange_integrals
from jaxdiff.solvers.scalar import D, Scalar, State, exp, expm1, is_zero, log, sqrt, weighted


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


def pndm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    order: int = 4,
    warm_up: Literal["runge-kutta", "heun"] = "runge-kutta",
    middles: Sequence[Scalar] | None = None,
) -> Iterator[State]:
    """Pseudo numerical methods (arXiv 2202.09778): :func:`ipndm` that does not start with Euler.

    A classical method with its straight step replaced by the DDIM step, which in this frame is the
    straight step: Runge-Kutta of order 4 for the first order - 1 steps, Adams-Bashforth from then
    on (algorithm 2). The history holds the first slope of each Runge-Kutta step.

    Evaluations: one per step, three more in each Runge-Kutta step, one more in a Heun step. A step
    to level 0 is never started by either.

    Args:
        order: 1 to 4.
        warm_up: "runge-kutta", the paper's F-PNDM; "heun", one step of Heun's method, after which
            the order grows step by step: what is called PLMS and used by Stable Diffusion.
        middles: level of the two middle evaluations of each Runge-Kutta step, at least one for each
            of these steps. The middle of the levels by default, where the method is the classical
            one. The paper has the middle of the times, whose levels are those of the model's
            process (:func:`jaxdiff.grids.of_timesteps` at them).
    """
    if not 1 <= order <= 4:
        raise ValueError(f"pndm has orders 1 to 4, not {order}")
    if warm_up not in ("runge-kutta", "heun"):
        raise ValueError(f"pndm warms up with 'runge-kutta' or 'heun', not {warm_up!r}")
    starting = min(order - 1 if warm_up == "runge-kutta" else 1, len(levels) - 1)
    if middles is not None and len(middles) < starting:
        raise ValueError(f"pndm needs {starting} middles, one per starting step; got {middles}")
    history: list[State] = []
    for i, (s, r) in enumerate(pairwise(levels)):
        history = [(y - D(y, s)) / s, *history][:order]
        if i >= starting or order == 1 or is_zero(r):
            slope = weighted(ADAMS_BASHFORTH[len(history) - 1], history)
        elif warm_up == "heun":
            slope = 0.5 * (history[0] + _slope(D, y, s, r, history[0]))
        else:
            middle = (s + r) / 2 if middles is None else middles[i]
            slope = _runge_kutta(D, y, (s, middle, r), history[0])
        y = y + (r - s) * slope
        yield y


def _slope(D: D, y: State, s: Scalar, r: Scalar, slope: State) -> State:
    """Eps where a straight step from level s to r with the given slope leads."""
    y = y + (r - s) * slope
    return (y - D(y, r)) / r


def _runge_kutta(D: D, y: State, levels: tuple[Scalar, Scalar, Scalar], first: State) -> State:
    """Slope of the pseudo Runge-Kutta step over (start, middle, end) (2202.09778, eq. 14)."""
    s, middle, r = levels
    second = _slope(D, y, s, middle, first)
    third = _slope(D, y, s, middle, second)
    return (1 / 6) * (first + 2.0 * (second + third) + _slope(D, y, s, r, third))


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
    variable: Literal["time", "log_level"] = "time",
    low: float = 0.002,
    high: float = 80.0,
    smallest: float = 1e-3,
    lower_final: bool = False,
) -> Iterator[State]:
    """DEIS (arXiv 2204.13902): eps interpolated in a variable u of the level.

        y_r = y_s + sum_j eps_j int (d level/du) l_j(u) du

    Args:
        order: number of past evaluations; 4 is the paper's tAB3.
        variable: "time", the paper's tAB: u is the time of a linear VP process, level^2 = exp(b_d
            u^2/2 + b_min u) - 1, with b_d, b_min such that u runs from ``smallest`` to 1 over the
            levels [low, high] (the grid :func:`jaxdiff.grids.vp_time`); its published code has the
            integral by a sum of 10 000 points, right to about 1e-5. "log_level": u is the log of
            the level, which is the exact form of DPM-Solver multistep with noise prediction, and
            what diffusers calls DEIS. The level itself, the paper's rho-AB, is :func:`lms`.
        low, high, smallest: of "time".
        lower_final: lower the order in the last steps (order 1 in the last).
    """
    if variable not in ("time", "log_level"):
        raise ValueError(f"deis interpolates in 'time' or 'log_level', not {variable!r}")
    time, rate = _vp_time(low, high, smallest) if variable == "time" else (log, exp)
    history: list[tuple[Scalar, State]] = []
    for i, (s, r) in enumerate(pairwise(levels)):
        history = [(time(s), (y - D(y, s)) / s), *history][:order]
        used = history[: step_order(i, len(levels) - 1, order, lower_final)]
        if len(used) == 1 or is_zero(r):
            y = y + (r - s) * history[0][1]
        else:
            weights = lagrange_integrals([u for u, _ in used], time(s), time(r), rate)
            y = y + weighted(weights, [eps for _, eps in used])
        yield y


def _vp_time(low: float, high: float, smallest: float) -> tuple[Callable, Callable]:
    """Time u of a level in the linear VP process of :func:`deis`, and d level/du."""
    slope = 2 * (log(1 + low**2) / smallest - log(1 + high**2)) / (smallest - 1)
    offset = log(1 + high**2) - slope / 2

    def time(s: Scalar) -> Scalar:
        return (sqrt(offset**2 + 2 * slope * log(1 + s * s)) - offset) / slope

    def rate(u: Scalar) -> Scalar:
        squared = expm1(slope * u * u / 2 + offset * u)
        return (slope * u + offset) * (squared + 1.0) / (2 * sqrt(squared))

    return time, rate
