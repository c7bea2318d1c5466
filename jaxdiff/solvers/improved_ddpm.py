"""Improved DDPM (Nichol and Dhariwal 2021, arXiv 2102.09672): a learned variance of the step.

The network gives a variance besides x0, which makes the step nonlinear: run it by
:func:`jaxdiff.sampling.direct.direct` with a denoiser that returns a pair.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import Noise, Scalar, State, is_zero, sqrt

D = Callable[..., tuple[State, State]]


def ddpm_learned(D: D, y: State, levels: Sequence[Scalar], noise: Noise) -> Iterator[State]:
    """DDPM with a learned variance, large^v small^(1 - v) (arXiv 2102.09672, eq. 15).

    "small" and "large" are those of :func:`jaxdiff.solvers.ddpm`. Run it by ``direct``.
    One draw per step that does not end at level 0.

    Args:
        D: returns the pair (x0, v), both of the shape of y. v lies in [0, 1]; published networks
            give 2 v - 1.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Source: Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, arXiv
    2102.09672, equation 15.
    """
    for s, r in pairwise(levels):
        output, v = D(y, s)
        keep = (r / s) * (r / s)
        y = keep * y + (1.0 - keep) * output
        if not is_zero(r):
            small = (r / s) * sqrt((s - r) * (s + r))
            ratio = (s / r) * sqrt((1.0 + r * r) / (1.0 + s * s))
            y = y + small * ratio ** value(v) * noise()
        yield y
