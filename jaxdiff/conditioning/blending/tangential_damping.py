r"""Tangential damping, TCFG (Kwon et al. 2025, arXiv 2503.18137).

The two predictions c and u span a plane. Of u, only the part along the plane's first principal
direction is kept, v v^T u with v the first right singular vector of the rows (c, u). In terms of
the 2 x 2 matrix of inner products, whose first eigenvector is (cos t, sin t),

    u' = sin t (cos t c + sin t u),     tan 2t = 2 <c, u>/(|c|^2 - |u|^2).
"""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.conditioning.blending.pairs import blended, inner
from jaxdiff.conditioning.weights import Weight
from jaxdiff.typing import Array, Cond, Denoiser


def damped(conditional: Array, plain: Array) -> Array:
    """Return the plain prediction without its part off the first principal direction."""
    c, u, b = inner(conditional, conditional), inner(plain, plain), inner(conditional, plain)
    angle = 0.5 * jnp.arctan2(2 * b, c - u)
    return jnp.sin(angle) * (jnp.cos(angle) * conditional + jnp.sin(angle) * plain)


def tangential(
    denoiser: Denoiser, weight: Weight, null: Cond = None, *, prediction: str = "eps"
) -> Partial:
    """Classifier-free guidance with the unconditional prediction damped (arXiv 2503.18137, eq. 9).

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        weight: a number, (batch,), or a function of the level; 1 is the conditional model.
        null: as for :func:`jaxdiff.guidance.classifier_free`.
        prediction: what is damped: "eps", the paper's, or "x0", "v", "flow".

    Raises ValueError for an unknown prediction.
    """
    return blended(_tangential, denoiser, weight, null, prediction)


def _tangential(towards: Array, plain: Array, weight: Array) -> Array:
    plain = damped(towards, plain)
    return plain + weight * (towards - plain)
