"""Conditions of a U-Net with text: a dictionary, checked, and made vectors and tokens.

    {"tokens": (batch, tokens, width),      the text's hidden states
     "mask": (batch, tokens),               which of them count, all without it
     "pooled": (batch, width), "time_ids": (batch, numbers),   SDXL's pooled text and sizes
     "classes": (batch,) or (batch, width), a class, a noise level of the image below, or a vector
     "guidance": (batch,),                  the guidance scale of a distilled model (LCM)
     "image": (batch, width),               an image's embedding (Kandinsky)
     "beside": (batch, height, width, channels),   what is put beside x: a mask, a masked image
     "control": (batch, height, width, channels),  the picture that a ControlNet is shown
     "boxes": (batch, boxes, 4), "box_tokens": (batch, boxes, width), "box_mask": (batch, boxes)}
                                            where things are to be and what they are (GLIGEN)

A network takes the keys that it was built for and refuses others.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.arrays import check
from jaxdiff.networks.spatial import LayerNorm
from jaxdiff.networks.time_embedding import Perceptron, waves
from jaxdiff.typing import Array, Cond

KEYS = (
    "tokens", "mask", "pooled", "time_ids", "classes", "guidance", "image", "beside",
    "control", "boxes", "box_tokens", "box_mask",
)  # fmt: skip
SHAPES = {
    "tokens": 3, "mask": 2, "pooled": 2, "time_ids": 2, "guidance": 1, "image": 2,
    "beside": 4, "control": 4, "boxes": 3, "box_tokens": 3, "box_mask": 2,
}  # fmt: skip


def checked_conditions(
    cond: Cond, needed: tuple[str, ...], possible: tuple[str, ...], batch: int
) -> dict:
    """Return the conditions as a dictionary of arrays.

    needed, possible: the keys that must be there, and that may. Raises TypeError for what is no
    dictionary, ValueError for missing, unknown or ill-shaped ones.
    """
    if cond is not None and not isinstance(cond, dict):
        raise TypeError(
            f"cond must be a dictionary with {', '.join(needed or possible)}; got {type(cond)}"
        )
    given = {k: jnp.asarray(v) for k, v in (cond or {}).items() if v is not None}
    if missing := [k for k in needed if k not in given]:
        raise ValueError(f"this network needs cond[{missing[0]!r}]")
    if strange := sorted(set(given) - {*needed, *possible}):
        raise ValueError(
            f"cond[{strange[0]!r}] was given to a network that does not take it; it takes "
            f"{', '.join(k for k in KEYS if k in {*needed, *possible})}"
        )
    for key, value in given.items():
        axes = SHAPES.get(key, value.ndim)
        if value.ndim != axes or value.shape[:1] != (batch,):
            raise ValueError(
                f"cond[{key!r}] must have {axes} axes, the first of {batch} samples; its shape is "
                f"{value.shape}"
            )
    if "mask" in given and "tokens" not in given and "image" not in given:
        raise ValueError("cond['mask'] was given without tokens")
    if "mask" in given and "tokens" in given and given["mask"].shape != given["tokens"].shape[:2]:
        raise ValueError(
            f"cond['mask'] must be {given['tokens'].shape[:2]}, one number per token; its shape is "
            f"{given['mask'].shape}"
        )
    return given


def keys_of(network: Any, channels: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the keys that a network's cond must have, and those that it may have, beside an x of
    so many channels.
    """
    looks = {"cross", "joint"} & {*network.kinds(), network.middle}
    text = looks and network.token_width and network.tokens_in != "image"
    needed = ("tokens",) if text or network.added == "text" else ()
    needed += {
        "text_time": ("pooled", "time_ids"), "text_image": ("image", "pooled"), "image": ("image",),
    }.get(network.added, ())  # fmt: skip
    needed += ("classes",) if network.classes else ()
    needed += ("image",) if network.tokens_in in ("image", "both") else ()
    needed += ("beside",) if network.in_channels > channels else ()
    possible = ("mask",) if looks and network.token_width else ()
    possible += ("guidance",) if network.guidance else ()
    possible += ("boxes", "box_tokens", "box_mask") if network.boxes else ()
    return tuple(dict.fromkeys(needed)), possible


def tokens_of(network: Any, given: dict[str, Array]) -> Array | None:
    """Return the tokens that a network's stages attend to, for its own ``nn.compact`` call."""
    tokens, width = given.get("tokens"), network.text_width or network.token_width
    if tokens is not None and tokens.shape[2] != width:
        raise ValueError(
            f"cond['tokens'] must be (batch, tokens, {width}); its shape is {tokens.shape}"
        )
    if network.tokens_in:
        own = TokensIn(
            network.token_width, network.tokens_in, network.param_dtype, name="tokens_in"
        )
        return own(tokens, given.get("image"))
    return tokens if network.token_width else None


def class_vector(
    kind: str, own: Array, features: Any, width: int, dtype: Any, count: int, activation: str,
    param_dtype: Any,
) -> Array:  # fmt: skip
    """Return what a class adds to e, (batch, width), for a network's own ``nn.compact`` call.

    kind: "index" of ``count`` rows, "waves" (``features``) of a number or a "vector" through a
    "perceptron", a "linear" map, or as it is.
    """
    kinds = {"param_dtype": param_dtype, "name": "class_embedding"}
    axes = 1 if kind in ("index", "waves") else 2
    if own.ndim != axes:
        raise ValueError(f"cond['classes'] must have {axes} axes; its shape is {own.shape}")
    if kind == "index":
        return class_rows(own, count, width, dtype, param_dtype)
    own = own.astype(dtype)
    if kind == "waves":
        return Perceptron(width, activation, **kinds)(features(own))
    if kind == "perceptron":
        return Perceptron(width, **kinds)(own)
    if kind == "linear":
        return nn.Dense(width, dtype=dtype, **kinds)(own)
    if own.shape[1] != width:
        raise ValueError(f"cond['classes'] must be vectors of {width}; its shape is {own.shape}")
    return own


def class_rows(cond: Array, count: int, width: int, dtype: Any, param_dtype: Any) -> Array:
    """Look up rows of ``count`` classes, none of which stands for no class.

    cond: (batch,) integers from 0 to count - 1; others are refused where they are known, and NaN
    otherwise. Returns (batch, width).
    """
    if not jnp.issubdtype(cond.dtype, jnp.integer):
        raise TypeError(f"classes must be integers, not {cond.dtype}")
    message = f"classes are numbered 0 to {count - 1}"
    check(message, lambda c: (c >= 0).all() and (c < count).all(), cond)
    rows = nn.Embed(count, width, param_dtype=param_dtype, name="class_embedding")
    return rows(jnp.where(cond < 0, count, cond.astype(jnp.int32))).astype(dtype)


class TextAndTime(nn.Module):
    """SDXL's vector: a perceptron of the pooled text and the waves of the image's sizes.

    width: of the result. waves: of each number. flip, shift: of the waves. joined: width of the
    input of the perceptron, which is checked.
    """

    width: int
    waves: int
    joined: int
    flip: bool = True
    shift: float = 0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled: Array, time_ids: Array) -> Array:
        """Map pooled (batch, any) and time_ids (batch, numbers) to (batch, width)."""
        b, count = time_ids.shape
        sizes = waves(
            time_ids.reshape(-1).astype(pooled.dtype), self.waves, flip=self.flip, shift=self.shift
        )
        both = jnp.concatenate([pooled.astype(sizes.dtype), sizes.reshape(b, -1)], axis=-1)
        if both.shape[-1] != self.joined:
            raise ValueError(
                f"cond['pooled'] of width {pooled.shape[-1]} and {count} time_ids make "
                f"{both.shape[-1]} numbers; the network was trained on {self.joined}"
            )
        made = Perceptron(self.width, param_dtype=self.param_dtype)
        nn.share_scope(self, made)
        return made(both)


class ImageAndText(nn.Module):
    """Kandinsky's vector: linear maps of an image's embedding and of the pooled text, summed.

    width: of the result. text: whether there is one. The norm is of the text, or of the image where
    there is none.
    """

    width: int
    text: bool
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Array, pooled: Array | None = None) -> Array:
        """Map image (batch, any) and pooled (batch, any) to (batch, width)."""
        kinds = {"dtype": image.dtype, "param_dtype": self.param_dtype}
        own = nn.Dense(self.width, name="image", **kinds)(image)
        if not self.text or pooled is None:
            return LayerNorm(self.param_dtype, name="image_norm")(own)
        words = nn.Dense(self.width, name="text", **kinds)(pooled.astype(image.dtype))
        return own + LayerNorm(self.param_dtype, name="text_norm")(words)


class TokensIn(nn.Module):
    """Projection of tokens before the network attends to them.

    width: of the result. kind: "text" (a linear map), "image" (32 tokens of an image's embedding,
    normed) or "both" (10 of an image and the mapped text).
    """

    width: int
    kind: str
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array | None, image: Array | None = None) -> Array:
        """Return tokens (batch, tokens, width)."""

        def dense(features: int, name: str, x: Array) -> Array:
            kinds = {"dtype": x.dtype, "param_dtype": self.param_dtype}
            return nn.Dense(features, name=name, **kinds)(x)

        parts = []
        if image is not None:
            count = 32 if self.kind == "image" else 10
            made = dense(count * self.width, "image", image).reshape(-1, count, self.width)
            norm = LayerNorm(self.param_dtype, name="image_norm")
            parts.append(norm(made) if self.kind == "image" else made)
        if tokens is not None and self.kind != "image":
            parts.append(dense(self.width, "text", tokens))
        return jnp.concatenate(parts, axis=1)
