"""A small U-Net for images of 8x8 to 32x32, signals and volumes, channels last.

Each level halves the map and has ``blocks`` residual blocks (with self-attention where requested)
on the way down and as many on the way up, each of which reads the matching output of the way down.
Residual block (Dhariwal & Nichol 2105.05233, section 3.1, "adaptive group norm"), e the embedding
of label and class:
    h = conv(silu(norm(x))),    h = norm(h) (1 + a(e)) + b(e),    x <- skip(x) + conv0(silu(h)),
with dropout before conv0. conv0, attention's output and the last convolution start at zero: a fresh
network is the zero function.

Group norm's and softmax's statistics are in float32 at least.

The defaults suit 8x8 images (maps of 8 and 4); for 32x32 take multipliers such as (1, 2, 2, 2).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.attention import (
    AttentionFn,
    Place,
    attend,
    chosen_attention,
    softmax_attention,
)
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.embedding import Embedding, Features, LogVariance, sinusoidal, wide
from jaxdiff.typing import Array, Cond, Outputs


class UNet(nn.Module):
    """U-Net for images (batch, height, width, channels), signals (batch, length, channels) and
    volumes (batch, depth, height, width, channels): kernels have as many axes, 3 along each.

    channels: of the first level. multipliers: channels of each level, in units of ``channels``.
    blocks: residual blocks per level and direction. attention: heights of maps (of the first axis)
    that get self-attention.
    heads: of the attention. attention_fn: what it is (:mod:`jaxdiff.networks.attention`). dropout:
    rate. groups: of the group norms; where it does not divide the channels, their greatest common
    divisor is taken. embedding: length of e. num_classes, label_scale, features: see
    :class:`jaxdiff.networks.embedding.Embedding`. log_variance: whether it has that head. dtype:
    what it computes in; None means the input's dtype. param_dtype: what the parameters are kept in.
    """

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = ()
    heads: int = 4
    dropout: float = 0.0
    groups: int = 8
    embedding: int = 128
    num_classes: int = 0
    label_scale: float = 100.0
    features: Features = sinusoidal
    log_variance: bool = False
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
        residuals: Sequence[Array] | None = None,
    ) -> Array | Outputs:
        """Map ``x`` to an output of its shape and dtype.

        x: (batch, *axes, channels) with one to three axes. label: (batch,) or (batch, k). cond:
        class indices (batch,) or None. With ``full``, Outputs whose features are the maps after
        every stage: L levels of ``blocks`` on the way down, the lowest map (number L * blocks), as
        many on the way up. attention: what the attention layers call, in place of ``attention_fn``.
        residuals: maps added to those that the way up reads, the finest first, and to the lowest,
        last (:mod:`jaxdiff.networks.unet_control`). Raises ValueError for images that cannot be
        halved often enough, for attention at a map height that does not occur, for heads that do
        not divide the channels, for an attention that would not be called, and for residuals that
        do not fit.
        """
        maps, stage, own = self.way_down(x, label, cond, deterministic, attention)
        widths = [self.channels * m for m in self.multipliers]
        maps = maps if residuals is None else with_residuals(maps, residuals)
        *skips, h = maps
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(self.blocks):
                h = stage(jnp.concatenate([h, skips.pop()], axis=-1), width, f"up_{level}")
                maps.append(h)
            if level > 0:
                h = Conv(widths[level - 1], **own)(doubled(h))
        h = nn.silu(Norm(self.groups, self.param_dtype)(h))
        zero = nn.initializers.zeros
        out = Conv(x.shape[-1], kernel_init=zero, **own)(h).astype(x.dtype)
        head = LogVariance(self.label_scale, self.features, self.param_dtype)
        log_variance = head(label) if self.log_variance else None
        return Outputs(out, log_variance, tuple(maps)) if full else out

    def way_down(
        self,
        x: Array,
        label: Array,
        cond: Cond,
        deterministic: bool,
        attention: AttentionFn | None,
        shown: Array | None = None,
    ) -> tuple[list[Array], Callable[[Array, int, str], Array], dict[str, Any]]:
        """Return the maps of the way down and the lowest, what makes a further stage's, and the
        options of convolutions, for a network's own ``nn.compact`` call.

        shown: a map added to that of the first convolution.
        """
        self.check(x, label)
        chosen = chosen_attention(attention, self.attention_fn, len(self.attention))
        dtype = jnp.dtype(self.dtype or x.dtype)
        kinds = {"dtype": dtype, "param_dtype": self.param_dtype}
        own: dict[str, Any] = kinds | {"size": (3,) * (x.ndim - 2)}
        embed = Embedding(
            self.embedding, self.num_classes, self.label_scale, self.features, self.param_dtype
        )
        e = nn.silu(embed(label, cond)).astype(dtype)

        def stage(h: Array, channels: int, name: str) -> Array:
            h = Block(channels, self.groups, self.dropout, **kinds)(h, e, deterministic)
            if h.shape[1] in self.attention:
                h = Attention(self.heads, self.groups, **kinds)(h, chosen, name)
            return h

        widths = [self.channels * m for m in self.multipliers]
        h, maps = Conv(widths[0], **own)(x.astype(dtype)), []
        h = h if shown is None else h + shown.astype(dtype)
        for level, width in enumerate(widths):
            if level > 0:
                h = Conv(width, stride=2, **own)(h)
            for _ in range(self.blocks):
                h = stage(h, width, f"down_{level}")
                maps.append(h)
        return [*maps, stage(h, widths[-1], "middle")], stage, own

    def check(self, x: Array, label: Array) -> None:
        """Raise ValueError for inputs that the network does not take."""
        if x.ndim not in (3, 4, 5) or label.shape[0] != x.shape[0]:
            raise ValueError(
                "a U-Net takes x (batch, height, width, channels), or with one or three axes in "
                f"place of height and width, and label (batch,); got {x.shape} and {label.shape}"
            )
        factor = 2 ** (len(self.multipliers) - 1)
        if any(n % factor for n in x.shape[1:-1]):
            raise ValueError(
                f"{len(self.multipliers)} levels need a height and a width divisible by {factor}; "
                f"got {'x'.join(map(str, x.shape[1:-1]))}"
            )
        widths = {x.shape[1] // 2**i: self.channels * m for i, m in enumerate(self.multipliers)}
        for height in self.attention:
            if height not in widths:
                raise ValueError(
                    f"attention at height {height}, but the maps have heights {[*widths]}"
                )
            if widths[height] % self.heads:
                raise ValueError(f"{self.heads} heads do not divide {widths[height]} channels")


class Norm(nn.Module):
    """Group norm with learned scale and shift, in float32 at least; the dtype is the input's."""

    groups: int
    param_dtype: Any
    eps: float = 1e-5

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Normalise ``h`` (batch, *axes, channels) over space and groups of channels."""
        c, dtype = h.shape[-1], wide(h.dtype)
        scale = self.param("scale", nn.initializers.ones, (c,), self.param_dtype).astype(dtype)
        bias = self.param("bias", nn.initializers.zeros, (c,), self.param_dtype).astype(dtype)
        groups, axes = math.gcd(self.groups, c), tuple(range(1, h.ndim - 1))

        def mean(g: Array) -> Array:
            # Over space first, channel by channel: on CPU a third of the time of both at once.
            m = jnp.mean(g, axis=axes).reshape(h.shape[0], groups, c // groups).mean(axis=2)
            return jnp.expand_dims(jnp.repeat(m, c // groups, axis=1), axes)

        g = h.astype(dtype)
        g = g - mean(g)
        g = g * (jax.lax.rsqrt(mean(g**2) + self.eps) * jnp.expand_dims(scale, (0, *axes)))
        return (g + jnp.expand_dims(bias, (0, *axes))).astype(h.dtype)


class Block(nn.Module):
    """The residual block of the module's text."""

    channels: int
    groups: int
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, e: Array, deterministic: bool) -> Array:
        """Map ``x`` (batch, *axes, any) to ``channels`` channels, given ``e``."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        axes = tuple(range(1, x.ndim - 1))
        own: dict[str, Any] = kinds | {"size": (3,) * len(axes)}
        h = Conv(self.channels, **own)(nn.silu(Norm(self.groups, self.param_dtype)(x)))
        modulation = jnp.expand_dims(nn.Dense(2 * self.channels, **kinds)(e), axes)
        scale, shift = jnp.split(modulation, 2, axis=-1)
        h = nn.silu(Norm(self.groups, self.param_dtype)(h) * (1 + scale) + shift)
        h = nn.Dropout(self.dropout)(h, deterministic=deterministic)
        h = Conv(self.channels, kernel_init=nn.initializers.zeros, **own)(h)
        return h + (x if x.shape[-1] == self.channels else nn.Dense(self.channels, **kinds)(x))


class Attention(nn.Module):
    """Self-attention over the positions of a map, added to it."""

    heads: int
    groups: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x: Array, attention: AttentionFn = softmax_attention, stage: str = ""
    ) -> Array:
        """Update ``x`` (batch, *axes, channels)."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, *axes, c = x.shape
        h = Norm(self.groups, self.param_dtype)(x).reshape(b, -1, c)
        qkv = nn.Dense(3 * c, **kinds)(h).reshape(b, -1, 3, self.heads, c // self.heads)
        place = Place("/".join(self.path), "self", tuple(axes), stage)
        h = attend(attention, qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], place).reshape(x.shape)
        return x + nn.Dense(c, kernel_init=nn.initializers.zeros, **kinds)(h)


def with_residuals(maps: Sequence[Array], residuals: Sequence[Array]) -> list[Array]:
    """Return maps with residuals added. ValueError for other numbers or shapes of them."""
    shapes = [[m.shape for m in of] for of in (maps, residuals)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"residuals of shapes {shapes[1]} cannot be added to {shapes[0]}")
    return [own + more.astype(own.dtype) for own, more in zip(maps, residuals, strict=True)]


def doubled(h: Array) -> Array:
    """Repeat every number twice along each axis: a pixel in a 2x2 square."""
    b, *axes, c = h.shape
    h = jnp.expand_dims(h, tuple(range(2, 2 * len(axes) + 1, 2)))
    h = jnp.broadcast_to(h, (b, *(n for axis in axes for n in (axis, 2)), c))
    return h.reshape(b, *(2 * axis for axis in axes), c)
