r"""Perceiver resampler (2204.14198, section 3.1.1): a few tokens of many features.

    l <- l + attention(norm(l), [norm(x), norm(l)]),    l <- l + W2 gelu(W1 norm(l)),

with x the features, mapped to a width, and l learned vectors, mapped to tokens and normed at the
end. Queries are of l, keys and values of both side by side. The form called plus of IP-Adapter
(2308.06721) has it.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import softmax_attention
from jaxdiff.networks.spatial import LayerNorm
from jaxdiff.typing import Array


class Resampler(nn.Module):
    """``count`` tokens of width ``token_width``, of features (batch, places, any).

    depth: number of blocks. width: of l. heads, head_width: of the attention. growth: units of a
    block's perceptron, in units of ``width``.
    """

    count: int
    token_width: int
    depth: int
    width: int
    heads: int
    head_width: int = 64
    growth: int = 4
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return the tokens, (batch, count, token_width)."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        start = nn.initializers.normal(self.width**-0.5)
        latents = self.param("latents", start, (self.count, self.width), self.param_dtype)
        x = nn.Dense(self.width, name="proj_in", **kinds)(x)
        h = jnp.broadcast_to(latents.astype(x.dtype)[None], (x.shape[0], *latents.shape))
        for i in range(self.depth):
            h = self._block(h, x, f"block_{i}")
        h = nn.Dense(self.token_width, name="proj_out", **kinds)(h)
        return LayerNorm(self.param_dtype, name="norm_out")(h)

    def _block(self, h: Array, x: Array, name: str) -> Array:
        norm = lambda of: LayerNorm(self.param_dtype, name=f"{name}_norm_{of}")  # noqa: E731

        def dense(width: int, of: str) -> nn.Module:
            kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            return nn.Dense(width, use_bias=False, name=f"{name}_{of}", **kinds)

        inner = self.heads * self.head_width
        own = norm("latents")(h)
        both = jnp.concatenate([norm("image")(x), own], axis=1)
        q = dense(inner, "q")(own)
        k, v = jnp.split(dense(2 * inner, "kv")(both), 2, axis=-1)
        split = lambda a: a.reshape(*a.shape[:2], self.heads, self.head_width)  # noqa: E731
        made = softmax_attention(split(q), split(k), split(v)).reshape(*q.shape)
        h = h + dense(self.width, "out")(made)
        g = dense(self.growth * self.width, "mlp_in")(norm("mlp")(h))
        return h + dense(self.width, "mlp_out")(nn.gelu(g, approximate=False))
