r"""Local blend of Prompt-to-Prompt (Hertz et al. 2022, arXiv 2208.01626, section 3.2).

An edit of some words is kept to where these are attended to: with the maps M of the words, averaged
over heads and layers and made 1 at their largest,

    m = max over source and edit of [ max over neighbours of M > threshold ],
    edit <- source + m (edit - source)

in every accepted state of a group of two (:mod:`.groups`), m brought to the state's places.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arrays import check
from jaxdiff.conditioning.attention.groups import grouped
from jaxdiff.conditioning.attention.maps import attention_maps, word_maps
from jaxdiff.conditioning.attention.places import CROSS, Where, check_where
from jaxdiff.typing import Array, Cond, Denoiser, Key


def local_blend(
    denoiser: Denoiser,
    cond: Cond,
    source: Sequence[int],
    edit: Sequence[int],
    *,
    threshold: float = 0.3,
    where: Where = CROSS,
    low: float = 0.03,
) -> Partial:
    """Return the correction that leaves a group's source where its words are not (arXiv
    2208.01626, section 3.2).

    Deviations: maps are those of the corrected state's own level and not averaged over all levels
    before, for which a correction has no memory; they cost an evaluation a step.

    Args:
        denoiser: ``D(y, level, cond)`` of a network with cross-attention, of single samples.
        cond: of groups, (batch, 2, ...), the source's first.
        source: numbers of the words in the source's prompt, at least one; edit: in the edit's.
        threshold: of the maps, their largest number being 1.
        where: layers of one grid; the paper has 16 x 16.
        low: positive; at lower levels, 0 among them, the network is shown this one.

    Returns:
        ``correct(y, level, key)`` for states (batch, 2, *places, channels).

    Raises:
        ValueError: for no words or negative ones, a threshold outside (0, 1), or a level that is
            not positive; when called, for states of other groups, or other words.
    """
    check_where(where)
    for name, words in (("source", source), ("edit", edit)):
        if not words or min(words) < 0:
            raise ValueError(f"{name} has numbers of tokens, at least one, not {list(words)}")
    check("the threshold is between 0 and 1", lambda t: 0 < t < 1, threshold)
    check("low must be positive", lambda s: s > 0, low)
    static = _Blend(where, (tuple(source), tuple(edit)))
    return Partial(static, grouped(denoiser), cond, threshold, low)


class _Blend(NamedTuple):
    where: Where
    words: tuple[tuple[int, ...], tuple[int, ...]]

    def __call__(
        self, denoiser: Partial, cond: Cond, threshold: Array, low: Array, y: Array, level: Array,
        key: Key | None,
    ) -> Array:  # fmt: skip
        if y.ndim < 4 or y.shape[1] != 2:
            raise ValueError(
                f"local_blend is for groups of two, (batch, 2, *places, channels), not {y.shape}"
            )
        s = jnp.maximum(jnp.asarray(level, y.dtype), jnp.asarray(low, y.dtype))
        _, maps, places = attention_maps(denoiser, y, s, cond, self.where)
        whole = word_maps(maps, places)
        whole = whole.reshape(-1, 2, *whole.shape[1:])
        masks = [
            _mask(whole[:, i], words, threshold, y.shape[2:-1])
            for i, words in enumerate(self.words)
        ]
        kept = jnp.logical_or(*masks)[..., None]
        return jnp.stack([y[:, 0], jnp.where(kept, y[:, 1], y[:, 0])], axis=1)


def _mask(maps: Array, words: tuple[int, ...], threshold: Array, size: tuple[int, ...]) -> Array:
    """Return where words are attended to, (batch, *size), of maps (batch, *grid, tokens)."""
    if max(words) >= maps.shape[-1]:
        raise ValueError(f"words {words} are not among {maps.shape[-1]} tokens")
    mean = maps[..., jnp.array(words)].mean(axis=-1)
    window = (1, *[3] * (mean.ndim - 1))
    ones = (1,) * mean.ndim
    wide = lax.reduce_window(mean, -jnp.inf, lax.max, window, ones, "SAME")
    shown = jax.image.resize(wide, (mean.shape[0], *size), "linear", antialias=False)
    most = shown.max(axis=range(1, shown.ndim), keepdims=True)
    return shown > jnp.asarray(threshold, maps.dtype) * most
