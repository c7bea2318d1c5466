"""ADM (Dhariwal and Nichol 2105.05233), as EDM builds it (2206.00364, appendix F.1).

A U-Net of adaptive :class:`jaxdiff.networks.edm_blocks.EDMBlock`, whose attention has heads of 64
channels; a map narrower than that has no attention, even where it is requested. The class's vector
is added after the second layer of the label's embedding.

The last layers of blocks and network start at zero, and so do biases.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, chosen_attention, softmax_attention
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.edm_blocks import (
    KAIMING,
    ClassVectors,
    EDMBlock,
    check_image,
    embedding_inputs,
    norm,
    scaled,
    waves,
)
from jaxdiff.networks.embedding import LogVariance
from jaxdiff.typing import Array, Cond, Outputs

EPS = 1e-5


class DhariwalUNet(nn.Module):
    """ADM; the defaults are for 64x64 images (ImageNet).

    resolution, in_channels: of the images. channels, multipliers: channels of each level are
    multipliers in units of ``channels``. blocks: residual blocks per level and direction.
    attention: map heights that have self-attention; the middle always has it. head_channels: of
    each head. num_classes: 0 for a network without. augment: number of labels of augmentation, 0
    for none. embedding: length of e, in units of ``channels``. dropout: rate. sign: 1 or -1, what
    the output is multiplied by. learned_variance: whether there are as many outputs again, which
    are not returned. log_variance: whether it has that head. remat: compute the blocks again in the
    backward pass. dtype: what it computes in, the input's if None. param_dtype: what the parameters
    are kept in. attention_fn: see :mod:`jaxdiff.networks.attention`.
    """

    resolution: int = 64
    in_channels: int = 3
    channels: int = 192
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (32, 16, 8)
    head_channels: int = 64
    num_classes: int = 0
    augment: int = 0
    embedding: int = 4
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
        check_image(x, label, self.resolution, self.in_channels, len(self.multipliers))
        widths = [self.channels * m for m in self.multipliers]
        chosen = chosen_attention(attention, self.attention_fn, self._heads(max(widths)))
        kinds = {"dtype": jnp.dtype(self.dtype or x.dtype), "param_dtype": self.param_dtype}
        e = self._embed(label, cond)
        features: list[Array] = []
        make = nn.remat(EDMBlock, static_argnums=(3,)) if self.remat else EDMBlock

        def block(h: Array, width: int, stage: str, own: str, attends: bool, change: str) -> Array:
            part = make(
                width, change, eps=EPS, heads=self._heads(width) * attends, dropout=self.dropout,
                starts=(1 / 3, 1 / 3, 0.0), fan=KAIMING, **kinds, attention=chosen, stage=stage,
                name=f"{stage}_{own}",
            )  # fmt: skip
            features.append(part(h, e, deterministic))
            return features[-1]

        first = {"kernel_init": scaled(1 / 3, KAIMING), **kinds}
        h = Conv(widths[0], **first, name="conv_in")(x.astype(kinds["dtype"]))
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
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, width, stage, f"block_{i}", attends, "keep")
        h = nn.silu(norm(h, EPS, self.param_dtype, "norm_out"))
        outputs = self.in_channels * (1 + self.learned_variance)
        out = Conv(outputs, kernel_init=nn.initializers.zeros, **kinds, name="conv_out")(h)
        out = out[..., : self.in_channels].astype(x.dtype) * self.sign
        head = LogVariance(param_dtype=self.param_dtype, name="log_variance_head")
        log_variance = head(label) if self.log_variance else None
        return Outputs(out, log_variance, tuple(features)) if full else out

    def _heads(self, width: int) -> int:
        return width // self.head_channels

    def _embed(self, label: Array, cond: Cond) -> Array:
        numbers, index, changes = embedding_inputs(label, cond, self.num_classes, self.augment)
        embed = DhariwalEmbedding(
            self.channels, self.channels * self.embedding, self.num_classes, self.param_dtype,
            name="embedding",
        )  # fmt: skip
        return embed(numbers, index, changes)


class DhariwalEmbedding(nn.Module):
    """Two layers over [cos, sin] of the label's waves; augmentation is added before them, the class
    after them.

    waves: length of the waves. width: of the result. num_classes: 0 for none.
    """

    waves: int
    width: int
    num_classes: int
    param_dtype: Any

    @nn.compact
    def __call__(self, label: Array, index: Array | None, changes: Array | None) -> Array:
        """Embed labels (batch, k), class indices (batch,) and augmentation (batch, augment)."""
        kinds = {"param_dtype": self.param_dtype, "dtype": label.dtype}
        columns = [waves(column, self.waves) for column in label.T]
        if changes is not None:
            start = nn.initializers.zeros
            augment = nn.Dense(
                self.waves, use_bias=False, kernel_init=start, **kinds, name="augment"
            )
            columns[0] = columns[0] + augment(changes)
        first = {"kernel_init": scaled(1 / 3, KAIMING), **kinds}
        e = nn.Dense(self.width, **first, name="dense_0")(jnp.concatenate(columns, axis=-1))
        e = nn.Dense(self.width, **first, name="dense_1")(nn.silu(e))
        if index is not None:
            own = {"param_dtype": self.param_dtype, "name": "class"}
            e = e + ClassVectors(self.num_classes, self.width, **own)(index, label.dtype)
        return nn.silu(e)
