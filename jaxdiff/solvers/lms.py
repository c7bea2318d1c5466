"""Linear multistep: the variable-step Adams-Bashforth method on the probability-flow ODE.

The solution between levels s > r, y_r = y_s + int_s^r eps ds', with eps interpolated in the level
over the last few steps.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.orders import check_order
from jaxdiff.solvers.quadrature import lagrange_integrals
from jaxdiff.solvers.scalar import D, Scalar, State, weighted


def lms(D: D, y: State, levels: Sequence[Scalar], order: int = 4) -> Iterator[State]:
    """Variable-step Adams-Bashforth: eps interpolated by polynomials in the level and integrated
    exactly.

    Linear multistep of the given order; the same numbers are DEIS rho-AB (arXiv 2204.13902) and
    what iPNDM_v intends.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        order: 1 or more, the most past evaluations that are used.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an order below 1.

    Source: Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator, arXiv
    2204.13902.
    """
    check_order("lms", order, None)
    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        history = [(s, (y - D(y, s)) / s), *history][:order]
        weights = lagrange_integrals([level for level, _ in history], s, r)
        y = y + weighted(weights, [eps for _, eps in history])
        yield y
