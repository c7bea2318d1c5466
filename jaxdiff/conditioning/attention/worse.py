r"""Attention made worse, for guidance away from it.

    perturbed attention, PAG     the map is the identity: out = v    (Ahn et al. 2403.17377, eq. 13)
    smoothed energy, SEG         queries are blurred over their grid (Hong 2408.00760, algorithm 1)
    skip-layer                   the layer's attention adds nothing  (Stability AI, 2024)

Guidance by any of them is autoguidance whose reference is the same network,

    guidance.autoguidance(D, conditioned(D, attention=perturbed()), 1 + s),     D + s (D - D_worse).

Skip-layer guidance as published leaves out whole blocks; here it is their attention alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check
from jaxdiff.conditioning.attention.places import SELF, Elsewhere, Where, check_where
from jaxdiff.networks.attention import Place, softmax_attention
from jaxdiff.typing import Array


def perturbed(where: Where = SELF) -> Partial:
    """Return the attention whose maps are the identity at some self-attention layers (PAG).

    Args:
        where: which layers; the paper has the middle of a U-Net, ``At("self", ("middle",))``.

    Raises ValueError, when called, at a layer with other keys than queries.
    """
    check_where(where)
    return Partial(Elsewhere(where, _identity), ())


def _identity(numbers: tuple, q: Array, k: Array, v: Array, place: Place) -> Array:
    if k.shape[1] != q.shape[1]:
        raise ValueError(f"{place.path} attends to others: perturbed attention is for self layers")
    return v


def skipped(where: Where) -> Partial:
    """Return the attention that gives zeros at some layers."""
    check_where(where)
    return Partial(Elsewhere(where, _zeros), ())


def _zeros(numbers: tuple, q: Array, k: Array, v: Array, place: Place) -> Array:
    return jnp.zeros((*q.shape[:-1], v.shape[-1]), v.dtype)


def smoothed(where: Where = SELF, sigma: float = math.inf) -> Partial:
    """Return the attention whose queries are blurred by a Gaussian over their grid (SEG).

    Args:
        where: which layers; the paper has the middle of a U-Net.
        sigma: standard deviation of the kernel in tokens; infinite for the mean, as in the paper.

    Raises ValueError for a sigma that is not positive.
    """
    check_where(where)
    check("sigma must be positive", lambda s: s > 0, sigma)
    blur = _mean if sigma == math.inf else _blurred
    return Partial(Elsewhere(where, blur), (sigma,) if sigma < math.inf else ())


def _mean(numbers: tuple, q: Array, k: Array, v: Array, place: Place) -> Array:
    return softmax_attention(jnp.broadcast_to(q.mean(1, keepdims=True), q.shape), k, v, place)


def _blurred(numbers: tuple, q: Array, k: Array, v: Array, place: Place) -> Array:
    if math.prod(place.grid) != q.shape[1]:
        raise ValueError(f"{place.path} has {q.shape[1]} queries, which are no grid {place.grid}")
    grid = q.reshape(q.shape[0], *place.grid, *q.shape[2:])
    axes = range(1, 1 + len(place.grid))
    return softmax_attention(gaussian_blur(grid, axes, numbers[0]).reshape(q.shape), k, v, place)


def gaussian_blur(x: Array, axes: Sequence[int] | range, sigma: Any) -> Array:
    """Blur along axes by a normalised Gaussian of this standard deviation."""
    for axis in axes:
        at = jnp.arange(x.shape[axis], dtype=x.dtype)
        apart = (at[:, None] - at[None]) / jnp.asarray(sigma, x.dtype)
        weights = jnp.exp(-0.5 * apart**2)
        weights = weights / weights.sum(1, keepdims=True)
        x = jnp.moveaxis(jnp.tensordot(weights, x, ((1,), (axis,)), precision="highest"), 0, axis)
    return x
