"""The U-Net of latent diffusion, with text (Stable Diffusion 1, 2 and XL, LCM, DeepFloyd IF, ...).

As :class:`jaxdiff.networks.unet2d.UNet2D`, with stages that attend to the tokens of a text; time,
classes, sizes, a pooled text and a guidance scale are one vector e that every block is given. The
diffusers library calls it ``UNet2DConditionModel``.

Sources: Rombach et al. 2112.10752; Podell et al. 2307.01952 (XL); Luo et al. 2310.04378 (LCM);
Saharia et al. 2205.11487 (joint attention, text pool).
"""

from collections.abc import Sequence

import flax.linen as nn

from jaxdiff.networks.attention import AttentionFn
from jaxdiff.networks.conditional_encoder import ConditionalEncoder
from jaxdiff.networks.conditions import checked_conditions, keys_of
from jaxdiff.networks.residual import Parts, group_norm
from jaxdiff.networks.stages import Up, with_residuals
from jaxdiff.typing import Array, Cond, Outputs


class UNet2DCondition(ConditionalEncoder):
    """U-Net with text for images or latents (batch, height, width, channels).

    out_channels: of the result. up: kind of each level's stage on the way up, the finest first.
    depth_up: blocks of each transformer of each level. heads_up: as ``heads``, for the way up, ()
    for the same. kernel_out: size of the last convolution. zero_out: whether that starts at zero,
    which suits training from nothing. All else is of the way down:
    :class:`jaxdiff.networks.conditional_encoder.ConditionalEncoder`.
    """

    out_channels: int = 4
    up: tuple[str, ...] = ("cross", "cross", "cross", "plain")
    depth_up: tuple[tuple[int, ...], ...] = ((1, 1, 1),) * 4
    heads_up: tuple[int, ...] = ()
    kernel_out: int = 3
    zero_out: bool = False

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
        adapter: Sequence[Array] | None = None,
    ) -> Array | Outputs:
        """Map ``x`` to (batch, height, width, out_channels), in its dtype.

        label: (batch,), steps of a table. cond: a dictionary
        (:mod:`jaxdiff.networks.conditions`). With ``full``, Outputs whose features are the maps
        that each stage returns, from the finest on the way down to the finest on the way up.
        attention: what the attention layers call. residuals: maps added to those that the way up
        reads, in their order, and to the bottom's, last (ControlNet). adapter: maps added in each
        stage on the way down, and at the bottom if there is one more (T2I-Adapter). Raises
        ValueError for shapes, kinds and conditions that do not fit.
        """
        self._check(x, label, "up", "depth_up")
        parts = self._parts(x, attention)
        given = checked_conditions(cond, *self.keys(x.shape[-1]), x.shape[0])
        maps, features, h, e, context = self.encoded(
            x, label, given, parts, deterministic=deterministic, adapter=adapter
        )
        if residuals is not None:
            maps, h = with_residuals(maps, residuals), h + residuals[-1].astype(h.dtype)
            features = [*features[:-1], h] if self.middle else features
        for level in reversed(range(len(self.channels))):
            size = maps[-self.blocks[level] - 2].shape[1:3] if level else ()
            h = self._up(level, parts)(h, maps, e, context, deterministic, size)
            features.append(h)
        h = parts.act(group_norm(h, self.groups, self.eps, self.param_dtype, "norm_out"))
        start = {"kernel_init": nn.initializers.zeros} if self.zero_out else {}
        out = self._conv(self.out_channels, self.kernel_out, "conv_out", parts, **start)(h)
        out = out.astype(x.dtype)
        return Outputs(out, None, tuple(features)) if full else out

    def kinds(self) -> set[str]:
        """Return the kinds of the levels' stages, both ways."""
        return super().kinds() | {*self.up}

    def keys(self, channels: int | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the keys that cond must have, and those that it may have.

        channels: of x, where they are not ``out_channels``.
        """
        return keys_of(self, channels or self.out_channels)

    def _up(self, level: int, parts: Parts) -> nn.Module:
        kind = self.up[level]
        heads = (self.heads_up or self.heads)[level]
        how = self._attending(kind, level, self.depth_up[level], heads)
        inside = kind in ("joint", "resampling")
        double = "" if level == 0 else "block" if inside else "conv"
        scale = self.scale if inside else 1.0
        return Up(
            self.channels[level], self.blocks[level] + 1, self._own(parts, kind), how, double,
            scale, name=f"up_{level}",
        )  # fmt: skip
