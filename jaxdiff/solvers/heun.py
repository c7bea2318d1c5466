"""Heun's method and its relatives, EDM's sampler (Karras et al. 2022, arXiv 2206.00364)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.scalar import D, Scalar, State, is_traced
from jaxdiff.solvers.steps import heun_step


def heun(D: D, y: State, levels: Sequence[Scalar], ratio: Scalar = 1.0) -> Iterator[State]:
    """Heun's method, order 2 (arXiv 2206.00364). Two evaluations per step, one in a step to level
    0.

    ``ratio`` in (0, 1] is where in the step the second evaluation is: 1 is Heun's method, 1/2 the
    midpoint method, 2/3 Ralston's.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        ratio: in (0, 1], see above.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for another ratio.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364.
    """
    if not is_traced(ratio) and not 0 < ratio <= 1:
        raise ValueError(f"heun needs a ratio within (0, 1], not {ratio}")
    for s, r in pairwise(levels):
        y = heun_step(D, y, s, r, ratio)
        yield y
