r"""Rescaled guidance (Lin et al. 2023, arXiv 2305.08891, section 3.4).

A large weight makes predictions larger than any that the network was trained to make. With the
standard deviations over each sample's own numbers,

    P = phi P_w std(P_c)/std(P_w) + (1 - phi) P_w,      P_w = P_u + w (P_c - P_u).
"""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check
from jaxdiff.conditioning.blending.pairs import blended, norm, ratio
from jaxdiff.conditioning.weights import Weight
from jaxdiff.typing import Array, Cond, Denoiser


def rescale(guided: Array, conditional: Array, phi: Array | float) -> Array:
    """Return predictions (batch, *shape) with phi of the conditional ones' standard deviation.

    A constant prediction, which has none, keeps 1 - phi of itself. Raises ValueError for samples of
    a single number.
    """
    if guided[0].size < 2:
        raise ValueError(
            f"predictions {guided.shape} have one number a sample, and no deviation to rescale"
        )
    axes = tuple(range(1, guided.ndim))
    size = lambda x: norm(x - jnp.mean(x, axis=axes, keepdims=True))  # noqa: E731
    return guided * (phi * ratio(size(conditional), size(guided)) + (1 - phi))


def rescaled(
    denoiser: Denoiser,
    weight: Weight,
    null: Cond = None,
    *,
    phi: float | Array = 0.7,
    prediction: str = "v",
) -> Partial:
    """Classifier-free guidance whose predictions keep the conditional ones' size (arXiv 2305.08891,
    eq. 15 and 16).

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        weight: a number, (batch,), or a function of the level; 1 is the conditional model.
        null: what stands for no condition, as for :func:`jaxdiff.guidance.classifier_free`.
        phi: in [0, 1]; 0 is plain guidance. The paper has 0.7.
        prediction: what is rescaled: "v" as in the paper, "eps", "x0" or "flow".

    Raises:
        ValueError: for phi outside [0, 1], or an unknown prediction.
    """
    check("phi must be in [0, 1]", lambda p: (p >= 0).all() and (p <= 1).all(), phi)
    return blended(_rescaled, denoiser, weight, null, prediction, phi)


def _rescaled(towards: Array, plain: Array, weight: Array, phi: Array) -> Array:
    return rescale(plain + weight * (towards - plain), towards, phi)
