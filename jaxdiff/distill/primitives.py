"""What the losses are composed of: perturbed data, level distributions, distances, conditioning
drop-out.

All work on batches; distances return one number per sample.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.prediction import expand
from jaxdiff.typing import Array, Key

Distance = Callable[[Array, Array], Array]


def perturb(x0: Array, level: Array, eps: Array) -> Array:
    """Y = x0 + level eps, with one level per sample."""
    return x0 + expand(level, x0) * eps


def log_normal_levels(key: Key, x0: Array, mean: float, std: float) -> Array:
    """One noise level per sample of ``x0``, its logarithm N(mean, std^2) (arXiv 2206.00364, table
    1).
    """
    return jnp.exp(mean + std * jax.random.normal(key, x0.shape[:1], x0.dtype))


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
        total = jnp.sum(jnp.square(_flat(a - b)), axis=1)
        if c > 0:
            return total / (
                jnp.sqrt(total + c * c) + c
            )  # the difference of roots without its cancellation
        positive = total > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, total, 1.0)), 0.0)

    return distance
