r"""Attention on the maps of published U-Nets: of a map with itself, and with the tokens of a text.

Three kinds, each with a residual sum:
- ``SelfAttention``: x <- (x + W attention(norm(x))) / s.
- ``SpatialTransformer`` (2112.10752): norm and a linear map, blocks of self-attention, attention on
  tokens and a perceptron h <- h + W2 (a * gelu(b)), [a, b] = W1 layer_norm(h), and a linear map;
  with boxes, a gated attention on these (:mod:`jaxdiff.networks.grounding`) after the first.
- ``JointAttention`` (2205.11487, as DeepFloyd IF and unCLIP have it): one attention of the map's
  pixels on the text's tokens and on themselves.

Statistics of norms and softmax are in float32 at least.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.attention import Place, attend
from jaxdiff.networks.embedding import wide
from jaxdiff.networks.residual import Parts, group_norm
from jaxdiff.typing import Array


class Context(NamedTuple):
    """The context that a map attends to: tokens (batch, tokens, width) or None, and which of them
    count, keep (batch, tokens) or None for all; boxes: tokens of these, or None.
    """

    tokens: Array | None = None
    keep: Array | None = None
    boxes: Array | None = None


class Spot(NamedTuple):
    """The place of a layer: the part of the network, "down_0", and the map's (height, width)."""

    stage: str = ""
    grid: tuple[int, ...] = ()


class Heads(NamedTuple):
    """count: number of heads; width: channels of each."""

    count: int
    width: int


def heads_of(channels: int, width: int, where: str) -> Heads:
    """Return as many heads of a width as fit into the channels. ValueError if none does."""
    if channels < width:
        raise ValueError(f"a head of {width} channels does not fit into {channels}, at {where}")
    return Heads(channels // width, width)


class LayerNorm(nn.Module):
    """Layer norm with scale and shift, in float32 at least; the dtype is the input's."""

    param_dtype: Any = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Normalise ``h`` (..., channels) over its channels."""
        c, dtype = h.shape[-1], wide(h.dtype)
        scale = self.param("scale", nn.initializers.ones, (c,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (c,), self.param_dtype)
        g, one = h.astype(dtype), (1,) * (h.ndim - 1)
        g = g - g.mean(axis=-1, keepdims=True)
        g = g * jax.lax.rsqrt((g**2).mean(axis=-1, keepdims=True) + self.epsilon)
        g = g * scale.astype(dtype).reshape(*one, c) + bias.astype(dtype).reshape(*one, c)
        return g.astype(h.dtype)


class SelfAttention(nn.Module):
    """Attention of a map with itself.

    heads: of it. scale: s. groups: of its norm, 0 for none. eps: of its norm.
    """

    heads: Heads
    parts: Parts
    scale: float = 1.0
    groups: int = 0

    @nn.compact
    def __call__(self, x: Array, spot: Spot = Spot()) -> Array:  # noqa: B008
        """Update ``x`` (batch, height, width, channels)."""
        b, height, width, c = x.shape
        h = x
        if self.groups:
            h = group_norm(x, self.groups, self.parts.eps, self.parts.param_dtype, "norm")
        h = h.reshape(b, height * width, c)
        inner = self.heads.count * self.heads.width
        q, k, v = (nn.Dense(inner, name=n, **self.parts.kinds)(h) for n in ("q", "k", "v"))
        place = Place("/".join(self.path), "self", (height, width), spot.stage)
        h = _attended(self, q, k, v, None, place)
        h = nn.Dense(c, name="out", **self.parts.kinds)(h)
        return (x + h.reshape(x.shape)) / self.scale


class TokenAttention(nn.Module):
    """Attention of tokens on themselves or on others, without biases in q, k and v.

    text: see :class:`jaxdiff.networks.attention.Place`.
    """

    heads: Heads
    parts: Parts
    text: int = 0

    @nn.compact
    def __call__(self, h: Array, context: Context, spot: Spot) -> Array:
        """Map ``h`` (batch, tokens, width) to its shape."""
        inner = self.heads.count * self.heads.width
        others = h if context.tokens is None else context.tokens

        def dense(name: str, x: Array) -> Array:
            return nn.Dense(inner, use_bias=False, name=name, **self.parts.kinds)(x)

        q, k, v = dense("q", h), dense("k", others), dense("v", others)
        kind = "self" if context.tokens is None else "cross"
        place = Place("/".join(self.path), kind, spot.grid, spot.stage, text=self.text)
        made = _attended(self, q, k, v, context.keep, place)
        return nn.Dense(h.shape[-1], name="out", **self.parts.kinds)(made)


class JointAttention(nn.Module):
    """Attention of a map on tokens and, unless ``only_cross``, on itself.

    groups: of the map's norm. cross_norm: of the tokens, "", "layer_norm" or "group_norm".
    """

    heads: Heads
    parts: Parts
    groups: int
    only_cross: bool = False
    cross_norm: str = ""

    @nn.compact
    def __call__(self, x: Array, context: Context, spot: Spot) -> Array:
        """Update ``x`` (batch, height, width, channels)."""
        b, height, width, c = x.shape
        tokens, keep, _ = context
        if tokens is None:
            raise ValueError(f"the attention at {'/'.join(self.path)} needs tokens in cond")
        if self.cross_norm == "layer_norm":
            tokens = LayerNorm(self.parts.param_dtype, name="norm_cross")(tokens)
        elif self.cross_norm == "group_norm":
            tokens = group_norm(tokens, 32, 1e-5, self.parts.param_dtype, "norm_cross")
        h = group_norm(x, self.groups, 1e-5, self.parts.param_dtype, "norm")
        h = h.reshape(b, height * width, c)
        inner = self.heads.count * self.heads.width

        def dense(name: str, x: Array) -> Array:
            return nn.Dense(inner, name=name, **self.parts.kinds)(x)

        q, k, v = dense("q", h), dense("cross_k", tokens), dense("cross_v", tokens)
        if not self.only_cross:
            k = jnp.concatenate([k, dense("k", h)], axis=1)
            v = jnp.concatenate([v, dense("v", h)], axis=1)
            if keep is not None:
                keep = jnp.pad(keep, ((0, 0), (0, h.shape[1])), constant_values=1)
        text = tokens.shape[1] if not self.only_cross else 0
        place = Place("/".join(self.path), "cross", (height, width), spot.stage, text=text)
        h = nn.Dense(c, name="out", **self.parts.kinds)(_attended(self, q, k, v, keep, place))
        return x + h.reshape(x.shape)


class TransformerBlock(nn.Module):
    """Self-attention, attention on the tokens and a gated perceptron, each after a layer norm.

    only_cross: the first attention too is on the tokens.
    """

    heads: Heads
    parts: Parts
    only_cross: bool = False

    @nn.compact
    def __call__(self, h: Array, context: Context, spot: Spot) -> Array:
        """Update ``h`` (batch, tokens, width)."""
        first = Context(context.tokens) if self.only_cross else Context()
        g = LayerNorm(self.parts.param_dtype, name="norm_self")(h)
        h = h + TokenAttention(self.heads, self.parts, name="self")(g, first, spot)
        if context.boxes is not None:
            h = GatedAttention(self.heads, self.parts, name="boxes")(h, context.boxes, spot)
        g = LayerNorm(self.parts.param_dtype, name="norm_cross")(h)
        text = Context(context.tokens, context.keep)
        h = h + TokenAttention(self.heads, self.parts, name="cross")(g, text, spot)
        g = LayerNorm(self.parts.param_dtype, name="norm_mlp")(h)
        return h + gated_perceptron(g, self.parts)


class GatedAttention(nn.Module):
    """Attention of a map on itself and on the tokens of boxes, and a perceptron, each added by a
    gate that is 0 at the start (:mod:`jaxdiff.networks.grounding`).
    """

    heads: Heads
    parts: Parts

    @nn.compact
    def __call__(self, h: Array, boxes: Array, spot: Spot) -> Array:
        """Update ``h`` (batch, tokens, width); boxes (batch, boxes, any)."""
        count, width = h.shape[1:]
        own = nn.Dense(width, name="linear", **self.parts.kinds)(boxes.astype(h.dtype))
        g = jnp.concatenate([h, own], axis=1)
        g = LayerNorm(self.parts.param_dtype, name="norm_self")(g)
        layer = TokenAttention(self.heads, self.parts, -boxes.shape[1], name="self")
        h = h + self._gate("gate_self", h) * layer(g, Context(), spot)[:, :count]
        g = LayerNorm(self.parts.param_dtype, name="norm_mlp")(h)
        return h + self._gate("gate_mlp", h) * gated_perceptron(g, self.parts)

    def _gate(self, name: str, h: Array) -> Array:
        gate = self.param(name, nn.initializers.zeros, (), self.parts.param_dtype)
        return jnp.tanh(gate.astype(wide(h.dtype))).astype(h.dtype)


def gated_perceptron(g: Array, parts: Parts) -> Array:
    """Return W2 (a * gelu(b)), [a, b] = W1 g, for a module's own ``nn.compact`` call."""
    width = g.shape[-1]
    value, gate = jnp.split(nn.Dense(8 * width, name="mlp_in", **parts.kinds)(g), 2, axis=-1)
    value = value * nn.gelu(gate, approximate=False)
    return nn.Dense(width, name="mlp_out", **parts.kinds)(value)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a map, added to it.

    depth: how many blocks. groups: of the norm before them, whose eps is 1e-6.
    """

    heads: Heads
    depth: int
    parts: Parts
    only_cross: bool = False

    @nn.compact
    def __call__(self, x: Array, context: Context, spot: Spot) -> Array:
        """Update ``x`` (batch, height, width, channels)."""
        b, height, width, c = x.shape
        h = group_norm(x, self.parts.groups, 1e-6, self.parts.param_dtype, "norm_in")
        inner = self.heads.count * self.heads.width
        h = nn.Dense(inner, name="proj_in", **self.parts.kinds)(h.reshape(b, height * width, c))
        made: Any = TransformerBlock
        if self.parts.remat:
            made = nn.remat(TransformerBlock, static_argnums=(3,))
        for i in range(self.depth):
            layer = made(self.heads, self.parts, self.only_cross, name=f"block_{i}")
            h = layer(h, context, Spot(spot.stage, (height, width)))
        h = nn.Dense(c, name="proj_out", **self.parts.kinds)(h)
        return x + h.reshape(x.shape)


def _attended(layer: Any, q: Array, k: Array, v: Array, keep: Array | None, place: Place) -> Array:
    """Split q, k and v (batch, tokens, heads * width) into heads, attend, and join them again."""
    count, width = layer.heads
    q, k, v = (a.reshape(*a.shape[:2], count, width) for a in (q, k, v))
    if keep is not None:
        place = place._replace(mask=keep.astype(bool)[:, None, None])
    made = attend(layer.parts.attention, q, k, v, place)
    return made.reshape(*made.shape[:2], count * width)
