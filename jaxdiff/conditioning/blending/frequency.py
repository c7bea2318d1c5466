r"""Frequency-decoupled guidance, FDG (Sadat et al. 2025, arXiv 2506.19713).

Guidance of low frequencies sets colours and layout, that of high ones detail and fidelity, and they
want different weights. What guidance adds, d = D_c - D_u, is taken apart by a Laplacian pyramid
(Burt and Adelson 1983), low(d) = up(down(d)) with the kernel (1, 4, 6, 4, 1)/16 along every axis:

    D = D_u + sum_k w_k d_k,     d_k = g_k - up(down(g_k)),  g_(k+1) = down(g_k),  brought back up.

Pyramids are linear, so that equal weights are plain guidance.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.brief import Changed
from jaxdiff.conditioning.blending.pairs import two_outputs
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser

KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def down(x: Array, axes: Sequence[int]) -> Array:
    """Blur along the axes, edges repeated, and keep every second number."""
    for axis in axes:
        size = x.shape[axis]
        at = jnp.arange(0, size, 2)
        taken = (jnp.take(x, jnp.clip(at + k - 2, 0, size - 1), axis=axis) for k in range(5))
        x = sum(w * part for w, part in zip(KERNEL, taken, strict=True))  # type: ignore[assignment]
    return x


def up(x: Array, shape: tuple[int, ...]) -> Array:
    """Interpolate linearly to ``shape``."""
    return jax.image.resize(x, shape, "linear")


def bands(x: Array, count: int, axes: Sequence[int]) -> list[Array]:
    """Return ``count`` parts that sum to x (batch, *shape), the lowest frequencies first."""
    found, shapes = [], []
    for _ in range(count - 1):
        smaller = down(x, axes)
        found.append(x - up(smaller, x.shape))
        shapes.append(x.shape)
        x = smaller
    found.append(x)
    for i, part in enumerate(found):
        for shape in reversed(shapes[:i]):
            part = up(part, shape)
        found[i] = part
    return found[::-1]


class _Bands(NamedTuple):
    axes: tuple[int, ...]

    def __call__(
        self, denoiser: Partial, weights: tuple[Any, ...], null: Cond, y: Array, level: Array,
        cond: Cond = None, **options: Any,
    ) -> Array:  # fmt: skip
        check_axes(self.axes, y.shape, 2 ** (len(weights) - 1))
        towards, plain = two_outputs(denoiser, y, level, cond, null, options)
        parts = bands(towards - plain, len(weights), self.axes)
        for weight, part in zip(weights, parts, strict=True):
            plain = plain + weight_at(weight, level, y) * part
        return plain


def check_axes(axes: tuple[int, ...], shape: tuple[int, ...], smallest: int = 1) -> None:
    """Raise ValueError for axes that states of a shape do not have, or that are too short."""
    for axis in axes:
        if not 0 < axis < len(shape) or math.prod(shape) == 0:
            raise ValueError(f"axes {axes} are not among those of states {shape} after the first")
        if shape[axis] < smallest:
            raise ValueError(f"axis {axis} of states {shape} is shorter than {smallest}")


def frequency_decoupled(
    denoiser: Denoiser,
    weights: Sequence[Weight],
    null: Cond = None,
    *,
    axes: tuple[int, ...] = (1, 2),
) -> Partial:
    """Guidance with a weight for each band of frequencies (arXiv 2506.19713, algorithm 1).

    Deviation: pictures are enlarged by linear interpolation, edges repeated.

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        weights: of the bands, the lowest first, each a number, (batch,), or a function of the
            level; the paper has two, the first the smaller.
        null: as for :func:`jaxdiff.guidance.classifier_free`.
        axes: of the states (batch, *shape), that have frequencies: (1, 2) of pictures, (1,) of
            signals.

    Raises:
        ValueError: for no weights, or axes that states do not have or that are too short.
    """
    if len(weights) < 1:
        raise ValueError("frequency_decoupled needs a weight for each band, at least one")
    each = tuple(as_weight(w) for w in weights)
    return Changed(_Bands(tuple(axes)), as_partial(denoiser), each, null)
