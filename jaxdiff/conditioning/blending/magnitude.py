r"""Magnitude-aware guidance, MAMBO-G (arXiv 2508.03442): the weight falls where guidance is large.

w' = 1 + (w - 1) exp(-a |P_c - P_u|/|P_u|),        norms over each sample's own numbers.
"""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check
from jaxdiff.conditioning.blending.pairs import blended, norm, ratio
from jaxdiff.conditioning.weights import Weight
from jaxdiff.typing import Array, Cond, Denoiser


def magnitude_aware(
    denoiser: Denoiser,
    weight: Weight,
    null: Cond = None,
    *,
    alpha: float | Array = 8.0,
    prediction: str = "flow",
) -> Partial:
    """Guidance whose weight shrinks with the size of what it adds (arXiv 2508.03442).

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        weight: a number, (batch,), or a function of the level; 1 is the conditional model.
        null: as for :func:`jaxdiff.guidance.classifier_free`.
        alpha: how fast it shrinks, not negative; 0 is plain guidance.
        prediction: whose sizes are compared: "flow", or "eps", "v", "x0".

    Raises ValueError for a negative alpha, or an unknown prediction.
    """
    check("alpha must not be negative", lambda a: (a >= 0).all(), alpha)
    return blended(_aware, denoiser, weight, null, prediction, alpha)


def _aware(towards: Array, plain: Array, weight: Array, alpha: Array) -> Array:
    added = towards - plain
    weight = 1 + (weight - 1) * jnp.exp(-alpha * ratio(norm(added), norm(plain)))
    return plain + weight * added
