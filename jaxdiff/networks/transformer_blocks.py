"""Parts of published diffusion transformers: of DiT, PixArt, Stable Diffusion 3 and Flux.

All have tokens (batch, tokens, width) and a vector e (batch, width) of the network's conditions.
Adaptive layer norm (2212.09748, section 3.2) makes, of e, a shift a, a scale b and a gate g for
each part of a block:

    h <- h + g(e) part(norm(h) (1 + b(e)) + a(e)),    a, b, g linear functions of silu(e).

Statistics of norms are in float32 at least, and e is computed in it.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, Place, attend
from jaxdiff.networks.embedding import timestep_waves, wide
from jaxdiff.networks.mlp import layer_norm
from jaxdiff.networks.patches import to_patches
from jaxdiff.typing import Array

Activation = Callable[[Array], Array]
LECUN = nn.initializers.lecun_normal()


def gelu_tanh(x: Array) -> Array:
    """Return the approximation of GELU by a hyperbolic tangent (1606.08415)."""
    return jax.nn.gelu(x, approximate=True)


def gelu(x: Array) -> Array:
    """Return x Phi(x), exactly."""
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: Array) -> Array:
    """Return x sigmoid(1.702 x), the approximation of GELU in OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


class Perceptron(nn.Module):
    """out(activation(hidden(x))): the feed-forward part of a block, and embeddings.

    out_init: how the kernel of its last layer starts.
    """

    width: int
    hidden: int
    activation: Activation
    dtype: Any
    param_dtype: Any
    out_init: Any = LECUN

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map (..., any) to (..., width)."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = self.activation(nn.Dense(self.hidden, name="hidden", **kinds)(x))
        return nn.Dense(self.width, name="out", kernel_init=self.out_init, **kinds)(h)


def embedded(label: Array, width: int, param_dtype: Any, name: str, shift: float = 0.0) -> Array:
    """Return a perceptron of the 256 waves of a number (batch,), for a module's own ``nn.compact``
    call: (batch, width), in float32, or float64 for float64 labels.
    """
    label = label.astype(wide(label.dtype))
    perceptron = Perceptron(width, width, nn.silu, label.dtype, param_dtype, name=name)
    return perceptron(timestep_waves(label, 256, shift))


class Modulation(nn.Module):
    """``count`` linear functions of silu(e): a list of (batch, 1, width)."""

    count: int
    width: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, e: Array) -> list[Array]:
        """Map e (batch, any) to them."""
        dense = nn.Dense(
            self.count * self.width, name="linear", dtype=self.dtype, param_dtype=self.param_dtype
        )
        return jnp.split(dense(nn.silu(e))[:, None], self.count, axis=-1)


class AdaptiveNorm(nn.Module):
    """norm(h) (1 + b(e)) + a(e), b before a in the linear layer: the last norm of a network."""

    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, h: Array, e: Array) -> Array:
        """Map h (batch, tokens, width)."""
        kinds = self.dtype, self.param_dtype
        scale, shift = Modulation(2, h.shape[-1], *kinds, name="modulation")(e)
        return modulated(h, shift, scale)


class Norm(nn.Module):
    """Layer norm without parameters, as a layer that has a name."""

    epsilon: float = 1e-6

    def __call__(self, h: Array) -> Array:
        """Map h (batch, tokens, width)."""
        return layer_norm(h, self.epsilon)


def modulated(h: Array, shift: Array, scale: Array, epsilon: float = 1e-6) -> Array:
    """norm(h) (1 + scale) + shift; shift and scale (batch, 1, width)."""
    return layer_norm(h, epsilon) * (1 + scale) + shift


class RMSNorm(nn.Module):
    """h / sqrt(mean(h^2) + 1e-6), scaled, over the last axis (1910.07467)."""

    param_dtype: Any

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Map h (..., channels); the dtype is the input's."""
        dtype = wide(h.dtype)
        scale = self.param("scale", nn.initializers.ones, h.shape[-1:], self.param_dtype)
        g = h.astype(dtype)
        g = g * jax.lax.rsqrt((g**2).mean(axis=-1, keepdims=True) + 1e-6)
        return (g * scale.astype(dtype).reshape(*(1,) * (h.ndim - 1), -1)).astype(h.dtype)


class Heads(nn.Module):
    """Queries, keys and values of tokens, (batch, tokens, heads, channels) each.

    rms_norm: whether queries and keys are divided by their root mean square, and scaled.
    """

    heads: int
    channels: int
    dtype: Any
    param_dtype: Any
    bias: bool = True
    rms_norm: bool = False

    @nn.compact
    def __call__(self, h: Array, source: Array | None = None) -> tuple[Array, Array, Array]:
        """Map the tokens, keys and values those of ``source`` if it is given."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def part(name: str, h: Array) -> Array:
            width = self.heads * self.channels
            made = nn.Dense(width, use_bias=self.bias, name=name, **kinds)(h)
            made = made.reshape(*h.shape[:2], self.heads, self.channels)
            if not self.rms_norm or name == "value":
                return made
            return RMSNorm(self.param_dtype, name=f"{name}_norm")(made)

        source = h if source is None else source
        return part("query", h), part("key", source), part("value", source)


class Attention(nn.Module):
    """Attention of tokens to each other, or to those of a condition.

    bias: of queries, keys and values; grid, stage: see :class:`jaxdiff.networks.attention.Place`;
    out_init: how the kernel of its last layer starts.
    """

    heads: int
    channels: int
    dtype: Any
    param_dtype: Any
    attention: AttentionFn
    bias: bool = True
    rms_norm: bool = False
    grid: tuple[int, ...] = ()
    stage: str = ""
    out_init: Any = LECUN

    @nn.compact
    def __call__(self, h: Array, source: Array | None = None, mask: Array | None = None) -> Array:
        """Map h (batch, tokens, width). mask: see :class:`jaxdiff.networks.attention.Place`."""
        kinds = self.dtype, self.param_dtype
        heads = Heads(self.heads, self.channels, *kinds, self.bias, self.rms_norm, name="heads")
        q, k, v = heads(h, source)
        kind = "self" if source is None else "cross"
        place = Place("/".join(self.path), kind, self.grid, self.stage, mask)
        out = attend(self.attention, q, k, v, place).reshape(*h.shape[:2], -1)
        dense = nn.Dense(
            h.shape[-1], name="out", dtype=self.dtype, param_dtype=self.param_dtype,
            kernel_init=self.out_init,
        )  # fmt: skip
        return dense(out)


class JointAttention(nn.Module):
    """Attention among the tokens of an image and of a text, each with its own weights.

    text_first: whether the text's tokens come first. text_out: whether the text gets an output.
    """

    heads: int
    channels: int
    dtype: Any
    param_dtype: Any
    attention: AttentionFn
    rms_norm: bool = False
    text_first: bool = False
    text_out: bool = True
    grid: tuple[int, ...] = ()
    stage: str = ""

    @nn.compact
    def __call__(
        self, image: Array, text: Array, turn: Activation | None = None
    ) -> tuple[Array, Any]:
        """Map image and text, (batch, tokens, width), the text to None without ``text_out``;
        ``turn`` is applied to queries and keys.
        """
        kinds = self.dtype, self.param_dtype
        heads = [
            Heads(self.heads, self.channels, *kinds, rms_norm=self.rms_norm, name=name)(h)
            for name, h in (("image_heads", image), ("text_heads", text))
        ]
        count = text.shape[1] if self.text_first else image.shape[1]
        order = heads[::-1] if self.text_first else heads
        q, k, v = (jnp.concatenate(both, axis=1) for both in zip(*order, strict=True))
        if turn is not None:
            q, k = turn(q), turn(k)
        words = text.shape[1] if self.text_first else -text.shape[1]
        place = Place("/".join(self.path), "self", self.grid, self.stage, text=words)
        out = attend(self.attention, q, k, v, place).reshape(*q.shape[:2], -1)
        parts = jnp.split(out, [count], axis=1)
        image_out, words_out = parts[::-1] if self.text_first else parts
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        image_out = nn.Dense(image.shape[-1], name="image_out", **options)(image_out)
        if not self.text_out:
            return image_out, None
        return image_out, nn.Dense(text.shape[-1], name="text_out", **options)(words_out)


class PatchEmbedding(nn.Module):
    """A linear function of each patch, and fixed positions; kernel (p, p, channels, width)."""

    patch: int
    width: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, where: Any) -> Array:
        """Map x (batch, height, width, channels) and positions (tokens, width)."""
        shape = (self.patch, self.patch, x.shape[-1], self.width)
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", (0, 1, 2), 3)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), self.param_dtype)
        h = to_patches(x.astype(self.dtype), self.patch) @ kernel.reshape(-1, self.width)
        sums = wide(self.dtype)
        both = jnp.asarray(where, sums) + bias.astype(sums)[None]
        return (h.astype(sums) + both[None]).astype(self.dtype)
