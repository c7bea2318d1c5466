"""The U-Net of DDPM and NCSN++ as the diffusers library has it (its ``UNet2DModel``).

Levels of residual blocks (:mod:`jaxdiff.networks.residual`), each halving the map, a stage at the
bottom, and as many levels back, of one block more, that read the maps of the way down
(:mod:`jaxdiff.networks.stages`); time and class as a vector e that every block is given. With
``time="fourier"`` (2011.13456) the label is sigma and the output is divided by it: the score of a
variance-exploding process.

Sources: Ho et al. 2006.11239; Song et al. 2011.13456; Dhariwal & Nichol 2105.05233.
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, chosen_attention, softmax_attention
from jaxdiff.networks.conditions import class_vector
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.embedding import wide
from jaxdiff.networks.residual import Parts, group_norm
from jaxdiff.networks.spatial import Context
from jaxdiff.networks.stages import Attending, Down, Middle, SkipDown, SkipUp, Up
from jaxdiff.networks.time_embedding import FourierFeatures, Perceptron, waves
from jaxdiff.typing import Array, Cond, Outputs

KINDS = ("plain", "attention", "resampling", "skip", "skip_attention")


class UNet2D(nn.Module):
    """U-Net for images (batch, height, width, channels).

    channels: of each level, the finest first. out_channels: of the output. down, up: the kind of
    each level's stage on either way, the finest first: "plain", "attention", "resampling" (blocks
    that halve and double), "skip" and "skip_attention" (NCSN++). middle: whether there is a stage
    at the bottom, with attention if ``middle_attention``; middle_scale: what its sums are divided
    by.
    blocks: of each level on the way down. head_width: channels of a head; 0 for one head of all
    channels. groups: of the norms; middle_groups: of the bottom's attention, 0 for the same, -1 for
    no norm. eps, activation, modulation, dropout, remat, dtype, param_dtype:
    :class:`jaxdiff.networks.residual.Parts`; dtype None means the input's. time: "positional"
    waves, "fourier" features or a "learned" row for each of ``num_steps`` labels; time_width:
    length of e, 0 for four times the finest channels; flip, freq_shift:
    :func:`jaxdiff.networks.time_embedding.waves`. classes: how a class is embedded, "" for not at
    all, "index" for a row of ``num_classes``, "waves" of a number through a perceptron, "vector" as
    e itself. halve, double: how "attention" stages do it, by a "conv" or a "block"; padding: of
    that convolution, on all sides (1) or below and right (0). centred: the input is 2 x - 1.
    """

    channels: tuple[int, ...] = (128, 256, 256, 256)
    out_channels: int = 3
    down: tuple[str, ...] = ("plain", "attention", "plain", "plain")
    up: tuple[str, ...] = ("plain", "attention", "plain", "plain")
    middle: bool = True
    middle_attention: bool = True
    middle_scale: float = 1.0
    blocks: int = 2
    head_width: int = 0
    groups: int = 32
    middle_groups: int = 0
    eps: float = 1e-5
    activation: str = "silu"
    modulation: Literal["shift", "scale_shift"] = "shift"
    time: Literal["positional", "fourier", "learned"] = "positional"
    time_width: int = 0
    num_steps: int = 0
    flip: bool = True
    freq_shift: float = 0
    classes: Literal["", "index", "waves", "vector"] = ""
    num_classes: int = 0
    halve: Literal["conv", "block"] = "conv"
    double: Literal["conv", "block"] = "conv"
    padding: int = 1
    centred: bool = False
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
        """Map ``x`` to (batch, height, width, out_channels), in its dtype.

        label: (batch,), steps of a table, or sigma with ``time="fourier"``. cond: class indices
        (batch,), for "waves" numbers (batch,), for "vector" e's own vectors; None without classes.
        With ``full``, Outputs whose features are the maps that each stage returns, from the finest
        on the way down to the finest on the way up. attention: what the attention layers call.
        Raises ValueError for shapes, kinds and conditions that do not fit.
        """
        self._check(x, label)
        parts = self._parts(x, attention)
        h = (2 * x - 1 if self.centred else x).astype(parts.dtype)
        e = self._embedded(label, cond).astype(parts.dtype)
        image = h
        h = Conv(self.channels[0], name="conv_in", **parts.kinds)(h)
        maps, features, top = [h], [], len(self.channels) - 1
        for level, kind in enumerate(self.down):
            stage = self._down(level, kind, parts)
            if isinstance(stage, SkipDown):
                h, more, image = stage(h, image, e, deterministic)
            else:
                h, more = stage(h, e, Context(), deterministic)
            maps, features = maps + more, [*features, h]
        if self.middle:
            own = Attending("self" if self.middle_attention else "", self._head(top))
            own = own._replace(groups=self._middle_groups())
            h = Middle(self.channels[-1], parts, own, self.middle_scale, name="middle")(
                h, e, Context(), deterministic
            )
            features.append(h)
        skip = None
        for level, kind in reversed(list(enumerate(self.up))):
            stage = self._up(level, kind, parts)
            if isinstance(stage, SkipUp):
                h, skip = stage(h, maps, skip, e, deterministic)
            else:
                h = stage(h, maps, e, Context(), deterministic)
            features.append(h)
        h = nn.silu(group_norm(h, self.groups, self.eps, self.param_dtype, "norm_out"))
        out = Conv(self.out_channels, name="conv_out", **parts.kinds)(h)
        out = out if skip is None else out + skip
        if self.time == "fourier":
            out = out / label.astype(out.dtype)[:, None, None, None]
        out = out.astype(x.dtype)
        return Outputs(out, None, tuple(features)) if full else out

    def _parts(self, x: Array, attention: AttentionFn | None) -> Parts:
        some = self.middle and self.middle_attention or "attention" in " ".join(self.down + self.up)
        return Parts(
            self.groups, self.eps, self.activation, self.modulation, dropout=self.dropout,
            remat=self.remat, dtype=jnp.dtype(self.dtype or x.dtype), param_dtype=self.param_dtype,
            attention=chosen_attention(attention, self.attention_fn, int(some)),
        )  # fmt: skip

    def _head(self, level: int) -> int:
        return self.head_width or self.channels[level]

    def _middle_groups(self) -> int:
        """Without groups of its own, the bottom's attention is normed only beside plain shifts."""
        return self.middle_groups or (0 if self.modulation == "shift" else -1)

    def _down(self, level: int, kind: str, parts: Parts) -> Any:
        c, name, last = self.channels[level], f"down_{level}", level == len(self.channels) - 1
        if kind.startswith("skip"):
            heads = self._head(level) if kind == "skip_attention" else 0
            return SkipDown(c, self.blocks, parts, heads, not last, name=name)
        own = Attending("self" if kind == "attention" else "", self._head(level))
        how: Any = {"attention": self.halve, "resampling": "block"}.get(kind, "conv")
        return Down(c, self.blocks, parts, own, "" if last else how, self.padding, name=name)

    def _up(self, level: int, kind: str, parts: Parts) -> Any:
        c, name = self.channels[level], f"up_{level}"
        if kind.startswith("skip"):
            heads = self._head(level) if kind == "skip_attention" else 0
            return SkipUp(c, self.blocks + 1, parts, heads, level > 0, name=name)
        own = Attending("self" if kind == "attention" else "", self._head(level))
        how: Any = {"attention": self.double, "resampling": "block"}.get(kind, "conv")
        return Up(c, self.blocks + 1, parts, own, how if level else "", name=name)

    def _embedded(self, label: Array, cond: Cond) -> Array:
        """Return the embedding of time and class, (batch, width), in float32 at least."""
        label = label.astype(wide(label.dtype))
        width = self.time_width or 4 * self.channels[0]
        kinds = {"param_dtype": self.param_dtype}
        fourier = FourierFeatures(
            self.channels[0], 16.0, log=True, name="time_features", **kinds
        ) if self.time == "fourier" else None  # fmt: skip

        def features(label: Array) -> Array:
            if fourier is not None:
                return fourier(label)
            return waves(label, self.channels[0], flip=self.flip, shift=self.freq_shift)

        if self.time == "learned":
            rows = nn.Embed(self.num_steps, self.channels[0], name="time_features", **kinds)
            step = jnp.round(label).astype(jnp.int32)
            step = jnp.where(step < 0, self.num_steps, step)  # NaN, never a step from the end
            times = rows(step).astype(label.dtype)
        else:
            times = features(label)
        e = Perceptron(width, name="time_embedding", **kinds)(times)
        if self.classes and cond is None:
            raise ValueError(
                "this network was trained with classes and has no row for none: give cond"
            )
        if not self.classes and cond is not None:
            raise ValueError("cond was given to a network without classes")
        if not self.classes:
            return e
        cond = jnp.asarray(cond)
        if cond.shape[:1] != label.shape:
            raise ValueError(f"cond has shape {cond.shape}, but there are {label.shape[0]} samples")
        return e + class_vector(
            self.classes, cond, features, width, e.dtype, self.num_classes, "silu",
            self.param_dtype,
        )  # fmt: skip

    def _check(self, x: Array, label: Array) -> None:
        if x.ndim != 4 or label.shape != x.shape[:1]:
            raise ValueError(
                "a U-Net takes x (batch, height, width, channels) and label (batch,); "
                f"got {x.shape} and {label.shape}"
            )
        levels = len(self.channels)
        if len(self.down) != levels or len(self.up) != levels:
            raise ValueError(f"{levels} levels need as many kinds of stages, down and up")
        if unknown := sorted({*self.down, *self.up} - set(KINDS)):
            raise ValueError(f"unknown kind of stage {unknown[0]!r}; it must be one of {KINDS}")
        factor = 2 ** (levels - 1)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"{levels} levels need a height and a width divisible by {factor}; "
                f"got {x.shape[1]}x{x.shape[2]}"
            )
