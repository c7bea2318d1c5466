"""The way down of a U-Net with text, and its bottom, which a U-Net and its ControlNet share.

Time, classes, sizes, a pooled text and a guidance scale are one vector e that every block is given;
stages attend to the tokens of a text. Sources: as :mod:`jaxdiff.networks.unet2d_condition`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, chosen_attention, softmax_attention
from jaxdiff.networks.conditions import (
    ImageAndText,
    TextAndTime,
    class_vector,
    keys_of,
    tokens_of,
)
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.embedding import wide
from jaxdiff.networks.grounding import grounded
from jaxdiff.networks.residual import ACTIVATIONS, Parts
from jaxdiff.networks.spatial import Context
from jaxdiff.networks.stages import Attending, Down, Middle
from jaxdiff.networks.time_embedding import (
    FourierFeatures,
    Perceptron,
    TextPool,
    guidance_waves,
    waves,
)
from jaxdiff.typing import Array

KINDS = ("plain", "self", "cross", "joint", "resampling")


class Encoded(NamedTuple):
    """Outputs of the way down.

    maps: that the way up reads, the finest first. features: the map of every stage and of the
    bottom. bottom: the last map. e: (batch, width). context: what stages attend to.
    """

    maps: list[Array]
    features: list[Array]
    bottom: Array
    e: Array
    context: Context


class ConditionalEncoder(nn.Module):
    """The way down and the bottom.

    channels: of each level, the finest first. in_channels: of what the first convolution sees: x,
    and where it has more channels than x, cond["beside"]. down: kind of each level's stage, the
    finest first: "plain", "self", "cross" (spatial transformers), "joint" (one attention on text
    and map) or "resampling"; the last two halve in blocks. middle: the kind at the bottom, "" for
    no stage, "single" for one block. blocks: of each level. heads: of each level, for "cross" their
    number, for the others the width of one. depth_down: blocks of each transformer of each level;
    depth_middle: of the bottom's. only_cross: per level, whether self-attention is left out for the
    text; only_cross_middle: at the bottom. cross_norm: of the tokens in "joint" stages.
    groups, eps, activation, modulation, activated, dropout, remat, dtype, param_dtype:
    :class:`jaxdiff.networks.residual.Parts`. scale: divides the sums of "joint" and "resampling"
    blocks; middle_scale: those of the bottom. padding: of the halving convolutions. kernel_in: size
    of the first convolution.

    time, time_width, flip, freq_shift: as UNet2D; time_last, time_activation: after its perceptron
    and on all of e, "" for none. guidance: width of the waves of a guidance scale, 0 for none.
    classes: "", "index" of ``num_classes``, "waves", "vector", "perceptron" or "linear" of a vector
    of width ``class_width``; joined: e and the class are concatenated, not summed. added: what else
    e is made of, "", "text" (the tokens, pooled by ``pool_heads``), "text_time" (XL: waves of
    ``size_waves`` per number, in all ``added_width`` numbers), "text_image" or "image". tokens_in:
    what is done to tokens, "", "text", "image" or "both"; token_width: of the tokens that stages
    attend to. boxes: whether "cross" stages attend to boxes, too (GLIGEN). centred: the input is
    2 x - 1.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    in_channels: int = 4
    down: tuple[str, ...] = ("cross", "cross", "cross", "plain")
    middle: str = "cross"
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    depth_down: tuple[tuple[int, ...], ...] = ((1, 1),) * 4
    depth_middle: int = 1
    only_cross: tuple[bool, ...] = (False,) * 4
    only_cross_middle: bool = False
    cross_norm: str = ""
    groups: int = 32
    eps: float = 1e-5
    activation: str = "silu"
    modulation: Literal["shift", "scale_shift"] = "shift"
    activated: bool = True
    scale: float = 1.0
    middle_scale: float = 1.0
    padding: int = 1
    kernel_in: int = 3
    time: Literal["positional", "fourier"] = "positional"
    time_width: int = 0
    flip: bool = True
    freq_shift: float = 0
    time_last: str = ""
    time_activation: str = ""
    guidance: int = 0
    classes: str = ""
    num_classes: int = 0
    class_width: int = 0
    joined: bool = False
    added: str = ""
    pool_heads: int = 64
    size_waves: int = 256
    added_width: int = 0
    tokens_in: str = ""
    token_width: int = 768
    text_width: int = 0
    image_width: int = 0
    boxes: bool = False
    centred: bool = False
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    attention_fn: AttentionFn = softmax_attention

    def kinds(self) -> set[str]:
        """Return the kinds of the levels' stages."""
        return {*self.down}

    def keys(self, channels: int | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the keys that cond must have, and those that it may have.

        channels: of x, where they are not ``in_channels``.
        """
        return keys_of(self, channels or self.in_channels)

    def encoded(
        self,
        x: Array,
        label: Array,
        given: dict[str, Array],
        parts: Parts,
        *,
        deterministic: bool = True,
        adapter: Sequence[Array] | None = None,
        shown: Array | None = None,
    ) -> Encoded:
        """Return the maps of the way down and of the bottom, for a network's own ``nn.compact``
        call.

        given: conditions, checked. adapter: maps added in each stage, and at the bottom if there is
        one more. shown: a map added to that of the first convolution.
        """
        h = self._seen(x, given).astype(parts.dtype)
        e = self._vector(label, given).astype(parts.dtype)
        tokens = tokens_of(self, given)
        tokens = None if tokens is None else tokens.astype(parts.dtype)
        boxes = grounded(self.token_width, given, parts) if self.boxes else None
        context = Context(tokens, given.get("mask"), boxes)
        h = self._conv(self.channels[0], self.kernel_in, "conv_in", parts)(h)
        h = h if shown is None else h + shown.astype(h.dtype)
        maps, features, extras = [h], [], list(adapter or ())
        for level in range(len(self.channels)):
            extra = extras.pop(0) if extras else None
            h, more = self._down(level, parts)(h, e, context, deterministic, extra)
            maps, features = maps + more, [*features, h]
        if self.middle:
            h = self._bottom(parts)(h, e, context, deterministic)
        h = h + extras.pop(0).astype(h.dtype) if extras else h
        if extras:
            raise ValueError(f"the adapter has {len(extras)} maps more than the network has stages")
        return Encoded(maps, [*features, h] if self.middle else features, h, e, context)

    def _bottom(self, parts: Parts) -> nn.Module:
        how = Attending(
            "" if self.middle == "single" else self.middle, self.heads[-1],  # type: ignore[arg-type]
            (self.depth_middle,), self.only_cross_middle, self.cross_norm,
        )  # fmt: skip
        return Middle(
            self.channels[-1], self._own(parts, self.middle), how, self.middle_scale,
            self.middle == "single",
            name="middle",
        )  # fmt: skip

    def _seen(self, x: Array, given: dict[str, Array]) -> Array:
        """Return what the first convolution sees."""
        beside = given.get("beside")
        count = 0 if beside is None else self.in_channels - x.shape[3]
        if x.shape[3] + count != self.in_channels:
            raise ValueError(f"x has {x.shape[3]} channels; the network takes {self.in_channels}")
        if beside is not None:
            if beside.shape != (*x.shape[:3], count):
                raise ValueError(
                    f"cond['beside'] must be {(*x.shape[:3], count)}; its shape is {beside.shape}"
                )
            x = jnp.concatenate([x, beside.astype(x.dtype)], axis=-1)
        return 2 * x - 1 if self.centred else x

    def _parts(self, x: Array, attention: AttentionFn | None) -> Parts:
        some = {"self", "cross", "joint"} & (self.kinds() | {self.middle})
        return Parts(
            self.groups, self.eps, self.activation, self.modulation, self.activated, self.dropout,
            self.remat, jnp.dtype(self.dtype or x.dtype), self.param_dtype,
            chosen_attention(attention, self.attention_fn, len(some)),
        )  # fmt: skip

    def _conv(self, channels: int, size: int, name: str, parts: Parts, **start: Any) -> nn.Module:
        return Conv(channels, (size, size), name=name, **parts.kinds, **start)

    def _own(self, parts: Parts, kind: str) -> Parts:
        """Return the parts of a stage: only blocks beside inner resampling leave e as it is."""
        inner = kind in ("joint", "resampling")
        return parts if inner else dataclasses.replace(parts, activated=True)

    def _attending(self, kind: str, level: int, depth: tuple[int, ...], heads: int) -> Attending:
        own: Any = "" if kind in ("plain", "resampling") else kind
        return Attending(own, heads, depth, self.only_cross[level], self.cross_norm)

    def _down(self, level: int, parts: Parts) -> nn.Module:
        kind = self.down[level]
        how = self._attending(kind, level, self.depth_down[level], self.heads[level])
        inside = kind in ("joint", "resampling")
        halve = "" if level == len(self.channels) - 1 else "block" if inside else "conv"
        scale = self.scale if inside else 1.0
        return Down(
            self.channels[level], self.blocks[level], self._own(parts, kind), how, halve,
            self.padding, scale, name=f"down_{level}",
        )  # fmt: skip

    def _vector(self, label: Array, given: dict[str, Array]) -> Array:
        """Return e, (batch, width), in float32 at least."""
        label = label.astype(wide(label.dtype))
        kinds = {"param_dtype": self.param_dtype}
        width = self.time_width or self.channels[0] * (2 if self.time == "fourier" else 4)
        if self.time == "fourier":
            features = FourierFeatures(width // 2, flip=self.flip, name="time_features", **kinds)
        else:
            features = lambda t: waves(t, self.channels[0], flip=self.flip, shift=self.freq_shift)  # noqa: E731
        perceptron = Perceptron(
            width, self.activation, self.time_last, self.guidance, name="time_embedding", **kinds
        )
        w = given.get("guidance")
        e = perceptron(features(label), None if w is None else guidance_waves(w, self.guidance))
        if self.classes:
            own = class_vector(
                self.classes, given["classes"], features, width, label.dtype, self.num_classes,
                self.activation, self.param_dtype,
            )  # fmt: skip
            e = jnp.concatenate([e, own], axis=-1) if self.joined else e + own
        name = {"name": "added_embedding", **kinds}
        if self.added == "text_time":
            both = TextAndTime(
                width, self.size_waves, self.added_width, self.flip, self.freq_shift, **name
            )
            e = e + both(given["pooled"].astype(e.dtype), given["time_ids"])
        elif self.added == "text":
            e = e + TextPool(width, self.pool_heads, **name)(given["tokens"].astype(e.dtype))
        elif self.added:
            made = ImageAndText(width, self.added == "text_image", **name)
            e = e + made(given["image"].astype(e.dtype), given.get("pooled"))
        return ACTIVATIONS[self.time_activation](e) if self.time_activation else e

    def _check(self, x: Array, label: Array, *more: str) -> None:
        """Check shapes and fields. more: names of fields with an entry per level, beside those of
        the way down.
        """
        if x.ndim != 4 or label.shape != x.shape[:1]:
            raise ValueError(
                "a U-Net takes x (batch, height, width, channels) and label (batch,); "
                f"got {x.shape} and {label.shape}"
            )
        levels = len(self.channels)
        fields = ("down", "blocks", "heads", "depth_down", "only_cross", *more)
        if short := [n for n in fields if len(getattr(self, n)) != levels]:
            raise ValueError(f"{levels} levels need as many entries of {short[0]}")
        if unknown := sorted(self.kinds() - {*KINDS}):
            raise ValueError(f"unknown kind of stage {unknown[0]!r}; it must be one of {KINDS}")
        if self.boxes and "cross" not in {*self.kinds(), self.middle}:
            raise ValueError('boxes are attended to by "cross" stages, and the network has none')
        factor, inside = 2 ** (levels - 1), {"joint", "resampling"} & self.kinds()
        if inside and (x.shape[1] % factor or x.shape[2] % factor):
            raise ValueError(
                f"{levels} levels need a height and a width divisible by {factor}; "
                f"got {x.shape[1]}x{x.shape[2]}"
            )
