"""The Inception-v3 that image metrics are computed with, and how images are brought to its size.

Szegedy et al. (arXiv 1512.00567) in the form that TensorFlow published on 5 December 2015 and that
the Frechet Inception distance was defined by (Heusel et al. 2017, arXiv 1706.08500). It differs
from the network of that name in most libraries of models:

- average pools count the pixels of the image alone, not the zeros around it;
- the pool within the last block takes maxima;
- there are 1008 classes, and the Inception score leaves their bias out.

Every convolution is followed by batch norm in its inference form, with stored statistics, and ReLU:
    y = relu((w * x - mean) scale / sqrt(var + 0.001) + bias).

Images reach 299 x 299 pixels by a bilinear resize, after which their values 0 to 255 become
(v - 128) / 128 (``tensorflow``), or 2 v / 255 - 1 (``pytorch``, pytorch-fid's). The resizes differ:
    tensorflow   output pixel i reads at i n / m,                  n pixels in, m out
    pytorch      output pixel i reads at (i + 1/2) n / m - 1/2
and neither smooths before it shrinks.
"""

from typing import Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks.embedding import wide
from jaxdiff.typing import Array

Convention: TypeAlias = Literal["tensorflow", "pytorch"]
SIZE, LEAST = 299, 75  # pixels: of the images it is made for, and the fewest that reach its end
EPSILON = 1e-3


class Activations(NamedTuple):
    """Outputs of the network.

    features: (batch, 2048), the means of the last map. unbiased: logits (batch, classes) without
    the bias. logits: with it; both None of a network without classes. maps: the map after every
    stage, by name, in the order they are computed.
    """

    features: Array
    unbiased: Array | None
    logits: Array | None
    maps: dict[str, Array]


class Norm(nn.Module):
    """Batch norm in its inference form: an affine map for every channel, made in float32 at least.

    param_dtype: of scale and bias; the stored mean and variance are in ``batch_stats``.
    """

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map (batch, height, width, channels)."""
        shape, ones, zeros = (x.shape[-1],), nn.initializers.ones, nn.initializers.zeros
        scale = self.param("scale", ones, shape, self.param_dtype)
        bias = self.param("bias", zeros, shape, self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype).value
        var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype).value
        kind = wide(x.dtype)
        scale, bias, mean, var = (v.astype(kind) for v in (scale, bias, mean, var))
        slope = scale * jax.lax.rsqrt(var + jnp.asarray(EPSILON, kind))
        y = (x.astype(kind) - mean[None, None, None]) * slope[None, None, None]
        return (y + bias[None, None, None]).astype(x.dtype)


class ConvNorm(nn.Module):
    """Convolution without a bias, batch norm, ReLU. padding: "SAME" or "VALID"."""

    features: int
    size: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map (batch, height, width, channels) to ``features`` channels."""
        conv = nn.Conv(
            self.features, self.size, self.stride, self.padding, use_bias=False,
            dtype=self.dtype, param_dtype=self.param_dtype, name="conv",
        )  # fmt: skip
        return nn.relu(Norm(self.param_dtype, name="norm")(conv(x)))


class Mixed(nn.Module):
    """A block of branches side by side, joined along the channels.

    branches: each a list of convolutions (name, features, size, stride), one after the other; the
    last entry of a branch may be a tuple of several, which all read what comes before. pool: how
    the last branch begins, "mean", "max" or, halving the map, "halved", after which it has no
    convolution. Convolutions of stride 2 are VALID, others SAME.
    """

    branches: tuple[Any, ...]
    pool: str
    pooled: int = 0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map (batch, height, width, channels) to the branches' channels together."""

        def conv(name: str, features: int, size: tuple[int, int], stride: int = 1) -> ConvNorm:
            padding = "VALID" if stride == 2 else "SAME"
            kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            return ConvNorm(features, size, stride, padding, name=name, **kinds)

        joined = []
        for branch in self.branches:
            h = x
            for layer in branch[:-1]:
                h = conv(*layer)(h)
            last = branch[-1]
            joined += [conv(*e)(h) for e in (last if isinstance(last[0], tuple) else (last,))]
        if self.pool == "halved":
            joined.append(halved(x))
        else:
            h = mean_pool(x) if self.pool == "mean" else nn.max_pool(x, (3, 3), (1, 1), "SAME")
            joined.append(conv("pool", self.pooled, (1, 1))(h))
        return jnp.concatenate(joined, axis=-1)


def mean_pool(x: Array) -> Array:
    """Return the mean of the 3 x 3 neighbours of every pixel that are within the map."""
    zero = np.zeros((), x.dtype)
    sums = jax.lax.reduce_window(x, zero, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    places = (np.arange(n) for n in x.shape[1:3])
    rows, columns = (np.minimum(i + 1, len(i) - 1) - np.maximum(i - 1, 0) + 1 for i in places)
    return sums / jnp.asarray(np.outer(rows, columns)[None, ..., None], x.dtype)


def halved(x: Array) -> Array:
    """Return the maxima of windows of 3 x 3, every other one."""
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


ONE, THREE, FIVE, ROW, COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def _mixed_35(pooled: int) -> tuple[Any, ...]:
    """Return the branches of a block on the map of 35 x 35."""
    return (
        [("1x1", 64, ONE)],
        [("5x5_1", 48, ONE), ("5x5_2", 64, FIVE)],
        [("double_3x3_1", 64, ONE), ("double_3x3_2", 96, THREE), ("double_3x3_3", 96, THREE)],
    ), "mean", pooled  # fmt: skip


def _mixed_17(width: int) -> tuple[Any, ...]:
    """Return the branches of a block on the map of 17 x 17, of ``width`` channels inside."""
    twice = [ONE, COLUMN, ROW, COLUMN, ROW]
    return (
        [("1x1", 192, ONE)],
        [("7x7_1", width, ONE), ("7x7_2", width, ROW), ("7x7_3", 192, COLUMN)],
        [(f"double_7x7_{i + 1}", 192 if i == 4 else width, s) for i, s in enumerate(twice)],
    ), "mean", 192  # fmt: skip


def _mixed_8(pool: str) -> tuple[Any, ...]:
    """Return the branches of a block on the map of 8 x 8."""
    row, column = (1, 3), (3, 1)
    return (
        [("1x1", 320, ONE)],
        [("3x3_1", 384, ONE), (("3x3_2a", 384, row), ("3x3_2b", 384, column))],
        [
            ("double_3x3_1", 448, ONE), ("double_3x3_2", 384, THREE),
            (("double_3x3_3a", 384, row), ("double_3x3_3b", 384, column)),
        ],
    ), pool, 192  # fmt: skip


BLOCKS: dict[str, tuple[Any, ...]] = {
    "mixed_5b": _mixed_35(32), "mixed_5c": _mixed_35(64), "mixed_5d": _mixed_35(64),
    "mixed_6a": ((
        [("3x3", 384, THREE, 2)],
        [("double_3x3_1", 64, ONE), ("double_3x3_2", 96, THREE), ("double_3x3_3", 96, THREE, 2)],
    ), "halved"),
    "mixed_6b": _mixed_17(128), "mixed_6c": _mixed_17(160), "mixed_6d": _mixed_17(160),
    "mixed_6e": _mixed_17(192),
    "mixed_7a": ((
        [("3x3_1", 192, ONE), ("3x3_2", 320, THREE, 2)],
        [
            ("7x7x3_1", 192, ONE), ("7x7x3_2", 192, ROW), ("7x7x3_3", 192, COLUMN),
            ("7x7x3_4", 192, THREE, 2),
        ],
    ), "halved"),
    "mixed_7b": _mixed_8("mean"), "mixed_7c": _mixed_8("max"),
}  # fmt: skip
STEM = (
    ("conv_1a", 32, THREE, 2, "VALID"), ("conv_2a", 32, THREE, 1, "VALID"),
    ("conv_2b", 64, THREE, 1, "SAME"), "pool_1",
    ("conv_3b", 80, ONE, 1, "VALID"), ("conv_4a", 192, THREE, 1, "VALID"), "pool_2",
)  # fmt: skip


class Inception(nn.Module):
    """Inception-v3 of the Frechet Inception distance, for images (batch, height, width, 3).

    num_classes: of the last layer, 0 for a network that ends with its features. dtype: what it
    computes in, that of the input if None; batch norm and means are in float32 at least.
    param_dtype: what the parameters are kept in.
    """

    num_classes: int = 1008
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Activations:
        """Return the activations of images whose values :func:`prepared` has made -1 to 1.

        Raises ValueError for images of another shape than (batch, height, width, 3), or of fewer
        than 75 pixels in height or width, which vanish on the way.
        """
        shape = images.shape
        if len(shape) != 4 or shape[-1] != 3 or min(shape[1:3]) < LEAST:
            raise ValueError(
                f"Inception takes images (batch, height, width, 3) of {LEAST} pixels at least, "
                f"not {shape}; prepared() brings any to {SIZE}"
            )
        kinds = {"dtype": jnp.dtype(self.dtype or images.dtype), "param_dtype": self.param_dtype}
        maps: dict[str, Array] = {}
        h = images.astype(kinds["dtype"])
        for layer in STEM:
            if isinstance(layer, str):
                maps[layer] = h = halved(h)
            else:
                maps[layer[0]] = h = ConvNorm(*layer[1:], name=layer[0], **kinds)(h)
        for name, block in BLOCKS.items():
            maps[name] = h = Mixed(*block, name=name, **kinds)(h)
        features = jnp.mean(h.astype(wide(h.dtype)), axis=(1, 2))
        if not self.num_classes:
            return Activations(features, None, None, maps)
        dense = nn.Dense(
            self.num_classes, name="head", dtype=features.dtype, param_dtype=self.param_dtype
        )
        logits = dense(features)
        bias = dense.variables["params"]["bias"].astype(logits.dtype)
        return Activations(features, logits - bias[None], logits, maps)


def prepared(
    images: Array, convention: Convention = "tensorflow", size: int = SIZE, dtype: Any = None
) -> Array:
    """Return images in [-1, 1] as the network takes them, (batch, size, size, 3).

    Values are first rounded to the 256 levels that a saved image has, and clipped to them, since
    published scores are of saved images. One channel becomes three. dtype: of the result, float32
    or that of the images if that is wider, by default.

    Raises TypeError for integers, ValueError for another number of channels.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be floats in [-1, 1], not {images.dtype}")
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images must be (batch, height, width, 1 or 3), in grey or colours, not {images.shape}"
        )
    kind = jnp.dtype(dtype or wide(images.dtype))
    levels = jnp.clip(jnp.round((images.astype(kind) + 1) * 127.5), 0, 255)
    levels = jnp.broadcast_to(levels, (*images.shape[:3], 3))
    levels = resized(levels, size, convention)
    return (levels - 128) / 128 if convention == "tensorflow" else levels / 127.5 - 1


def resized(images: Array, size: int, convention: Convention) -> Array:
    """Return images (batch, height, width, channels) at ``size`` x ``size``, bilinearly as one of
    the two libraries does.
    """
    rows, columns = (
        jnp.asarray(interpolation(n, size, convention), images.dtype) for n in images.shape[1:3]
    )
    highest = jax.lax.Precision.HIGHEST  # bfloat16 would lose the levels of 8 bits
    images = jnp.einsum("ph,bhwc->bpwc", rows, images, precision=highest)
    return jnp.einsum("qw,bpwc->bpqc", columns, images, precision=highest)


def interpolation(before: int, after: int, convention: Convention) -> np.ndarray:
    """Return the weights (after, before) of a bilinear resize along one axis, float64."""
    if convention not in ("tensorflow", "pytorch"):
        raise ValueError(f"the resize is 'tensorflow' or 'pytorch', not {convention!r}")
    scale, i = np.float32(before) / np.float32(after), np.arange(after, dtype=np.float32)
    at = i * scale if convention == "tensorflow" else (i + np.float32(0.5)) * scale - 0.5
    at = np.clip(at.astype(np.float64), 0, before - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, before - 1)
    weights, rows = np.zeros((after, before)), np.arange(after)
    np.add.at(weights, (rows, low), 1 - (at - low))
    np.add.at(weights, (rows, high), at - low)
    return weights
