"""PNDM (Liu et al. 2022, arXiv 2202.09778), iPNDM and iPNDM_v (arXiv 2204.13902, appendix).

Adams-Bashforth methods on y_r = y_s + int_s^r eps ds', with the coefficients of evenly spaced steps
(PNDM, iPNDM) or of the steps themselves (iPNDM_v).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from jaxdiff.solvers.lms import lms
from jaxdiff.solvers.orders import check_order
from jaxdiff.solvers.scalar import D, Scalar, State, is_zero, weighted

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def adams_bashforth(slopes: Sequence[State]) -> State:
    """Return the slope of a step from the slopes at evenly spaced levels, newest first."""
    return weighted(ADAMS_BASHFORTH[len(slopes) - 1], slopes)


def ipndm(D: D, y: State, levels: Sequence[Scalar], order: int = 4) -> Iterator[State]:
    """Improved PNDM: Adams-Bashforth with the coefficients of a uniform grid (arXiv 2204.13902
    appendix; PNDM 2202.09778).

    On a grid that is not uniform in the level its order is 2 whatever ``order`` says; at few steps
    it is among the best.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        order: 1 to 4, the most past slopes that are used.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an order that it does not have.

    Source: Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator, arXiv
    2204.13902, appendix.
    """
    check_order("ipndm", order, 4)
    history: list[State] = []
    for s, r in pairwise(levels):
        history = [(y - D(y, s)) / s, *history][:order]
        y = y + (r - s) * adams_bashforth(history)
        yield y


def pndm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    order: int = 4,
    warm_up: Literal["runge-kutta", "heun"] = "runge-kutta",
    intermediate_levels: Sequence[Scalar] | None = None,
) -> Iterator[State]:
    """Pseudo numerical methods (arXiv 2202.09778): :func:`ipndm` that does not start with Euler.

    A classical method with its straight step replaced by the DDIM step, which in this frame is the
    straight step: Runge-Kutta of order 4 for the first order - 1 steps, Adams-Bashforth from then
    on (algorithm 2). The history holds the first slope of each Runge-Kutta step.

    Evaluations: one per step, three more in each Runge-Kutta step, one more in a Heun step. A step
    to level 0 is never started by either.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        order: 1 to 4.
        warm_up: "runge-kutta", the paper's F-PNDM; "heun", one step of Heun's method, after which
            the order grows step by step: what is called PLMS and used by Stable Diffusion.
        intermediate_levels: level of the two middle evaluations of each Runge-Kutta step, at least
            one for each of these steps. The middle of the levels by default, where the method is
            the classical one. The paper has the middle of the times, whose levels are those of the
            model's process (:func:`jaxdiff.grids.of_timesteps` at them).

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for another warm-up or order, or too few intermediate levels.

    Source: Liu et al., Pseudo Numerical Methods for Diffusion Models on Manifolds, arXiv
    2202.09778, algorithm 2.
    """
    check_order("pndm", order, 4)
    if warm_up not in ("runge-kutta", "heun"):
        raise ValueError(f"pndm warms up with 'runge-kutta' or 'heun', not {warm_up!r}")
    starting = min(order - 1 if warm_up == "runge-kutta" else 1, len(levels) - 1)
    if intermediate_levels is not None and len(intermediate_levels) < starting:
        raise ValueError(
            f"pndm needs {starting} intermediate levels, one per starting step; got "
            f"{intermediate_levels}"
        )
    history: list[State] = []
    for i, (s, r) in enumerate(pairwise(levels)):
        history = [(y - D(y, s)) / s, *history][:order]
        if i >= starting or order == 1 or is_zero(r):
            slope = adams_bashforth(history)
        elif warm_up == "heun":
            slope = 0.5 * (history[0] + _next_slope(D, y, s, r, history[0]))
        else:
            middle = (s + r) / 2 if intermediate_levels is None else intermediate_levels[i]
            slope = _runge_kutta(D, y, (s, middle, r), history[0])
        y = y + (r - s) * slope
        yield y


def _next_slope(D: D, y: State, s: Scalar, r: Scalar, slope: State) -> State:
    """Eps where a straight step from level s to r with the given slope leads."""
    y = y + (r - s) * slope
    return (y - D(y, r)) / r


def _runge_kutta(D: D, y: State, levels: tuple[Scalar, Scalar, Scalar], first: State) -> State:
    """Slope of the pseudo Runge-Kutta step over (start, middle, end) (2202.09778, eq. 14)."""
    s, middle, r = levels
    second = _next_slope(D, y, s, middle, first)
    third = _next_slope(D, y, s, middle, second)
    return (1 / 6) * (first + 2.0 * (second + third) + _next_slope(D, y, s, r, third))


def ipndm_v(
    D: D, y: State, levels: Sequence[Scalar], order: int = 4, reference: bool = False
) -> Iterator[State]:
    """IPNDM with coefficients for a variable step: Adams-Bashforth, as :func:`lms`.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        order: 1 to 4.
        reference: the published coefficients (diff-sampler and what is copied from it), which
            differ at orders 3 and 4 by three algebra slips; those of order 4 do not sum to 1.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an order that it does not have.

    Source: Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator, arXiv
    2204.13902.
    """
    check_order("ipndm_v", order, 4)
    if not reference:
        yield from lms(D, y, levels, order)
        return
    history: list[State] = []
    for i, (s, r) in enumerate(pairwise(levels)):
        history = [(y - D(y, s)) / s, *history][:order]
        knots = [r, *reversed(levels[max(0, i + 1 - len(history)) : i + 1])]
        y = y + (r - s) * weighted(published_ipndm_v([a - b for a, b in pairwise(knots)]), history)
        yield y


def published_ipndm_v(num_steps: Sequence[Scalar]) -> list[Scalar]:
    """Published coefficients of iPNDM_v from the last one to four steps, newest first."""
    if len(num_steps) == 1:
        return [1.0]
    h0, h1, *older = num_steps
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
