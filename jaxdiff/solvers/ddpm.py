"""DDPM's ancestral sampling (Ho et al. 2020, arXiv 2006.11239).

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_zero, sqrt


def ddpm(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, variance: str = "small"
) -> Iterator[State]:
    """DDPM ancestral sampling (arXiv 2006.11239): the posterior q(y_r | y_s, x0 = D).

    Its mean is (r/s)^2 y + (1 - (r/s)^2) D, its variance the posterior's own, r^2 (s^2 - r^2)/s^2
    ("small"), or that of q(x_s | x_r) in the variance-preserving frame, which is (s^2 - r^2)
    (1 + r^2)/(1 + s^2) in this one ("large"). One draw per step that does not end at level 0.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        variance: "small" or "large", see above.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for another variance.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, arXiv 2006.11239.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"ddpm has variances 'small' and 'large', not {variance!r}")
    for s, r in pairwise(levels):
        keep = (r / s) * (r / s)
        y = keep * y + (1.0 - keep) * D(y, s)
        if not is_zero(r):
            width = r / s if variance == "small" else sqrt((1.0 + r * r) / (1.0 + s * s))
            y = y + (width * sqrt((s - r) * (s + r))) * noise()
        yield y
