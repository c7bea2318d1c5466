"""The diffusion transformer (2212.09748) as diffusers has it: each block has its own embedders.

Block i has its own embedding e_i of the timestep (a perceptron of 256 waves, whose frequencies end
at exactly 10^-4) and of the class, and is

    h <- h + g1(e_i) attention(norm(h) (1 + b1(e_i)) + a1(e_i)),
    h <- h + g2(e_i) W2 gelu(W1 (norm(h) (1 + b2(e_i)) + a2(e_i))),

and the last norm's scale and shift are of e_0.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, chosen_attention, softmax_attention
from jaxdiff.networks.embedding import class_index, class_row
from jaxdiff.networks.patches import from_patches, positions
from jaxdiff.networks.transformer_blocks import (
    Activation,
    Attention,
    Modulation,
    Norm,
    PatchEmbedding,
    Perceptron,
    embedded,
    gelu_tanh,
    modulated,
)
from jaxdiff.networks.transformer_inputs import check_images
from jaxdiff.typing import Array, Cond, Outputs


class DiTEmbedders(nn.Module):
    """DiT of latents (batch, height, width, channels); the label is the timestep, 0 to 999.

    size: of the latents it was trained on, to whose positions those of other sizes are stretched.
    epsilon: of the norm before the
    feed-forward part. bias: of queries, keys and values. learned_variance, remat, dtype,
    param_dtype, attention_fn: see :class:`jaxdiff.networks.dit.DiT`.
    """

    channels: int = 4
    size: int = 32
    patch: int = 2
    heads: int = 16
    head_channels: int = 72
    depth: int = 28
    num_classes: int = 1000
    epsilon: float = 1e-5
    bias: bool = True
    activation: Activation = gelu_tanh
    learned_variance: bool = True
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
        full: bool = False,
        variance: bool = False,
        attention: AttentionFn | None = None,
    ) -> Any:
        """Map ``x`` to the noise in it, of its shape and dtype.

        label: (batch,). cond: class indices (batch,), ``num_classes`` for none, or None. With
        ``full``, Outputs whose features are the maps of tokens after each block; with ``variance``,
        a pair: that, and v of the shape of x. Raises ValueError for other shapes, and for a
        variance that is not learned.
        """
        rows, columns = check_images(x, label, self.patch, self.channels)
        if variance and not self.learned_variance:
            raise ValueError("variance=True, but this network has no learned variance")
        chosen = chosen_attention(attention, self.attention_fn, self.depth)
        width, dtype = self.heads * self.head_channels, jnp.dtype(self.dtype or x.dtype)
        kinds = {"dtype": dtype, "param_dtype": self.param_dtype}
        index = class_index(cond, self.num_classes, x.shape[0])
        base = self.size // self.patch
        where = positions(
            rows, columns, width, spacing=(base / rows, base / columns), column_first=True
        )
        h = PatchEmbedding(self.patch, width, **kinds, name="patches")(x, where)
        block, maps, embedded = nn.remat(Block) if self.remat else Block, [], []
        for i in range(self.depth):
            embedding = TimestepAndClass(
                width, self.num_classes, self.param_dtype, name=f"embedding_{i}"
            )
            embedded.append(embedding(label, index).astype(dtype))
            h = block(
                self.heads, self.head_channels, self.epsilon, self.bias, self.activation, **kinds,
                attention=chosen, grid=(rows, columns), stage=f"block_{i}", name=f"block_{i}",
            )(h, embedded[-1])  # fmt: skip
            maps.append(h.reshape(-1, rows, columns, width))
        shift, scale = Modulation(2, width, **kinds, name="out_modulation")(embedded[0])
        h = Norm(name="out_norm")(h) * (1 + scale) + shift
        numbers = self.patch**2 * self.channels * (2 if self.learned_variance else 1)
        out = nn.Dense(numbers, **kinds, name="out")(h)
        out = from_patches(out, rows, columns, self.patch).astype(x.dtype)
        out, v = out[..., : self.channels], out[..., self.channels :]
        value = Outputs(out, None, tuple(maps)) if full else out
        return (value, v) if variance else value


class TimestepAndClass(nn.Module):
    """The sum of embeddings of the timestep and of the class."""

    width: int
    num_classes: int
    param_dtype: Any

    @nn.compact
    def __call__(self, label: Array, index: Array | None) -> Array:
        """Map (batch,) and (batch,) to (batch, width), in float32 at least."""
        e = embedded(label, self.width, self.param_dtype, "timestep", shift=1.0)
        if index is None:
            return e
        kinds = {"dtype": e.dtype, "param_dtype": self.param_dtype, "name": "class"}
        return e + class_row(index, self.num_classes, self.width, **kinds)


class Block(nn.Module):
    """The block of the module's text."""

    heads: int
    head_channels: int
    epsilon: float
    bias: bool
    activation: Activation
    dtype: Any
    param_dtype: Any
    attention: AttentionFn
    grid: tuple[int, ...]
    stage: str

    @nn.compact
    def __call__(self, h: Array, e: Array) -> Array:
        """Update ``h`` (batch, tokens, width), given ``e`` (batch, width)."""
        kinds, width = (self.dtype, self.param_dtype), h.shape[-1]
        a1, b1, g1, a2, b2, g2 = Modulation(6, width, *kinds, name="modulation")(e)
        mix = Attention(
            self.heads, self.head_channels, *kinds, self.attention, self.bias, grid=self.grid,
            stage=self.stage, name="attention",
        )  # fmt: skip
        h = h + g1 * mix(modulated(h, a1, b1))
        feed = Perceptron(width, 4 * width, self.activation, *kinds, name="feed_forward")
        return h + g2 * feed(modulated(h, a2, b2, self.epsilon))
