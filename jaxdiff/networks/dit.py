"""The diffusion transformer: attention between patches of an image, channels last.

An image becomes N = (height/p) (width/p) tokens, a linear function of each p x p patch plus fixed
positions, and every token passes through the same blocks. Block, e the embedding of label and class
(Peebles & Xie 2212.09748, section 3.2, "adaLN-Zero"):
    h <- h + g1(e) * attention(norm(h) (1 + a1(e)) + b1(e)),
    h <- h + g2(e) * W2 gelu(W1 (norm(h) (1 + a2(e)) + b2(e))),
with dropout before W2; a, b and g are linear and zero at the start, so that a block is then the
identity. norm is layer norm without parameters. Last, each token norm(h) (1 + a(e)) + b(e) becomes
its patch of the output by a linear layer that starts at zero: a fresh network is the zero function.

Differs from the paper: the output has the input's channels and no variances; the label's waves are
those of :mod:`jaxdiff.networks.embedding`, ``width`` of them; linear layers start with variance
1/inputs, as in the other networks.

Layer norm's and softmax's statistics are in float32 at least.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks.attention import attention
from jaxdiff.networks.embedding import Embedding, Features, LogVariance, sinusoidal
from jaxdiff.networks.mlp import layer_norm
from jaxdiff.typing import Array, Cond, Outputs


class DiT(nn.Module):
    """Diffusion transformer for images (batch, height, width, channels).

    patch: side of a patch, in pixels. width: numbers per token, and length of e; divisible by 4 and
    by ``heads``. depth: blocks. heads: of the attention. mlp_ratio: hidden units of a block's
    perceptron, in units of ``width``. dropout: rate, within that. num_classes, label_scale,
    features: see :class:`jaxdiff.networks.embedding.Embedding`. log_variance: whether it has that
    head. remat: compute the blocks again in the backward pass, which then keeps only the tokens
    between them. dtype: what it computes in; None means the input's dtype. param_dtype: what the
    parameters are kept in.

    The paper's models are, with patch p: DiT-S DiT(p, 384, 12, 6), DiT-B DiT(p, 768, 12, 12), DiT-L
    DiT(p, 1024, 24, 16), DiT-XL DiT(p, 1152, 28, 16); DiT-B/4 has p = 4.
    """

    patch: int = 2
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    dropout: float = 0.0
    num_classes: int = 0
    label_scale: float = 100.0
    features: Features = sinusoidal
    log_variance: bool = False
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

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
        """Map ``x`` to an output of its shape and dtype.

        x: (batch, height, width, channels). label: (batch,) or (batch, k). cond: class indices
        (batch,) or None. With ``full``, Outputs whose features are the tokens after each block, as
        maps (batch, height/patch, width/patch, self.width).
        Raises ValueError for images that do not divide into patches, and for a width that 4 or the
        heads do not divide.
        """
        self._check(x, label)
        dtype = jnp.dtype(self.dtype or x.dtype)
        kinds = {"dtype": dtype, "param_dtype": self.param_dtype}
        embed = Embedding(
            self.width, self.num_classes, self.label_scale, self.features, self.param_dtype
        )
        e = nn.silu(embed(label, cond)).astype(dtype)
        rows, columns = x.shape[1] // self.patch, x.shape[2] // self.patch
        where = jnp.asarray(positions(rows, columns, self.width), dtype)
        h = nn.Dense(self.width, **kinds)(_patches(x.astype(dtype), self.patch)) + where[None]
        block, maps = nn.remat(Block, static_argnums=(3,)) if self.remat else Block, []
        for i in range(self.depth):
            own = block(self.heads, self.mlp_ratio, self.dropout, **kinds, name=f"Block_{i}")
            h = own(h, e, deterministic)
            maps.append(h.reshape(-1, rows, columns, self.width))
        zero = nn.initializers.zeros
        scale, shift = jnp.split(nn.Dense(2 * self.width, kernel_init=zero, **kinds)(e), 2, axis=-1)
        last = nn.Dense(self.patch**2 * x.shape[-1], kernel_init=zero, **kinds)
        out = _image(last(_modulated(h, scale, shift)), x.shape, self.patch).astype(x.dtype)
        head = LogVariance(self.label_scale, self.features, self.param_dtype)
        log_variance = head(label) if self.log_variance else None
        return Outputs(out, log_variance, tuple(maps)) if full else out

    def _check(self, x: Array, label: Array) -> None:
        if x.ndim != 4 or label.shape[0] != x.shape[0]:
            raise ValueError(
                "a DiT takes x (batch, height, width, channels) and label (batch,); "
                f"got {x.shape} and {label.shape}"
            )
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(
                f"patches of {self.patch}x{self.patch} need a height and a width divisible by "
                f"{self.patch}; got {x.shape[1]}x{x.shape[2]}"
            )
        if self.width % 4:
            raise ValueError(f"positions need a width divisible by 4; got {self.width}")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")


class Block(nn.Module):
    """The block of the module's text."""

    heads: int
    mlp_ratio: int
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, h: Array, e: Array, deterministic: bool) -> Array:
        """Update ``h`` (batch, tokens, width), given ``e`` (batch, width)."""
        kinds, width = {"dtype": self.dtype, "param_dtype": self.param_dtype}, h.shape[-1]
        modulation = nn.Dense(6 * width, kernel_init=nn.initializers.zeros, **kinds)(e)
        a1, b1, g1, a2, b2, g2 = jnp.split(modulation, 6, axis=-1)
        qkv = nn.Dense(3 * width, **kinds)(_modulated(h, a1, b1))
        qkv = qkv.reshape(*h.shape[:2], 3, self.heads, width // self.heads)
        mixed = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(h.shape)
        h = h + g1[:, None] * nn.Dense(width, **kinds)(mixed)
        r = nn.gelu(nn.Dense(self.mlp_ratio * width, **kinds)(_modulated(h, a2, b2)))
        r = nn.Dropout(self.dropout)(r, deterministic=deterministic)
        return h + g2[:, None] * nn.Dense(width, **kinds)(r)


def positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Fixed positions of the tokens, row by row: (rows * columns, width), in float64.

    The token in row i and column j has [sin w_k i, cos w_k i, sin w_k j, cos w_k j] with
    w_k = 10000^(-4k/width), k = 0 .. width/4 - 1 (Vaswani et al. 1706.03762, section 3.5, half of
    the numbers for each axis).
    """
    w = 10000.0 ** (-4 * np.arange(width // 4) / width)

    def waves(count: int) -> np.ndarray:
        angle = np.arange(count)[:, None] * w[None]
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    i, j = np.repeat(np.arange(rows), columns), np.tile(np.arange(columns), rows)
    return np.concatenate([waves(rows)[i], waves(columns)[j]], axis=1)


def _patches(x: Array, p: int) -> Array:
    """(batch, height, width, channels) to (batch, tokens, p * p * channels)."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // p, p, width // p, p, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, -1, p * p * c)


def _image(h: Array, shape: tuple[int, ...], p: int) -> Array:
    """The inverse of :func:`_patches`, for images of a shape."""
    b, height, width, c = shape
    h = h.reshape(b, height // p, width // p, p, p, c).transpose(0, 1, 3, 2, 4, 5)
    return h.reshape(shape)


def _modulated(h: Array, scale: Array, shift: Array) -> Array:
    """Layer norm of every token, then a sample's own scale and shift, both (batch, width)."""
    return layer_norm(h) * (1 + scale)[:, None] + shift[:, None]
