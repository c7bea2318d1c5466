r"""Measurements that are not linear: any function with its shapes, phase retrieval, JPEG.

phase retrieval    u = |F pad(x0)|, F the orthonormal Fourier transform
JPEG               u = C^T q round(C x0/q), C the cosine transform of blocks of 8 by 8, q the
standard's table of quantisation (ITU-T T.81, annex K)
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.arrays import einsum, fixed, pytree_dataclass
from jaxdiff.conditioning.operators.linear import by_rows, sizes
from jaxdiff.conditioning.operators.separable import spatial
from jaxdiff.typing import Array

TABLE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""  # T.81, table K.1, luminance


@pytree_dataclass
class Nonlinear:
    """A measurement by any differentiable function: a pytree.

    forward: of samples (batch, *shape), row by row.
    shape, measured: of one sample, and of one measurement.
    """

    forward: Partial
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    measured: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def apply(self, x: Array) -> Array:
        """Return A(x), (..., *measured), of samples (..., *shape)."""
        return by_rows(self.forward, x, self.shape, self.measured, "a sample")

    @property
    def support(self) -> None:
        """A measurement can be other than 0 everywhere."""
        return None


def nonlinear(function: Callable[[Array], Array], shape: tuple[int, ...]) -> Nonlinear:
    """Make a measurement of any function of samples (batch, *shape) that keeps the rows: a blur by
    a network, a rendering, the features of a classifier.

    Raises ValueError for a function that changes the number of rows.
    """
    forward = function if isinstance(function, Partial) else Partial(function)
    shape = sizes(shape)
    seen = jax.eval_shape(forward, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    if seen.shape[:1] != (1,):
        raise ValueError(f"a measurement keeps its rows: of (1, {shape}) it made {seen.shape}")
    return Nonlinear(forward, shape, seen.shape[1:])


def phase_retrieval(
    shape: tuple[int, ...], padding: int | None = None, axes: Sequence[int] | None = None
) -> Nonlinear:
    """Magnitudes of the Fourier transform of a padded sample; where one is 0 its gradient is 0.

    Args:
        shape: of one sample.
        padding: zeros before and after each axis; half of its size if None, which doubles it.
        axes: the first two of an image, all of a signal, if None.
    """
    if padding is not None and padding < 0:
        raise ValueError(f"padding is not negative; got {padding}")
    axes = spatial(shape, axes)
    sizes_added = [
        (n // 2 if padding is None else padding) if i in axes else 0 for i, n in enumerate(shape)
    ]
    wide = ((0, 0), *((n, n) for n in sizes_added))
    along = tuple(i + 1 for i in axes)
    return nonlinear(Partial(fixed(_magnitude, wide=wide, axes=along)), shape)


def jpeg(
    shape: tuple[int, ...], quality: int = 10, low: float = -1.0, high: float = 1.0
) -> Nonlinear:
    """Quantisation of an image as by JPEG, with no other part of the format.

    The gradient of the rounding is taken for that of the identity. Every channel is quantised by
    the table of luminance. The last row and column fill blocks that are not whole, as encoders do.

    Args:
        shape: (height, width, channels) or (height, width).
        quality: 1 to 100, as libjpeg scales the table.
        low, high: the range of the data, which stands for 0 to 255.
    """
    if len(shape) not in (2, 3):
        raise ValueError(f"an image is (height, width, channels) or (height, width), not {shape}")
    if not 1 <= quality <= 100 or not low < high:
        raise ValueError(f"quality is 1 to 100 and low < high; got {quality}, {low}, {high}")
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    table = np.array(TABLE.split(), float).reshape(8, 8)
    steps = jnp.asarray(np.clip(np.floor((table * scale + 50) / 100), 1, 255))
    code = fixed(_quantised, middle=(low + high) / 2, unit=(high - low) / 255)
    return nonlinear(Partial(code, steps, jnp.asarray(_cosines())), shape)


def _magnitude(x: Array, *, wide: tuple[tuple[int, int], ...], axes: tuple[int, ...]) -> Array:
    spectrum = jnp.fft.fftn(jnp.pad(x, wide), axes=axes, norm="ortho")
    square = spectrum.real**2 + spectrum.imag**2
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _cosines() -> np.ndarray:
    """Return the orthonormal cosine transform of 8 numbers, (8, 8)."""
    k, n = np.mgrid[:8, :8]
    return np.where(k == 0, np.sqrt(1 / 8), 0.5) * np.cos(np.pi * (2 * n + 1) * k / 16)


def _quantised(steps: Array, cosines: Array, x: Array, *, middle: float, unit: float) -> Array:
    whole = x.shape
    edges = [(0, -n % 8) if axis in (1, 2) else (0, 0) for axis, n in enumerate(whole)]
    x = jnp.pad(x, edges, mode="edge")
    q, C = steps.astype(x.dtype).reshape(1, 1, 1, 8, 8, 1), cosines.astype(x.dtype)
    blocks = ((x - middle) / unit).reshape(
        x.shape[0], x.shape[1] // 8, 8, x.shape[2] // 8, 8, *x.shape[3:4] or (1,)
    )  # rows and columns of blocks, each with 8 of its own; the channels last
    found = einsum("ia,bravdc,jd->brvijc", C, blocks, C) / q
    kept = found + jax.lax.stop_gradient(jnp.round(found) - found)
    back = einsum("ia,brvijc,jd->bravdc", C, kept * q, C)
    back = back.reshape(x.shape) * unit + middle
    return back[:, : whole[1], : whole[2]]
