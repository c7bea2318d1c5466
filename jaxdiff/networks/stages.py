"""The stages of published U-Nets: the blocks of one level on the way down, at the bottom, and on
the way up.

A stage holds residual blocks, each with an attention layer after it where the stage attends. On the
way down it returns its map, halved unless it is the last, and all maps that the way up reads; on
the way up each block reads one of them. A stage of the kind "skip" (2011.13456, NCSN++) also
carries an
image along: the input halved and added to the map on the way down, the output's image doubled and
added to on the way up.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.conv import Conv
from jaxdiff.networks.residual import (
    Parts,
    block,
    group_norm,
    halving,
    repeated,
    resampled,
)
from jaxdiff.networks.spatial import (
    Context,
    Heads,
    JointAttention,
    SelfAttention,
    SpatialTransformer,
    Spot,
    heads_of,
)
from jaxdiff.typing import Array

ROOT2 = math.sqrt(2)


class Attending(NamedTuple):
    """The attention layers of a stage.

    kind: "self", "cross" (a spatial transformer) or "joint", "" for none. heads: of "self" and
    "joint" the width of a head, of "cross" their number. depth: blocks of each transformer. groups:
    of the norm of "self", if not those of the network; -1 for no norm.
    """

    kind: Literal["", "self", "cross", "joint"] = ""
    heads: int = 8
    depth: tuple[int, ...] = ()
    only_cross: bool = False
    cross_norm: str = ""
    groups: int = 0


def attention(
    how: Attending, channels: int, parts: Parts, number: int, stage: str, scale: float = 1.0
) -> Any:
    """Return a stage's attention layer of a number, a function of (map, context)."""
    name = f"attention_{number}"
    if how.kind == "cross":
        if channels % how.heads:
            raise ValueError(f"{how.heads} heads do not divide {channels} channels, in {stage}")
        heads = Heads(how.heads, channels // how.heads)
        layer = SpatialTransformer(heads, how.depth[number], parts, how.only_cross, name=name)
        return lambda h, context: layer(h, context, Spot(stage))
    heads = heads_of(channels, how.heads, stage)
    if how.kind == "joint":
        joint = JointAttention(
            heads, parts, parts.groups, how.only_cross, how.cross_norm, name=name
        )
        return lambda h, context: joint(h, context, Spot(stage))
    groups = max(0, how.groups or parts.groups)
    own = SelfAttention(heads, parts, scale, groups, name=name)
    return lambda h, context: own(h, Spot(stage))


class Down(nn.Module):
    """A stage on the way down.

    halve: "conv", "block" or "" for the last one. padding: of that convolution. scale: of blocks.
    """

    channels: int
    blocks: int
    parts: Parts
    attending: Attending = Attending()
    halve: Literal["", "conv", "block"] = "conv"
    padding: int = 1
    scale: float = 1.0

    @nn.compact
    def __call__(
        self,
        h: Array,
        e: Array | None,
        context: Context,
        deterministic: bool = True,
        extra: Array | None = None,
    ) -> tuple[Array, list[Array]]:
        """Return the map and what the way up reads; extra: an adapter's map, which is added."""
        stage, maps, cross = self.path[-1], [], self.attending.kind == "cross"
        made = block(self.parts)
        for i in range(self.blocks):
            one = made(self.channels, self.parts, self.scale, name=f"block_{i}")
            h = one(h, e, deterministic)
            if self.attending.kind:
                h = attention(self.attending, self.channels, self.parts, i, stage)(h, context)
            if cross and extra is not None and i == self.blocks - 1:
                h = _added(h, extra, stage)
            maps.append(h)
        if self.halve == "block":
            last = made(self.channels, self.parts, self.scale, resampling="halve", name="halve")
            h = last(h, e, deterministic)
        elif self.halve:
            h = halving(self.channels, self.parts, self.padding, "halve")(h)
        maps += [h] if self.halve else []
        if extra is not None and not cross:
            maps[-1] = h = _added(h, extra, stage)
        return h, maps


class Up(nn.Module):
    """A stage on the way up. double: "conv", "block" or "" for the last one. scale: of blocks."""

    channels: int
    blocks: int
    parts: Parts
    attending: Attending = Attending()
    double: Literal["", "conv", "block"] = "conv"
    scale: float = 1.0

    @nn.compact
    def __call__(
        self,
        h: Array,
        maps: list[Array] | None,
        e: Array | None,
        context: Context,
        deterministic: bool = True,
        size: tuple[int, ...] = (),
    ) -> Array:
        """Return the map. maps: the last of them are read and taken away; None for a decoder
        without.
        size: what the doubled map is cut to.
        """
        stage, made = self.path[-1], block(self.parts)
        for i in range(self.blocks):
            h = h if maps is None else jnp.concatenate([h, maps.pop()], axis=-1)
            one = made(self.channels, self.parts, self.scale, name=f"block_{i}")
            h = one(h, e, deterministic)
            if self.attending.kind:
                h = attention(self.attending, self.channels, self.parts, i, stage)(h, context)
        if self.double == "block":
            last = made(self.channels, self.parts, self.scale, resampling="double", name="double")
            return last(h, e, deterministic)
        if self.double:
            return Conv(self.channels, name="double", **self.parts.kinds)(repeated(h, size))
        return h


class Middle(nn.Module):
    """The stage at the bottom: a block, and attention and a block more unless ``single``."""

    channels: int
    parts: Parts
    attending: Attending = Attending()
    scale: float = 1.0
    single: bool = False

    @nn.compact
    def __call__(
        self, h: Array, e: Array | None, context: Context, deterministic: bool = True
    ) -> Array:
        """Update the map."""
        made = block(self.parts)
        h = made(self.channels, self.parts, self.scale, name="block_0")(h, e, deterministic)
        if self.single:
            return h
        if self.attending.kind:
            layer = attention(
                self.attending, self.channels, self.parts, 0, self.path[-1], self.scale
            )
            h = layer(h, context)
        return made(self.channels, self.parts, self.scale, name="block_1")(h, e, deterministic)


class SkipDown(nn.Module):
    """A stage of the kind "skip" on the way down. heads: width of a head, 0 without attention."""

    channels: int
    blocks: int
    parts: Parts
    heads: int = 0
    halve: bool = True

    @nn.compact
    def __call__(
        self, h: Array, image: Array, e: Array, deterministic: bool = True
    ) -> tuple[Array, list[Array], Array]:
        """Return the map, what the way up reads, and the image, halved with the map."""
        made, maps, c = block(self.parts), [], self.channels
        for i in range(self.blocks):
            one = made(c, self.parts, ROOT2, quarter(h.shape[-1]), quarter(c), name=f"block_{i}")
            h = _attended(self, one(h, e, deterministic), i)
            maps.append(h)
        if self.halve:
            last = made(
                c, self.parts, ROOT2, quarter(c), resampling="fir_halve", skip=True, name="halve"
            )
            image = resampled(image, "fir_halve")
            h = nn.Dense(c, name="image", **self.parts.kinds)(image) + last(h, e, deterministic)
            maps.append(h)
        return h, maps, image


class SkipUp(nn.Module):
    """A stage of the kind "skip" on the way up. heads: width of a head, 0 without attention."""

    channels: int
    blocks: int
    parts: Parts
    heads: int = 0
    double: bool = True

    @nn.compact
    def __call__(
        self,
        h: Array,
        maps: list[Array],
        image: Array | None,
        e: Array,
        deterministic: bool = True,
    ) -> tuple[Array, Array | None]:
        """Return the map and the image, both doubled."""
        made, parts, c = block(self.parts), self.parts, self.channels
        for i in range(self.blocks):
            other = maps.pop()
            both = h.shape[-1] + other.shape[-1]
            # The publishers' precedence: with attention only the second summand is quartered.
            groups = (
                quarter(both) if not self.heads else min(h.shape[-1] + other.shape[-1] // 4, 32)
            )
            one = made(c, parts, ROOT2, groups, quarter(c), name=f"block_{i}")
            h = one(jnp.concatenate([h, other], axis=-1), e, deterministic)
        h = _attended(self, h, 0)
        image = None if image is None else resampled(image, "fir_double")
        if self.double:
            g = nn.silu(group_norm(h, quarter(c), parts.eps, parts.param_dtype, "image_norm"))
            own = Conv(3, name="image", **parts.kinds)(g)
            image = own if image is None else image + own
            last = made(
                c, parts, ROOT2, quarter(c), resampling="fir_double", skip=True, name="double"
            )
            h = last(h, e, deterministic)
        return h, image


def quarter(channels: int) -> int:
    """Return the groups of a norm in a stage of the kind "skip"."""
    return min(channels // 4, 32)


def _attended(stage: Any, h: Array, number: int) -> Array:
    if not stage.heads:
        return h
    heads = heads_of(stage.channels, stage.heads, stage.path[-1])
    layer = SelfAttention(heads, stage.parts, ROOT2, 32, name=f"attention_{number}")
    return layer(h, Spot(stage.path[-1]))


def _added(h: Array, extra: Array, stage: str) -> Array:
    if extra.shape != h.shape:
        raise ValueError(f"the adapter's map for {stage} has shape {extra.shape}, not {h.shape}")
    return h + extra.astype(h.dtype)


def with_residuals(maps: list[Array], residuals: Sequence[Array]) -> list[Array]:
    """Return the maps that the way up reads, a ControlNet's added."""
    if len(residuals) != len(maps) + 1:
        raise ValueError(
            f"residuals are {len(maps) + 1} maps, those of the way down and the bottom's; "
            f"got {len(residuals)}"
        )
    for own, more in zip(maps, residuals, strict=False):
        if own.shape != more.shape:
            raise ValueError(f"a residual has shape {more.shape}, its map {own.shape}")
    return [own + more.astype(own.dtype) for own, more in zip(maps, residuals, strict=False)]
