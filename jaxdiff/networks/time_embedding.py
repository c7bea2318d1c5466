"""Embeddings of time, classes and other conditions in published U-Nets: waves, perceptrons.

    waves(t) = [sin(w_k t), cos(w_k t)],    w_k = 10000^(-k / (n/2 - shift)),    k = 0 .. n/2 - 1,

or cosines first with ``flip`` (1706.03762; ``shift`` is 0 or 1 by publisher). Fourier features have
w_k drawn once and kept in the file, of log t (2011.13456) or of t. All in float32 at least.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import softmax_attention
from jaxdiff.networks.embedding import wide
from jaxdiff.networks.residual import ACTIVATIONS
from jaxdiff.networks.spatial import LayerNorm
from jaxdiff.typing import Array


def waves(label: Array, width: int, *, flip: bool = True, shift: float = 0) -> Array:
    """Embed labels (batch,) as (batch, width); an odd width ends in a zero."""
    label = label.astype(wide(label.dtype))
    k = jnp.arange(width // 2, dtype=label.dtype)
    frequencies = jnp.exp(-math.log(10000.0) * k / (width // 2 - shift))
    return _joined(label[:, None] * frequencies[None], width, flip)


def _joined(angle: Array, width: int, flip: bool) -> Array:
    pair = [jnp.cos(angle), jnp.sin(angle)] if flip else [jnp.sin(angle), jnp.cos(angle)]
    return jnp.pad(jnp.concatenate(pair, axis=-1), ((0, 0), (0, width % 2)))


class FourierFeatures(nn.Module):
    """Waves of frequencies that are kept with the parameters and not trained.

    count: of frequencies. spread: their standard deviation at the start. log: of log t.
    """

    count: int
    spread: float = 1.0
    log: bool = False
    flip: bool = False
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, label: Array) -> Array:
        """Embed labels (batch,) as (batch, 2 count)."""
        start = nn.initializers.normal(self.spread)
        w = self.param("frequencies", start, (self.count,), self.param_dtype)
        label = label.astype(wide(label.dtype))
        label = jnp.log(label) if self.log else label
        angle = 2 * math.pi * label[:, None] * w.astype(label.dtype)[None]
        return _joined(angle, 2 * self.count, self.flip)


class Perceptron(nn.Module):
    """Two layers, W2 act(W1 (x + V y)), the term of y where it is given; both in float32 at least.

    width: of the result. activation, last: of the hidden and of the last layer, ``ACTIVATIONS``.
    guided: width of y, 0 for none.
    """

    width: int
    activation: str = "silu"
    last: str = ""
    guided: int = 0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None) -> Array:
        """Map x (batch, any) to (batch, width)."""
        kinds = {"dtype": wide(x.dtype), "param_dtype": self.param_dtype}
        if self.guided:
            guidance = jnp.zeros((x.shape[0], self.guided), x.dtype) if y is None else y
            layer = nn.Dense(x.shape[-1], use_bias=False, name="guidance", **kinds)
            x = x + layer(guidance.astype(x.dtype))
        h = ACTIVATIONS[self.activation](nn.Dense(self.width, name="linear_in", **kinds)(x))
        h = nn.Dense(self.width, name="linear_out", **kinds)(h)
        return ACTIVATIONS[self.last](h) if self.last else h


class TextPool(nn.Module):
    """One vector of a text: attention of the mean token on all, between layer norms (2205.11487).

    width: of the result. heads: of the attention.
    """

    width: int
    heads: int = 64
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Map tokens (batch, tokens, any) to (batch, width)."""
        c = tokens.shape[-1]
        if c % self.heads:
            raise ValueError(f"{self.heads} heads do not divide tokens of width {c}")
        kinds = {"dtype": wide(tokens.dtype), "param_dtype": self.param_dtype}
        h = LayerNorm(self.param_dtype, name="norm_in")(tokens)
        place = self.param("position", nn.initializers.normal(c**-0.5), (1, c), self.param_dtype)
        mean = h.mean(axis=1, keepdims=True) + place.astype(h.dtype)[None]
        h = jnp.concatenate([mean, h], axis=1)
        q, k, v = (
            nn.Dense(c, name=n, **kinds)(x).reshape(*x.shape[:2], self.heads, c // self.heads)
            for n, x in (("q", mean), ("k", h), ("v", h))
        )
        pooled = softmax_attention(q, k, v).reshape(-1, c)
        return LayerNorm(self.param_dtype, name="norm_out")(
            nn.Dense(self.width, name="proj", **kinds)(pooled)
        )


def guidance_waves(guidance: Array, width: int) -> Array:
    """Embed guidance scales w (batch,) as latent consistency models do: waves of 1000 (w - 1)."""
    w = guidance.astype(wide(guidance.dtype))
    return waves(1000 * (w - 1), width, flip=False, shift=1)
