r"""MagicFusion (Zhao et al. 2023, arXiv 2303.13126): two models, each where it has more to say.

What the condition changes, smoothed over the picture, is how much a model cares about a place,

    S = smooth(|eps_c - eps_u|),    S' = softmax over the places of k S,

and the guided output of the model with the larger S' is taken there (section 3.2).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check, expand
from jaxdiff.brief import Changed
from jaxdiff.conditioning.blending.frequency import KERNEL, check_axes
from jaxdiff.conditioning.blending.pairs import two_outputs
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser


def smooth(x: Array, axes: tuple[int, ...]) -> Array:
    """Blur by the kernel (1, 4, 6, 4, 1)/16 along the axes, edges repeated."""
    for axis in axes:
        at, last = jnp.arange(x.shape[axis]), x.shape[axis] - 1
        parts = [jnp.take(x, jnp.clip(at + k - 2, 0, last), axis=axis) for k in range(5)]
        x = sum(w * part for w, part in zip(KERNEL, parts, strict=True))  # type: ignore[assignment]
    return x


def saliency(difference: Array, axes: tuple[int, ...], sharpness: Array | float) -> Array:
    """Return the softmax over the places of a difference of noises, (batch, *places)."""
    others = tuple(i for i in range(1, difference.ndim) if i not in axes)
    size = smooth(jnp.abs(difference), axes).mean(axis=others, keepdims=True)
    flat = (sharpness * size).reshape(size.shape[0], -1)
    return jax.nn.softmax(flat, axis=1).reshape(size.shape)


class _Fusion(NamedTuple):
    axes: tuple[int, ...]

    def __call__(
        self, denoisers: tuple[Partial, Partial], weights: tuple[Any, Any], null: Cond,
        sharpness: tuple[Array, Array], y: Array, level: Array, cond: Cond = None, **options: Any,
    ) -> Array:  # fmt: skip
        check_axes(self.axes, y.shape)
        maps, guided = [], []
        for D, weight, k in zip(denoisers, weights, sharpness, strict=True):
            towards, plain = two_outputs(D, y, level, cond, null, options)
            added = towards - plain
            noise = added / expand(jnp.asarray(level, y.dtype), y)
            maps.append(saliency(noise, self.axes, jnp.asarray(k, y.dtype)))
            guided.append(plain + weight_at(weight, level, y) * added)
        known = ~jnp.isnan(maps[0] - maps[1])  # NaN of one is larger than nothing
        return jnp.where(known, jnp.where(maps[0] > maps[1], guided[0], guided[1]), jnp.nan)


def magic_fusion(
    first: Denoiser,
    second: Denoiser,
    weights: tuple[Weight, Weight],
    null: Cond = None,
    *,
    sharpness: tuple[float, float] = (1.0, 1.0),
    axes: tuple[int, ...] = (1, 2),
) -> Partial:
    """Blend two models by where their conditions matter (arXiv 2303.13126, section 3.2).

    Both have the same condition. Deviation: places are smoothed by a binomial kernel of five.

    Args:
        first, second: conditional ``D(y, level, cond)``.
        weights: of each one's guidance; numbers, (batch,), or functions of the level.
        null: as for :func:`jaxdiff.guidance.classifier_free`.
        sharpness: k of each; not negative. A larger one gives a model the places it cares for most.
        axes: of the states (batch, *shape), that are places.

    Raises:
        ValueError: for a negative sharpness, or axes that states do not have.
    """
    check("sharpness must not be negative", lambda a, b: a >= 0 and b >= 0, *sharpness)
    both = as_partial(first), as_partial(second)
    each = as_weight(weights[0]), as_weight(weights[1])
    return Changed(_Fusion(tuple(axes)), both, each, null, tuple(sharpness))
