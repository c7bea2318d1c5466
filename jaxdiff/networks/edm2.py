"""EDM2's magnitude-preserving U-Net (Karras et al. 2312.02696, config G, figure 21).

It is made of the layers of :mod:`jaxdiff.networks.magnitude`. The gains of the embedding and of the
output start at 0. The image has a further channel, of ones. A block on the way down normalises
every pixel, after its own 1x1 convolution; one on the way up has that convolution beside its
residual branch. :func:`jaxdiff.networks.magnitude.unit_filters` is to be applied after every update
of training. Norms, softmax, embeddings and weights are computed in float32 at least.
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
from jaxdiff.networks.edm_blocks import check_image
from jaxdiff.networks.embedding import class_index, wide
from jaxdiff.networks.magnitude import (
    MPClasses,
    MPFourier,
    MPLayer,
    mp_concatenate,
    mp_silu,
    mp_sum,
    unit,
)
from jaxdiff.networks.resampling import BOX, Filter, doubled, halved
from jaxdiff.typing import Array, Cond, Outputs


class EDM2Block(nn.Module):
    """A block of EDM2's network.

    channels: of the output. up: whether it is on the way up. resample: "keep", "halve" or "double",
    with the filter ``taps``. heads: of the attention, 0 for none. residual, attended: t of the sums
    with the residual branch and with attention. clip: largest magnitude of the output, None for no
    such bound.
    """

    channels: int
    up: bool
    resample: str = "keep"
    taps: Filter = BOX
    heads: int = 0
    residual: float = 0.3
    attended: float = 0.3
    clip: float | None = 256.0
    dropout: float = 0.0
    param_dtype: Any = jnp.float32
    attention: AttentionFn = softmax_attention
    stage: str = ""

    @nn.compact
    def __call__(self, x: Array, e: Array, deterministic: bool = True) -> Array:
        """Map ``x`` (batch, height, width, any) to ``channels`` channels, given ``e``."""
        if self.resample != "keep":
            x = {"halve": halved, "double": doubled}[self.resample](x, self.taps)
        changed = x.shape[-1] != self.channels
        skip = lambda x: self._layer(1, "skip")(x) if changed else x  # noqa: E731
        if not self.up:
            x = unit(skip(x), (-1,))
        h = self._layer(3, "conv_in")(mp_silu(x))
        gain = self.param("gain", nn.initializers.zeros, (), self.param_dtype)
        c = self._layer(0, "modulation")(e, gain) + 1
        h = mp_silu(h * c.astype(h.dtype)[:, None, None])
        h = nn.Dropout(self.dropout)(h, deterministic=deterministic)
        h = self._layer(3, "conv_out")(h)
        x = mp_sum(skip(x) if self.up else x, h, self.residual)
        if self.heads:
            x = mp_sum(x, self._attention(x), self.attended)
        return x if self.clip is None else jnp.clip(x, -self.clip, self.clip)

    def _attention(self, x: Array) -> Array:
        b, height, width, c = x.shape
        if c % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {c} channels")
        qkv = self._layer(1, "qkv", 3)(x)
        qkv = unit(qkv.reshape(b, height * width, 3, self.heads, c // self.heads), (-1,))
        place = Place("/".join(self.path), "self", (height, width), self.stage)
        h = attend(self.attention, qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], place)
        return self._layer(1, "out")(h.reshape(x.shape))

    def _layer(self, size: int, name: str, times: int = 1) -> MPLayer:
        return MPLayer(self.channels * times, size, self.param_dtype, name=name)


class EDM2UNet(nn.Module):
    """EDM2's network; the defaults are S for 64x64 latents of 4 channels (ImageNet-512).

    resolution, in_channels: of the images. channels, multipliers: channels of each level are
    multipliers in units of ``channels``: 128 (XS), 192 (S), 256 (M), 320 (L), 384 (XL), 448 (XXL).
    blocks: per level and direction. attention: map heights that have self-attention; the middle
    always has it. head_channels: of each head; a map narrower than that has none. num_classes: 0
    for a network without. waves: number of the label's features, and embedding: length of the
    embedding; None for the channels of the first and of the widest level. label_balance,
    concat_balance, residual_balance, attention_balance: t of the class's sum with the label, of the
    concatenations, where it is the share of the map from the way down, and of a block's two sums.
    clip: see :class:`EDM2Block`. taps: the filter that maps are halved and doubled with. dropout:
    rate. log_variance: whether it has that head, of ``log_variance_waves`` features. remat: compute
    the blocks again in the backward pass. dtype: what it computes in, the input's if None.
    param_dtype: what the parameters are kept in. attention_fn: see
    :mod:`jaxdiff.networks.attention`.
    """

    resolution: int = 64
    in_channels: int = 4
    channels: int = 192
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (16, 8)
    head_channels: int = 64
    num_classes: int = 0
    waves: int | None = None
    embedding: int | None = None
    label_balance: float = 0.5
    concat_balance: float = 0.5
    residual_balance: float = 0.3
    attention_balance: float = 0.3
    clip: float | None = 256.0
    taps: Filter = BOX
    dropout: float = 0.0
    log_variance: bool = True
    log_variance_waves: int = 128
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
        """Map ``x`` to an output of its shape and dtype.

        x: (batch, resolution, resolution, in_channels). label: (batch,). cond: class indices
        (batch,), num_classes or None being no class. With ``full``, Outputs whose features are the
        maps after every block. attention: what attention layers call, in place of ``attention_fn``.
        Raises ValueError, or TypeError for a class that is no integer, for inputs that do not fit.
        """
        check_image(x, label, self.resolution, self.in_channels, len(self.multipliers))
        if label.ndim != 1:
            raise ValueError(f"this network takes one label for each image; got {label.shape}")
        widths = [self.channels * m for m in self.multipliers]
        chosen = chosen_attention(attention, self.attention_fn, max(widths) // self.head_channels)
        label = label.astype(wide(label.dtype))
        e, features = self._embed(label, cond, widths), list[Array]()
        make = nn.remat(EDM2Block, static_argnums=(3,)) if self.remat else EDM2Block

        def block(h: Array, width: int, stage: str, own: str, attends: bool, change: str) -> Array:
            heads = width // self.head_channels * attends
            part = make(
                width, not stage.startswith("down"), change, self.taps, heads,
                self.residual_balance, self.attention_balance, self.clip, self.dropout,
                self.param_dtype, chosen, stage, name=f"{stage}_{own}",
            )  # fmt: skip
            features.append(part(h, e, deterministic))
            return features[-1]

        h = x.astype(self.dtype or x.dtype)
        h = jnp.concatenate([h, jnp.ones_like(h[..., :1])], axis=-1)
        h = self._layer(widths[0], 3, "conv_in")(h)
        skips = [h]
        for level, width in enumerate(widths):
            stage, attends = f"down_{level}", self.resolution >> level in self.attention
            if level:
                h = block(h, h.shape[-1], stage, "resample", False, "halve")
                skips.append(h)
            for i in range(self.blocks):
                h = block(h, width, stage, f"block_{i}", attends, "keep")
                skips.append(h)
        h = block(h, h.shape[-1], "middle", "0", True, "keep")
        h = block(h, h.shape[-1], "middle", "1", False, "keep")
        for level, width in reversed(list(enumerate(widths))):
            stage, attends = f"up_{level}", self.resolution >> level in self.attention
            if level < len(widths) - 1:
                h = block(h, h.shape[-1], stage, "resample", False, "double")
            for i in range(self.blocks + 1):
                h = mp_concatenate(h, skips.pop(), self.concat_balance)
                h = block(h, width, stage, f"block_{i}", attends, "keep")
        gain = self.param("gain", nn.initializers.zeros, (), self.param_dtype)
        out = self._layer(self.in_channels, 3, "conv_out")(h, gain).astype(x.dtype)
        log_variance = self._log_variance(label) if self.log_variance else None
        return Outputs(out, log_variance, tuple(features)) if full else out

    def _layer(self, features: int, size: int, name: str) -> MPLayer:
        return MPLayer(features, size, self.param_dtype, name=name)

    def _embed(self, label: Array, cond: Cond, widths: list[int]) -> Array:
        width = self.embedding or max(widths)
        fourier = MPFourier(self.waves or widths[0], self.param_dtype, name="features")
        e = self._layer(width, 0, "embedding")(fourier(label))
        index = class_index(cond, self.num_classes, label.shape[0])
        if index is not None:
            own = MPClasses(width, self.num_classes, self.param_dtype, name="class")
            e = mp_sum(e, own(index, e.dtype), self.label_balance)
        return mp_silu(e)

    def _log_variance(self, label: Array) -> Array:
        fourier = MPFourier(self.log_variance_waves, self.param_dtype, name="log_variance_features")
        return self._layer(1, 0, "log_variance_head")(fourier(label))[:, 0]
