"""Learned variances of the sampling step: a denoiser that returns them besides E[x0 | y].

A network with learned variance (guided diffusion's U-Nets, DiT) says for every number where the
step's log variance lies between that of the posterior and that of the forward step, v = -1 and
v = 1 (Nichol and Dhariwal 2102.09672, eq. 15). :func:`jaxdiff.solvers.ddpm_learned` draws with it:

    D = learned_variance(model.denoiser, -1.0, 1.0)
    direct(solvers.ddpm_learned, D, model.grid(250), start, key=key)
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser


def learned_variance(
    denoiser: Denoiser, low: float | None = None, high: float | None = None
) -> jax.tree_util.Partial:
    """Return the denoiser ``D(y, level, cond) -> (x0, (v + 1)/2)``, what ``ddpm_learned`` takes.

    Args:
        denoiser: of a network that has ``variance=True``.
        low, high: x0 is clipped to [low, high], the range of the data, as guided diffusion's
            sampler does with -1 and 1; None for no clipping.

    Raises:
        ValueError: if one of the bounds is given alone, or they are not in order.
    """
    if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
        raise ValueError(f"the range of the data has two ends, low < high; got {low}, {high}")
    return jax.tree_util.Partial(_with_variance, as_partial(denoiser), low, high)


def _with_variance(
    denoiser: Any, low: Any, high: Any, y: Array, level: Array, cond: Cond = None, **options: Any
) -> tuple[Array, Array]:
    x0, v = denoiser(y, level, cond, variance=True, **options)
    if low is not None:
        x0 = jnp.clip(x0, jnp.asarray(low, x0.dtype), jnp.asarray(high, x0.dtype))
    return x0, (v.astype(x0.dtype) + 1) / 2
