"""Corrections of a denoiser's score by another model's.

Discriminator guidance (Kim et al. 2211.17091): a discriminator d(y, s) that distinguishes data with
noise from a model's samples with noise has, at its best, log d/(1 - d) = log p_s(y)/q_s(y), so that

    D(y, s) + w s^2 grad_y log d/(1 - d)

is the denoiser of the data where D is exactly that of the model's own samples, with w = 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import expand
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser


def discriminator_guidance(
    denoiser: Denoiser, logits: Denoiser | Callable[..., Array], weight: float | Array = 1.0
) -> Partial:
    """Return the denoiser with its score corrected by a discriminator's (arXiv 2211.17091, eq. 8).

    Args:
        logits: ``logits(y, level, cond) -> (batch,)``, log d/(1 - d), differentiable in y; with
            parameters, as a ``jax.tree_util.Partial``
            (:func:`jaxdiff.distill.adversarial.discriminator.discriminator` trains one).
        weight: w, a scalar or one number per sample. The paper has 1, and more at low levels.

    Costs the denoiser and a discriminator call with gradient per evaluation.
    """
    return Partial(_guided, as_partial(denoiser), as_partial(logits), weight)


def _guided(
    denoiser: Partial, logits: Partial, weight: Array, y: Array, level: Array, cond: Cond = None,
    **options: Any,
) -> Array:  # fmt: skip
    slope = jax.grad(lambda y: jnp.sum(logits(y, level, cond)))(y)
    scale = jnp.asarray(weight, y.dtype) * jnp.asarray(level, y.dtype) ** 2
    return denoiser(y, level, cond, **options) + expand(scale, y) * slope
