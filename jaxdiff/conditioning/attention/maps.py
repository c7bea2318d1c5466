r"""Attention maps, seen and used: as arrays, for layout, and in the loss of attend-and-excite.

paint with words     logits + w max(logits) A,  A[q, j] = 1 where token j is to be
                                                (eDiff-I, Balaji et al. 2211.01324, section 5)
attend-and-excite    y <- y - a grad_y max_j (1 - max_q M[q, j])
                                                (Chefer et al. 2301.13826, algorithm 1)
self-attention       D + w (D - D(x' + s eps)),  x' blurred where much attention goes
guidance, SAG                                   (Hong et al. 2210.00939, eq. 15)
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import check, expand
from jaxdiff.conditioning.attention.places import CROSS, SELF, Elsewhere, Where, check_where
from jaxdiff.conditioning.attention.worse import gaussian_blur
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.networks.attention import AttentionFn, Place, attention_weights, softmax_attention
from jaxdiff.typing import Array, Cond, Denoiser, Key

Maps = dict[str, Array]


def attention_maps(
    denoiser: Denoiser, y: Array, level: ArrayLike, cond: Cond = None, where: Where = CROSS,
    **options: Any,
) -> tuple[Array, Maps, dict[str, Place]]:  # fmt: skip
    """Return the denoised output, the attention maps of some layers by their paths, (batch, heads,
    queries, tokens), and the layers.

    It may be jitted and differentiated, but for the layers, which are no arrays. Options are the
    network's, such as a key of its dropout. Guidance evaluates a network several times: the maps
    are those of the first, which is with the condition.

    Raises ValueError if there are no such layers.
    """
    maps, places = {}, {}

    def keep(q: Array, k: Array, v: Array, place: Place) -> Array:
        if where(place) and place.path not in maps:
            maps[place.path], places[place.path] = attention_weights(q, k, place.mask), place
        return softmax_attention(q, k, v, place)

    check_where(where)
    attention: AttentionFn = keep
    s = jnp.asarray(level, y.dtype)
    output = as_partial(denoiser)(y, s, cond, attention=attention, **options)
    if not maps:
        raise ValueError("the network has no attention layers of this kind")
    return output, maps, places


def word_maps(maps: Maps, places: dict[str, Place]) -> Array:
    """Return the mean over heads and layers, (batch, *grid, tokens), of layers of one grid.

    Raises ValueError for layers of several grids.
    """
    grids = {place.grid for place in places.values()}
    if len(grids) != 1:
        raise ValueError(f"layers have the grids {sorted(grids)}: choose those of one by where=")
    whole = jnp.stack([maps[path].mean(axis=1) for path in maps]).mean(axis=0)
    return whole.reshape(whole.shape[0], *grids.pop(), whole.shape[-1])


class _Painted(NamedTuple):
    def __call__(
        self, numbers: tuple[Any, ...], q: Array, k: Array, v: Array, place: Place
    ) -> Array:
        masks, weight = numbers
        if k.shape[1] != masks.shape[-1] or len(place.grid) != masks.ndim - 1:
            raise ValueError(
                f"masks of {masks.shape[-1]} tokens over {masks.ndim - 1} axes for the layer "
                f"{place.path} of {k.shape[1]} tokens and grid {place.grid}"
            )
        size = (*place.grid, k.shape[1])
        small = jax.image.resize(masks.astype(q.dtype), size, "linear", antialias=False)
        logits = jnp.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(q.shape[-1])
        most = logits.max(axis=(2, 3), keepdims=True)
        added = jnp.asarray(weight, q.dtype) * most * small.reshape(1, 1, -1, k.shape[1])
        logits = logits + added
        if place.mask is not None:
            logits = jnp.where(place.mask, logits, logits - 1e4)
        weights = jax.nn.softmax(logits, axis=-1)
        return jnp.einsum("bhqk,bkhc->bqhc", weights.astype(v.dtype), v)


def paint_with_words(masks: ArrayLike, weight: float | Array, where: Where = CROSS) -> Partial:
    """Return the cross-attention that draws tokens to places (arXiv 2211.01324, section 5).

    Args:
        masks: (*places, tokens), 1 where a token is to be; brought to each layer's grid.
        weight: w, not negative. The paper's falls with the level, 0.4 log(1 + s): bind one to each
            part of the levels by :func:`jaxdiff.blending.within`.
        where: which layers.

    Raises ValueError for masks outside [0, 1] or a negative weight; when called, for other tokens.
    """
    check_where(where)
    check("masks have values from 0 to 1", lambda m: ((m >= 0) & (m <= 1)).all(), masks)
    check("the weight must not be negative", lambda w: w >= 0, weight)
    return Partial(Elsewhere(where, _Painted()), (jnp.asarray(masks), weight))


def attend_and_excite(
    denoiser: Denoiser, cond: Cond, words: Sequence[int], scale: Weight = 20.0,
    where: Where = CROSS, stop: float = 0.0,
) -> Partial:  # fmt: skip
    """Return the correction that makes each of some tokens be attended to somewhere (arXiv
    2301.13826, algorithm 1).

    Deviations: maps are blurred by a Gaussian of half a token, and not made sharper; states are not
    refined iteratively.

    Args:
        denoiser: ``D(y, level, cond)`` of a network with cross-attention. cond: its condition.
        words: numbers of the tokens, at least one.
        scale: a, of the step along the gradient; a number, (batch,), or a function of the level.
        where: layers of one grid; the paper has 16 x 16.
        stop: at levels up to this one nothing is corrected.

    Raises ValueError for no words, or negative ones.
    """
    check_where(where)
    if not words or min(words) < 0:
        raise ValueError(f"words are numbers of tokens, at least one, not {list(words)}")
    static = _Excite(where, tuple(words))
    return Partial(static, as_partial(denoiser), cond, as_weight(scale), stop)


class _Excite(NamedTuple):
    where: Where
    words: tuple[int, ...]

    def loss(self, y: Array, denoiser: Partial, level: Array, cond: Cond) -> Array:
        _, maps, places = attention_maps(denoiser, y, level, cond, self.where)
        whole = word_maps(maps, places)
        if max(self.words) >= whole.shape[-1]:
            raise ValueError(f"words {self.words} are not among {whole.shape[-1]} tokens")
        whole = whole[..., jnp.array(self.words)]
        axes = range(1, whole.ndim - 1)
        most = gaussian_blur(whole, axes, 0.5).max(axis=tuple(axes))
        return jnp.sum((1 - most).max(axis=-1))

    def __call__(
        self, denoiser: Partial, cond: Cond, scale: Any, stop: Array, y: Array, level: Array,
        key: Key | None,
    ) -> Array:  # fmt: skip
        use = jnp.asarray(level, y.dtype) > jnp.maximum(jnp.asarray(stop, y.dtype), 0)
        safe = jnp.where(use, jnp.asarray(level, y.dtype), 1)  # no network is shown level 0
        slope = jax.grad(self.loss)(y, denoiser, safe, cond)
        return y - jnp.where(expand(use, y) > 0, weight_at(scale, level, y) * slope, 0)


def self_attention_guidance(
    denoiser: Denoiser, weight: Weight = 0.75, where: Where = SELF, sigma: float = 2.0,
    threshold: float = 1.0, null: bool = False,
) -> Partial:  # fmt: skip
    """Return guidance away from the sample with its most attended places blurred (SAG, arXiv
    2210.00939, eq. 15).

    Pictures (batch, height, width, channels). Two evaluations.

    Args:
        denoiser: ``D(y, level, cond)`` of a network with self-attention.
        weight: s, 0 for none; a number, (batch,), or a function of the level.
        where: layers of one grid; the paper has the middle of a U-Net.
        sigma: of the blur, in pixels. threshold: of the attention that a place gets, 1 being the
            mean. The paper has 1.
        null: whether the blurred sample is denoised without the condition, as where the guided
            model is the unconditional one.

    Raises ValueError for a sigma or threshold that is not positive.
    """
    check_where(where)
    check("sigma and threshold must be positive", lambda a, b: a > 0 and b > 0, sigma, threshold)
    return Partial(_Sag(where, null), as_partial(denoiser), as_weight(weight), sigma, threshold)


class _Sag(NamedTuple):
    where: Where
    null: bool

    def __call__(
        self, denoiser: Partial, weight: Any, sigma: Array, threshold: Array, y: Array,
        level: Array, cond: Cond = None, **options: Any,
    ) -> Array:  # fmt: skip
        if y.ndim != 4:
            raise ValueError(f"pictures are (batch, height, width, channels), not {y.shape}")
        output, maps, places = attention_maps(denoiser, y, level, cond, self.where, **options)
        grid = next(iter(places.values())).grid
        got = word_maps(maps, places).sum(axis=(1, 2))  # what each key gets of all queries
        mask = (got > jnp.asarray(threshold, got.dtype)).astype(y.dtype)
        mask = jax.image.resize(mask.reshape(-1, *grid, 1), (*y.shape[:3], 1), "nearest")
        blurred = mask * gaussian_blur(output, (1, 2), sigma) + (1 - mask) * output
        worse = denoiser(blurred + (y - output), level, None if self.null else cond, **options)
        return output + weight_at(weight, level, y) * (output - worse)
