"""Halving and doubling of maps with a separable filter.

With f of even length L, of sum 1, and p = (L - 1) // 2 zeros around, along each of the two axes:

    halved    y[m]        = sum over k of f[k] x[2 m + k - p]
    doubled   y[2 m + r]  = 2 sum over d of f[r + p - 2 d] x[m + d]        r = 0, 1

Each is the other's transpose, up to the factor. (1, 1) is the mean of squares of 2x2 pixels, and
their repetition; (1, 3, 3, 1) is smoother (2011.13456, appendix H). Sums of slices: on CPU they
are much faster than convolutions of single channels, and so are their derivatives.
"""

import numpy as np
from jax import numpy as jnp

from jaxdiff.typing import Array

Filter = tuple[float, ...]
BOX: Filter = (1.0, 1.0)


def halved(x: Array, taps: Filter = BOX, around: int | None = None) -> Array:
    """Filter a map (batch, height, width, channels) and keep every second row and column.

    taps: the filter, normalised here; of even length. around: rows of zeros on each side, p if
    None.
    """
    f = _normal(taps)
    zeros = (len(f) - 1) // 2 if around is None else around
    for axis in (1, 2):
        if zeros:
            x = jnp.pad(x, [(zeros, zeros) if i == axis else (0, 0) for i in range(4)])
        count = (x.shape[axis] - len(f)) // 2 + 1
        terms = [_every(x, axis, k, count, 2) * weight for k, weight in enumerate(f)]
        x = sum(terms[1:], terms[0])
    return x


def doubled(x: Array, taps: Filter = BOX) -> Array:
    """Insert rows and columns into a map (batch, height, width, channels) and filter it."""
    f = _normal(taps)
    shift, reach = (len(f) - 1) // 2, len(f) // 2
    for axis in (1, 2):
        count, phases = x.shape[axis], []
        wide = jnp.pad(x, [(reach, reach) if i == axis else (0, 0) for i in range(4)])
        for r in (0, 1):
            taken = {d: r + shift - 2 * d for d in range(-reach, reach + 1)}
            terms = [
                _every(wide, axis, reach + d, count) * (2 * f[k])
                for d, k in taken.items()
                if 0 <= k < len(f)
            ]
            phases.append(sum(terms[1:], terms[0]))
        shape = [2 * n if i == axis else n for i, n in enumerate(x.shape)]
        x = jnp.stack(phases, axis=axis + 1).reshape(shape)
    return x


def _normal(taps: Filter) -> list[float]:
    f = np.asarray(taps, np.float64)
    if f.ndim != 1 or len(f) % 2 or not len(f) or f.sum() == 0:
        raise ValueError(f"a filter is an even number of weights with a sum; got {taps}")
    return (f / f.sum()).tolist()


def _every(x: Array, axis: int, start: int, count: int, stride: int = 1) -> Array:
    """Return ``count`` rows of an axis from ``start`` on."""
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, start + (count - 1) * stride + 1, stride)
    return x[tuple(index)]
