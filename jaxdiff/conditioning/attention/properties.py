r"""Self-guidance: properties of what words are attended to, and an energy of them (Epstein et al.
2023, arXiv 2306.00986).

With the map A of a word over places p of the unit square, (h, w) in [0, 1]^2,

    centroid    sum_p p A(p) / sum_p A(p)
    shape       T = n(sigmoid(c (n(A) - 1/2))),  n(x) = (x - min x)/(max x - min x),  c = 10
    size        mean_p T(p)
    appearance  sum_p T(p) F(p) / sum_p T(p),  of features F

and an energy g of any of these, the denoised output is

    D - w s^2 grad_y g(y).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import einsum, expand
from jaxdiff.conditioning.attention.maps import attention_maps, word_maps
from jaxdiff.conditioning.attention.places import CROSS, Where, check_where
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser, PerSample

SHARPNESS = 10.0  # c


def centroid(maps: Array, word: int) -> Array:
    """Return the centre of a word's map (arXiv 2306.00986, section 3).

    Args:
        maps: (batch, *grid, tokens), of :func:`jaxdiff.attention.word_maps`.
        word: the token's number.

    Returns:
        (batch, axes of the grid), 0 at the first place of an axis and 1 at its last.

    Raises:
        ValueError: for a word that there is not.
    """
    A = _of(maps, word)
    total, axes = A.sum(axis=range(1, A.ndim)), range(1, A.ndim)
    along = []
    for axis in axes:
        places = jnp.linspace(0.0, 1.0, A.shape[axis], dtype=A.dtype)
        margin = A.sum(axis=[a for a in axes if a != axis])
        along.append(einsum("bp,p->b", margin, places) / total)
    return jnp.stack(along, axis=1)


def shape(maps: Array, word: int) -> Array:
    """Return a word's map as a soft mask (arXiv 2306.00986, section 3).

    Args:
        maps: (batch, *grid, tokens), of :func:`jaxdiff.attention.word_maps`.
        word: the token's number.

    Returns:
        (batch, *grid), from 0 to 1.

    Raises:
        ValueError: for a word that there is not.
    """
    return _normal(jax.nn.sigmoid(SHARPNESS * (_normal(_of(maps, word)) - 0.5)))


def size(maps: Array, word: int) -> PerSample:
    """Return the share of the places that a word takes (arXiv 2306.00986, section 3).

    Args:
        maps: (batch, *grid, tokens), of :func:`jaxdiff.attention.word_maps`.
        word: the token's number.

    Returns:
        (batch,), from 0 to 1.

    Raises:
        ValueError: for a word that there is not.
    """
    mask = shape(maps, word)
    return mask.mean(axis=range(1, mask.ndim))


def appearance(maps: Array, word: int, features: Array) -> Array:
    """Return the mean of features where a word is (arXiv 2306.00986, section 3).

    Args:
        maps: (batch, *grid, tokens), of :func:`jaxdiff.attention.word_maps`.
        word: the token's number.
        features: (batch, *grid, channels).

    Returns:
        (batch, channels).

    Raises:
        ValueError: for a word that there is not, or features of another grid.
    """
    mask = shape(maps, word)
    if features.shape[:-1] != mask.shape:
        raise ValueError(f"features are (batch, *grid, channels) of {mask.shape}; this is "
                         f"{features.shape}")  # fmt: skip
    axes = range(1, mask.ndim)
    return (mask[..., None] * features).sum(axis=axes) / mask.sum(axis=axes)[:, None]


def self_guidance(
    denoiser: Denoiser,
    energy: Callable[..., PerSample],
    weight: Weight = 1.0,
    where: Where = CROSS,
) -> Partial:
    """Return guidance by an energy of the network's own attention maps (arXiv 2306.00986, section
    3).

    Args:
        denoiser: ``D(y, level, cond)`` of a network with cross-attention; guided already or not,
            where its attention is still that of all layers.
        energy: ``g(maps)``, (batch,) numbers of maps (batch, *grid, tokens), made of
            :func:`centroid`, :func:`size`, :func:`shape` and targets for them, each row of its own.
        weight: w, the paper's v; a number, (batch,), or a function of the level.
        where: layers of one grid.

    Returns:
        ``D'(y, level, cond)``. Costs an evaluation and its gradient.

    Raises:
        TypeError: for an energy that is no function. ValueError: when called, for an energy that
            is not a number for each sample.
    """
    check_where(where)
    if not callable(energy):
        raise TypeError(f"an energy is a function of maps, not {energy!r:.60}")
    g: Any = energy if isinstance(energy, Partial) else Partial(energy)
    return Partial(_Guided(where), as_partial(denoiser), g, as_weight(weight))


class _Guided(NamedTuple):
    where: Where

    def __call__(
        self, denoiser: Partial, energy: Partial, weight: Any, y: Array, level: Array,
        cond: Cond = None, **options: Any,
    ) -> Array:  # fmt: skip
        def loss(y: Array) -> tuple[Array, Array]:
            output, maps, places = attention_maps(denoiser, y, level, cond, self.where, **options)
            found = energy(word_maps(maps, places))
            if jnp.shape(found) != y.shape[:1]:
                raise ValueError(
                    f"an energy is a number for each sample, ({len(y)},), not {jnp.shape(found)}"
                )
            return jnp.sum(found), output

        slope, output = jax.grad(loss, has_aux=True)(y)
        s = jnp.asarray(level, y.dtype) ** 2
        return output - weight_at(weight, level, y) * expand(s, y) * slope


def _of(maps: Array, word: int) -> Array:
    if not 0 <= word < maps.shape[-1]:
        raise ValueError(f"word {word} is not among {maps.shape[-1]} tokens")
    return maps[..., word]


def _normal(x: Array) -> Array:
    axes = range(1, x.ndim)
    least, most = x.min(axis=axes, keepdims=True), x.max(axis=axes, keepdims=True)
    width = most - least  # 0 for a map that is the same everywhere: 0 then
    return jnp.where(width > 0, (x - least) / jnp.where(width > 0, width, 1), 0)
