"""CLIP's encoders of texts and images (2103.00020): plain transformers.

    h <- h + attention(norm(h)),    h <- h + W2 activation(W1 norm(h)),

with layer norms that have parameters. In the text encoder a token sees those before it and itself;
the vector of a text is that of its end token. The image encoder has a token of its own before those
of the patches, whose vector is that of the image. Statistics are in float32 at least.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.brief import short
from jaxdiff.networks.attention import AttentionFn, chosen_attention, softmax_attention
from jaxdiff.networks.patches import to_patches
from jaxdiff.networks.spatial import LayerNorm
from jaxdiff.networks.transformer_blocks import Activation, Attention, Perceptron, quick_gelu
from jaxdiff.typing import Array


class Encoded(NamedTuple):
    """Outputs of an encoder of text or images.

    hidden: the tokens before the first block and after each, (batch, tokens, width). last: of a
    text, the last of these, normed; of an image, the last of these. pooled: (batch, width), normed,
    of the end or the image token. projected: (batch, projection), in the space of both, or None.
    """

    __repr__ = short

    hidden: tuple[Array, ...]
    last: Array
    pooled: Array
    projected: Array | None


class ClipText(nn.Module):
    """The text encoder.

    vocabulary: number of tokens. length: the longest text. hidden: units of a block's perceptron.
    projection: length of the projected vector, 0 for none. end: the end token's number, whose first
    place is taken; None for the place of the largest number, as the first models have it.
    from_words: whether it starts with tokens of unit deviation and blocks that are the identity, so
    that what it returns are the words themselves; small tokens are lost in what blocks make of them
    at other starts, which training from nothing has to undo first. dtype, param_dtype,
    attention_fn: see :class:`jaxdiff.networks.dit.DiT`.
    """

    vocabulary: int = 49408
    length: int = 77
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: Activation = quick_gelu
    epsilon: float = 1e-5
    projection: int = 0
    end: int | None = None
    from_words: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    attention_fn: AttentionFn = softmax_attention

    def setup(self) -> None:
        """Make the layers, all of them by name."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        unit: dict[str, Any] = {}
        if self.from_words:
            unit["embedding_init"] = nn.initializers.normal(1.0)
        self.tokens = nn.Embed(self.vocabulary, self.width, **unit, **kinds)
        start = nn.initializers.normal(0.02)
        self.positions = self.param("positions", start, (self.length, self.width), self.param_dtype)
        self.block = [_block(self, i, self.from_words) for i in range(self.depth)]
        self.out_norm = LayerNorm(self.param_dtype, self.epsilon)
        if self.projection:
            self.projected = nn.Dense(self.projection, use_bias=False, **kinds)

    def __call__(self, ids: Array, *, attention: AttentionFn | None = None) -> Encoded:
        """Encode texts, numbers of tokens (batch, tokens). Raises ValueError for other shapes."""
        if ids.ndim != 2 or not 0 < ids.shape[1] <= self.length:
            raise ValueError(
                f"texts are numbers of tokens (batch, up to {self.length}); got {ids.shape}"
            )
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(f"tokens are whole numbers, not {ids.dtype}")
        chosen = chosen_attention(attention, self.attention_fn, self.depth)
        count = ids.shape[1]
        # beyond the vocabulary NaN, never another token
        h = self.tokens(jnp.where(ids < 0, self.vocabulary, ids).astype(jnp.int32))
        h = h + self.positions[:count].astype(self.dtype)[None]
        causal = jnp.asarray(np.tril(np.ones((count, count), bool)))[None, None]
        hidden = [h]
        for block in self.block:
            hidden.append(block(hidden[-1], chosen, causal))
        last = self.final(hidden[-1])
        place = jnp.argmax(ids if self.end is None else ids == self.end, axis=1)
        pooled = jnp.take_along_axis(last, place[:, None, None], axis=1)[:, 0]
        projected = self.projected(pooled) if self.projection else None
        return Encoded(tuple(hidden), last, pooled, projected)

    def final(self, h: Array) -> Array:
        """Return tokens (batch, tokens, width) after the last norm."""
        return self.out_norm(h)


class ClipVision(nn.Module):
    """The image encoder of images (batch, size, size, channels).

    patch: side of a patch. The rest is as in :class:`ClipText`.
    """

    size: int = 224
    channels: int = 3
    patch: int = 14
    width: int = 1024
    depth: int = 24
    heads: int = 16
    hidden: int = 4096
    activation: Activation = quick_gelu
    epsilon: float = 1e-5
    projection: int = 0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    attention_fn: AttentionFn = softmax_attention

    def setup(self) -> None:
        """Make the layers, all of them by name."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        start = nn.initializers.normal(0.02)
        count = (self.size // self.patch) ** 2 + 1
        shape = (self.patch, self.patch, self.channels, self.width)
        self.kernel = self.param("patches", start, shape, self.param_dtype)
        self.image_token = self.param("image_token", start, (self.width,), self.param_dtype)
        self.positions = self.param("positions", start, (count, self.width), self.param_dtype)
        self.in_norm = LayerNorm(self.param_dtype, self.epsilon)
        self.block = [_block(self, i) for i in range(self.depth)]
        self.out_norm = LayerNorm(self.param_dtype, self.epsilon)
        if self.projection:
            self.projected = nn.Dense(self.projection, use_bias=False, **kinds)

    def __call__(self, x: Array, *, attention: AttentionFn | None = None) -> Encoded:
        """Encode prepared images. Raises ValueError for other shapes."""
        if x.shape[1:] != (self.size, self.size, self.channels):
            raise ValueError(
                f"this encoder takes images (batch, {self.size}, {self.size}, {self.channels}); "
                f"got {x.shape}"
            )
        chosen = chosen_attention(attention, self.attention_fn, self.depth)
        kernel = self.kernel.astype(self.dtype).reshape(-1, self.width)
        h = to_patches(x.astype(self.dtype), self.patch) @ kernel
        own = jnp.broadcast_to(self.image_token.astype(self.dtype), (x.shape[0], 1, self.width))
        h = jnp.concatenate([own, h], axis=1) + self.positions.astype(self.dtype)[None]
        hidden = [self.in_norm(h)]
        for block in self.block:
            hidden.append(block(hidden[-1], chosen))
        pooled = self.out_norm(hidden[-1][:, 0])
        projected = self.projected(pooled) if self.projection else None
        return Encoded(tuple(hidden), hidden[-1], pooled, projected)


class Block(nn.Module):
    """The block of the module's text."""

    heads: int
    hidden: int
    activation: Activation
    epsilon: float
    dtype: Any
    param_dtype: Any
    stage: str
    zero_out: bool = False

    @nn.compact
    def __call__(self, h: Array, attention: AttentionFn, mask: Array | None = None) -> Array:
        """Update ``h`` (batch, tokens, width)."""
        kinds, width = (self.dtype, self.param_dtype), h.shape[-1]
        start: dict[str, Any] = {"out_init": nn.initializers.zeros} if self.zero_out else {}
        mix = Attention(
            self.heads, width // self.heads, *kinds, attention, grid=h.shape[1:2],
            stage=self.stage, name="attention", **start,
        )  # fmt: skip
        norms = [LayerNorm(self.param_dtype, self.epsilon, name=f"norm_{i}") for i in (1, 2)]
        h = h + mix(norms[0](h), mask=mask)
        feed = Perceptron(width, self.hidden, self.activation, *kinds, name="feed_forward", **start)
        return h + feed(norms[1](h))


def _block(module: Any, number: int, zero_out: bool = False) -> Block:
    return Block(
        module.heads, module.hidden, module.activation, module.epsilon, module.dtype,
        module.param_dtype, f"block_{number}", zero_out,
    )  # fmt: skip
