"""Dequantisation: densities of integers, such as the pixels of images, from densities of numbers.

    x = (k + U) spacing - 1,    U uniform in [0, 1),    log P(k) >= E log p(x) + d log spacing

Source: Theis et al., A Note on the Evaluation of Generative Models, arXiv 1511.01844, section 3.1.
"""

import math

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check
from jaxdiff.noise import START, sample_keys
from jaxdiff.sampling.checks import check_key
from jaxdiff.typing import Array, Key

UNIFORM = START - 2  # in place of an evaluation's number, as START


def dequantise(
    images: Array, key: Key, index: Array | None = None, *, spacing: float = 1 / 128
) -> Array:
    """Dequantise uniformly: integers k become (k + U) spacing - 1 with U uniform in [0, 1).

    The density of the result bounds the probability of the image from below (Theis et al.
    1511.01844, section 3.1). U depends on ``key`` and the sample's number alone; fresh keys give
    fresh noise, over which the log-likelihood is averaged.

    Args:
        images: (batch, *shape) integers, such as uint8.
        key, index: typed key, and the samples' numbers (0, 1, ... if None).
        spacing: between neighbouring values in the data's units: 1/128 takes uint8 to [-1, 1).

    Returns:
        (batch, *shape) numbers in [-1, 1) for uint8 and the default spacing.

    Raises:
        TypeError: images that are not integers, or another kind of key.
        ValueError: for a spacing that is not positive.
    """
    if not jnp.issubdtype(images.dtype, jnp.integer):
        raise TypeError(f"dequantisation is of integers, such as uint8, not {images.dtype}")
    check_key("dequantise", key)
    check("spacing must be positive and finite", lambda s: 0 < s < math.inf, spacing)

    def one(key: Key) -> Array:
        return jax.random.uniform(
            jax.random.fold_in(key, UNIFORM), images.shape[1:], dtype=jnp.float32
        )

    noise = jax.vmap(one)(sample_keys(key, images, index))
    return (images.astype(jnp.float32) + noise) * spacing - 1


def bits_per_dimension(log_density: Array, dimension: int, *, spacing: float = 1 / 128) -> Array:
    """Return bits per dimension of integers dequantised with ``spacing``, given the log density in
    nats.

        -log p/(d ln 2) - log2(spacing),    that is -log p/(d ln 2) + 7 for uint8 in [-1, 1).

    Args:
        log_density: in nats, (batch,), of the dequantised data.
        dimension: numbers per sample, d.
        spacing: between neighbouring values in the data's units, as for :func:`dequantise`.

    Returns:
        Bits per dimension, (batch,).

    Raises:
        ValueError: for a dimension below 1, or a spacing that is not positive.
    """
    if dimension != int(dimension) or dimension < 1:
        raise ValueError(f"dimension is how many numbers a sample has, at least 1, not {dimension}")
    check("spacing must be positive and finite", lambda s: 0 < s < math.inf, spacing)
    return -log_density / (dimension * math.log(2)) - math.log2(spacing)
