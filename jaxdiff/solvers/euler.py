"""Euler's method on the probability flow, which is DDIM (Song et al. 2021, arXiv 2010.02502)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.scalar import D, Scalar, State
from jaxdiff.solvers.steps import euler_step


def euler(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
    """Euler's method, order 1: DDIM (arXiv 2010.02502) in every frame. One evaluation per step.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502.
    """
    for s, r in pairwise(levels):
        y = euler_step(D, y, s, r)
        yield y
