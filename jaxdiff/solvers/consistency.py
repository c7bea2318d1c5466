"""Sampling with consistency models (Song et al. 2023, arXiv 2303.01469): jump, return, jump again.

A consistency function f(y, s) maps a state to the end of its trajectory. It stands here where other
solvers have a denoiser: a consistency model made by ``denoiser(..., sigma_min=...)``, or one that
keeps a noise-predicting network's own boundary condition, made by
:func:`jaxdiff.denoisers.latent_consistency`.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_traced, is_zero, root


def consistency(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, smallest: float = 0.0
) -> Iterator[State]:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1): denoise, return to the next
    level, repeat.

    Meant for a consistency function, whose trajectories end at level ``smallest``; the noise that
    returns to level r has variance r^2 - smallest^2. One draw per step not ending there. With the
    function of :func:`jaxdiff.denoisers.latent_consistency` it is the sampler of latent
    consistency models (arXiv 2310.04378, algorithm 3).

    Args:
        D: consistency function ``D(y, s)``, the end of the trajectory through y at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        smallest: the level at which its trajectories end.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for a negative ``smallest``, or a last level that is positive and below it.

    Source: Song et al., Consistency Models, arXiv 2303.01469, algorithm 1.
    """
    last = levels[-1]
    if not (0 <= smallest and (is_traced(last) or is_zero(last) or smallest <= last)):
        raise ValueError(f"levels end at {last}, but a trajectory at smallest = {smallest}")
    for s, r in pairwise(levels):
        y = D(y, s)
        if is_traced(r) or r > smallest:
            y = y + root((r - smallest) * (r + smallest)) * noise()
        yield y
