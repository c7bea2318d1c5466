"""DDIM with noise (Song et al. 2021, arXiv 2010.02502); without, it is Euler's method.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import jax.numpy as jnp

from jaxdiff.solvers.ancestral import ancestral_levels, check_eta
from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_zero


def ddim(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    eta: float = 1.0,
    inflate: float = 1.0,
    clip: float | None = None,
) -> Iterator[State]:
    """DDIM with noise eta (arXiv 2010.02502, eq. 12 and 16); eta 1 is DDPM's small variance, eta 0
    is Euler.

    In this frame it is the Euler ancestral sampler. One draw per step that adds noise: all but one
    to level 0, and none for eta 0.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        eta: 0 to 1.
        inflate: factor of the noise.
        clip: clip D to [-clip, clip] but keep the eps of the unclipped D, as published code does
            for images, so that the two no longer add up to the state. Not linear: run it by
            :func:`jaxdiff.sampling.direct.direct`. To clip D altogether see
            :mod:`jaxdiff.conditioning.threshold`.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, equations 12 and 16.
    """
    check_eta("ddim", eta)
    for s, r in pairwise(levels):
        down, up = ancestral_levels(s, r, eta)
        output = D(y, s)
        eps = (y - output) / s
        if clip is None:
            y = y + (down - s) * eps
        else:
            y = jnp.clip(value(output), -clip, clip) + down * eps
        if not is_zero(up):
            y = y + inflate * up * noise()
        yield y
