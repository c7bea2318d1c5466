r"""Prompt-to-Prompt (Hertz et al. 2022, arXiv 2208.01626): an edit keeps the source's maps.

With the cross-attention maps M of the source and M* of the edit, a column a token, the edit has

    replace     M R                          R moves each of the source's tokens to the edit's
    refine      M[:, A(j)], M*[:, j] for j that has no A(j)         a longer prompt
    re-weight   c_j M*[:, j]

in the first steps (:func:`jaxdiff.blending.within` of levels), and self-attention maps of coarse
layers are the source's in fewer of them. In groups of two (:mod:`.groups`).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import check, einsum
from jaxdiff.conditioning.attention.groups import members_of
from jaxdiff.conditioning.attention.places import At, Where, check_where
from jaxdiff.networks.attention import Place, attention_weights, softmax_attention
from jaxdiff.typing import Array


class _Edited(NamedTuple):
    cross: Where
    own: Where | None

    def __call__(
        self, numbers: tuple[Any, ...], q: Array, k: Array, v: Array, place: Place
    ) -> Array:
        edit = place.kind == "cross" and self.cross(place)
        keep = place.kind == "self" and self.own is not None and self.own(place)
        if not edit and not keep:
            return softmax_attention(q, k, v, place)
        maps = members_of(attention_weights(q, k, place.mask), 2, "prompt_to_prompt")
        source, target = maps[:, 0], maps[:, 1]
        target = source if keep else _edit(numbers, source, target)
        weights = jnp.stack([source, target], axis=1).reshape(-1, *source.shape[1:])
        return einsum("bhqk,bkhc->bqhc", weights.astype(v.dtype), v)


def _edit(numbers: tuple[Any, ...], source: Array, target: Array) -> Array:
    """Return the edit's maps (batch, heads, queries, tokens)."""
    replace, refine, scales = numbers
    tokens = target.shape[-1]
    for name, given in zip(("replace", "refine", "scales"), numbers, strict=True):
        if given is not None and given.shape[0] != tokens:
            raise ValueError(
                f"{name} is for {given.shape[0]} tokens, and the prompts have {tokens}"
            )
    if replace is not None:
        target = einsum("bhqk,kj->bhqj", source, replace.astype(source.dtype))
    if refine is not None:
        moved = jnp.take(source, jnp.maximum(refine, 0), axis=-1)
        target = jnp.where(refine[None, None, None] >= 0, moved, target)
    if scales is not None:
        target = target * scales.astype(target.dtype)[None, None, None]
    return target


def prompt_to_prompt(
    *,
    replace: ArrayLike | None = None,
    refine: ArrayLike | None = None,
    scales: ArrayLike | None = None,
    cross: Where = At("cross"),  # noqa: B008
    own: Where | None = At("self", largest=256),  # noqa: B008
) -> Partial:
    """Return the attention of Prompt-to-Prompt (arXiv 2208.01626, section 3.2), for groups of two.

    Args:
        replace: (tokens, tokens), R: row i says which of the edit's tokens have the source's i-th;
            the identity for words in the same places.
        refine: (tokens,) integers, A: which of the source's tokens the edit's are, -1 for new ones.
        scales: (tokens,), c: of the edit's maps, after either of the others.
        cross: which cross-attention layers.
        own: which self-attention layers have the source's maps; None for none. The paper has those
            of at most 16 x 16 tokens.

    Raises:
        ValueError: for nothing to do, both of replace and refine, negative numbers, or shapes that
            are not tokens.
    """
    check_where(cross)
    given = [x for x in (replace, refine, scales) if x is not None]
    if not given and own is None:
        raise ValueError("prompt_to_prompt needs replace, refine, scales or own layers")
    if replace is not None and refine is not None:
        raise ValueError("replace is for prompts word by word, refine for longer ones: give one")
    if replace is not None:
        square = np.ndim(replace) == 2 and np.shape(replace)[0] == np.shape(replace)[1]
        if not square:
            raise ValueError(f"replace has a row and a column a token, not {np.shape(replace)}")
    if refine is not None:
        if np.ndim(refine) != 1 or not jnp.issubdtype(jnp.result_type(refine), jnp.integer):
            raise ValueError("refine has an integer a token, -1 for a new one")
        check(
            "refine names tokens, or -1", lambda a: (a >= -1).all() and (a < len(a)).all(), refine
        )
    if scales is not None and np.ndim(scales) != 1:
        raise ValueError(f"scales has a number a token, not shape {np.shape(scales)}")
    numbers = tuple(None if x is None else jnp.asarray(x) for x in (replace, refine, scales))
    return Partial(_Edited(cross, own), numbers)
