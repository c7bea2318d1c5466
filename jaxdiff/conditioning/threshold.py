r"""Thresholding: keep the denoised output within the range that the data are known to have.

A strong guidance weight pushes E[x0 | y] out of the data's range, and every further evaluation sees
a state that no noisy datum ever had. Thresholding replaces D by one of

    static:    clip(D, low, high),
    dynamic:   clip(D, -q, q) bound/q,    q = max(bound, quantile of |D| over a sample's numbers)

(Saharia et al. 2022, Imagen, arXiv 2205.11487, section 2.3, there with bound 1). A denoiser in, a
denoiser out, like guidance, and meant to stand outside it: threshold the guided output. Nothing
uses it by default.

Not for latents: what an autoencoder makes of data has no bounds to keep, and both kinds destroy
samples that are right. A solver that has its own closed form for D (an analytic first step, a
Gaussian start) is not thresholded there.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check
from jaxdiff.brief import Changed
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser


def static(
    denoiser: Denoiser, low: float | Array = -1.0, high: float | Array = 1.0
) -> jax.tree_util.Partial:
    """Return the denoiser with its output clipped to [low, high], the range of the data.

    Args:
        denoiser: ``D(y, level, cond)``.
        low, high: scalars, low < high, in units of the data.

    Returns:
        The thresholded denoiser, ``D(y, level, cond)``.

    Raises:
        ValueError: unless low < high.

    Source: Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language
    Understanding, arXiv 2205.11487, section 2.3.
    """
    check("static thresholding needs low < high", lambda a, b: a < b, low, high)
    return Changed(_static, as_partial(denoiser), low, high)


def dynamic(
    denoiser: Denoiser,
    quantile: float | Array = 0.995,
    bound: float | Array = 1.0,
    largest: float | Array = math.inf,
) -> jax.tree_util.Partial:
    """Return the denoiser with outliers clipped and each sample rescaled to [-bound, bound].

    A sample whose quantile is within the bound is clipped at the bound and not rescaled. Every
    sample has its own quantile: no result depends on the batch.

    Args:
        denoiser: ``D(y, level, cond)``.
        quantile: in (0, 1], of the absolute values of one sample's numbers, interpolated linearly;
            taken in float32 or better.
        bound: positive, the largest absolute value that data have.
        largest: what a quantile beyond it is taken for, at least ``bound``; published schedulers
            have one (``sample_max_value``), the paper none.

    Returns:
        The thresholded denoiser, ``D(y, level, cond)``.

    Raises:
        ValueError: for a quantile outside (0, 1], a bound that is not positive, or a ``largest``
            below it.

    Source: Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language
    Understanding, arXiv 2205.11487, section 2.3.
    """
    check("quantile must be in (0, 1]", lambda q: 0 < q <= 1, quantile)
    check("bound must be positive and finite", lambda b: 0 < b < math.inf, bound)
    check("largest must be at least bound", lambda a, b: a <= b, bound, largest)
    return Changed(_dynamic, as_partial(denoiser), quantile, bound, largest)


def _static(
    denoiser: jax.tree_util.Partial,
    low: Array,
    high: Array,
    y: Array,
    level: Array,
    cond: Cond = None,
    **options: Any,
) -> Array:
    output = denoiser(y, level, cond, **options)
    return jnp.clip(output, jnp.asarray(low, output.dtype), jnp.asarray(high, output.dtype))


def _dynamic(
    denoiser: jax.tree_util.Partial,
    quantile: Array,
    bound: Array,
    largest: Array,
    y: Array,
    level: Array,
    cond: Cond = None,
    **options: Any,
) -> Array:
    output = denoiser(y, level, cond, **options)
    dtype = output.dtype if jnp.finfo(output.dtype).bits >= 32 else jnp.dtype(jnp.float32)
    flat = output.reshape(output.shape[0], -1).astype(dtype)
    q, bound = jnp.asarray(quantile, dtype), jnp.asarray(bound, dtype)
    width = jnp.quantile(jnp.abs(flat), q, axis=1, keepdims=True)
    width = jnp.clip(width, bound, jnp.asarray(largest, dtype))
    return (jnp.clip(flat, -width, width) * (bound / width)).reshape(y.shape).astype(output.dtype)
