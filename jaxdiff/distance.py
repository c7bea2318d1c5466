"""Distances of samples to samples, pair by pair: what losses of distillation and tuning measure.

All take two batches and return one number per sample.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from jaxdiff.typing import Array, PerSample, States

Distance: TypeAlias = Callable[[States, States], PerSample]


def _flat(a: Array) -> Array:
    return a.reshape(a.shape[0], -1)


def squared(a: States, b: States) -> PerSample:
    """Return the mean squared difference.

    Args:
        a, b: (batch, *shape).

    Returns:
        (batch,).
    """
    return jnp.mean(jnp.square(_flat(a - b)), axis=1)


def absolute(a: States, b: States) -> PerSample:
    """Return the mean absolute difference, with gradient 0 where a = b (``jnp.abs`` has 1 there).

    Args:
        a, b: (batch, *shape).

    Returns:
        (batch,).
    """
    difference = _flat(a - b)
    return jnp.mean(difference * jnp.sign(difference), axis=1)


def pseudo_huber(c: float) -> Distance:
    """Return the distance sqrt(|a - b|^2 + c^2) - c (Song and Dhariwal, arXiv 2310.14189, eq. 7).

    Args:
        c: at least 0; 0 is the Euclidean norm, here with gradient 0 at a = b.

    Returns:
        A function of two batches (batch, *shape), which gives (batch,).
    """

    def distance(a: States, b: States) -> PerSample:
        if c == 0:
            return norm(a - b)
        total = jnp.sum(jnp.square(_flat(a - b)), axis=1)
        # the difference of roots without its cancellation
        return total / (jnp.sqrt(total + c * c) + c)

    return distance


def norm(a: States) -> PerSample:
    """Return the Euclidean norm of each sample, with gradient 0 at 0.

    Args:
        a: (batch, *shape).

    Returns:
        (batch,).
    """
    total = jnp.sum(jnp.square(_flat(a)), axis=1)
    zero = total == 0  # false for NaN, which is to be seen
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, total)))


def of_features(features: Callable[[Array], Array], distance: Distance = squared) -> Distance:
    """Return the distance between a frozen network's outputs for two samples. LPIPS is of this
    form.

    Args:
        features: maps (batch, *shape) to (batch, ...).
        distance: of the features.

    Returns:
        A function of two batches (batch, *shape), which gives (batch,).
    """
    return lambda a, b: distance(features(a), features(b))


def chamfer(a: Array, b: Array) -> PerSample:
    """Return the Chamfer distance of two sets of points: the mean squared distance of a point to
    the nearest of the other set, both ways added (arXiv 2212.01747, for point clouds).

    Args:
        a, b: (batch, points, d); the numbers of points may differ.

    Returns:
        (batch,).

    Raises:
        ValueError: for other shapes.
    """
    if a.ndim != 3 or b.ndim != 3 or (a.shape[0], a.shape[2]) != (b.shape[0], b.shape[2]):
        raise ValueError(f"chamfer compares sets (batch, points, d); got {a.shape} and {b.shape}")
    apart = jnp.sum(jnp.square(a[:, :, None] - b[:, None, :]), axis=-1)
    return jnp.mean(jnp.min(apart, axis=2), axis=1) + jnp.mean(jnp.min(apart, axis=1), axis=1)
