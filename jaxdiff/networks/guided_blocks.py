"""Blocks of guided diffusion's U-Net and classifier, channels last.

Residual block, e the embedding of time and class, M a change of size (halved by the mean of 2x2
squares, doubled by repetition, or none):
    h = conv_in(M silu(norm_in(x))),
    h = norm_out(h) (1 + a(e)) + b(e)    or    h = norm_out(h + b(e)),
    x <- skip(M x) + conv_out(silu(h)),
with dropout before conv_out. Group norms have 32 groups. Attention is over the positions of a map,
softmax(q k^T / sqrt(c)) v for each head; the kernel of qkv has q, k and v one after the other, each
of them head by head.

Sources: Dhariwal & Nichol 2105.05233, section 3 and appendix A; Nichol & Dhariwal 2102.09672.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, Place, attend, softmax_attention
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.embedding import class_index, timestep_waves, wide
from jaxdiff.networks.resampling import doubled, halved
from jaxdiff.networks.unet import Norm
from jaxdiff.typing import Array, Cond

GROUPS = 32


class Stage(nn.Module):
    """A residual block, self-attention after it if it has heads, a change of size after that.

    channels: of the output. heads: of the attention, 0 for none. starts: whether there is the
    residual block. size: "", "down" or "up"; by: a second residual block ("block"), a convolution
    ("conv"), or means and repetition alone ("plain"). scale_shift: whether e scales and shifts, or
    is added. place: its name for attention (:class:`jaxdiff.networks.attention.Place`).
    """

    channels: int
    heads: int = 0
    starts: bool = True
    size: str = ""
    by: str = "block"
    scale_shift: bool = True
    dropout: float = 0.0
    place: str = ""
    attention_fn: AttentionFn = softmax_attention
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Array, e: Array, deterministic: bool) -> Array:
        """Map ``h`` (batch, height, width, any), given ``e`` (batch, k)."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = {"scale_shift": self.scale_shift, "dropout": self.dropout, **kinds}
        if self.starts:
            h = ResidualBlock(self.channels, **block, name="block")(h, e, deterministic)
        if self.heads:
            attention = MapAttention(self.heads, self.attention_fn, **kinds, name="attention")
            h = attention(h, self.place)
        if self.size and self.by == "block":
            change = ResidualBlock(self.channels, self.size, **block, name="resample")
            h = change(h, e, deterministic)
        elif self.size == "down" and self.by == "conv":
            h = nn.Conv(self.channels, (3, 3), 2, padding=1, **kinds, name="resample")(h)
        elif self.size:
            h = resized(h, self.size)
            h = Conv(self.channels, **kinds, name="resample")(h) if self.by == "conv" else h
        return h


class ResidualBlock(nn.Module):
    """The residual block of the module's text; ``resample`` is "", "down" or "up"."""

    channels: int
    size: str = ""
    scale_shift: bool = True
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, e: Array, deterministic: bool) -> Array:
        """Map ``x`` (batch, height, width, any) to ``channels`` channels, given ``e``."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = {"groups": GROUPS, "param_dtype": self.param_dtype}
        h = nn.silu(Norm(**norm, name="norm_in")(x))
        h, x = resized(h, self.size), resized(x, self.size)
        h = Conv(self.channels, **kinds, name="conv_in")(h)
        width = 2 * self.channels if self.scale_shift else self.channels
        change = nn.Dense(width, **kinds, name="embedding")(nn.silu(e))[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(change, 2, axis=-1)
            h = Norm(**norm, name="norm_out")(h) * (1 + scale) + shift
        else:
            h = Norm(**norm, name="norm_out")(h + change)
        h = nn.Dropout(self.dropout)(nn.silu(h), deterministic=deterministic)
        h = Conv(self.channels, kernel_init=nn.initializers.zeros, **kinds, name="conv_out")(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, **kinds, name="skip")(x)
        return x + h


class MapAttention(nn.Module):
    """Self-attention over the positions of a map, added to it."""

    heads: int
    attention_fn: AttentionFn = softmax_attention
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, stage: str) -> Array:
        """Update ``x`` (batch, height, width, channels)."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, height, width, c = x.shape
        h = Norm(GROUPS, self.param_dtype, name="norm")(x).reshape(b, height * width, c)
        qkv = nn.Dense(3 * c, **kinds, name="qkv")(h)
        qkv = qkv.reshape(b, height * width, 3, self.heads, c // self.heads)
        place = Place("/".join(self.path), "self", (height, width), stage)
        h = attend(self.attention_fn, qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], place)
        h = h.reshape(x.shape)
        return x + nn.Dense(c, kernel_init=nn.initializers.zeros, **kinds, name="out")(h)


class TimeEmbedding(nn.Module):
    """e: a perceptron of the time's waves, ``width`` of them, plus the class's row;
    4 width numbers.

    Time is in steps of a thousand. There is no row for no class.
    """

    width: int
    num_classes: int = 0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, label: Array, cond: Cond) -> Array:
        """Embed times (batch,) and class indices (batch,), in float32 at least."""
        label = label.astype(wide(label.dtype))
        dense = {"dtype": label.dtype, "param_dtype": self.param_dtype}
        waves = timestep_waves(label, self.width)
        e = nn.silu(nn.Dense(4 * self.width, **dense, name="dense_0")(waves))
        e = nn.Dense(4 * self.width, **dense, name="dense_1")(e)
        if cond is None and self.num_classes and self.is_initializing():
            cond = jnp.zeros(label.shape, jnp.int32)
        index = class_index(cond, self.num_classes, label.shape[0], null=False)
        if index is None:
            return e
        return e + nn.Embed(self.num_classes, 4 * self.width, **dense, name="classes")(index)


def heads_of(channels: int, heads: int, head_channels: int) -> int:
    """Return the number of heads, of ``head_channels`` channels each if that is not 0. ValueError
    where they do not divide the channels.
    """
    each = head_channels or channels // max(heads, 1)
    if each < 1 or channels % each or (not head_channels and each * heads != channels):
        raise ValueError(
            f"{channels} channels do not divide into "
            + (f"heads of {head_channels}" if head_channels else f"{heads} heads")
        )
    return channels // each


def resized(h: Array, size: str) -> Array:
    """Halve a map by the mean of 2x2 squares ("down"), double it by repetition ("up"), or leave it
    ("").
    """
    return {"up": doubled, "down": halved, "": lambda h: h}[size](h)


class Way(NamedTuple):
    """Options that the stages of a network have in common, and their names.

    make: the module of a stage. e: the embedding. shared: fields of all stages.
    """

    make: Any
    e: Array
    deterministic: bool
    head_channels: int
    shared: dict[str, Any]

    def stage(
        self, h: Array, width: int, name: str, place: str, heads: int = 0, **how: Any
    ) -> Array:
        """Apply a new stage of this name."""
        n = heads_of(width, heads, self.head_channels) if heads else 0
        module = self.make(width, n, place=place, name=name, **self.shared, **how)
        return module(h, self.e, self.deterministic)


def way(
    module: Any, e: Array, attention: AttentionFn, deterministic: bool, kinds: dict[str, Any]
) -> Way:
    """Return the :class:`Way` of a U-Net or a classifier. ValueError for an unknown ``size_by``."""
    if module.size_by not in ("block", "conv", "plain"):
        raise ValueError(f"size_by is 'block', 'conv' or 'plain', not {module.size_by!r}")
    shared = {"by": module.size_by, "scale_shift": module.scale_shift, "dropout": module.dropout,
              "attention_fn": attention, **kinds}  # fmt: skip
    make = nn.remat(Stage, static_argnums=(3,)) if module.remat else Stage
    return Way(make, e, deterministic, module.head_channels, shared)


def encoded(module: Any, way: Way, x: Array, kinds: dict[str, Any]) -> list[Array]:
    """Return the maps of the way down, after the first convolution and after each stage, and, last,
    that of the middle, its two stages being one.
    """
    widths = widths_of(module.channels, module.multipliers)
    h = Conv(widths[0], **kinds, name="conv_in")(x)
    maps = [h]
    for level, width in enumerate(widths):
        heads, place = module.heads * (level in module.attention), f"down_{level}"
        for i in range(module.blocks):
            maps.append(way.stage(maps[-1], width, f"{place}_{i}", place, heads))
        if level < len(widths) - 1:
            name = f"{place}_resample"
            maps.append(way.stage(maps[-1], width, name, place, starts=False, size="down"))
    h = way.stage(maps[-1], widths[-1], "middle_0", "middle", module.heads)
    return [*maps, way.stage(h, widths[-1], "middle_1", "middle")]


def check_images(
    x: Array, label: Array, widths: tuple[int, ...], attention: tuple[int, ...]
) -> None:
    """Raise ValueError for images and labels that a network of levels of these widths, with
    attention at these numbers of levels, does not take.
    """
    if x.ndim != 4 or label.shape != x.shape[:1]:
        raise ValueError(
            "this network takes x (batch, height, width, channels) and label (batch,); "
            f"got {x.shape} and {label.shape}"
        )
    factor = 2 ** (len(widths) - 1)
    if x.shape[1] % factor or x.shape[2] % factor:
        raise ValueError(
            f"{len(widths)} levels need a height and a width divisible by {factor}; "
            f"got {x.shape[1]}x{x.shape[2]}"
        )
    if any(not 0 <= level < len(widths) for level in attention):
        raise ValueError(f"attention at levels {attention}, but levels are 0 to {len(widths) - 1}")
    if bad := [width for width in widths if width % GROUPS]:
        raise ValueError(f"the groups of the norms are {GROUPS}: they do not divide {bad[0]}")


def widths_of(channels: int, multipliers: tuple[float, ...]) -> tuple[int, ...]:
    """Return the channels of each level."""
    return tuple(math.floor(channels * m) for m in multipliers)
