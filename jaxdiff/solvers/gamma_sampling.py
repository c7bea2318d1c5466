"""Sampling with flow maps: networks that jump from any noise level to any lower one.

A map between two levels is written as an Euler step whose denoised output knows where it goes,

    G(y, s -> r) = (r/s) y + (1 - r/s) g(y, s, r),        g(y, s, s) = D(y, s),

so that ``D(y, s, r)`` stands here where other solvers have ``D(y, s)``. Every two-time
parametrisation has this form: the average field u of a mean flow in the coordinates of any process
is g = x - t u carried there (arXiv 2505.13447), and consistency trajectory models are written so
(arXiv 2310.02279, eq. 6).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_traced, root


def jump(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
    """Jump from level to level by a flow map, one evaluation each.

    Args:
        D: flow map ``D(y, s, r)``, which knows the level r that it jumps to.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Source: Kim et al., Consistency Trajectory Models, arXiv 2310.02279, equation 6.
    """
    for s, r in pairwise(levels):
        y = (r / s) * y + (1.0 - r / s) * D(y, s, r)
        yield y


def gamma_sampling(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, gamma: float = 0.5
) -> Iterator[State]:
    """Jump below the next level, then add noise up to it (arXiv 2310.02279, section 3.3).

        y_r = G(y, s -> sqrt(1 - gamma^2) r) + gamma r z.

    gamma 0 is :func:`jump` (which needs no noise), gamma 1 multistep consistency sampling. One draw
    per step that does not end at 0.

    Args:
        D: flow map ``D(y, s, r)``, which knows the level r that it jumps to.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        gamma: 0 to 1, the share of noise.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for a gamma outside [0, 1].

    Source: Kim et al., Consistency Trajectory Models, arXiv 2310.02279, section 3.3.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma_sampling needs 0 <= gamma <= 1, not {gamma}")
    for s, r in pairwise(levels):
        q = root(1.0 - gamma**2) * r
        y = (q / s) * y + (1.0 - q / s) * D(y, s, q)
        if is_traced(r) or r > 0:
            y = y + (gamma * r) * noise()
        yield y
