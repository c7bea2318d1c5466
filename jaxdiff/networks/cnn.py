"""A plain convolutional network: no levels, no skips, every map of the image's own size.

The first block's output gets a vector of the time, the same at every position:
    h = block_0(x) + perceptron(waves(t)),    h <- block_i(h),    output = conv(h),
    block(h) = gelu(norm(conv(h))),
norm being layer norm over the positions of each channel, with a scale and a shift per position,
shared by the channels: the network has one image size. waves are [sin w t, cos w t - 1] with w = 0
and 2 pi 1.5^i, i = 0, 1, ...

The network of the course "udl" (Prince, Understanding Deep Learning) as J. Hughes's MNIST models
have it (github.com/james-hughes1/diffusion-mnist).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks.conv import Conv
from jaxdiff.networks.embedding import wide
from jaxdiff.typing import Array, Cond, Outputs


class CNN(nn.Module):
    """Convolutional network for images (batch, *size, channels).

    size: height and width. hidden: channels of the blocks. kernel, last_kernel: sides of the
    blocks' kernels and of the last one's, odd. frequencies: number of w, 0 among them.
    dtype: what it computes in; None means the input's dtype. param_dtype: what the parameters are
    kept in.
    """

    size: tuple[int, int] = (28, 28)
    hidden: tuple[int, ...] = (16, 32, 32, 16)
    kernel: int = 7
    last_kernel: int = 3
    frequencies: int = 16
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, label: Array, cond: Cond = None, *, full: bool = False
    ) -> Array | Outputs:
        """Map ``x`` (batch, height, width, channels) to an output of its shape and dtype.

        label: times (batch,), in [0, 1] as a rule. cond: None. With ``full``, Outputs whose
        features are the maps after each block.

        Raises ValueError for images of another size, labels of another shape and for a condition.
        """
        if x.ndim != 4 or x.shape[1:3] != self.size or label.shape != x.shape[:1]:
            raise ValueError(
                f"this network takes x (batch, {self.size[0]}, {self.size[1]}, channels) and label "
                f"(batch,); got {x.shape} and {label.shape}"
            )
        if cond is not None:
            raise ValueError("cond was given to a network without conditions")
        dtype = jnp.dtype(self.dtype or x.dtype)
        kinds, maps = {"dtype": dtype, "param_dtype": self.param_dtype}, []
        h = x.astype(dtype)
        for i, width in enumerate(self.hidden):
            h = Conv(width, (self.kernel, self.kernel), **kinds, name=f"conv_{i}")(h)
            h = nn.gelu(MapNorm(self.param_dtype, name=f"norm_{i}")(h), approximate=False)
            if i == 0:
                h = h + self._time(label).astype(dtype)[:, None, None, :]
            maps.append(h)
        last = Conv(x.shape[-1], (self.last_kernel, self.last_kernel), **kinds, name="conv_out")
        out = last(h).astype(x.dtype)
        return Outputs(out, None, tuple(maps)) if full else out

    def _time(self, label: Array) -> Array:
        """Return the perceptron of the label's waves, (batch, channels of the first block)."""
        label = label.astype(wide(label.dtype))
        angle = label[:, None] * jnp.asarray(waves(self.frequencies), label.dtype)[None]
        e = jnp.concatenate([jnp.sin(angle), jnp.cos(angle) - 1], axis=-1)
        for i, width in enumerate((128, 128, 128, self.hidden[0])):
            dense = nn.Dense(
                width, dtype=label.dtype, param_dtype=self.param_dtype, name=f"time_{i}"
            )
            e = dense(e if i == 0 else nn.gelu(e, approximate=False))
        return e


class MapNorm(nn.Module):
    """Layer norm over the positions of each channel, its statistics in float32 at least."""

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Normalise ``h`` (batch, height, width, channels)."""
        r, shape = h.astype(wide(h.dtype)), h.shape[1:3]
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        r = r - jnp.mean(r, axis=(1, 2), keepdims=True)
        r = r * jax.lax.rsqrt(jnp.mean(r**2, axis=(1, 2), keepdims=True) + 1e-5)
        r = r * scale.astype(r.dtype)[None, :, :, None] + bias.astype(r.dtype)[None, :, :, None]
        return r.astype(h.dtype)


def waves(count: int) -> np.ndarray:
    """Return the angular frequencies of the module's text, (count,)."""
    return 2 * math.pi * np.concatenate([[0.0], 1.5 ** np.arange(count - 1)])
