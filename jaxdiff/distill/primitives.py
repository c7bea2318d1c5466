"""What the losses are composed of: perturbed data, jumps and their inverse, conditioning drop-out.

All work on batches.
"""

import jax
import jax.numpy as jnp

from jaxdiff.prediction import expand
from jaxdiff.typing import Array, Key


def perturb(x0: Array, level: Array, eps: Array) -> Array:
    """Y = x0 + level eps, with one level per sample."""
    return x0 + expand(level, x0) * eps


def jump(y: Array, s: Array, r: Array, x: Array) -> Array:
    """The state at level r of the straight line from y at level s to x at 0: one Euler, or DDIM,
    step whose denoised output is x. Levels (batch,), s > 0.
    """
    ratio = expand(r / s, y)
    return ratio * y + (1.0 - ratio) * x


def implied(y: Array, s: Array, z: Array, r: Array) -> Array:
    """The denoised output whose Euler step from y at level s is z at level r < s; inverse of
    :func:`jump`.

        x = (z - (r/s) y)/(1 - r/s)

    The regression target of progressive distillation (arXiv 2202.00512, appendix G), TRACT and
    multistep consistency. Loses digits as r nears s.
    """
    ratio = expand(r / s, y)
    return (z - ratio * y) / (1.0 - ratio)


def drop_labels(
    key: Key, labels: Array | None, probability: float, null: int | None
) -> Array | None:
    """Labels with some replaced by the class ``null``, which stands for no conditioning (arXiv
    2207.12598).
    """
    if labels is None or not probability:
        return labels
    if null is None:
        raise ValueError("dropping labels needs the number of the null class: give classes=")
    dropped = jax.random.bernoulli(key, probability, labels.shape)
    return jnp.where(dropped, jnp.asarray(null, labels.dtype), labels)
