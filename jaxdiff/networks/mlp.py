"""Perceptrons for vectors: a residual one with adaptive layer norm, and a plain one.

Residual block, from the embedding e of label and class (Peebles & Xie 2212.09748, section 3.2,
"adaLN-Zero"):
    h <- h + g(e) * W2 silu(W1 (norm(h) (1 + a(e)) + b(e))),   a, b, g linear and zero at the start.
The plain one is a stack of silu layers on [x, e]. The last layer of both starts at zero, so that a
fresh network is the zero function and a preconditioned denoiser starts at its skip connection
(2206.00364, section 5).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.embedding import Embedding, Features, LogVariance, sinusoidal, wide
from jaxdiff.typing import Array, Cond, Outputs


class MLP(nn.Module):
    """Perceptron on vectors of any length.

    width: hidden units. depth: blocks (residual) or hidden layers (plain). residual: adaptive
    residual blocks, else layers on the concatenated [x, e]. embedding: length of e. num_classes,
    label_scale, features: see :class:`jaxdiff.networks.embedding.Embedding`. dropout: rate, within
    the blocks. flatten: take samples of any shape as vectors, and return that shape. log_variance:
    whether it has that head. dtype: what it computes in; None means the
    input's dtype. param_dtype: what the parameters are kept in.
    """

    width: int = 128
    depth: int = 3
    residual: bool = True
    embedding: int = 64
    num_classes: int = 0
    dropout: float = 0.0
    label_scale: float = 100.0
    features: Features = sinusoidal
    log_variance: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    flatten: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        label: Array,
        cond: Cond = None,
        *,
        deterministic: bool = True,
        full: bool = False,
    ) -> Array | Outputs:
        """Map ``x`` (batch, d) at ``label`` (batch,) or (batch, k) to (batch, d), in its dtype.

        With ``full``, Outputs whose features are the hidden layers after each block.

        Raises ValueError if ``x`` is not (batch, d) or ``label`` has another batch.
        """
        shape, x = x.shape, x.reshape(x.shape[0], -1) if self.flatten else x
        if x.ndim != 2 or label.shape[0] != x.shape[0]:
            raise ValueError(
                f"an MLP takes x (batch, d) and label (batch,); got {x.shape}, {label.shape}"
            )
        dtype = jnp.dtype(self.dtype or x.dtype)
        dense = {"dtype": dtype, "param_dtype": self.param_dtype}
        embed = Embedding(
            self.embedding, self.num_classes, self.label_scale, self.features, self.param_dtype
        )
        e, h, maps = nn.silu(embed(label, cond)).astype(dtype), x.astype(dtype), []
        if self.residual:
            h = nn.Dense(self.width, **dense)(h)
            for _ in range(self.depth):
                h = Residual(self.width, self.dropout, **dense)(h, e, deterministic)
                maps.append(h)
            h = layer_norm(h)
        else:
            h = jnp.concatenate([h, e], axis=-1)
            for _ in range(self.depth):
                h = nn.silu(nn.Dense(self.width, **dense)(h))
                h = nn.Dropout(self.dropout)(h, deterministic=deterministic)
                maps.append(h)
        zero = nn.initializers.zeros
        out = nn.Dense(x.shape[-1], kernel_init=zero, **dense)(h).astype(x.dtype).reshape(shape)
        head = LogVariance(self.label_scale, self.features, self.param_dtype)
        log_variance = head(label) if self.log_variance else None
        return Outputs(out, log_variance, tuple(maps)) if full else out


class Residual(nn.Module):
    """The adaptive residual block of the module's text."""

    width: int
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, h: Array, e: Array, deterministic: bool) -> Array:
        """Update ``h`` (batch, width) given the embedding ``e``."""
        dense = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        modulation = nn.Dense(3 * self.width, kernel_init=nn.initializers.zeros, **dense)(e)
        scale, shift, gate = jnp.split(modulation, 3, axis=-1)
        r = nn.silu(nn.Dense(self.width, **dense)(layer_norm(h) * (1 + scale) + shift))
        r = nn.Dropout(self.dropout)(r, deterministic=deterministic)
        return h + gate * nn.Dense(self.width, **dense)(r)


def layer_norm(h: Array, epsilon: float = 1e-6) -> Array:
    """Layer norm without parameters, its statistics in float32."""
    r = h.astype(wide(h.dtype))
    r = r - jnp.mean(r, axis=-1, keepdims=True)
    return (r * jax.lax.rsqrt(jnp.mean(r**2, axis=-1, keepdims=True) + epsilon)).astype(h.dtype)
