"""Convolutions of images, signals and volumes, and how they are passed to XLA on a CPU.

    y[b, i, j, d] = sum over k, l, c of x[b, i + k, j + l, c] w[k, l, c, d]

with zeros around x, so that a map keeps its size (or is halved by stride 2). On GPU and TPU that is
one ``lax.conv_general_dilated``. On CPU two cases are worth another form, of the same numbers
(experiments/results/convolutions.md):

- The gradient with respect to w is itself a convolution, of all images at once, which falls out of
  the processor's cache; as a sum over parts of the batch that fit in, it takes a third to a half of
  the time.
- On a map smaller than the kernel XLA has a plain loop only; the product of a matrix of patches
  with a matrix of weights is eight times faster there.

Every derivative stays available: the form of the gradient is chosen in the rule of the derivative
with respect to w, which forward and reverse mode share.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxdiff.typing import Array

PART = 2**18  # numbers of a part of the batch: a megabyte in float32


class Conv(nn.Module):
    """Convolution with bias; parameters as those of ``flax.linen.Conv`` with SAME padding.

    features: channels of the output. size: of the kernel along each axis: (height, width) for
    images, one number for signals, three for volumes. stride: 1 or 2. dtype: what it computes in;
    param_dtype: what the parameters are kept in.
    """

    features: int
    size: tuple[int, ...] = (3, 3)
    stride: int = 1
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map ``x`` (batch, *axes, channels) to ``features`` channels."""
        shape, dtype = (*self.size, x.shape[-1], self.features), jnp.dtype(self.dtype or x.dtype)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        own = convolve if len(self.size) == 2 else _lax
        y = own(x.astype(dtype), kernel.astype(dtype), self.stride)
        return y + bias.astype(dtype).reshape((1,) * (y.ndim - 1) + (-1,))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def convolve(x: Array, w: Array, stride: int = 1) -> Array:
    """Convolve x (batch, height, width, c) with w (k, l, c, d); zeros around, as SAME has them."""
    if _on_cpu() and min(x.shape[1:3]) < max(w.shape[:2]):
        return by_matrix(x, w, stride)
    return _lax(x, w, stride)


def _derivative(
    stride: int, given: tuple[Array, Array], change: tuple[Any, Any]
) -> tuple[Array, Array]:
    """Return the product rule, x' * w + x * w', the second term in parts of the batch."""
    (x, w), (dx, dw) = given, change
    y, terms = convolve(x, w, stride), []
    if not isinstance(dx, SymbolicZero):
        terms.append(convolve(dx, w, stride))
    if not isinstance(dw, SymbolicZero):
        terms.append(in_parts(x, dw, stride) if _on_cpu() else convolve(x, dw, stride))
    return y, functools.reduce(jnp.add, terms) if terms else jnp.zeros_like(y)


convolve.defjvp(_derivative, symbolic_zeros=True)


def in_parts(x: Array, w: Array, stride: int, part: int = PART) -> Array:
    """Return the convolution, part by part of the batch, of at most ``part`` numbers each if they
    can be.

    The transpose of this with respect to w is the sum over the parts of their own. A part is a
    power of two images: others do not fill the processor's vectors, and take three times as long.
    If they divide the batch, parts are every so manieth image, so that each part of a batch that is
    split over devices is split over all of them.
    """
    count = x.shape[0]
    images = 2 ** int(math.log2(max(1, part // (x.shape[1] * x.shape[2] * x.shape[3]))))
    if count % images:
        parts = jnp.split(x, list(range(images, count, images)))
        return jnp.concatenate([convolve(one, w, stride) for one in parts])
    cut = x.reshape(images, count // images, *x.shape[1:])
    made = [convolve(cut[:, i], w, stride) for i in range(count // images)]
    return jnp.stack(made, axis=1).reshape(count, *made[0].shape[1:])


def by_matrix(x: Array, w: Array, stride: int = 1) -> Array:
    """Return the convolution as a product of the matrix of patches and the matrix of weights."""
    k, l, c, d = w.shape
    sizes = [-(-n // stride) for n in x.shape[1:3]]
    pads = [(m - 1) * stride + s - n for m, s, n in zip(sizes, (k, l), x.shape[1:3], strict=True)]
    around = [(max(p, 0) // 2, max(p, 0) - max(p, 0) // 2) for p in pads]
    x = jnp.pad(x, ((0, 0), *around, (0, 0)))
    ends = [(m - 1) * stride + 1 for m in sizes]
    patches = [
        x[:, i : i + ends[0] : stride, j : j + ends[1] : stride] for i in range(k) for j in range(l)
    ]
    return jnp.concatenate(patches, axis=-1) @ w.reshape(k * l * c, d)


def _lax(x: Array, w: Array, stride: int) -> Array:
    axes = "DHW"[-(x.ndim - 2) :]
    names = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    strides = (stride,) * (x.ndim - 2)
    return jax.lax.conv_general_dilated(x, w, strides, "SAME", dimension_numbers=names)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
