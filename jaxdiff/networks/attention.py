"""Attention as two einsums and a softmax, and how to put something else in its place.

Every network with attention layers takes ``attention(q, k, v, place) -> out``, at construction
(``attention_fn``) or at a call, and calls it in each of them:

    network(params, x, label, cond, attention=f)        # a network of from_linen
    D(y, level, cond, attention=f)                      # a denoiser, also a guided one
    conditioned(D, attention=f)                         # for samplers, which call D themselves

An attention that keeps what it sees returns it out of the function that is traced:

    def output_and_maps(params, x, label):
        maps = {}

        def keep(q, k, v, place):
            maps[place.path] = attention_weights(q, k)
            return softmax_attention(q, k, v, place)

        return network(params, x, label, attention=keep), maps

This may be jitted, differentiated (``has_aux``) and mapped over. The dictionary must be made within
the function; within a sampler, whose steps are one loop, nothing can be kept in this way, and
neither in a DiT with ``remat``, of which ``module.clone(remat=False)`` has the same parameters.

A layer that does not let every query see every key has a mask, which is part of its place: what
takes the place of :func:`softmax_attention` has to apply it.

Fused kernels have no forward-mode derivative, which consistency and flow-map training need.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff.networks.embedding import wide
from jaxdiff.typing import Array


class Place(NamedTuple):
    """The place of an attention layer in its network.

    path: of the module that holds the layer's parameters, as flax names it, "Attention_0" or
    "Block_3"; no two layers of a network share it. kind: "self", or "cross" where k and v are made
    of a condition. grid: of the queries, (height, width), the tokens being numbered row by row.
    stage: the part of the network, "down_0" (the finest level), "middle", "up_0" or "block_3".
    mask: which keys a query sees, boolean (batch or 1, heads or 1, tokens of q or 1, tokens of k),
    None for all of them: of a condition with padding, or of a causal layer. text: how many of the
    tokens are those of a text and not of the grid, in layers where both attend to each other;
    negative if they come last.
    """

    path: str
    kind: Literal["self", "cross"]
    grid: tuple[int, ...]
    stage: str
    mask: Array | None = None
    text: int = 0


AttentionFn: TypeAlias = Callable[[Array, Array, Array, Place], Array]
"""``attention(q, k, v, place)``: q (batch, tokens, heads, c), k and v (batch, others, heads, c);
returns (batch, tokens, heads, c) in the dtype of v.
"""


def attention_weights(q: Array, k: Array, mask: Array | None = None) -> Array:
    """Return softmax(q k^T / sqrt(c)) for each head, (batch, heads, tokens of q, tokens of k), in
    float32 at least; q and k are (batch, tokens, heads, c), the mask is that of :class:`Place`.

    Logits that are masked are lowered by 10^4, whose exponential is 0; a query that sees no key at
    all thus weighs them as without a mask, as published networks have it, and not by NaN.

    Args:
        q: queries, (batch, tokens, heads, c).
        k: keys, (batch, tokens, heads, c).
        mask: True where a key may be seen, as of :class:`Place`; None for everywhere.

    Returns:
        (batch, heads, tokens of q, tokens of k), summing to 1 over the last axis.
    """
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=wide(q.dtype))
    logits = logits / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = jnp.where(mask, logits, logits - 1e4)
    return jax.nn.softmax(logits, axis=-1)


def softmax_attention(q: Array, k: Array, v: Array, place: Place | None = None) -> Array:
    """Return softmax(q k^T / sqrt(c)) v for each head, over what the place's mask lets it see; all
    are (batch, tokens, heads, c).

    Args:
        q: queries, (batch, tokens, heads, c).
        k: keys, (batch, tokens, heads, c).
        v: values, (batch, tokens, heads, c).
        place: of the layer, whose mask is applied; None for no mask.

    Returns:
        Outputs, of the shape of ``q``.

    Source: Vaswani et al., Attention Is All You Need, arXiv 1706.03762, equation 1.
    """
    weights = attention_weights(q, k, None if place is None else place.mask)
    return jnp.einsum("bhqk,bkhc->bqhc", weights.astype(v.dtype), v)


def chosen_attention(given: AttentionFn | None, own: AttentionFn, layers: int) -> AttentionFn:
    """Return the attention given at a call, or the module's own if that is None.

    layers: whether there are any. Raises TypeError for what is no function, ValueError for an
    attention that would not be called.
    """
    attention = own if given is None else given
    if not callable(attention):
        raise TypeError(f"attention must be a function (q, k, v, place); got {attention!r}")
    if not layers and attention is not softmax_attention:
        raise ValueError("attention is given to a network without attention layers")
    return attention


def attend(attention: AttentionFn, q: Array, k: Array, v: Array, place: Place) -> Array:
    """Call an attention. Raises ValueError, naming the layer, for another shape or dtype than that
    of the default.
    """
    out: Any = attention(q, k, v, place)
    expected = (*q.shape[:-1], v.shape[-1]), v.dtype
    if (getattr(out, "shape", None), getattr(out, "dtype", None)) != expected:
        what = f"{out.dtype}{list(out.shape)}" if hasattr(out, "dtype") else type(out).__name__
        raise ValueError(
            f"attention at {place.path} must return {expected[1]}{list(expected[0])}, (batch, "
            f"tokens, heads, channels) as q is, in the dtype of v; it returned {what}"
        )
    return out
