"""Guided diffusion's classifier of noisy images: the way down of its U-Net, and a pool.

Attention pool: the mean of the positions stands before them as one more token, learned positions
are added, the first token alone is the query, and its output is mapped to the logits. "mean": the
mean of the positions is. Source: Dhariwal & Nichol 2105.05233, section 4 and appendix H.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import (
    AttentionFn,
    Place,
    attend,
    chosen_attention,
    softmax_attention,
)
from jaxdiff.networks.guided_blocks import (
    GROUPS,
    TimeEmbedding,
    check_images,
    encoded,
    heads_of,
    way,
    widths_of,
)
from jaxdiff.networks.unet import Norm
from jaxdiff.typing import Array, Cond, Outputs


class GuidedClassifier(nn.Module):
    """Logits of noisy images (batch, height, width, channels).

    classes: number of logits. pool: "attention", for images of one size alone, or "mean". The other
    fields are those of :class:`jaxdiff.networks.guided_unet.GuidedUNet`.
    """

    classes: int = 1000
    channels: int = 128
    multipliers: tuple[float, ...] = (1, 2, 3, 4)
    blocks: int = 4
    attention: tuple[int, ...] = (1, 2, 3)
    heads: int = 1
    head_channels: int = 64
    size_by: str = "block"
    scale_shift: bool = True
    pool: str = "attention"
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    attention_fn: AttentionFn = softmax_attention

    @nn.compact
    def __call__(
        self,
        x: Array,
        label: Array,
        cond: Cond = None,
        *,
        deterministic: bool = True,
        full: bool = False,
        attention: AttentionFn | None = None,
    ) -> Array | Outputs:
        """Map ``x`` and times (batch,), in steps of a thousand, to logits (batch, classes), in the
        dtype of ``x``.

        cond: None. With ``full``, Outputs whose features are the maps after each stage, as the
        U-Net's. Raises ValueError as the U-Net does, and for an unknown pool.
        """
        widths = widths_of(self.channels, self.multipliers)
        check_images(x, label, widths, self.attention)
        if self.pool not in ("attention", "mean"):
            raise ValueError(f"pool is 'attention' or 'mean', not {self.pool!r}")
        chosen = chosen_attention(attention, self.attention_fn, 1)
        dtype = jnp.dtype(self.dtype or x.dtype)
        kinds = {"dtype": dtype, "param_dtype": self.param_dtype}
        embed = TimeEmbedding(self.channels, 0, self.param_dtype, name="embedding")
        stages = way(self, embed(label, cond).astype(dtype), chosen, deterministic, kinds)
        maps = encoded(self, stages, x.astype(dtype), kinds)
        h = maps[-1]
        h = nn.silu(Norm(GROUPS, self.param_dtype, name="norm_out")(h))
        if self.pool == "attention":
            heads = heads_of(widths[-1], self.heads, self.head_channels)
            pool = AttentionPool(self.classes, heads, chosen, **kinds, name="attention_pool")
            logits = pool(h)
        else:
            logits = nn.Dense(self.classes, **kinds, name="logits")(jnp.mean(h, axis=(1, 2)))
        logits = logits.astype(x.dtype)
        return Outputs(logits, None, tuple(maps)) if full else logits


class AttentionPool(nn.Module):
    """The attention pool of the module's text."""

    classes: int
    heads: int
    attention_fn: AttentionFn = softmax_attention
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Map ``h`` (batch, height, width, channels) to (batch, classes)."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, c = h.shape[0], h.shape[-1]
        tokens = h.reshape(b, -1, c)
        tokens = jnp.concatenate([jnp.mean(tokens, axis=1, keepdims=True), tokens], axis=1)
        start = nn.initializers.normal(c**-0.5)
        where = self.param("positions", start, tokens.shape[1:], self.param_dtype)
        qkv = nn.Dense(3 * c, **kinds, name="qkv")(tokens + where.astype(tokens.dtype)[None])
        qkv = qkv.reshape(b, -1, 3, self.heads, c // self.heads)
        place = Place("/".join(self.path), "self", (1, 1), "pool")
        out = attend(self.attention_fn, qkv[:, :1, 0], qkv[:, :, 1], qkv[:, :, 2], place)
        return nn.Dense(self.classes, **kinds, name="out")(out.reshape(b, c))
