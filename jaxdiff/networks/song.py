"""DDPM++ and NCSN++ (Song et al. 2011.13456, appendix H), as EDM builds them (2206.00364).

A U-Net of :class:`jaxdiff.networks.edm_blocks.EDMBlock` with one head of attention, sums scaled by
sqrt(1/2) and norms with eps 1e-6. What differs between the two:

    DDPM++   label in sines and cosines; box filter;
    NCSN++   label in Gaussian Fourier features, twice as wide; filter (1, 3, 3, 1); the image
             itself, halved again and again by convolutions, is added to the maps on the way down
             ("residual").

With encoder "skip" the halved image is added through a 1x1 convolution instead; with decoder "skip"
every level of the way up gives an image, doubled and added to that of the next.

A fresh network's last convolution is 1e-5 of what it would be, as in EDM; biases start at zero.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, chosen_attention, softmax_attention
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.edm_blocks import (
    ClassVectors,
    EDMBlock,
    check_image,
    embedding_inputs,
    half_of,
    norm,
    scaled,
    waves,
)
from jaxdiff.networks.embedding import LogVariance
from jaxdiff.networks.resampling import BOX, Filter, doubled, halved
from jaxdiff.typing import Array, Cond, Outputs

EPS = 1e-6


class SongUNet(nn.Module):
    """DDPM++ (the defaults, for 32x32 images) and NCSN++.

    resolution, in_channels: of the images. channels, multipliers: channels of each level are
    multipliers in units of ``channels``. blocks: residual blocks per level and direction.
    attention: map heights that have self-attention, in each block on the way down and in the last
    one on the way up; the middle always has it. num_classes: 0 for a network without. augment:
    number of labels of augmentation, 0 for none. embedding: length of e, in units of ``channels``;
    waves: that of the label's features. fourier: whether these are Gaussian Fourier features.
    encoder: "standard", "skip" or "residual". decoder: "standard" or "skip". taps: the filter that
    maps are halved and doubled with. dropout: rate. sign: 1 or -1, what the output is multiplied
    by. learned_variance: whether there are as many outputs again, which are not returned.
    log_variance: whether it has that head. remat: compute the blocks again in the backward pass.
    dtype: what it computes in, the input's if None. param_dtype: what the parameters are kept in.
    attention_fn: see :mod:`jaxdiff.networks.attention`.
    """

    resolution: int = 32
    in_channels: int = 3
    channels: int = 128
    multipliers: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    num_classes: int = 0
    augment: int = 0
    embedding: int = 4
    waves: int = 1
    fourier: bool = False
    encoder: str = "standard"
    decoder: str = "standard"
    taps: Filter = BOX
    dropout: float = 0.0
    sign: int = 1
    learned_variance: bool = False
    log_variance: bool = False
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

        x: (batch, resolution, resolution, in_channels). label: (batch,) or (batch, k). cond: see
        :mod:`jaxdiff.networks.edm_blocks`. With ``full``, Outputs whose features are the maps after
        every block. attention: what attention layers call, in place of ``attention_fn``.
        Raises ValueError, or TypeError for a class that is no integer, for inputs that do not fit.
        """
        self._check(x, label)
        chosen = chosen_attention(attention, self.attention_fn, True)
        kinds = {"dtype": jnp.dtype(self.dtype or x.dtype), "param_dtype": self.param_dtype}
        e = self._embed(label, cond)
        features: list[Array] = []
        make = nn.remat(EDMBlock, static_argnums=(3,)) if self.remat else EDMBlock

        def block(h: Array, width: int, stage: str, own: str, heads: int, change: str) -> Array:
            part = make(
                width, change, self.taps, adaptive=False, scale=half_of(), eps=EPS, project=True,
                heads=heads, dropout=self.dropout, starts=(1.0, 0.2, 1e-10), **kinds,
                attention=chosen, stage=stage, name=f"{stage}_{own}" if own else stage,
            )  # fmt: skip
            features.append(part(h, e, deterministic))
            return features[-1]

        h, skips = self._down(x.astype(kinds["dtype"]), block, kinds)
        h = block(h, h.shape[-1], "middle", "0", 1, "keep")
        h = block(h, h.shape[-1], "middle", "1", 0, "keep")
        out = self._up(h, skips, block, kinds)[..., : self.in_channels].astype(x.dtype) * self.sign
        head = LogVariance(param_dtype=self.param_dtype, name="log_variance_head")
        log_variance = head(label) if self.log_variance else None
        return Outputs(out, log_variance, tuple(features)) if full else out

    def _down(self, x: Array, block: Any, kinds: dict[str, Any]) -> tuple[Array, list[Array]]:
        """Return the lowest map and all that the way up reads."""
        first = {"kernel_init": scaled(1.0), **kinds}
        h = Conv(self.channels, **first, name="conv_in")(x)
        skips, image = [h], x
        for level, multiplier in enumerate(self.multipliers):
            stage, height = f"down_{level}", self.resolution >> level
            if level:
                h = block(h, h.shape[-1], stage, "resample", 0, "halve")
                if self.encoder == "skip":
                    image = halved(image, self.taps)
                    h = h + nn.Dense(h.shape[-1], **first, name=f"{stage}_image")(image)
                if self.encoder == "residual":
                    image = self._halved_image(
                        image, Conv(h.shape[-1], **first, name=f"{stage}_image")
                    )
                    h = image = (h + image) * half_of()
                skips.append(h)
            for i in range(self.blocks):
                heads = int(height in self.attention)
                h = block(h, self.channels * multiplier, stage, f"block_{i}", heads, "keep")
                skips.append(h)
        return h, skips

    def _halved_image(self, image: Array, conv: Any) -> Array:
        """Convolve and filter at once: the filter's zeros are around the image, not the result."""
        around = (len(self.taps) - 1) // 2
        pads = ((0, 0), (around, around), (around, around), (0, 0))
        return halved(conv(jnp.pad(image, pads)), self.taps, around=0)

    def _up(self, h: Array, skips: list[Array], block: Any, kinds: dict[str, Any]) -> Array:
        """Return the image that the way up ends in."""
        outputs = self.in_channels * (1 + self.learned_variance)
        image = None
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            stage, height = f"up_{level}", self.resolution >> level
            lowest = level == len(self.multipliers) - 1
            if not lowest:
                h = block(h, h.shape[-1], stage, "resample", 0, "double")
            for i in range(self.blocks + 1):
                heads = int(i == self.blocks and height in self.attention)
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, self.channels * multiplier, stage, f"block_{i}", heads, "keep")
            if self.decoder == "skip" or level == 0:
                own = nn.silu(norm(h, EPS, self.param_dtype, f"{stage}_norm_out"))
                last = {"kernel_init": scaled(1e-10), **kinds}
                own = Conv(outputs, **last, name=f"{stage}_conv_out")(own)
                image = own if image is None else own + doubled(image, self.taps)
        assert image is not None
        return image

    def _embed(self, label: Array, cond: Cond) -> Array:
        numbers, index, changes = embedding_inputs(label, cond, self.num_classes, self.augment)
        embed = SongEmbedding(
            self.channels * self.waves, self.channels * self.embedding, self.num_classes,
            self.fourier, self.param_dtype, name="embedding",
        )  # fmt: skip
        return embed(numbers, index, changes)

    def _check(self, x: Array, label: Array) -> None:
        check_image(x, label, self.resolution, self.in_channels, len(self.multipliers))
        for name, known in (
            ("encoder", ("standard", "skip", "residual")),
            ("decoder", ("standard", "skip")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        if self.sign not in (1, -1):
            raise ValueError(f"sign is 1 or -1; got {self.sign}")


class SongEmbedding(nn.Module):
    """Two layers over [sin, cos] of the label's waves, to which class and augmentation are added.

    waves: length of those. width: of the result. num_classes: 0 for none. fourier: see SongUNet.
    """

    waves: int
    width: int
    num_classes: int
    fourier: bool
    param_dtype: Any

    @nn.compact
    def __call__(self, label: Array, index: Array | None, changes: Array | None) -> Array:
        """Embed labels (batch, k), class indices (batch,) and augmentation (batch, augment)."""
        kinds = {"param_dtype": self.param_dtype, "dtype": label.dtype, "kernel_init": scaled(1.0)}
        columns = self._features(label)
        if index is not None:
            classes = ClassVectors(
                self.num_classes, self.waves, self.num_classes**0.5, True, scaled(1.0),
                self.param_dtype, name="class",
            )  # fmt: skip
            columns[0] = columns[0] + classes(index, label.dtype)
        if changes is not None:
            augment = nn.Dense(self.waves, use_bias=False, **kinds, name="augment")
            columns[0] = columns[0] + augment(changes)
        e = nn.Dense(self.width, **kinds, name="dense_0")(jnp.concatenate(columns, axis=-1))
        return nn.silu(nn.Dense(self.width, **kinds, name="dense_1")(nn.silu(e)))

    def _features(self, label: Array) -> list[Array]:
        if not self.fourier:
            pairs = [jnp.split(waves(l, self.waves, endpoint=True), 2, axis=-1) for l in label.T]
            return [jnp.concatenate([sin, cos], axis=-1) for cos, sin in pairs]
        start = nn.initializers.normal(16.0)
        own = self.param("frequencies", start, (self.waves // 2,), self.param_dtype)
        # constants of the network, which are not trained
        frequencies = 2 * jnp.pi * jax.lax.stop_gradient(own).astype(label.dtype)[None]
        angles = [l[:, None] * frequencies for l in label.T]
        return [jnp.concatenate([jnp.sin(a), jnp.cos(a)], axis=-1) for a in angles]
