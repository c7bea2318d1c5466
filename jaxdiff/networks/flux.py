"""The transformer of FLUX.1: latents of an image and a text, in double and single blocks.

Tokens are 2 x 2 patches of the latents and the words of the text, the words first. Each token has a
place, three numbers (0, row, column), of which every query and key is turned by: its channels are
pairs, and the k-th pair of an axis with c channels is turned by the angle place * 10000^(-2k/c)
(rotary positions, 2104.09864, one group of channels for each number). The embedding e of time,
guidance and pooled text gives shifts a, scales b and gates g. The first blocks are those of Stable
Diffusion 3 (:mod:`jaxdiff.networks.sd3`) with norms of queries and keys; in the others, image and
text are one list of tokens h:

    n = norm(h) (1 + b) + a,    h <- h + g W [attention(n), gelu(V n)].

It is trained as a rectified flow: its output is d x/d t. FLUX.1 has no paper; source: the
publishers' code.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks.attention import (
    AttentionFn,
    Place,
    attend,
    chosen_attention,
    softmax_attention,
)
from jaxdiff.networks.embedding import wide
from jaxdiff.networks.sd3 import TextAndTime
from jaxdiff.networks.transformer_blocks import (
    AdaptiveNorm,
    Heads,
    JointAttention,
    Modulation,
    Perceptron,
    gelu_tanh,
    modulated,
)
from jaxdiff.networks.transformer_inputs import conditions
from jaxdiff.typing import Array, Cond, Outputs


class FluxTransformer(nn.Module):
    """Flux of latents (batch, height, width, channels / 4) or packed tokens; the label is 1000 t.

    channels: of a packed token, four times those of the latents. further: channels of a token that
    are given as a condition (inpainting, edges, depth). axes: channels of a head for each number of
    a token's place, together ``head_channels``. guidance: whether it is conditioned on a guidance
    weight. remat, dtype, param_dtype, attention_fn: see :class:`jaxdiff.networks.dit.DiT`.
    """

    channels: int = 64
    further: int = 0
    heads: int = 24
    head_channels: int = 128
    depth: int = 19
    single_depth: int = 38
    token_width: int = 4096
    pooled: int = 768
    guidance: bool = False
    axes: tuple[int, ...] = (16, 56, 56)
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    attention_fn: AttentionFn = softmax_attention

    @nn.compact
    def __call__(
        self,
        x: Array,
        label: Array,
        cond: Cond = None,
        *,
        full: bool = False,
        attention: AttentionFn | None = None,
    ) -> Array | Outputs:
        """Map ``x`` to d x/d t, of its shape and dtype.

        x: latents (batch, height, width, channels / 4), height and width even; or packed tokens
        (batch, tokens, channels) whose places are in ``cond``. label: (batch,). cond:
        {"tokens": (batch, any, token_width), "pooled": (batch, pooled)}, with ``guidance``
        "guidance" (batch,), with ``further`` "channels" (batch, tokens, further); and, if they are
        not 0 for the text and (0, row, column) for the image, places "text_ids" and "image_ids"
        (batch, any, 3). With ``full``, Outputs whose features are the image's tokens after each
        block, as maps for latents. Raises ValueError for other shapes.
        """
        self._check(x, label)
        given = self._conditions(cond, x)
        chosen = chosen_attention(attention, self.attention_fn, self.depth + self.single_depth)
        width, dtype = self.heads * self.head_channels, jnp.dtype(self.dtype or x.dtype)
        kinds = {"dtype": dtype, "param_dtype": self.param_dtype}
        grid = (x.shape[1] // 2, x.shape[2] // 2) if x.ndim == 4 else x.shape[1:2]
        h = pack_latents(x) if x.ndim == 4 else x
        if self.further:
            h = jnp.concatenate([h, given["channels"].astype(h.dtype)], axis=-1)
        w = given["tokens"].astype(dtype)
        turn = self._rotation(given, grid, w.shape[1])
        h = nn.Dense(width, **kinds, name="image")(h.astype(dtype))
        w, e = nn.Dense(width, **kinds, name="text")(w), self._embedded(label, given, width)
        options = {
            "heads": self.heads, "head_channels": self.head_channels, **kinds,
            "attention": chosen, "grid": grid,
        }  # fmt: skip
        maps = []
        stages = [
            ("block", DoubleBlock, self.depth),
            ("single_block", SingleBlock, self.single_depth),
        ]
        for name, kind, count in stages:
            block = nn.remat(kind) if self.remat else kind
            for i in range(count):
                stage = f"{name}_{i}"
                w, h = block(**options, stage=stage, name=stage)(h, w, e.astype(dtype), turn)
                maps.append(h.reshape(-1, *grid, width))
        h = AdaptiveNorm(**kinds, name="out_norm")(h, e.astype(dtype))
        out = nn.Dense(self.channels, **kinds, name="out")(h).astype(x.dtype)
        out = unpack_latents(out, *x.shape[1:3]) if x.ndim == 4 else out
        return Outputs(out, None, tuple(maps)) if full else out

    def _embedded(self, label: Array, given: dict[str, Array], width: int) -> Array:
        # 1000 times the weight, as the time
        guidance = given["guidance"].astype(wide(label.dtype)) * 1000 if self.guidance else None
        embed = TextAndTime(width, self.param_dtype, name="embedding")
        return embed(label, given["pooled"], guidance)

    def _rotation(self, given: dict[str, Array], grid: tuple[int, ...], words: int) -> Array:
        """Return the angles of text and image, (batch or 1, all tokens, head_channels / 2)."""
        zero = np.zeros((1, words, len(self.axes)))
        text = given.get("text_ids", zero)
        image = given["image_ids"] if "image_ids" in given else image_ids(*grid)
        batch = max(text.shape[0], image.shape[0])
        places = [jnp.asarray(p, jnp.float32) for p in (text, image)]
        places = [jnp.broadcast_to(p, (batch, *p.shape[1:])) for p in places]
        return angles(jnp.concatenate(places, axis=1), self.axes)

    def _conditions(self, cond: Cond, x: Array) -> dict[str, Array]:
        tokens = x.shape[1] * x.shape[2] // 4 if x.ndim == 4 else x.shape[1]
        needed = {"tokens": (None, self.token_width), "pooled": (self.pooled,)}
        needed |= {"guidance": ()} if self.guidance else {}
        needed |= {"channels": (tokens, self.further)} if self.further else {}
        ids = {"image_ids": (tokens, len(self.axes)), "text_ids": (None, len(self.axes))}
        if x.ndim == 3:
            needed["image_ids"] = ids.pop("image_ids")
        given = conditions(cond, x.shape[0], needed, ids)
        if "text_ids" in given and given["text_ids"].shape[1] != given["tokens"].shape[1]:
            raise ValueError(
                f"text_ids has shape {given['text_ids'].shape}, but there are tokens "
                f"{given['tokens'].shape}"
            )
        return given

    def _check(self, x: Array, label: Array) -> None:
        latents = x.ndim == 4 and x.shape[-1] * 4 == self.channels
        even = latents and x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0
        packed = x.ndim == 3 and x.shape[-1] == self.channels
        if not (even or packed) or label.shape != x.shape[:1]:
            raise ValueError(
                f"Flux takes latents (batch, height, width, {self.channels // 4}), even height and "
                f"width, or packed tokens (batch, tokens, {self.channels}), and label (batch,); "
                f"got {x.shape} and {label.shape}"
            )
        if sum(self.axes) != self.head_channels or any(n % 2 for n in self.axes):
            raise ValueError(
                f"axes are even numbers of channels, {self.head_channels} together; got {self.axes}"
            )


class DoubleBlock(nn.Module):
    """A block with weights for the image and others for the text."""

    heads: int
    head_channels: int
    dtype: Any
    param_dtype: Any
    attention: AttentionFn
    grid: tuple[int, ...]
    stage: str

    @nn.compact
    def __call__(self, h: Array, w: Array, e: Array, turn: Array) -> tuple[Array, Array]:
        """Update the image's tokens ``h`` and the text's ``w``; returns the text's first."""
        kinds, width = (self.dtype, self.param_dtype), h.shape[-1]
        image = Modulation(6, width, *kinds, name="modulation")(e)
        text = Modulation(6, width, *kinds, name="text_modulation")(e)
        joint = JointAttention(
            self.heads, self.head_channels, *kinds, self.attention, rms_norm=True, text_first=True,
            grid=self.grid, stage=self.stage, name="attention",
        )  # fmt: skip
        both = modulated(h, image[0], image[1]), modulated(w, text[0], text[1])
        u, r = joint(*both, turn=lambda q: rotate(q, turn))
        fed = []
        for name, own, (_, _, g1, a2, b2, g2) in (
            ("text_feed_forward", (w, r), text),
            ("feed_forward", (h, u), image),
        ):
            mixed = own[0] + g1 * own[1]
            feed = Perceptron(width, 4 * width, gelu_tanh, *kinds, name=name)
            fed.append(mixed + g2 * feed(modulated(mixed, a2, b2)))
        return fed[0], fed[1]


class SingleBlock(nn.Module):
    """A block with the same weights for image and text."""

    heads: int
    head_channels: int
    dtype: Any
    param_dtype: Any
    attention: AttentionFn
    grid: tuple[int, ...]
    stage: str

    @nn.compact
    def __call__(self, h: Array, w: Array, e: Array, turn: Array) -> tuple[Array, Array]:
        """Update the image's tokens ``h`` and the text's ``w``; returns the text's first."""
        kinds, width = {"dtype": self.dtype, "param_dtype": self.param_dtype}, h.shape[-1]
        both = jnp.concatenate([w, h], axis=1)
        a, b, g = Modulation(3, width, **kinds, name="modulation")(e)
        n = modulated(both, a, b)
        heads = Heads(self.heads, self.head_channels, **kinds, rms_norm=True, name="heads")
        q, k, v = heads(n)
        place = Place("/".join(self.path), "self", self.grid, self.stage, text=w.shape[1])
        mixed = attend(self.attention, rotate(q, turn), rotate(k, turn), v, place)
        mixed = mixed.reshape(*both.shape[:2], -1)
        other = gelu_tanh(nn.Dense(4 * width, name="hidden", **kinds)(n))
        out = nn.Dense(width, name="out", **kinds)(jnp.concatenate([mixed, other], axis=-1))
        both = both + g * out
        return both[:, : w.shape[1]], both[:, w.shape[1] :]


def pack_latents(x: Array) -> Array:
    """(batch, height, width, channels) to tokens (batch, height width / 4, 4 channels), of 2 x 2
    patches row by row, the four pixels of a channel side by side.
    """
    b, height, width, c = x.shape
    x = x.reshape(b, height // 2, 2, width // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(b, -1, 4 * c)


def unpack_latents(h: Array, height: int, width: int) -> Array:
    """Return the latents (batch, height, width, channels) of tokens, the inverse of
    :func:`pack_latents`.
    """
    b, _, c = h.shape
    h = h.reshape(b, height // 2, width // 2, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return h.reshape(b, height, width, c // 4)


def image_ids(rows: int, columns: int) -> np.ndarray:
    """Places (1, rows * columns, 3) of the tokens of an image: 0, row, column."""
    i, j = np.repeat(np.arange(rows), columns), np.tile(np.arange(columns), rows)
    return np.stack([np.zeros_like(i), i, j], axis=-1)[None]


def angles(places: Array, axes: tuple[int, ...]) -> Array:
    """Return the angles (batch, tokens, head_channels / 2) of the pairs of a query's channels."""
    turned = [
        places[..., i, None] * jnp.asarray(frequencies(n), places.dtype)[None, None]
        for i, n in enumerate(axes)
    ]
    return jnp.concatenate(turned, axis=-1)


def frequencies(channels: int) -> np.ndarray:
    """10000^(-2k/channels) for each pair of an axis's channels."""
    return 10000.0 ** (-np.arange(0, channels, 2) / channels)


def rotate(q: Array, angle: Array) -> Array:
    """Turn the pairs of channels of q (batch, tokens, heads, channels), neighbours each."""
    pairs = q.astype(wide(q.dtype)).reshape(*q.shape[:-1], -1, 2)
    angle = angle.astype(pairs.dtype)[:, :, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = pairs[..., 0], pairs[..., 1]
    return (
        jnp.stack([x * cos - y * sin, y * cos + x * sin], axis=-1).reshape(q.shape).astype(q.dtype)
    )
