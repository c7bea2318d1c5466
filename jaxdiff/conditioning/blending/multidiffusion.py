r"""MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113): one picture from many windows.

A denoiser of small pictures denoises overlapping windows F_i of a large one, and the outputs are
the least squares solution (eq. 5), with weights W_i,

    D(y) = sum_i F_i^T (W_i D(F_i y)) / sum_i F_i^T W_i.

Regions are the same with masks in place of windows and a condition for each: NoiseCollage
(Shirakawa and Uchida 2024, arXiv 2403.03485) and MultiDiffusion's section 4.2.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import check, expand
from jaxdiff.brief import Changed
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Return where windows begin that cover an axis, the last one at its end.

    >>> window_starts(10, 4, 3), window_starts(9, 4, 3)
    ([0, 3, 6], [0, 3, 5])
    """
    return [*range(0, length - size, stride), length - size]


class _Windows(NamedTuple):
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __call__(
        self, denoiser: Partial, weights: Array | None, y: Array, level: Array, cond: Cond = None,
        **options: Any,
    ) -> Array:  # fmt: skip
        axes, size = len(self.size), self.size
        if axes > y.ndim - 1 or any(n > have for n, have in zip(size, y.shape[1:], strict=False)):
            raise ValueError(f"windows {size} do not fit into samples {y.shape[1:]}")
        spans = zip(y.shape[1:], size, self.stride, strict=False)
        places = list(itertools.product(*(window_starts(*span) for span in spans)))
        cuts = [tuple(slice(i, i + n) for i, n in zip(p, size, strict=True)) for p in places]
        count = len(cuts)
        stacked = jnp.concatenate([y[:, *cut] for cut in cuts])  # window by window
        tiled = lambda x: jnp.concatenate([x] * count) if jnp.ndim(x) else x  # noqa: E731
        level = jnp.asarray(level, y.dtype)
        outputs = denoiser(stacked, tiled(level), jax.tree.map(tiled, cond), **options)
        shape = (1, *size, *(1,) * (y.ndim - 1 - axes))
        weight = jnp.ones(shape, y.dtype)
        if weights is not None:
            weight = jnp.asarray(weights, y.dtype).reshape(shape)
        total = jnp.zeros_like(y)
        mass = jnp.zeros((1, *y.shape[1 : axes + 1], *shape[axes + 1 :]), y.dtype)
        for cut, output in zip(cuts, jnp.split(outputs, count), strict=True):
            total = total.at[:, *cut].add(weight * output)
            mass = mass.at[:, *cut].add(weight)
        return total / mass


def windows(
    denoiser: Denoiser,
    size: Sequence[int],
    stride: Sequence[int],
    weights: ArrayLike | None = None,
) -> Partial:
    """Denoise samples of any size by a denoiser of one size (arXiv 2302.08113, eq. 5).

    All windows are one call of the denoiser, of as many times the batch; each sample's condition
    holds for all of its windows.

    Args:
        denoiser: ``D(y, level, cond)`` of samples whose first axes have the lengths ``size``.
        size: of a window along the first axes of a sample: (64, 64) of pictures (height, width,
            channels), (64,) of signals.
        stride: between windows, at most their size; the last window ends where the sample does.
        weights: W of the shape ``size``, positive; all 1 if None.

    Raises:
        ValueError: for strides that leave gaps, weights of another shape or not positive; when
            called, for samples smaller than a window.
    """
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    fits = len(size) == len(stride) and all(1 <= b <= a for a, b in zip(size, stride, strict=True))
    if not size or not fits:
        raise ValueError(f"strides {stride} must be from 1 to the windows' sizes {size}")
    if weights is not None:
        if jnp.shape(weights) != size:
            raise ValueError(f"weights have shape {jnp.shape(weights)}, windows {size}")
        check("the weights of a window must be positive", lambda w: (w > 0).all(), weights)
        weights = jnp.asarray(weights)
    return Changed(_Windows(size, stride), as_partial(denoiser), weights)


def regions(denoiser: Denoiser, masks: ArrayLike) -> Partial:
    """A condition for each region: D = sum_i M_i D(y, c_i)/sum_i M_i.

    The condition of the result is a sequence, one for each mask. Guidance within a region is that
    of the denoiser.

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        masks: (n, *shape), or with axes of 1 where a mask is the same (channels, usually); not
            negative, and somewhere positive at every place. They may overlap.

    Raises:
        ValueError: for negative masks, or a place that none covers; when called, for another number
            of conditions, or masks of another shape.
    """
    check("masks must not be negative", lambda m: (m >= 0).all(), masks)
    check("every place must be covered by a mask", lambda m: (m.sum(0) > 0).all(), masks)
    return Changed(_regions, as_partial(denoiser), jnp.asarray(masks))


def _regions(
    denoiser: Partial, masks: Array, y: Array, level: Array, cond: Cond = None, **options: Any
) -> Array:
    if not isinstance(cond, (tuple, list)) or len(cond) != masks.shape[0]:
        what = f"{len(cond)}" if isinstance(cond, (tuple, list)) else type(cond).__name__
        raise ValueError(f"cond must be {masks.shape[0]} conditions, one for each mask, not {what}")
    sizes = zip(masks.shape[1:], y.shape[1:], strict=False)
    if masks.ndim != y.ndim or any(m not in (1, n) for m, n in sizes):
        raise ValueError(f"masks {masks.shape[1:]} do not go with samples {y.shape[1:]}")
    total, mass = jnp.zeros_like(y), expand(0.0, y)
    for mask, c in zip(masks.astype(y.dtype), cond, strict=True):
        total = total + mask[None] * denoiser(y, level, c, **options)
        mass = mass + mask[None]
    return total / mass
