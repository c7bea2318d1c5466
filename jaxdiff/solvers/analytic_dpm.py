"""Analytic-DPM (Bao et al. 2022, arXiv 2201.06503): the variance that is optimal on average.

Steps from level s to r with the mean of DDIM with noise eta (DDPM for eta = 1),

    mean = D + down (y - D)/s,    (down, up) = ancestral_levels(s, r, eta),

whose own variance is up^2. That is too small: x0 is not known but has a posterior. The variance
that minimises the divergence from the true reverse step is

    up^2 + (s - down)^2 V,    V = Var[eps | y] = Var[x0 | y]/s^2 = dD/dy.

The paper's theorem 1 takes one V per level, the mean over elements and states,
1 - E|eps_hat|^2/d with eps_hat = (y - D)/s.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import jax.numpy as jnp

from jaxdiff.solvers.ancestral import ancestral_levels, check_eta
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_traced, is_zero, root


def analytic_dpm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    moments: Sequence[Scalar] | Callable[[Scalar], Scalar] = (),
    eta: float = 1.0,
    bound: float | None = None,
    clip: float | None = None,
) -> Iterator[State]:
    """Analytic-DPM (arXiv 2201.06503): DDPM (eta 1) or DDIM (eta 0) with the optimal variance.

    Linear, so it becomes a table. One draw per step that does not end at level 0.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        moments: E|eps_hat|^2/d at the level that each step starts from, one per step, or a function
            of the level; :func:`jaxdiff.solvers.model_statistics.second_moments` estimates them.
        eta: 0 to 1.
        bound: the data lie in [-bound, bound], so that Var[x0 | y] <= bound^2 (1 for images).
        clip: largest mean absolute noise per element of the last step that has noise. The paper has
            4/255 for DDPM and 2/255 for DDIM on images in [-1, 1].

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: without a second moment for every level that a step starts from.

    Source: Bao et al., Analytic-DPM, arXiv 2201.06503.
    """
    check_eta("analytic_dpm", eta)
    if not callable(moments) and len(moments) != len(levels) - 1:
        raise ValueError(
            f"analytic_dpm needs the second moment of eps at every level that a step starts from: "
            f"{len(levels) - 1} numbers, not {len(moments)} (see second_moments)"
        )
    for i, (s, r) in enumerate(pairwise(levels)):
        down, up = ancestral_levels(s, r, eta)
        y = D(y, s) if is_zero(r) else (down / s) * y + (1.0 - down / s) * D(y, s)
        if not is_zero(r):
            moment = moments(s) if callable(moments) else moments[i]
            most = 1.0 if bound is None else (bound / s) ** 2
            variance = clamp(1.0 - moment, 0.0, most)
            width = root(up * up + (s - down) * (s - down) * variance)
            y = y + clipped(width, clip, levels, i) * noise()
        yield y


def clipped(width: Scalar, clip: float | None, levels: Sequence[Scalar], step: int) -> Scalar:
    """Return the width of the noise, of the last noisy step no more than mean absolute noise
    ``clip``.
    """
    last = len(levels) - 2 - is_zero(levels[-1])
    if clip is None or step != last:
        return width
    return clamp(width, 0.0, clip * (math.pi / 2) ** 0.5)  # E|z| = sqrt(2/pi)


def clamp(x: Scalar, low: Scalar, high: Scalar) -> Scalar:
    """Return the number (or every element) nearest to x within [low, high]."""
    traced = is_traced(x) or is_traced(high)
    return jnp.minimum(jnp.maximum(x, low), high) if traced else min(max(x, low), high)
