"""Single-step solvers of the probability-flow ODE, as they stand in their papers.

In the frame y = x0 + s eps the ODE is dy/ds = (y - D(y, s))/s = eps(y, s). A single-step solver
starts every step afresh from the state; its intermediate evaluations are spent within the step. A
step to level 0 is always y = D(y, s), the only finite limit of all of them.

Every solver is a generator ``solver(D, y, levels, **options)`` yielding the state at every level
after the first. D and y may be arrays (then it simply runs) or the symbolic vectors of
:mod:`jaxdiff.sampling.trace` (then it becomes a table).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.sampling.scalar import D, Scalar, State, is_zero


def unit_first(y: State, s: Scalar) -> State:
    """The usual analytic first step: D for N(0, I) data as VP models see it, eps = y / sqrt(1 +
    s^2) (solvers AMED, SA).
    """
    return y - s * (y / (1.0 + s * s) ** 0.5)


def euler_step(D: D, y: State, s: Scalar, r: Scalar) -> State:
    """One Euler step from level s to r; the DDIM step in every frame."""
    return y + (r - s) * ((y - D(y, s)) / s)


def heun_step(D: D, y: State, s: Scalar, r: Scalar) -> State:
    """One step of Heun's method; an Euler step to level 0 (Karras et al. 2022, arXiv 2206.00364,
    algorithm 1).
    """
    eps = (y - D(y, s)) / s
    predicted = y + (r - s) * eps
    if is_zero(r):
        return predicted
    return y + (r - s) / 2 * (eps + (predicted - D(predicted, r)) / r)


def dpm2_step(D: D, y: State, s: Scalar, r: Scalar, ratio: Scalar = 0.5) -> State:
    """One step of DPM-Solver-2, its middle at s^(1 - ratio) r^ratio (arXiv 2206.00927, algorithm
    4).
    """
    if is_zero(r):
        return euler_step(D, y, s, r)
    middle = r**ratio * s ** (1 - ratio)
    eps = (y - D(y, s)) / s
    between = y + (middle - s) * eps
    eps_between = (between - D(between, middle)) / middle
    return y + (r - s) * ((1 / (2 * ratio)) * eps_between + (1 - 1 / (2 * ratio)) * eps)


def euler(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
    """Euler's method, order 1: DDIM (arXiv 2010.02502) in every frame. One evaluation per step."""
    for s, r in pairwise(levels):
        y = euler_step(D, y, s, r)
        yield y


def heun(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
    """Heun's method, order 2 (arXiv 2206.00364). Two evaluations per step, one in a step to level
    0.
    """
    for s, r in pairwise(levels):
        y = heun_step(D, y, s, r)
        yield y


def dpm2(D: D, y: State, levels: Sequence[Scalar], ratio: Scalar = 0.5) -> Iterator[State]:
    """DPM-Solver-2, order 2 (arXiv 2206.00927). Two evaluations per step, one in a step to level
    0.
    """
    for s, r in pairwise(levels):
        y = dpm2_step(D, y, s, r, ratio)
        yield y
