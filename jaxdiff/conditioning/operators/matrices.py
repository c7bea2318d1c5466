r"""Operators on coordinates: masks, matrices, and rows of a Hadamard transform.

mask         u = m x0, m of zeros and ones: V = I, singular values m
matrix       u = A x0, decomposed here, once
hadamard     u = (H P x0)_I: P a random order, H the orthonormal Walsh-Hadamard transform, I the
rows that are kept; V = P^T H, singular values 1 on I (compressed sensing;
arXiv 2201.11793, appendix D)
"""

import math

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import check, fixed
from jaxdiff.conditioning.operators.linear import Basis, Linear, dense_basis, product, sizes
from jaxdiff.typing import Array


def mask(known: ArrayLike) -> Linear:
    """Inpainting: what is known of a sample is seen, and the rest is 0.

    A measurement has a sample's shape, so that masks of one shape share compiled programs.

    Args:
        known: of a sample's shape, booleans or zeros and ones, 1 where the sample is seen.

    Raises:
        ValueError: for other numbers, or a mask that knows nothing.

    >>> import jax.numpy as jnp
    >>> A = mask([True, False, True])
    >>> A.apply(jnp.array([[1.0, 2.0, 3.0]])).tolist()
    [[1.0, 0.0, 3.0]]
    """
    known = jnp.asarray(known)
    check("a mask is made of zeros and ones", lambda m: ((m == 0) | (m == 1)).all(), known)
    check("a mask must know something", lambda m: (m == 1).any(), known)
    known = known.astype(jnp.bool_)
    shape = sizes(known.shape)
    flat = known.reshape(-1).astype(jnp.result_type(float))
    onto = Partial(fixed(_shaped, shape=shape))
    return Linear(Partial(_masked, known), Basis(flat, onto, onto), known, shape, shape)


def box(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> Linear:
    """Inpainting of a box: all is seen but the numbers of index low to high - 1.

    Args:
        shape: of one sample.
        low, high: a box of its first ``len(low)`` axes: rows and columns of an image.

    Raises:
        ValueError: for a box that is empty, or not within the sample, or all of it.
    """
    ends = list(zip(low, high, shape, strict=False))
    if len(low) != len(high) or not 1 <= len(low) <= len(shape):
        raise ValueError(f"a box has two ends of as many axes, of a sample {shape}; {low}, {high}")
    if any(not 0 <= a < b <= n for a, b, n in ends):
        raise ValueError(f"a box from {low} to {high} is not within a sample of shape {shape}")
    known = np.ones(shape, bool)
    known[tuple(slice(a, b) for a, b, _ in ends)] = False
    return mask(known)


def matrix(values: ArrayLike, shape: tuple[int, ...] | None = None) -> Linear:
    """Return the operator of a matrix (m, n), its measurements (m,).

    Args:
        values: (m, n), finite. A traced one is differentiated, and not decomposed.
        shape: of one sample, of n numbers; (n,) if None.

    Raises:
        ValueError: for another shape, or numbers that are not finite.
    """
    A = jnp.asarray(values, jnp.result_type(float, jnp.asarray(values).dtype))
    shape = sizes(A.shape[1:] if shape is None else shape)
    if A.ndim != 2 or math.prod(shape) != A.shape[1]:
        raise ValueError(f"a matrix (m, n) of samples {shape} of n numbers; got {A.shape}")
    check("a matrix must be finite", lambda a: np.isfinite(a).all(), A)
    forward = product(A, A.shape[:1])
    if isinstance(A, Tracer):
        return Linear(forward, None, None, shape, A.shape[:1])
    left, singular, right = (jnp.asarray(part) for part in np.linalg.svd(np.asarray(A)))
    basis = dense_basis(left, singular, right, shape, A.shape[:1])
    return Linear(forward, basis, None, shape, A.shape[:1])


def random_matrix(shape: tuple[int, ...], count: int, seed: int = 0) -> Linear:
    """Return the operator of ``count`` random projections: a matrix of N(0, 1/count) numbers.

    Raises ValueError for fewer than one.
    """
    if count < 1:
        raise ValueError(f"at least one number is measured, not {count}")
    rng = np.random.default_rng(seed)
    return matrix(rng.standard_normal((count, math.prod(shape))) / math.sqrt(count), shape)


def hadamard(shape: tuple[int, ...], count: int, seed: int = 0) -> Linear:
    """Compressed sensing: ``count`` numbers of a Walsh-Hadamard transform of a shuffled sample.

    Args:
        shape: of one sample, whose number of values is a power of 2.
        count: how many are measured: the mean, and others chosen by ``seed``.
        seed: of the order of the values and of the rows.

    Raises:
        ValueError: for another number of values, or a count outside it.
    """
    shape = sizes(shape)
    n = math.prod(shape)
    if n & (n - 1):
        raise ValueError(f"a Walsh-Hadamard transform takes a power of 2 of numbers, not {n}")
    if not 1 <= count <= n:
        raise ValueError(f"between 1 and {n} numbers can be measured of {shape}, not {count}")
    rng = np.random.default_rng(seed)
    order = jnp.asarray(rng.permutation(n))
    rows = jnp.asarray(np.concatenate([[0], 1 + np.sort(rng.permutation(n - 1)[: count - 1])]))
    right = Partial(fixed(_unshuffled, shape=shape), jnp.argsort(order))
    singular = jnp.zeros(n).at[rows].set(1)
    basis = Basis(singular, right, Partial(_rows, rows))
    return Linear(Partial(_sensed, order, rows), basis, None, shape, (count,))


def walsh_hadamard(x: Array) -> Array:
    """Return the orthonormal Walsh-Hadamard transform of rows (batch, 2^k), its own inverse."""
    n, half = x.shape[1], 1
    y = x
    while half < n:
        pairs = y.reshape(-1, n // (2 * half), 2, half)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        y = jnp.stack([a + b, a - b], axis=2).reshape(-1, n)
        half *= 2
    return y / jnp.asarray(math.sqrt(n), x.dtype)


def _masked(known: Array, x: Array) -> Array:
    return jnp.where(known[None], x, 0)


def _shaped(c: Array, *, shape: tuple[int, ...]) -> Array:
    return c.reshape(c.shape[0], *shape)


def _unshuffled(back: Array, c: Array, *, shape: tuple[int, ...]) -> Array:
    return walsh_hadamard(c)[:, back].reshape(c.shape[0], *shape)


def _rows(rows: Array, c: Array) -> Array:
    return c[:, rows]


def _sensed(order: Array, rows: Array, x: Array) -> Array:
    return walsh_hadamard(x.reshape(x.shape[0], -1)[:, order])[:, rows]
