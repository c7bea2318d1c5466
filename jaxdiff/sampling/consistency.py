"""Sampling with consistency models: jump to the data, return to a lower level, jump again.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.sampling.scalar import D, Noise, Scalar, State, is_zero, sqrt


def consistency(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, smallest: float = 0.0
) -> Iterator[State]:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1): denoise, return to the next
    level, repeat.

    Meant for a consistency model, whose D maps to the end of the trajectory, at level ``smallest``;
    the noise that returns to level r has variance r^2 - smallest^2. One draw per step not ending at
    level 0.
    """
    for s, r in pairwise(levels):
        y = D(y, s)
        if not is_zero(r):
            y = y + sqrt((r - smallest) * (r + smallest)) * noise()
        yield y
