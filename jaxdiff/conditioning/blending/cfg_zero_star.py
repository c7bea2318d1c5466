r"""CFG-Zero* (Fan et al. 2025, arXiv 2503.18886): guidance for flow models.

With u the flow's velocity, the unconditional one is scaled to fit the conditional one best,

    u = a u_u + w (u_c - a u_u),      a = <u_c, u_u>/|u_u|^2       (eq. 9 to 11),

and in the first steps, where an undertrained velocity is worse than none, u = 0: the flow's own
state stands still, which in the frame y = x0 + s eps is D = y/(1 + s).
"""

import math
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check, expand
from jaxdiff.conditioning.blending.pairs import blended, inner, ratio
from jaxdiff.conditioning.weights import Weight, within
from jaxdiff.typing import Array, Cond, Denoiser


def zero_star(
    denoiser: Denoiser,
    weight: Weight,
    null: Cond = None,
    *,
    still_above: float = math.inf,
    prediction: str = "flow",
) -> Partial:
    """CFG-Zero* (arXiv 2503.18886).

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        weight: a number, (batch,), or a function of the level; 1 is the conditional model.
        null: as for :func:`jaxdiff.guidance.classifier_free`.
        still_above: the velocity is zero at levels above this: the second level of a grid for the
            published default of one step; infinite for none. Only for prediction "flow".
        prediction: "flow", or another that the scale is fitted in.

    Raises:
        ValueError: for a level that is not positive, or one without a flow.
    """
    made = blended(_zero_star, denoiser, weight, null, prediction)
    check("still_above must be a positive level", lambda s: s > 0, still_above)
    if still_above == math.inf:
        return made
    if prediction != "flow":
        raise ValueError("still_above stops a flow: it needs prediction='flow'")
    return within(0.0, still_above, made, _still)


def _zero_star(towards: Array, plain: Array, weight: Array) -> Array:
    fitted = ratio(inner(towards, plain), inner(plain, plain)) * plain
    return fitted + weight * (towards - fitted)


def _still(y: Array, level: Array, cond: Cond = None, **options: Any) -> Array:
    return y / (1 + expand(jnp.asarray(level, y.dtype), y))
