"""The probability-flow ODE in a process's own time and scale.

Other solvers here step in the noise level or its logarithm, whatever the model. The probability
flow of a process x = alpha(t) y with level s(t), stepped in t as its authors wrote it, is

    dx/dt = alpha' y + alpha s' eps(y, s),      eps = (y - D)/s,

the ODE of score SDEs (arXiv 2011.13456, eq. 13) and EDM's sampler with a general sigma(t) and s(t)
(arXiv 2206.00364, algorithm 1). Euler steps of it are not DDIM: they also discretise what
the level integrates exactly, and need more steps. For comparison with published numbers, and to see
what the choice of a time costs. For rectified flow it is :mod:`jaxdiff.solvers.flow`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff.process import Process, level, rates, time
from jaxdiff.solvers.orders import check_order
from jaxdiff.solvers.scalar import D, Scalar, State, is_traced, is_zero
from jaxdiff.typing import Array

_time = jax.jit(time)


def probability_flow(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    process: Process,
    order: int = 2,
    ratio: Scalar = 1.0,
    reference: bool = False,
) -> Iterator[State]:
    """Euler (order 1) or a two-stage Runge-Kutta method (order 2) in the time of ``process``.

    One or two evaluations per step, one in a step to level 0.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        process: supplies the time; its levels must reach those of the grid.
        order: 1 or 2.
        ratio: at order 2, where in the step's time the second evaluation is: 1 is Heun, 1/2 the
            midpoint method, 2/3 Ralston's.
        reference: step to level 0 by Euler in t as published, instead of returning D. For a level
            like sqrt(t) that leaves half of the noise that D would remove.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for another order.

    Source: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations,
    arXiv 2011.13456, equation 13; Karras et al., arXiv 2206.00364, algorithm 1.
    """
    check_order("probability_flow", order, 2)
    for s, r in pairwise(levels):
        y = probability_flow_step(D, y, s, r, process, order, ratio, reference)
        yield y


def probability_flow_step(
    D: D,
    y: State,
    s: Scalar,
    r: Scalar,
    process: Process,
    order: int = 2,
    ratio: Scalar = 1.0,
    reference: bool = False,
) -> State:
    """One step of :func:`probability_flow` from level s to r."""
    if is_zero(r) and not reference:
        return D(y, s)

    def slope(y: State, s: Scalar, at: Knot) -> State:
        return at.alpha_rate * y + at.alpha * at.level_rate * ((y - D(y, s)) / s)

    t, end = (evaluate(_time, process, x) for x in (s, r))
    start, final, h = evaluate(knot, process, t), evaluate(knot, process, end), end - t
    x, first = start.alpha * y, slope(y, s, start)
    if order == 1 or is_zero(r):
        return (x + h * first) / final.alpha
    inner = evaluate(knot, process, (1 - ratio) * t + ratio * end)
    second = slope((x + (ratio * h) * first) / inner.alpha, inner.level, inner)
    weight = 1 / (2 * ratio)
    return (x + h * ((1 - weight) * first + weight * second)) / final.alpha


class Knot(NamedTuple):
    """A process at one time."""

    level: Scalar
    alpha: Scalar
    alpha_rate: Scalar
    level_rate: Scalar


@jax.jit
def knot(process: Process, t: Array) -> Knot:
    """Level, alpha and their rates at time t."""
    s, alpha, (alpha_rate, sigma_rate) = level(process, t), process.alpha(t), rates(process, t)
    return Knot(s, alpha, alpha_rate, (sigma_rate - s * alpha_rate) / alpha)


def evaluate(function: Callable[[Process, Any], Any], process: Process, x: Scalar) -> Any:
    """A function of a process and a traced scalar, or a number (then in double precision)."""
    if is_traced(x):
        return function(process, x)
    with jax.enable_x64(True):
        return jax.tree.map(float, function(process, np.float64(x)))
