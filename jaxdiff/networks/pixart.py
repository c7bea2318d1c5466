"""PixArt-alpha and PixArt-Sigma: a DiT that reads a text (2310.00426, 2403.04692).

The timestep's embedding e gives one table M(e) of six vectors, to which every block adds its own
table T: a1, b1, g1, a2, b2, g2 = T + M(e) ("adaLN-single", section 2.3 of 2310.00426). The block is

    h <- h + g1 attention(norm(h) (1 + b1) + a1),
    h <- h + attention(h, words),
    h <- h + g2 W2 gelu(W1 (norm(h) (1 + b2) + a2)).

Models for 1024 pixels are conditioned on the size of the image, too, which is added to e.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, chosen_attention, softmax_attention
from jaxdiff.networks.patches import from_patches, positions
from jaxdiff.networks.transformer_blocks import (
    Activation,
    Attention,
    Norm,
    PatchEmbedding,
    Perceptron,
    embedded,
    gelu_tanh,
    modulated,
)
from jaxdiff.networks.transformer_inputs import check_images, conditions
from jaxdiff.typing import Array, Cond, Outputs


class PixArt(nn.Module):
    """PixArt of latents (batch, height, width, channels); the label is the timestep, 0 to 999.

    size: of the latents it was trained on, at whose positions those of other sizes are stretched,
    in units of ``interpolation``. token_width: of a text's tokens; projected: whether they pass
    through a perceptron. sizes: whether it is conditioned on the size of the image. epsilon: of the
    blocks' norms. bias: of queries, keys and values. learned_variance, remat, dtype, param_dtype,
    attention_fn: see
    :class:`jaxdiff.networks.dit.DiT`.
    """

    channels: int = 4
    size: int = 64
    interpolation: float = 1.0
    patch: int = 2
    heads: int = 16
    head_channels: int = 72
    depth: int = 28
    token_width: int = 4096
    projected: bool = True
    sizes: bool = False
    epsilon: float = 1e-6
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

        label: (batch,). cond: {"tokens": (batch, any, token_width), "mask": (batch, any)}, the mask
        0 for padding, or left out; and with ``sizes`` "resolution" (batch, 2), height and width in
        pixels, and "aspect_ratio" (batch, 1), height / width. With ``full``, Outputs whose features
        are the maps of tokens after each block; with ``variance``, a pair: that, and v of the shape
        of x. Raises ValueError for other shapes, and for a variance that is not learned.
        """
        rows, columns = check_images(x, label, self.patch, self.channels)
        if variance and not self.learned_variance:
            raise ValueError("variance=True, but this network has no learned variance")
        given = self._conditions(cond, x.shape[0])
        chosen = chosen_attention(attention, self.attention_fn, self.depth)
        width, dtype = self.heads * self.head_channels, jnp.dtype(self.dtype or x.dtype)
        kinds = {"dtype": dtype, "param_dtype": self.param_dtype}
        base = self.size / (self.patch * self.interpolation)
        where = positions(
            rows, columns, width, spacing=(base / rows, base / columns), column_first=True
        )
        h = PatchEmbedding(self.patch, width, **kinds, name="patches")(x, where)
        embed = SizeAndTimestep(width, self.sizes, self.param_dtype, name="embedding")
        e = embed(label, given).astype(dtype)
        table = nn.Dense(6 * width, **kinds, name="modulation")(nn.silu(e)).reshape(-1, 6, width)
        words = given["tokens"].astype(dtype)
        if self.projected:
            words = Perceptron(width, width, gelu_tanh, **kinds, name="text")(words)
        block, maps = nn.remat(Block) if self.remat else Block, []
        for i in range(self.depth):
            h = block(
                self.heads, self.head_channels, self.epsilon, self.bias, self.activation, **kinds,
                attention=chosen, grid=(rows, columns), stage=f"block_{i}", name=f"block_{i}",
            )(h, table, words, given.get("mask"))  # fmt: skip
            maps.append(h.reshape(-1, rows, columns, width))
        start = nn.initializers.normal(width**-0.5)
        last = self.param("out_table", start, (2, width), self.param_dtype)
        shift, scale = jnp.split(last.astype(dtype)[None] + e[:, None], 2, axis=1)
        h = Norm(name="out_norm")(h) * (1 + scale) + shift
        numbers = self.patch**2 * self.channels * (2 if self.learned_variance else 1)
        out = nn.Dense(numbers, **kinds, name="out")(h)
        out = from_patches(out, rows, columns, self.patch).astype(x.dtype)
        out, v = out[..., : self.channels], out[..., self.channels :]
        value = Outputs(out, None, tuple(maps)) if full else out
        return (value, v) if variance else value

    def _conditions(self, cond: Cond, batch: int) -> dict[str, Array]:
        needed: dict[str, tuple[int | None, ...]] = {"tokens": (None, self.token_width)}
        if self.sizes:
            needed |= {"resolution": (2,), "aspect_ratio": (1,)}
        given = conditions(cond, batch, needed, {"mask": (None,)})
        if "mask" in given and given["mask"].shape != given["tokens"].shape[:2]:
            raise ValueError(
                f"mask has shape {given['mask'].shape}, but there are tokens "
                f"{given['tokens'].shape}"
            )
        if "mask" in given:
            given["mask"] = (given["mask"] != 0)[:, None, None, :]
        return given


class SizeAndTimestep(nn.Module):
    """The embedding of the timestep, and of the size of the image: height and width, each a third
    of it, and the ratio of both, the last third.
    """

    width: int
    sizes: bool
    param_dtype: Any

    @nn.compact
    def __call__(self, label: Array, given: dict[str, Array]) -> Array:
        """Return (batch, width) in float32 at least."""
        e = embedded(label, self.width, self.param_dtype, "timestep")
        if not self.sizes:
            return e
        third, parts = self.width // 3, []
        for name in ("resolution", "aspect_ratio"):
            numbers = given[name].reshape(-1).astype(e.dtype)
            parts.append(embedded(numbers, third, self.param_dtype, name))
        return e + jnp.concatenate([p.reshape(e.shape[0], -1) for p in parts], axis=1)


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
    def __call__(self, h: Array, table: Array, words: Array, mask: Array | None) -> Array:
        """Update ``h`` (batch, tokens, width), given the table M(e) (batch, 6, width)."""
        kinds, width = (self.dtype, self.param_dtype), h.shape[-1]
        start = nn.initializers.normal(width**-0.5)
        own = self.param("table", start, (6, width), self.param_dtype).astype(self.dtype)
        a1, b1, g1, a2, b2, g2 = jnp.split(own[None] + table, 6, axis=1)
        mix, read = (
            Attention(
                self.heads, self.head_channels, *kinds, self.attention, self.bias, grid=self.grid,
                stage=self.stage, name=name,
            )
            for name in ("attention", "cross_attention")
        )  # fmt: skip
        h = h + g1 * mix(modulated(h, a1, b1, self.epsilon))
        h = h + read(h, words, mask)
        feed = Perceptron(width, 4 * width, self.activation, *kinds, name="feed_forward")
        return h + g2 * feed(modulated(h, a2, b2, self.epsilon))
