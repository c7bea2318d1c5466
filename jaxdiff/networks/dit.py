"""The diffusion transformer: attention between patches of an image, channels last.

An image becomes N = (height/p) (width/p) tokens, a linear function of each p x p patch plus fixed
positions, and every token passes through the same blocks. Block, e the embedding of label and class
(Peebles & Xie 2212.09748, section 3.2, "adaLN-Zero"):
    h <- h + g1(e) * attention(norm(h) (1 + a1(e)) + b1(e)),
    h <- h + g2(e) * W2 gelu(W1 (norm(h) (1 + a2(e)) + b2(e))),
with dropout before W2; a, b and g are linear and zero at the start, so that a block is then the
identity. norm is layer norm without parameters. Last, each token norm(h) (1 + a(e)) + b(e) becomes
its patch of the output by a linear layer that starts at zero: a fresh network is the zero function.

Differs from the paper unless options say otherwise: no variances are learned; the label's waves are
those of :mod:`jaxdiff.networks.embedding`, ``width`` of them; linear layers start with variance
1/inputs, as in the other networks. ``PUBLISHED`` are the options of the published DiT and SiT.

Layer norm's and softmax's statistics are in float32 at least.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import (
    AttentionFn,
    Place,
    attend,
    chosen_attention,
    softmax_attention,
)
from jaxdiff.networks.embedding import Embedding, Features, LogVariance, periodic, sinusoidal
from jaxdiff.networks.mlp import layer_norm
from jaxdiff.networks.patches import from_patches, positions, to_patches
from jaxdiff.typing import Array, Cond, Outputs


class DiT(nn.Module):
    """Diffusion transformer for images (batch, height, width, channels).

    patch: side of a patch, in pixels. width: numbers per token, and length of e; divisible by 4 and
    by ``heads``. depth: blocks. heads: of the attention. mlp_ratio: hidden units of a block's
    perceptron, in units of ``width``. dropout: rate, within that. num_classes, label_scale,
    features, waves, null_class: see :class:`jaxdiff.networks.embedding.Embedding`. column_first:
    see :func:`jaxdiff.networks.patches.positions`. learned_variance: whether it has v besides its
    output, as guided diffusion's U-Net has (:mod:`jaxdiff.networks.guided_unet`). sign: 1 or -1,
    what the output is multiplied by. log_variance: whether it has that head. remat: compute the
    blocks again in the backward pass, which then keeps only the tokens between them. dtype: what it
    computes in; None means the input's dtype. param_dtype: what the parameters are kept in.
    attention_fn: what the attention is (:mod:`jaxdiff.networks.attention`).

    The paper's models are, with patch p: DiT-S DiT(p, 384, 12, 6), DiT-B DiT(p, 768, 12, 12), DiT-L
    DiT(p, 1024, 24, 16), DiT-XL DiT(p, 1152, 28, 16); DiT-B/4 has p = 4.
    """

    patch: int = 2
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4
    dropout: float = 0.0
    num_classes: int = 0
    label_scale: float = 100.0
    features: Features = sinusoidal
    log_variance: bool = False
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    attention_fn: AttentionFn = softmax_attention
    waves: int = 0
    null_class: bool = True
    column_first: bool = False
    learned_variance: bool = False
    sign: int = 1

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

        x: (batch, height, width, channels). label: (batch,) or (batch, k). cond: class indices
        (batch,) or None. With ``full``, Outputs whose features are the tokens after each block, as
        maps (batch, height/patch, width/patch, self.width). attention: what the blocks call, in
        place of ``attention_fn``. With ``variance``, a pair: that, and v of the shape of x.
        Raises ValueError for images that do not divide into patches, for a width that 4 or the
        heads do not divide, and for a variance that is not learned.
        """
        self._check(x, label, variance)
        chosen = chosen_attention(attention, self.attention_fn, self.depth)
        dtype = jnp.dtype(self.dtype or x.dtype)
        kinds = {"dtype": dtype, "param_dtype": self.param_dtype}
        embed = Embedding(
            self.width, self.num_classes, self.label_scale, self.features, self.param_dtype,
            self.waves, self.null_class,
        )  # fmt: skip
        e = nn.silu(embed(label, cond)).astype(dtype)
        rows, columns = x.shape[1] // self.patch, x.shape[2] // self.patch
        where = positions(rows, columns, self.width, column_first=self.column_first)
        h = nn.Dense(self.width, **kinds)(to_patches(x.astype(dtype), self.patch))
        h = h + jnp.asarray(where, dtype)[None]
        block, maps = nn.remat(Block, static_argnums=(3,)) if self.remat else Block, []
        for i in range(self.depth):
            own = block(
                self.heads, self.mlp_ratio, self.dropout, **kinds, attention=chosen,
                grid=(rows, columns), stage=f"block_{i}", name=f"Block_{i}",
            )  # fmt: skip
            h = own(h, e, deterministic)
            maps.append(h.reshape(-1, rows, columns, self.width))
        zero = nn.initializers.zeros
        scale, shift = jnp.split(nn.Dense(2 * self.width, kernel_init=zero, **kinds)(e), 2, axis=-1)
        c = x.shape[-1]
        numbers = self.patch**2 * c * (2 if self.learned_variance else 1)
        last = nn.Dense(numbers, kernel_init=zero, **kinds)
        out = last(_modulated(h, scale, shift))
        out = from_patches(out, rows, columns, self.patch).astype(x.dtype)
        head = LogVariance(self.label_scale, self.features, self.param_dtype)
        log_variance = head(label) if self.log_variance else None
        out, v = self.sign * out[..., :c], out[..., c:]
        value = Outputs(out, log_variance, tuple(maps)) if full else out
        return (value, v) if variance else value

    def _check(self, x: Array, label: Array, variance: bool) -> None:
        if variance and not self.learned_variance:
            raise ValueError("variance=True, but this network has no learned variance")
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
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")


PUBLISHED = {"features": periodic, "label_scale": 1.0, "waves": 256, "column_first": True}


class Block(nn.Module):
    """The block of the module's text."""

    heads: int
    mlp_ratio: float
    dropout: float
    dtype: Any
    param_dtype: Any
    attention: AttentionFn = softmax_attention
    grid: tuple[int, ...] = ()
    stage: str = ""

    @nn.compact
    def __call__(self, h: Array, e: Array, deterministic: bool) -> Array:
        """Update ``h`` (batch, tokens, width), given ``e`` (batch, width)."""
        kinds, width = {"dtype": self.dtype, "param_dtype": self.param_dtype}, h.shape[-1]
        modulation = nn.Dense(6 * width, kernel_init=nn.initializers.zeros, **kinds)(e)
        a1, b1, g1, a2, b2, g2 = jnp.split(modulation, 6, axis=-1)
        qkv = nn.Dense(3 * width, **kinds)(_modulated(h, a1, b1))
        qkv = qkv.reshape(*h.shape[:2], 3, self.heads, width // self.heads)
        place = Place("/".join(self.path), "self", self.grid, self.stage)
        mixed = attend(self.attention, qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], place)
        h = h + g1[:, None] * nn.Dense(width, **kinds)(mixed.reshape(h.shape))
        r = nn.gelu(nn.Dense(int(self.mlp_ratio * width), **kinds)(_modulated(h, a2, b2)))
        r = nn.Dropout(self.dropout)(r, deterministic=deterministic)
        return h + g2[:, None] * nn.Dense(width, **kinds)(r)


def _modulated(h: Array, scale: Array, shift: Array) -> Array:
    """Layer norm of every token, then a sample's own scale and shift, both (batch, width)."""
    return layer_norm(h) * (1 + scale)[:, None] + shift[:, None]
