"""Distances of samples to samples, pair by pair: what losses of distillation and tuning measure.

All take two batches and return one number per sample.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxdiff.typing import Array

Distance = Callable[[Array, Array], Array]


def _flat(a: Array) -> Array:
    return a.reshape(a.shape[0], -1)


def squared(a: Array, b: Array) -> Array:
    """Mean squared difference."""
    return jnp.mean(jnp.square(_flat(a - b)), axis=1)


def absolute(a: Array, b: Array) -> Array:
    """Mean absolute difference, with gradient 0 where a = b (that of ``jnp.abs`` is 1 there)."""
    difference = _flat(a - b)
    return jnp.mean(difference * jnp.sign(difference), axis=1)


def pseudo_huber(c: float) -> Distance:
    """sqrt(|a - b|^2 + c^2) - c (arXiv 2310.14189); c = 0 is the Euclidean norm, here with
    gradient 0 at a = b.
    """

    def distance(a: Array, b: Array) -> Array:
        if c == 0:
            return norm(a - b)
        total = jnp.sum(jnp.square(_flat(a - b)), axis=1)
        # the difference of roots without its cancellation
        return total / (jnp.sqrt(total + c * c) + c)

    return distance


def norm(a: Array) -> Array:
    """The Euclidean norm of each sample, (batch,), with gradient 0 at 0."""
    total = jnp.sum(jnp.square(_flat(a)), axis=1)
    zero = total == 0  # false for NaN, which is to be seen
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, total)))


def of_features(features: Callable[[Array], Array], distance: Distance = squared) -> Distance:
    """The distance of what any frozen network says of two samples; ``features`` maps (batch,
    *shape) to (batch, ...). LPIPS is of this form.
    """
    return lambda a, b: distance(features(a), features(b))


def chamfer(a: Array, b: Array) -> Array:
    """The Chamfer distance of two sets of points (batch, points, d): the mean squared distance of
    a point to the nearest of the other set, both ways added (arXiv 2212.01747, for point clouds).
    The numbers of points may differ.
    """
    if a.ndim != 3 or b.ndim != 3 or (a.shape[0], a.shape[2]) != (b.shape[0], b.shape[2]):
        raise ValueError(f"chamfer compares sets (batch, points, d); got {a.shape} and {b.shape}")
    apart = jnp.sum(jnp.square(a[:, :, None] - b[:, None, :]), axis=-1)
    return jnp.mean(jnp.min(apart, axis=2), axis=1) + jnp.mean(jnp.min(apart, axis=1), axis=1)
