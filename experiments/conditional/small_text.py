"""A text-to-image network of vectors, for experiments that train many of them in a minute.

    h <- h + W2 silu(W1 norm(h) + e),       h <- h + attention(norm(h), tokens),

x as one vector, e of the label, and one query in each block's attention to the tokens of the text,
which are rows of a table and of places.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.embedding import sinusoidal
from jaxdiff.typing import Array, Cond


class Words(nn.Module):
    """Rows of tokens and of their places. vocabulary: number of tokens. width: of a row."""

    vocabulary: int
    length: int
    width: int

    def setup(self) -> None:
        """Make the tables."""
        self.tokens = nn.Embed(self.vocabulary, self.width)
        start = nn.initializers.normal(0.1)
        self.positions = self.param("positions", start, (self.length, self.width))

    def __call__(self, ids: Array) -> Array:
        """Map (batch, length) to (batch, length, width)."""
        return self.tokens(ids) + self.positions[: ids.shape[1]][None]


class Cross(nn.Module):
    """Attention of one query to tokens, in four heads."""

    @nn.compact
    def __call__(self, h: Array, tokens: Array) -> Array:
        """Map h (batch, width) and tokens (batch, length, any) to (batch, width)."""
        width, heads = h.shape[-1], 4
        dense = lambda name: nn.Dense(width, use_bias=False, name=name)  # noqa: E731
        q = dense("q")(h).reshape(h.shape[0], heads, -1)
        k, v = (dense(n)(tokens).reshape(*tokens.shape[:2], heads, -1) for n in "kv")
        weights = jax.nn.softmax(jnp.einsum("bhd,blhd->bhl", q, k) / q.shape[-1] ** 0.5)
        mixed = jnp.einsum("bhl,blhd->bhd", weights, v).reshape(h.shape)
        return dense("out")(mixed)


class SmallTextToImage(nn.Module):
    """The network of the module's text.

    encoder: of texts. empty: token ids of the text "". width, depth: of the blocks.
    """

    encoder: Words
    empty: tuple[int, ...]
    width: int = 128
    depth: int = 3

    @nn.compact
    def __call__(self, x: Array, label: Array, cond: Cond = None) -> Array:
        """Map ``x`` (batch, ...) to its shape; cond is None, {"text": (batch, length)}, or the
        encoder's output {"tokens": (batch, length, width)}.
        """
        ids, tokens = ((cond or {}).get(key) for key in ("text", "tokens"))
        if ids is None:
            ids = jnp.broadcast_to(jnp.asarray(self.empty, jnp.int32), (len(x), len(self.empty)))
        tokens = self.encoder(ids) if tokens is None else tokens
        e = nn.Dense(self.width)(sinusoidal(label, 64))
        h = nn.Dense(self.width)(x.reshape(len(x), -1))
        for i in range(self.depth):
            inner = nn.silu(nn.Dense(2 * self.width)(nn.LayerNorm()(h)) + nn.Dense(2 * self.width)(
                nn.silu(e)))  # fmt: skip
            h = h + nn.Dense(self.width)(inner)
            h = h + Cross(name=f"block_{i}_cross")(nn.LayerNorm()(h), tokens)
        out = nn.Dense(x[0].size, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(h))
        return out.reshape(x.shape)

    def null(self) -> dict[str, Any]:
        """Return what stands for no condition, one sample's."""
        return {"text": jnp.asarray(self.empty, jnp.int32)}
