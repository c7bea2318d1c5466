"""Layers that keep the expected magnitude of what they are given (Karras et al. 2312.02696).

    layer          w^ = w/(|w|/sqrt(n) + 1e-4),   y = gain/sqrt(n) w^ x     n inputs of each filter
    silu           silu(x)/0.596
    sum            ((1 - t) a + t b)/sqrt((1 - t)^2 + t^2)
    concatenation  of a and b, of N_a and N_b channels: C (1 - t)/sqrt(N_a) a and C t/sqrt(N_b) b,
                   C = sqrt((N_a + N_b)/((1 - t)^2 + t^2))
    features       sqrt(2) cos(frequencies l + phases)

with |w| the norm of a filter, so that a layer computes the same whatever the length of its filters.
There are no biases and no group norms. Norms and weights are computed in float32 at least.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.conv import convolve
from jaxdiff.networks.edm_blocks import class_vectors
from jaxdiff.networks.embedding import wide
from jaxdiff.typing import Array, Params

EPS = 1e-4


def unit(x: Array, axes: tuple[int, ...]) -> Array:
    """Return x over its root mean square along ``axes`` (plus 1e-4), in the dtype of x."""
    squares = jnp.mean(jnp.square(x.astype(wide(x.dtype))), axis=axes, keepdims=True)
    some = squares > 0
    size = jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0)
    return x / (size + EPS).astype(x.dtype)


def unit_filters(params: Params) -> Params:
    """Return parameters of an EDM2 network with the filters of every layer of unit magnitude.

    2312.02696, eq. 66 (forced weight normalisation): done after each update, it keeps the learning
    rate's effect the same throughout training. The network computes what it did, to about 1e-4.
    """

    def one(path: Any, leaf: Array) -> Array:
        if path[-1].key != "kernel":
            return leaf
        axes = tuple(range(leaf.ndim - 1))
        return unit(leaf.astype(wide(leaf.dtype)), axes).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def mp_silu(x: Array) -> Array:
    """Return silu(x)/0.596 (eq. 81)."""
    return nn.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float = 0.5) -> Array:
    """Return the sum of the module's text (eq. 88)."""
    return (a + (b - a) * t) / math.sqrt((1 - t) ** 2 + t**2)


def mp_concatenate(a: Array, b: Array, t: float = 0.5) -> Array:
    """Join channels as in the module's text (eq. 103)."""
    m, n = a.shape[-1], b.shape[-1]
    c = math.sqrt((m + n) / ((1 - t) ** 2 + t**2))
    return jnp.concatenate([a * (c / math.sqrt(m) * (1 - t)), b * (c / math.sqrt(n) * t)], axis=-1)


class MPLayer(nn.Module):
    """A linear layer (size 0), or a convolution of ``size``, of the module's text (eq. 47)."""

    features: int
    size: int
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        """Map x (..., channels), or (batch, height, width, channels), to ``features`` channels."""
        shape = (*((self.size, self.size) if self.size else ()), x.shape[-1], self.features)
        w = weights(self, shape, gain).astype(x.dtype)
        return x @ w if self.size == 0 else convolve(x, w)


class MPClasses(nn.Module):
    """A layer of vectors of sqrt(classes) in a class's place and 0 otherwise, of 0 for no class."""

    features: int
    num_classes: int
    param_dtype: Any

    @nn.compact
    def __call__(self, index: Array, dtype: Any) -> Array:
        """Map indices (batch,) to (batch, features)."""
        rows = weights(self, (self.num_classes, self.features), self.num_classes**0.5)
        return class_vectors(rows.astype(dtype), index)


def weights(module: Any, shape: tuple[int, ...], gain: Array | float) -> Array:
    """Return a module's normalised kernel times its gain, in float32 at least."""
    kernel = module.param("kernel", nn.initializers.normal(1.0), shape, module.param_dtype)
    w = unit(kernel.astype(wide(kernel.dtype)), tuple(range(len(shape) - 1)))
    return w * (jnp.asarray(gain).astype(w.dtype) / math.sqrt(math.prod(shape[:-1])))


class MPFourier(nn.Module):
    """The features of the module's text (eq. 75); frequencies and phases are not trained."""

    width: int
    param_dtype: Any

    @nn.compact
    def __call__(self, label: Array) -> Array:
        """Map labels (batch,) to (batch, width)."""
        normal = lambda *a: 2 * jnp.pi * nn.initializers.normal(1.0)(*a)  # noqa: E731
        uniform = nn.initializers.uniform(2 * math.pi)
        shape = ((self.width,), self.param_dtype)
        frequencies, phases = (
            jax.lax.stop_gradient(self.param(name, start, *shape)).astype(label.dtype)
            for name, start in (("frequencies", normal), ("phases", uniform))
        )
        return jnp.cos(label[:, None] * frequencies[None] + phases[None]) * math.sqrt(2)
