"""T2I-Adapter (2302.08453): a small network of a picture alone, whose maps steer a frozen U-Net.

The picture is folded, f x f pixels into channels, and passes through stages of blocks

    h <- h + W2 relu(W1 h),

each stage's map being one that the U-Net adds on its way down. Maps are halved before a stage by
the average of 2 x 2 places, of those that are there at the lower and the right end.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.conv import Conv
from jaxdiff.networks.residual import resampled
from jaxdiff.typing import Array


class T2IAdapter(nn.Module):
    """Maps for a U-Net's stages, of pictures (batch, height, width, in_channels).

    channels: of each stage's map. blocks: of each stage. factor: f. halved: whether a map is halved
    before each stage. light: the light form, whose stages work on a quarter of their channels and
    whose second convolution has size 3, not 1. dtype: what it computes in; param_dtype: what the
    parameters are kept in.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    in_channels: int = 3
    blocks: int = 2
    factor: int = 8
    halved: tuple[bool, ...] = (False, True, True, True)
    light: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Array) -> tuple[Array, ...]:
        """Return the stages' maps of a picture in [0, 1], which ``UNet2DCondition`` takes as
        ``adapter``.

        Raises ValueError for a picture that does not fit.
        """
        self._check(picture)
        kinds: dict[str, Any] = {
            "dtype": jnp.dtype(self.dtype or picture.dtype), "param_dtype": self.param_dtype,
        }  # fmt: skip
        h, maps = folded(picture, self.factor), []
        h = h if self.light else Conv(self.channels[0], name="conv_in", **kinds)(h)
        for i, (channels, halve) in enumerate(zip(self.channels, self.halved, strict=True)):
            h = self._stage(averaged(h) if halve else h, channels, f"stage_{i}", kinds)
            maps.append(h.astype(picture.dtype))
        return tuple(maps)

    def _stage(self, h: Array, channels: int, name: str, kinds: dict[str, Any]) -> Array:
        width = channels // 4 if self.light else channels
        size = (3, 3) if self.light else (1, 1)
        if self.light or h.shape[-1] != width:
            h = nn.Dense(width, name=f"{name}_in", **kinds)(h)
        for j in range(self.blocks):
            g = nn.relu(Conv(width, name=f"{name}_block_{j}_in", **kinds)(h))
            h = h + Conv(width, size, name=f"{name}_block_{j}_out", **kinds)(g)
        return nn.Dense(channels, name=f"{name}_out", **kinds)(h) if self.light else h

    def _check(self, picture: Array) -> None:
        if len(self.channels) != len(self.halved):
            raise ValueError(f"{len(self.channels)} stages need as many entries of halved")
        good = picture.ndim == 4 and picture.shape[3] == self.in_channels
        if not good or picture.shape[1] % self.factor or picture.shape[2] % self.factor:
            raise ValueError(
                f"an adapter takes pictures (batch, height, width, {self.in_channels}), height and "
                f"width divisible by {self.factor}; got {picture.shape}"
            )


def folded(x: Array, factor: int) -> Array:
    """Fold squares of pixels into channels: those of one channel side by side, row by row."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // factor, w // factor, -1)


def averaged(h: Array) -> Array:
    """Halve a map by averages, of a last odd row or column by those of what is there."""
    ends = ((0, 0), (0, h.shape[1] % 2), (0, h.shape[2] % 2), (0, 0))
    return resampled(jnp.pad(h, ends, mode="edge"), "halve")
