"""Sampling with trajectory consistency models (Zheng et al. 2024, arXiv 2402.19159).

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_traced, root


def tcd(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    gamma: float = 0.3,
    lower: Sequence[Scalar] | None = None,
) -> Iterator[State]:
    """Strategic stochastic sampling of trajectory consistency models (arXiv 2402.19159, algorithm
    4): jump below the next level, then noise up to it.

        y_r = D + lower (y - D)/s + sqrt(r^2 - lower^2) z,    lower at time (1 - gamma) t_r.

    gamma 0 is Euler's method (DDIM), gamma 1 multistep consistency sampling. One draw per step with
    lower < r.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        gamma: share of noise, 0 to 1; published code calls it eta.
        lower: the levels to jump to, one per step, each at most the level that the step ends at. By
            default time is the level itself, so that lower = (1 - gamma) r; for another process
            they are :func:`jaxdiff.grids.earlier_levels`.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for a gamma outside [0, 1], or levels ``lower`` that do not fit the steps.

    Source: Zheng et al., Trajectory Consistency Distillation, arXiv 2402.19159, algorithm 4.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"tcd needs 0 <= gamma <= 1, not {gamma}")
    targets = [(1.0 - gamma) * r for r in levels[1:]] if lower is None else list(lower)
    if len(targets) != len(levels) - 1:
        raise ValueError(f"lower needs one level per step, {len(levels) - 1}; not {len(targets)}")
    for (s, r), q in zip(pairwise(levels), targets, strict=True):
        if not (is_traced(q) or is_traced(r) or 0 <= q <= r):
            raise ValueError(f"a step to level {r} cannot go lower by way of level {q}")
        y = (q / s) * y + (1.0 - q / s) * D(y, s)
        if is_traced(q) or q < r:
            y = y + root((r - q) * (r + q)) * noise()
        yield y
