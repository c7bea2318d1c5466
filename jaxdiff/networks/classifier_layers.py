"""Layers that classifiers of small images are made of: convolutions without levels, batch norm.

A convolution here has zeros on both sides, k // 2 of them for a kernel of side k, so that stride 2
reads pixels 0, 2, 4, ...:
    y[b, i, j, d] = sum over k, l, c of x[b, s i + k - p, s j + l - p, c] w[k, l, c, d],
with groups of channels that see only each other, or with one kernel per channel (depthwise).

Batch norm, with the statistics of the batch in training, which move the running ones, r <- 0.9 r +
0.1 (mean, variance), and the running ones in evaluation:
    y = scale (x - mean) / sqrt(variance + 1e-5) + bias.
Deviation: the running variance is of the batch's own, sum / n; PyTorch's is sum / (n - 1).

Sources: batch norm, Ioffe and Szegedy, arXiv 1502.03167; the initial values, He et al., arXiv
1502.01852, by the number of outputs.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks.conv import convolve
from jaxdiff.typing import Array, Outputs

MOMENTUM, EPSILON = 0.9, 1e-5
KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class SymmetricConv(nn.Module):
    """Convolution with as many zeros before as after.

    features: channels of the output. side: of the kernel. padding: zeros on each side, ``side //
    2`` if None. groups: of channels; as many as there are channels of the input for a depthwise
    one. dtype: what it computes in; param_dtype: what the parameters are kept in.
    """

    features: int
    side: int = 3
    stride: int = 1
    padding: int | None = None
    groups: int = 1
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map (batch, height, width, channels). Raises ValueError for groups that do not divide."""
        channels, side = x.shape[-1], self.side
        if channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"{channels} channels to {self.features} do not divide into {self.groups} groups"
            )
        dtype = jnp.dtype(self.dtype or x.dtype)
        shape = (side, side, channels // self.groups, self.features)
        w = self.param("kernel", KAIMING, shape, self.param_dtype).astype(dtype)
        y = self._convolved(x.astype(dtype), w)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return y + bias.astype(dtype)[None, None, None]

    def _convolved(self, x: Array, w: Array) -> Array:
        pad = self.side // 2 if self.padding is None else self.padding
        if self.groups == 1 and self.stride == 1 and self.side == 2 * pad + 1:
            return convolve(x, w)
        if self.groups == x.shape[-1] == self.features and jax.default_backend() == "cpu":
            return depthwise(x, w, self.stride, pad)
        return jax.lax.conv_general_dilated(
            x, w, (self.stride,) * 2, [(pad, pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=self.groups,
        )  # fmt: skip


def depthwise(x: Array, w: Array, stride: int, pad: int) -> Array:
    """Return the convolution of x (batch, height, width, c) by w (k, k, 1, c), channel by channel.

    As a sum of k^2 products: XLA on CPU has a plain loop only for the gradient of a grouped one.
    """
    ends = [(n + 2 * pad - w.shape[0]) // stride * stride + 1 for n in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    terms = [
        x[:, i : i + ends[0] : stride, j : j + ends[1] : stride] * w[i, j, 0][None, None, None]
        for i in range(w.shape[0])
        for j in range(w.shape[1])
    ]
    return sum(terms[1:], terms[0])


class Layers(NamedTuple):
    """How the layers of one call are made: within a module's compact method they are its own.

    train: batch norm by the batch's statistics. axis_name: of the pmap axis that the batch is split
    over. dtype, param_dtype: what they compute in and are kept in. momentum, epsilon: of batch
    norm.
    """

    train: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    momentum: float = MOMENTUM
    epsilon: float = EPSILON

    def conv(
        self, x: Array, features: int, side: int = 3, stride: int = 1, groups: int = 1, *,
        padding: int | None = None, use_bias: bool = False, name: str,
    ) -> Array:  # fmt: skip
        """Return the convolution of ``x`` (batch, height, width, channels)."""
        return SymmetricConv(
            features, side, stride, padding, groups, use_bias, self.dtype, self.param_dtype,
            name=name,
        )(x)  # fmt: skip

    def norm(self, x: Array, name: str) -> Array:
        """Return ``x`` (batch, ..., channels) after batch norm. Raises ValueError where training
        gives it one number per channel, which normalised is 0 whatever it was.
        """
        if self.train and self.axis_name is None and math.prod(x.shape[:-1]) == 1:
            raise ValueError(
                f"batch norm {name!r} has one number per channel to normalise by in training, "
                f"shape {x.shape}: take batches of 2 at least, or larger images"
            )
        return nn.BatchNorm(
            not self.train, momentum=self.momentum, epsilon=self.epsilon, axis_name=self.axis_name,
            dtype=self.dtype, param_dtype=self.param_dtype, use_fast_variance=False,
            force_float32_reductions=jnp.dtype(self.dtype).itemsize < 4, name=name,
        )(x)  # fmt: skip

    def dense(self, x: Array, features: int, name: str, use_bias: bool = True) -> Array:
        """Return the linear map of ``x`` (batch, channels)."""
        dense = nn.Dense(
            features, use_bias=use_bias, dtype=self.dtype, param_dtype=self.param_dtype, name=name
        )
        return dense(x)

    def normed(
        self, x: Array, features: int, side: int = 3, stride: int = 1, groups: int = 1, *,
        name: str,
    ) -> Array:  # fmt: skip
        """Return relu(norm(conv(x))), of the layers ``name``_conv and ``name``_norm."""
        h = self.conv(x, features, side, stride, groups, name=f"{name}_conv")
        return nn.relu(self.norm(h, f"{name}_norm"))


def classified(layers: Layers, maps: list[Array], num_classes: int, full: bool) -> Any:
    """Return logits (batch, num_classes) of the mean of the last map, or of 0 classes that mean;
    with ``full``, Outputs whose features are the maps and the mean.
    """
    pooled = jnp.mean(maps[-1], axis=(1, 2))
    logits = layers.dense(pooled, num_classes, "fc") if num_classes else pooled
    return Outputs(logits, None, (*maps, pooled)) if full else logits


def adaptive_mean(f: Array, height: int, width: int) -> Array:
    """Return the map averaged to (batch, height, width, channels): pixel i is the mean of pixels
    floor(i n / m) to ceil((i + 1) n / m) - 1 of n.
    """
    for axis, size in ((1, height), (2, width)):
        if f.shape[axis] != size:
            weights = jnp.asarray(windows(f.shape[axis], size), f.dtype)
            f = jnp.moveaxis(jnp.tensordot(f, weights, (axis, 1), precision="highest"), -1, axis)
    return f


def windows(before: int, after: int) -> np.ndarray:
    """Return the weights (after, before) of an adaptive mean along one axis, float64."""
    i, j = np.arange(after)[:, None], np.arange(before)[None]
    inside = (j >= i * before // after) & (j < -(-(i + 1) * before // after))
    return inside / inside.sum(axis=1, keepdims=True)


def checked_images(images: Array, least: int, network: str) -> None:
    """Raise ValueError unless images are (batch, height, width, channels) of ``least`` pixels at
    least, TypeError for integers.
    """
    if images.ndim != 4 or min(images.shape[1:3]) < least:
        raise ValueError(
            f"{network} takes images (batch, height, width, channels) of at least {least} x {least}"
            f" pixels; got {images.shape}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"{network} takes floats, images less their mean; got {images.dtype}")
