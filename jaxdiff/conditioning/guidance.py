"""Guidance: a denoiser in, a denoiser out.

Guidance replaces the denoiser by a combination of denoisers; it nests, and every sampler runs it.
The weight convention is one throughout: weight 1 is the plain conditional model, weight 0 the
unconditional one.
"""

from typing import Any

import jax

from jaxdiff.prediction import as_partial, expand
from jaxdiff.typing import Array, Cond, Denoiser


def classifier_free(denoiser: Denoiser, weight: float | Array) -> jax.tree_util.Partial:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598), D_u + weight (D_c - D_u).

    The paper's own weight is ``weight - 1``. Costs two network calls per evaluation.

    Args:
        denoiser: conditional ``D(y, level, cond)`` that answers ``cond=None`` with the
            unconditional posterior mean.
        weight: scalar, or one number per sample of shape (batch,).
    """
    return jax.tree_util.Partial(_classifier_free, as_partial(denoiser), weight)


def _classifier_free(
    denoiser: Any, weight: Array, y: Array, level: Array, cond: Cond = None, **options: Any
) -> Array:
    conditional, plain = denoiser(y, level, cond, **options), denoiser(y, level, None, **options)
    return plain + expand(weight, y) * (conditional - plain)
