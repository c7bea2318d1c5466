r"""Operators that are one matrix for each axis: averages, bicubic, blur, grey.

    A = A_1 (x) A_2 (x) ...,    A_i = U_i S_i V_i^T:    U = (x) U_i,  S = (x) S_i,  V = (x) V_i

A matrix of an axis is small, and its decomposition is that of the whole operator (Kronecker
products; DDRM, arXiv 2201.11793, section 3.3 and appendix D).
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import fixed
from jaxdiff.conditioning.operators.linear import Basis, Linear, sizes
from jaxdiff.typing import Array

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
BOUNDARIES = {"reflect": "reflect", "periodic": "wrap", "zero": "constant"}


def separable(shape: tuple[int, ...], matrices: Mapping[int, ArrayLike]) -> Linear:
    """Return the operator that multiplies axes of a sample by matrices.

    Args:
        shape: of one sample.
        matrices: for some of its axes, numbered from 0, a finite matrix (m, size of the axis).

    Raises:
        ValueError: for an axis that there is not, or a matrix of another size.
    """
    shape = sizes(shape)
    known = {axis: np.asarray(A) for axis, A in matrices.items()}
    for axis, A in known.items():
        if not 0 <= axis < len(shape):
            raise ValueError(f"a sample of shape {shape} has no axis {axis}")
        if A.ndim != 2 or A.shape[1] != shape[axis] or not np.isfinite(A).all():
            raise ValueError(
                f"axis {axis} of {shape} takes a finite matrix (m, {shape[axis]}), not {A.shape}"
            )
    if not known:
        raise ValueError("at least one axis has a matrix")
    axes = tuple(sorted(known))
    measured = tuple(known[i].shape[0] if i in known else n for i, n in enumerate(shape))
    parts = {axis: _decomposition(known[axis]) for axis in axes}
    values = np.ones(())
    for i, n in enumerate(shape):
        values = np.multiply.outer(values, parts[i][1] if i in parts else np.ones(n))
    onto = fixed(_along, axes=axes, shape=shape)
    make = lambda k: Partial(onto, *(jnp.asarray(parts[axis][k]) for axis in axes))  # noqa: E731
    basis = Basis(jnp.asarray(values.reshape(-1)), make(2), make(0))
    forward = Partial(onto, *(jnp.asarray(known[axis]) for axis in axes))
    return Linear(forward, basis, None, shape, measured)


def average(shape: tuple[int, ...], factor: int, axes: Sequence[int] | None = None) -> Linear:
    """Super-resolution: the means of blocks of ``factor`` numbers along each axis.

    Args:
        shape: of one sample.
        factor: at least 2, a divisor of the axes' sizes.
        axes: the first two of an image, and all of a signal, if None (:func:`spatial`).

    >>> import jax.numpy as jnp
    >>> average((4,), 2).apply(jnp.array([[1.0, 3.0, 5.0, 7.0]])).tolist()
    [[2.0, 6.0]]
    """
    return separable(shape, {
        axis: np.kron(np.eye(n // factor), np.full((1, factor), 1 / factor))
        for axis, n in _divided(shape, factor, axes)
    })  # fmt: skip


def decimate(shape: tuple[int, ...], factor: int, axes: Sequence[int] | None = None) -> Linear:
    """Every ``factor``-th number along each axis. Arguments as of :func:`average`."""
    return separable(shape, {
        axis: np.eye(n)[::factor] for axis, n in _divided(shape, factor, axes)
    })  # fmt: skip


def bicubic(shape: tuple[int, ...], factor: int, axes: Sequence[int] | None = None) -> Linear:
    """Super-resolution: Keys' cubic (a = -1/2) stretched by ``factor``, as ``jax.image.resize`` has
    it with ``antialias``: at the edges its weights within the sample are made to sum to 1.

    Arguments as of :func:`average`.
    """
    return separable(shape, {
        axis: np.asarray(jax.image.resize(jnp.eye(n), (n // factor, n), "cubic"))
        for axis, n in _divided(shape, factor, axes)
    })  # fmt: skip


def gaussian_blur(
    shape: tuple[int, ...], std: float, axes: Sequence[int] | None = None, boundary: str = "reflect"
) -> Linear:
    """Blur by a Gaussian, cut at four standard deviations, along each axis.

    Args:
        shape: of one sample.
        std: standard deviation, in numbers along the axis, positive.
        axes: as of :func:`average`.
        boundary: 'reflect', 'periodic' or 'zero', what lies beyond the sample.
    """
    from scipy.ndimage import gaussian_filter1d

    if not 0 < std < float("inf"):
        raise ValueError(f"a blur has a positive standard deviation, not {std}")
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary is one of {', '.join(BOUNDARIES)}, not {boundary!r}")
    mode = BOUNDARIES[boundary]
    return separable(shape, {
        axis: gaussian_filter1d(np.eye(shape[axis]), std, axis=0, mode=mode)
        for axis in spatial(shape, axes)
    })  # fmt: skip


def grey(shape: tuple[int, ...], weights: Sequence[float] = LUMA, axis: int = -1) -> Linear:
    """Grey from colour: the weighted sum of the channels, whose axis has size 1 in the measurement.

    The weights are those of luma (ITU-R BT.601) by default, one per channel.
    """
    (place,), values = spatial(shape, (axis,)), np.asarray(weights, float)
    if values.shape != (shape[place],):
        raise ValueError(
            f"axis {axis} of {tuple(shape)} takes a weight for each channel, not {weights}"
        )
    if not np.isfinite(values).all() or not values.any():
        raise ValueError(f"weights are finite and not all 0, not {weights}")
    return separable(shape, {place: values[None]})


def spatial(shape: tuple[int, ...], axes: Sequence[int] | None) -> tuple[int, ...]:
    """Return the axes given, or all but the last, the channels, of samples with three or more axes,
    and all of others.
    """
    shape = sizes(shape)
    if axes is None:
        return tuple(range(len(shape) - 1 if len(shape) > 2 else len(shape)))
    found = tuple(axis % len(shape) if -len(shape) <= axis < len(shape) else -1 for axis in axes)
    if -1 in found or len(set(found)) != len(found) or not found:
        raise ValueError(f"a sample of shape {shape} has no axes {tuple(axes)}")
    return found


def _divided(
    shape: tuple[int, ...], factor: int, axes: Sequence[int] | None
) -> list[tuple[int, int]]:
    """Return axes and their sizes. ValueError unless the factor divides them."""
    found = [(axis, int(shape[axis])) for axis in spatial(shape, axes)]
    if factor < 2 or any(n % factor for _, n in found):
        raise ValueError(f"a factor is at least 2 and divides the axes of {shape}; got {factor}")
    return found


def _decomposition(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return U (m, n), with columns of zeros where there are none, S (n,) and V (n, n)."""
    m, n = A.shape
    u, s, vt = np.linalg.svd(A)
    left, values = np.zeros((m, n), u.dtype), np.zeros(n, s.dtype)
    left[:, : len(s)] = u[:, : len(s)]
    values[: len(s)] = np.where(s > max(m, n) * np.finfo(s.dtype).eps * s.max(), s, 0)
    return left, values, vt.T


def _along(*operands: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Return x, the last operand, with each of its axes multiplied by its matrix."""
    *matrices, x = operands
    x = x.reshape(x.shape[0], *shape)
    for axis, A in zip(axes, matrices, strict=True):
        x = jnp.tensordot(x, A.astype(x.dtype), ((axis + 1,), (1,)), precision="highest")
        x = jnp.moveaxis(x, -1, axis + 1)
    return x
