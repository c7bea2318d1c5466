"""Stable Diffusion 3's multimodal diffusion transformer (2403.03206, section 4; 3.5).

Tokens h of the image and w of the text pass through the same blocks, each kind with its own weights
but for the attention, in which all attend to all. The embedding e of time and of the pooled text
gives shifts a, scales b and gates g:

    (u, r) = attention(norm(h) (1 + b1) + a1, norm(w) (1 + d1) + c1),
    h <- h + g1 u [+ g3 attention(norm(h) (1 + b3) + a3), in the first blocks of 3.5],
    h <- h + g2 W2 gelu(W1 (norm(h) (1 + b2) + a2)),    and the same for w and r.

The last block gives no text. It is trained as a rectified flow: its output is d x/d t.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, chosen_attention, softmax_attention
from jaxdiff.networks.patches import axis_positions, from_patches
from jaxdiff.networks.transformer_blocks import (
    AdaptiveNorm,
    Attention,
    JointAttention,
    Modulation,
    PatchEmbedding,
    Perceptron,
    embedded,
    gelu_tanh,
    modulated,
)
from jaxdiff.networks.transformer_inputs import check_images, conditions
from jaxdiff.typing import Array, Cond, Outputs


class SD3Transformer(nn.Module):
    """Multimodal transformer of latents (batch, height, width, channels); the label is 1000 t.

    largest: rows and columns of the table of positions, which is a parameter without a gradient and
    of which the middle is used. token_width, pooled: lengths of a text's tokens and of its pooled
    vector. dual: the blocks with a second attention, of the image alone. rms_norm: whether queries
    and keys are normalised. remat, dtype, param_dtype, attention_fn: see
    :class:`jaxdiff.networks.dit.DiT`.
    """

    channels: int = 16
    patch: int = 2
    size: int = 128
    largest: int = 96
    heads: int = 24
    head_channels: int = 64
    depth: int = 24
    token_width: int = 4096
    pooled: int = 2048
    dual: tuple[int, ...] = ()
    rms_norm: bool = False
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
        skip_blocks: tuple[int, ...] = (),
        attention: AttentionFn | None = None,
    ) -> Array | Outputs:
        """Map ``x`` to d x/d t, of its shape and dtype.

        label: (batch,). cond: {"tokens": (batch, any, token_width), "pooled": (batch, pooled)}.
            With
        ``full``, Outputs whose features are the maps of the image's tokens after each block.
        skip_blocks: the blocks to leave out (of 3.5 for skip-layer guidance). Raises ValueError for
        other shapes.
        """
        rows, columns = check_images(x, label, self.patch, self.channels)
        needed = {"tokens": (None, self.token_width), "pooled": (self.pooled,)}
        given = conditions(cond, x.shape[0], needed)
        self._check(skip_blocks)
        chosen = chosen_attention(attention, self.attention_fn, self.depth)
        width, dtype = self.heads * self.head_channels, jnp.dtype(self.dtype or x.dtype)
        kinds = {"dtype": dtype, "param_dtype": self.param_dtype}
        where = self._positions(rows, columns, width)
        h = PatchEmbedding(self.patch, width, **kinds, name="patches")(x, where)
        e = TextAndTime(width, self.param_dtype, name="embedding")(label, given["pooled"])
        e, w = e.astype(dtype), nn.Dense(width, **kinds, name="text")(given["tokens"].astype(dtype))
        block, maps = nn.remat(Block) if self.remat else Block, []
        for i in range(self.depth):
            if i not in skip_blocks:
                w, h = block(
                    self.heads, self.head_channels, i in self.dual, i == self.depth - 1,
                    self.rms_norm, **kinds, attention=chosen, grid=(rows, columns),
                    stage=f"block_{i}", name=f"block_{i}",
                )(h, w, e)  # fmt: skip
                maps.append(h.reshape(-1, rows, columns, width))
        h = AdaptiveNorm(**kinds, name="out_norm")(h, e)
        out = nn.Dense(self.patch**2 * self.channels, **kinds, name="out")(h)
        out = from_patches(out, rows, columns, self.patch).astype(x.dtype)
        return Outputs(out, None, tuple(maps)) if full else out

    def _positions(self, rows: int, columns: int, width: int) -> Array:
        n = self.largest
        if max(rows, columns) > n:
            raise ValueError(
                f"positions are known for {n}x{n} patches, latents up to {n * self.patch} wide; "
                f"got {rows}x{columns} patches"
            )

        def start(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
            axis = axis_positions(n, width, self.size // self.patch / n)
            axis = jnp.asarray(axis, dtype)  # and not the table, which has gigabytes
            halves = axis[None, :], axis[:, None]
            halves = [jnp.broadcast_to(half, (n, n, width // 2)) for half in halves]
            return jnp.concatenate(halves, axis=-1).reshape(shape)

        table = self.param("positions", start, (1, n * n, width), self.param_dtype)
        top, left = (n - rows) // 2, (n - columns) // 2
        middle = table.reshape(n, n, width)[top : top + rows, left : left + columns]
        return jax.lax.stop_gradient(middle).reshape(rows * columns, width)

    def _check(self, skip_blocks: tuple[int, ...]) -> None:
        if wrong := [i for i in (*skip_blocks, *self.dual) if not 0 <= i < self.depth]:
            raise ValueError(f"blocks are numbered 0 to {self.depth - 1}; got {wrong}")
        if self.depth - 1 in skip_blocks and len(skip_blocks) == self.depth:
            raise ValueError("all blocks are left out")


class TextAndTime(nn.Module):
    """The sum of embeddings of numbers (time, guidance), and of the pooled text."""

    width: int
    param_dtype: Any

    @nn.compact
    def __call__(self, label: Array, pooled: Array, guidance: Array | None = None) -> Array:
        """Map (batch,), (batch, any) and (batch,) to (batch, width), in float32 at least."""
        e = embedded(label, self.width, self.param_dtype, "timestep")
        if guidance is not None:
            guidance = guidance.astype(e.dtype)
            e = e + embedded(guidance, self.width, self.param_dtype, "guidance")
        kinds = e.dtype, self.param_dtype
        text = Perceptron(self.width, self.width, nn.silu, *kinds, name="pooled_text")
        return e + text(pooled.astype(e.dtype))


class Block(nn.Module):
    """The block of the module's text. dual: a second attention. last: no text comes out."""

    heads: int
    head_channels: int
    dual: bool
    last: bool
    rms_norm: bool
    dtype: Any
    param_dtype: Any
    attention: AttentionFn
    grid: tuple[int, ...]
    stage: str

    @nn.compact
    def __call__(self, h: Array, w: Array, e: Array) -> tuple[Any, Array]:
        """Update the image's tokens ``h`` and the text's ``w``; returns the text's first."""
        kinds, width = (self.dtype, self.param_dtype), h.shape[-1]
        parts = Modulation(9 if self.dual else 6, width, *kinds, name="modulation")(e)
        a1, b1, g1, a2, b2, g2 = parts[:6]
        if self.last:
            words, text = AdaptiveNorm(*kinds, name="text_norm")(w, e), []
        else:
            text = Modulation(6, width, *kinds, name="text_modulation")(e)
            words = modulated(w, text[0], text[1])
        options = {"rms_norm": self.rms_norm, "grid": self.grid, "stage": self.stage}
        heads = self.heads, self.head_channels
        joint = JointAttention(
            *heads, *kinds, self.attention, text_out=not self.last, name="attention", **options
        )
        u, r = joint(modulated(h, a1, b1), words)
        own = h + g1 * u
        if self.dual:
            a3, b3, g3 = parts[6:]
            mix = Attention(*heads, *kinds, self.attention, name="second_attention", **options)
            own = own + g3 * mix(modulated(h, a3, b3))
        feed = Perceptron(width, 4 * width, gelu_tanh, *kinds, name="feed_forward")
        h = own + g2 * feed(modulated(own, a2, b2))
        if r is None:
            return None, h
        w = w + text[2] * r
        feed = Perceptron(width, 4 * width, gelu_tanh, *kinds, name="text_feed_forward")
        return w + text[5] * feed(modulated(w, text[3], text[4])), h
