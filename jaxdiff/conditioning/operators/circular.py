r"""Blur by any kernel, by Fourier transforms: the sample goes on periodically.

With F the Fourier transform and h = F k of a kernel k, A = F^-1 diag(h) F. Its real decomposition
has as V the Hartley transform,

    V x = Re F x - Im F x,    V V = I (orthonormal),    S = |h|,    U = F^-1 diag(h/|h|) F V,

since h and its conjugate belong to opposite frequencies, which V pairs.
"""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import fixed
from jaxdiff.conditioning.operators.linear import Basis, Linear, sizes
from jaxdiff.conditioning.operators.separable import spatial
from jaxdiff.typing import Array


def convolution(
    shape: tuple[int, ...], kernel: ArrayLike, axes: Sequence[int] | None = None
) -> Linear:
    """Return the operator of a periodic convolution with a kernel.

    Args:
        shape: of one sample.
        kernel: finite, as many axes as there are ``axes``, none longer than the sample's; its
            middle (index size // 2) is what stays in place.
        axes: that are blurred; the first two of an image, all of a signal, if None.

    Raises:
        ValueError: for a kernel that does not fit.
    """
    shape, axes = sizes(shape), spatial(shape, axes)
    k = np.asarray(kernel, float)
    if k.ndim != len(axes) or any(a > shape[i] for a, i in zip(k.shape, axes, strict=False)):
        raise ValueError(
            f"a kernel of axes {axes} of a sample {shape} is not longer than they; got {k.shape}"
        )
    if not np.isfinite(k).all() or not k.any():
        raise ValueError("a kernel has finite numbers, not all of them 0")
    order = np.argsort(axes)
    k, axes = k.transpose(order), tuple(sorted(axes))
    padded = np.zeros([shape[i] for i in axes])
    padded[tuple(slice(a) for a in k.shape)] = k
    padded = np.roll(padded, [-(a // 2) for a in k.shape], range(k.ndim))
    h = np.fft.fftn(padded)
    beside = tuple(n if i in axes else 1 for i, n in enumerate(shape))
    size = np.abs(h)
    size = np.where(size > h.size * np.finfo(float).eps * size.max(), size, 0)
    phase = np.where(size > 0, h / np.where(size > 0, size, 1), 0)
    transfer, turned = (jnp.asarray(np.reshape(a, beside)) for a in (h, phase))
    static = {"axes": tuple(i + 1 for i in axes), "shape": shape}
    singular = jnp.asarray(np.broadcast_to(size.reshape(beside), shape).reshape(-1))
    left = Partial(fixed(_turned, **static), turned)
    basis = Basis(singular, Partial(fixed(_hartley, **static)), left)
    forward = Partial(fixed(_filtered, axes=static["axes"]), transfer)
    return Linear(forward, basis, None, shape, shape)


def gaussian_kernel(size: int, std: float, num_axes: int = 2) -> np.ndarray:
    """Return a Gaussian kernel of odd size along each axis, of sum 1."""
    check_size(size)
    if not 0 < std < float("inf"):
        raise ValueError(f"a kernel has a positive standard deviation, not {std}")
    line = np.exp(-0.5 * ((np.arange(size) - size // 2) / std) ** 2)
    kernel = functools.reduce(np.multiply.outer, [line] * num_axes)
    return kernel / kernel.sum()


def motion_kernel(size: int, angle: float = 0.0) -> np.ndarray:
    """Return the kernel (size, size) of a straight motion over ``size`` pixels, of sum 1.

    Args:
        size: odd.
        angle: in degrees, from along the columns (0) towards along the rows (90).
    """
    check_size(size)
    half, kernel = size // 2, np.zeros((size, size))
    for step in np.linspace(-half, half, 8 * size + 1):  # points of the line, split over pixels
        place = half + step * np.sin(np.deg2rad(angle)), half + step * np.cos(np.deg2rad(angle))
        row, column = (min(int(p), size - 2) if size > 1 else 0 for p in place)
        a, b = place[0] - row, place[1] - column
        for i, wi in ((0, 1 - a), (1, a)):
            for j, wj in ((0, 1 - b), (1, b)):
                if row + i < size and column + j < size:
                    kernel[row + i, column + j] += max(wi, 0.0) * max(wj, 0.0)
    return kernel / kernel.sum()


def check_size(size: int) -> None:
    """Raise ValueError for a kernel's size that is not odd."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a kernel has an odd size, not {size}")


def _filtered(transfer: Array, x: Array, *, axes: tuple[int, ...]) -> Array:
    spectrum = jnp.fft.fftn(x, axes=axes)
    return jnp.fft.ifftn(transfer[None].astype(spectrum.dtype) * spectrum, axes=axes).real


def _hartley(c: Array, *, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    x = c.reshape(c.shape[0], *shape)
    spectrum = jnp.fft.fftn(x, axes=axes)
    return (spectrum.real - spectrum.imag) / math.sqrt(math.prod(x.shape[i] for i in axes))


def _turned(phase: Array, c: Array, *, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    return _filtered(phase, _hartley(c, axes=axes, shape=shape), axes=axes)
