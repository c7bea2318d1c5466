"""Parts that the exact models share."""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxdiff.arrays import check, on_device
from jaxdiff.typing import Array, Cond, Values

T = TypeVar("T")


LOG_2PI = math.log(2 * math.pi)


NEAREST = 1e-20  # stands for level^2 = 0 in a data set's softmax, which is then one-hot


def floats(name: str, values: Values) -> Array:
    """Return a floating array of finite numbers."""
    array = on_device(values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    check(f"{name} must be finite", lambda a: np.isfinite(a).all(), array)
    return array


def principal(covariance: Array, shape: tuple[int, ...]) -> tuple[Array, Array | None]:
    """Return the variances (..., d) along the principal axes and the axes (..., d, d) as columns.

    The axes of a diagonal covariance (..., d) are None. ``shape`` is that of the means.
    """
    if covariance.shape == shape:
        variances, axes = covariance, None
    elif covariance.shape == shape + shape[-1:]:
        check("a covariance must be symmetric", symmetric, covariance)
        variances, axes = jnp.linalg.eigh(covariance)
    else:
        raise ValueError(
            f"for means of shape {shape} covariances must have shape {shape} (diagonal) or "
            f"{shape + shape[-1:]} (full); got {covariance.shape}"
        )
    message = "variances must be positive (add a small multiple of the identity if singular)"
    check(message, lambda v: (v > 0).all(), variances)
    return variances, axes


def symmetric(a: np.ndarray) -> bool:
    """Return whether matrices are symmetric, to rounding."""
    return bool(np.abs(a - np.swapaxes(a, -1, -2)).max() <= 1e-5 * np.abs(a).max())


def levels(y: Array, level: ArrayLike, dimension: int) -> Array:
    """Return the level of every state, (B,). TypeError for states that are no floating array."""
    dtype = getattr(y, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"states must be a floating array; got {dtype or type(y).__name__}")
    if y.ndim != 2 or y.shape[1] != dimension:
        raise ValueError(f"states must have shape (batch, {dimension}); got {y.shape}")
    return jnp.broadcast_to(jnp.asarray(level, y.dtype), y.shape[:1])


def cast(model: T, dtype: DTypeLike) -> T:
    """Return the model with its arrays in a dtype."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), model)


def no_classes(cond: Cond) -> None:
    """Raise ValueError for a condition."""
    if cond is not None:
        raise ValueError(f"this model has no classes, so cond must be None; got {cond}")


def over(numerator: Array, denominator: Array) -> Array:
    """Return the quotient, and 0, its limit here, where the denominator is 0."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)
