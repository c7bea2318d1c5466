r"""A denoiser as a regulariser of an optimisation: RED-diff.

    R(x) = lambda s <sg(eps^(x + s e, s) - e), x>,    grad R = lambda s (eps^ - e)

of one level s and one noise e at a time, sg a constant: the gradient of the divergence from a point
mass to the posterior, with the weight that is the inverse root of the signal-to-noise ratio
(Mardani et al., arXiv 2305.04391, algorithm 1; levels go down there, lambda = 0.25).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check, expand
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser, PerSample


def red_diff(
    denoiser: Denoiser,
    x: Array,
    level: Array | float,
    noise: Array,
    cond: Cond = None,
    weight: float | Array = 0.25,
) -> PerSample:
    """Return RED-diff's regulariser of samples (arXiv 2305.04391), to be added to a misfit.

    Args:
        denoiser: ``D(y, level, cond)``.
        x: (batch, *shape), what is optimised.
        level: positive, a number or (batch,); the paper goes down from the highest to the lowest.
        noise: (batch, *shape), standard normal.
        weight: lambda, against |u - A x|^2/2 of a measurement with noise taken for 1.

    Returns:
        (batch,), whose gradient is lambda s (eps^ - e); its value has no meaning.

    Raises:
        ValueError: for a level that is not positive, or noise of another shape.
    """
    check("level must be positive", lambda s: (s > 0).all(), level)
    if jnp.shape(noise) != x.shape:
        raise ValueError(f"noise has the shape of x, {x.shape}; got {jnp.shape(noise)}")
    s: Any = expand(jnp.asarray(level, x.dtype), x)
    y = x + s * noise
    D = as_partial(denoiser)
    eps = (y - D(y, jnp.asarray(level, x.dtype), cond)) / s
    slope = jax.lax.stop_gradient(expand(weight, x) * s * (eps - noise))
    return jnp.sum((slope * x).reshape(x.shape[0], -1), axis=1)
