"""Primitives of the losses: perturbed data, jumps and their inverse, conditioning drop-out.

All work on batches.
"""

import jax
import jax.numpy as jnp

from jaxdiff.arrays import expand, null_condition, rows_of
from jaxdiff.typing import Array, Cond, Key


def perturb(x0: Array, level: Array, eps: Array) -> Array:
    """Y = x0 + level eps, with one level per sample."""
    return x0 + expand(level, x0) * eps


def jump(y: Array, s: Array, r: Array, x: Array) -> Array:
    """Return the state at level r of the straight line from y at level s to x at 0: one Euler, or
    DDIM, step whose denoised output is x. Levels (batch,), s > 0.
    """
    ratio = expand(r / s, y)
    return ratio * y + (1.0 - ratio) * x


def implied(y: Array, s: Array, z: Array, r: Array) -> Array:
    """Return the denoised output whose Euler step from y at level s is z at level r < s; inverse of
    :func:`jump`.

        x = (z - (r/s) y)/(1 - r/s)

    The regression target of progressive distillation (arXiv 2202.00512, appendix G), TRACT and
    multistep consistency. Loses digits as r nears s.
    """
    ratio = expand(r / s, y)
    return (z - ratio * y) / (1.0 - ratio)


def drop_condition(key: Key, cond: Cond, probability: float, null: Cond) -> Cond:
    """Conditions of which some samples' are replaced, whole, by ``null``, which stands for no
    condition (arXiv 2207.12598).

    Args:
        cond: a tree of arrays of any dtype, batch first, or None.
        probability: that a sample's is replaced, all of its numbers and leaves together.
        null: one sample's value: a tree of the same structure, its leaves without the batch, or
            single numbers; for class indices the number of classes.

    Raises ValueError for a null that does not go with the condition, and for leaves of it without
    a row for every sample.
    """
    if cond is None or not probability:
        return cond
    rows = rows_of(cond, "cond")
    nulls = null_condition(cond, null)
    dropped = jax.random.bernoulli(key, probability, (rows,))

    def one(x: Array, n: Array) -> Array:
        return jnp.where(dropped.reshape(-1, *(1,) * (x.ndim - 1)), n, x)

    return jax.tree.map(one, cond, nulls)
