"""Noise that belongs to the sample, not to the batch.

Draw q of evaluation n of sample i comes from the key fold_in(fold_in(fold_in(key, i), n), q), so
that sample i is the same picture in any batch, on any number of devices.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Int

from jaxdiff.typing import Array, Key, States

START = 2**31 - 1  # in place of an evaluation's number: a sample's starting noise
CORRECTION = 2**31 - 2  # likewise: the keys of a sampler's corrections


def start_noise(
    key: Key,
    index: Array | Sequence[int] | int,
    shape: Sequence[int],
    dtype: DTypeLike = jnp.float32,
) -> States:
    """Return standard normal noise, each sample's own: the start of a trajectory over its level.

    Args:
        key: typed key.
        index: (batch,) integers naming the samples, or how many (then 0, 1, ...).
        shape: of one sample.
        dtype: of the noise.

    Returns:
        (batch, *shape).

    Raises:
        ValueError: for fewer than one sample, or a shape that is none.
        TypeError: for numbers of samples that are no integers.
    """
    if np.ndim(shape) != 1 or any(n != int(n) or n < 0 for n in shape):
        raise ValueError(f"shape is that of one sample, such as (2,), not {shape}")
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(sample_numbers(index))
    return draw(keys, START, 0, tuple(shape), dtype)


def sample_numbers(index: Array | Sequence[int] | int) -> Int[Array, " batch"]:
    """Return the samples' numbers (batch,): 0, 1, ... of a count, or those given. ValueError for
    none, TypeError for fractions.
    """
    shape = np.shape(index)
    some = shape[0] != 0 if len(shape) == 1 else shape == () and index == int(index) and index >= 1  # type: ignore[operator, arg-type]
    if not some:
        raise ValueError(f"there must be at least one sample, not {index!r:.40}")
    return _whole(index) if shape else jnp.asarray(np.arange(index), jnp.int32)  # type: ignore[arg-type]


def _whole(index: Any) -> Array:
    """Return samples' numbers in 32 bits. Raises TypeError for fractions, ValueError for numbers
    that these do not hold, which would be other samples'.
    """
    numbers = index if isinstance(index, jax.Array) else np.asarray(index)
    if not jnp.issubdtype(numbers.dtype, jnp.integer):
        raise TypeError(f"samples are numbered by integers, not by {numbers.dtype}")
    if isinstance(numbers, np.ndarray) and numbers.dtype.itemsize > 4:
        least, most = int(numbers.min()), int(numbers.max())
        if not -(2**31) <= least <= most < 2**31:
            raise ValueError(f"samples' numbers have 32 bits; got {least} to {most}")
    return jnp.asarray(numbers, jnp.int32)


def draw(
    keys: Key, evaluation: Array | int, slot: int, shape: tuple[int, ...], dtype: DTypeLike
) -> States:
    """Return standard normal noise: a sample's draw ``slot`` of an evaluation.

    Args:
        keys: (batch,) typed keys, each sample's own.
        evaluation: its number.
        slot: number of the draw since the last evaluation.
        shape: of one sample.
        dtype: of the noise.

    Returns:
        (batch, *shape).
    """

    def one(key: Key) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, evaluation), slot)
        return jax.random.normal(own, shape, dtype)

    return jax.vmap(one)(keys)


def sample_keys(key: Key, start: Array, index: Array | None) -> Key:
    """Return each sample's own key.

    Args:
        key: typed key.
        start: (batch, *shape).
        index: (batch,) integers naming the samples; 0, 1, ... if None.

    Returns:
        (batch,) typed keys.

    Raises:
        ValueError, TypeError: for numbers that are not one for each sample, or no integers.
    """
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index_of(start, index))


def index_of(start: Array, index: Array | None) -> Any:
    """Return the samples' numbers (batch,): those given, or 0, 1, ... ValueError for others than
    one for each: noise of one alone would be that of all.
    """
    if index is None:  # by NumPy: a program for it would be a twentieth of one evaluation
        return np.arange(start.shape[0], dtype=np.int32)
    if np.shape(index) != start.shape[:1]:
        raise ValueError(
            f"index must name each of the {start.shape[0]} samples; its shape is {np.shape(index)}"
        )
    return _whole(index)
