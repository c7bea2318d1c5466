"""The U-Net of guided diffusion ("ADM"), of improved diffusion and of consistency models.

Each level halves the map. On the way down a level has ``blocks`` stages, on the way up one more,
each of which reads a map of the way down; attention and changes of size as
:mod:`jaxdiff.networks.guided_blocks` has them. Options of the published models:

    guided diffusion     size by blocks, heads of 64 channels or 4 heads, learned variance
    improved diffusion   size by convolutions, 4 heads or 1, learned variance
    consistency models   size by blocks, heads of 64 channels; EDM's preconditioning
    super-resolution     low_res: the smaller image, made as large, stands beside x

A network with learned variance has, for every number, v between a small and a large variance of the
step (2102.09672, eq. 15): v = -1 and v = 1. It is returned where ``variance=True`` requires it.

The time label counts to a thousand. Sources: Dhariwal & Nichol 2105.05233; Nichol & Dhariwal
2102.09672; Song et al. 2303.01469.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, chosen_attention, softmax_attention
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.guided_blocks import (
    GROUPS,
    TimeEmbedding,
    check_images,
    encoded,
    way,
    widths_of,
)
from jaxdiff.networks.unet import Norm
from jaxdiff.typing import Array, Cond, Outputs


class GuidedUNet(nn.Module):
    """U-Net for images (batch, height, width, channels).

    channels: the unit of widths, and a quarter of the embedding's length. multipliers: channels of
    each level, in units of ``channels``. blocks: stages per level on the way down. attention:
    numbers of the levels that get it, 0 the finest; the middle always has it. heads, heads_up: its
    heads on the way down and up; head_channels: channels of each head, which decides if not 0.
    size_by: "block", "conv" or "plain", what halves and doubles maps. scale_shift: whether the
    embedding scales and shifts (or is added). num_classes: rows of classes, none for no class.
    learned_variance, low_res: see the module's text. dropout: rate. remat: compute the stages again
    in the backward pass. dtype: what it computes in; None means the input's dtype. param_dtype:
    what the parameters are kept in. attention_fn: what the attention is.
    """

    channels: int = 128
    multipliers: tuple[float, ...] = (1, 2, 3, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (2, 3)
    heads: int = 4
    heads_up: int = 0
    head_channels: int = 0
    size_by: str = "block"
    scale_shift: bool = True
    num_classes: int = 0
    learned_variance: bool = False
    low_res: bool = False
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    attention_fn: AttentionFn = softmax_attention

    null_class = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        label: Array,
        cond: Cond = None,
        *,
        deterministic: bool = True,
        full: bool = False,
        variance: bool = False,
        attention: AttentionFn | None = None,
    ) -> Any:
        """Map ``x`` to an output of its shape and dtype.

        x: (batch, height, width, channels). label: (batch,). cond: class indices (batch,), None for
        a network without classes; with ``low_res``, {"low_res": (batch, any height, any width,
        channels)}, and "class" beside it where there are classes. With ``full``, Outputs whose
        features are the maps after the first convolution and after each stage, the middle's two
        being one. With ``variance``, a pair: that, and v of the shape of x. attention: what the
        attention layers call, in place of ``attention_fn``.

        Raises ValueError for images that cannot be halved often enough, widths that 32 groups or
        the heads do not divide, a condition of another kind, and a variance that is not learned.
        """
        widths = widths_of(self.channels, self.multipliers)
        check_images(x, label, widths, self.attention)
        if variance and not self.learned_variance:
            raise ValueError("variance=True, but this network has no learned variance")
        chosen = chosen_attention(attention, self.attention_fn, 1)
        dtype, c = jnp.dtype(self.dtype or x.dtype), x.shape[-1]
        kinds = {"dtype": dtype, "param_dtype": self.param_dtype}
        inputs, classes = self._conditions(x, cond)
        embed = TimeEmbedding(self.channels, self.num_classes, self.param_dtype, name="embedding")
        stages = way(self, embed(label, classes).astype(dtype), chosen, deterministic, kinds)
        maps = encoded(self, stages, inputs.astype(dtype), kinds)
        skips, h = maps[:-1], maps[-1]
        for level, width in reversed(list(enumerate(widths))):
            heads, place = (self.heads_up or self.heads) * (level in self.attention), f"up_{level}"
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                size = "up" if level and i == self.blocks else ""
                h = stages.stage(h, width, f"{place}_{i}", place, heads, size=size)
                maps.append(h)
        h = nn.silu(Norm(GROUPS, self.param_dtype, name="norm_out")(h))
        zero, ends = nn.initializers.zeros, c * (2 if self.learned_variance else 1)
        out = Conv(ends, kernel_init=zero, **kinds, name="conv_out")(h).astype(x.dtype)
        value = Outputs(out[..., :c], None, tuple(maps)) if full else out[..., :c]
        return (value, out[..., c:]) if variance else value

    def _conditions(self, x: Array, cond: Cond) -> tuple[Array, Cond]:
        """The input, with the smaller image beside it, and the classes."""
        if not self.low_res:
            return x, cond
        if cond is None and self.is_initializing():
            cond = {"low_res": x}
        if not isinstance(cond, dict) or not {"low_res"} <= set(cond) <= {"low_res", "class"}:
            raise ValueError('cond of a super-resolution model is {"low_res": ..., "class": ...}')
        small = cond["low_res"]
        if small.ndim != 4 or (small.shape[0], small.shape[3]) != (x.shape[0], x.shape[3]):
            raise ValueError(
                f"low_res has shape {small.shape}; for x {x.shape} it is (batch, height, width, "
                f"{x.shape[3]}), of {x.shape[0]} images"
            )
        large = jax.image.resize(small.astype(x.dtype), x.shape, "linear", antialias=False)
        return jnp.concatenate([x, large], axis=-1), cond.get("class")
