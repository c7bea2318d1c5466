"""Solvers in the time of flow models: what is extrapolated is the flow u = eps - x0.

A rectified-flow model has x = (1 - tau) x0 + tau eps and predicts u = eps - x0 = dx/dtau (arXiv
2209.03003, 2210.02747), so its samplers are ordinary ones for x in the time tau. In the frame of
this library, s = tau/(1 - tau) and y = x/(1 - tau) = (1 + s) x, so that

    tau = s/(1 + s),     u = (y - D)/s - D,     a straight step from s to r with slope u:

    x_r = x + (tau_r - tau) u     <=>     y_r = ((1 + r) y + (r - s) u)/(1 + s).

With u = eps - D that step gives y_r = D + r eps: flow-matching Euler is
:func:`jaxdiff.solvers.euler.euler`, as DDIM is. Methods of higher order differ, because a
polynomial in tau is none in s, and are here. All other solvers run flow models too: only the grid
(:func:`jaxdiff.grids.flow`) and the denoiser know about tau.

At tau = 1 the level is infinite and a grid starts at a large finite one: the state 1/(1 - tau)
times the noise, where D is the mean of the data up to 1/s. 1e3 does in float32 (the mean is then a
thousandth of the noise), 1e8 is tau = 1 for all purposes in float64. A step to level 0 is
y = D(y, s).

Generators as in :mod:`jaxdiff.solvers`.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.orders import check_order
from jaxdiff.solvers.quadrature import lagrange_integrals
from jaxdiff.solvers.scalar import D, Scalar, State, is_zero, weighted
from jaxdiff.solvers.steps import euler_step


def flow_prediction(D: D, y: State, s: Scalar) -> State:
    """Return the flow u = eps - x0 = dx/dtau at a state."""
    output = D(y, s)
    return (y - output) / s - output


def flow_step(y: State, s: Scalar, r: Scalar, u: State) -> State:
    """Return a straight step in tau, from level s to r with slope u."""
    return (1.0 / (1.0 + s)) * ((1.0 + r) * y + (r - s) * u)


def flow_heun(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
    """Heun's method in tau, order 2. Two evaluations per step, one in a step to level 0.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Source: Liu et al., Flow Straight and Fast: Learning to Generate and Transfer Data with
    Rectified Flow, arXiv 2209.03003.
    """
    for s, r in pairwise(levels):
        if is_zero(r):
            y = euler_step(D, y, s, r)
        else:
            u = flow_prediction(D, y, s)
            end = flow_prediction(D, flow_step(y, s, r, u), r)
            y = flow_step(y, s, r, 0.5 * (u + end))
        yield y


def flow_midpoint(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
    """The midpoint method in tau, order 2 (3 on Gaussian data, whose paths are hyperbolas in
    tau).

    Two evaluations per step, one in a step to level 0.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Source: Liu et al., Flow Straight and Fast: Learning to Generate and Transfer Data with
    Rectified Flow, arXiv 2209.03003.
    """
    for s, r in pairwise(levels):
        if is_zero(r):
            y = euler_step(D, y, s, r)
        else:
            tau = (flow_time(s) + flow_time(r)) / 2
            middle = tau / (1.0 - tau)
            between = flow_step(y, s, middle, flow_prediction(D, y, s))
            y = flow_step(y, s, r, flow_prediction(D, between, middle))
        yield y


def flow_lms(D: D, y: State, levels: Sequence[Scalar], order: int = 2) -> Iterator[State]:
    """Adams-Bashforth in tau: u interpolated by polynomials in tau and integrated exactly.

    One evaluation per step. ``order`` past evaluations; a step to level 0 uses the last one only.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        order: 1 or more, the most past evaluations that are used.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an order below 1.

    Source: Liu et al., Flow Straight and Fast: Learning to Generate and Transfer Data with
    Rectified Flow, arXiv 2209.03003.
    """
    check_order("flow_lms", order, None)
    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        history = [(s, flow_prediction(D, y, s)), *history][:order]
        if is_zero(r):
            y = flow_step(y, s, r, history[0][1])
        else:
            knots, span = [flow_time(level, s) for level, _ in history], flow_time(r, s)
            weights = lagrange_integrals(knots, 0.0, span)
            slope = weighted([w / span for w in weights], [u for _, u in history])
            y = flow_step(y, s, r, slope)
        yield y


def flow_time(level: Scalar, origin: Scalar = 0.0) -> Scalar:
    """Return the time tau of a level in a rectified flow, counted from that of another level
    without cancellation.
    """
    return (level - origin) / ((1.0 + level) * (1.0 + origin))
