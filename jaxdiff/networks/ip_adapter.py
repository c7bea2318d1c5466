r"""IP-Adapter (2308.06721): a picture as a prompt, by decoupled cross-attention in a frozen U-Net.

    out = attention(q, K c, V c) + scale attention(q, K' i, V' i),

with c the tokens of the text and i those of the picture. Queries, K and V are the U-Net's own; new
are K' and V' of each layer that attends to the text, and what makes tokens of an image encoder's
features f: count tokens, normed, of one vector,

    i = layer_norm(W f),

or, in the form called plus, a resampler of many (:mod:`jaxdiff.networks.resampler`). Of several
pictures the tokens stand side by side.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, Place, softmax_attention
from jaxdiff.networks.resampler import Resampler
from jaxdiff.networks.spatial import LayerNorm
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.typing import Array

Pair = tuple[Array, Array]


class IPAdapter(nn.Module):
    """Keys and values of pictures for the layers of a U-Net that attend to a text.

    widths: of each such layer, as :func:`cross_layers` lists them. count: tokens of a picture.
    token_width: of each. image_width: of the features. depth: blocks of the resampler, 0 for one
    linear map. width, heads: of the resampler; a head has 64 channels unless ``head_width`` says
    otherwise. dtype: what it computes in; param_dtype: what the parameters are kept in.
    """

    widths: tuple[int, ...]
    count: int = 4
    token_width: int = 768
    image_width: int = 1024
    depth: int = 0
    width: int = 768
    heads: int = 12
    head_width: int = 64
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> tuple[Pair, ...]:
        """Return each layer's keys and values, (batch, tokens, width) each.

        image: features of one picture (batch, image_width), or of several (batch, pictures,
        image_width); with a resampler (batch, places, image_width), or (batch, pictures, places,
        image_width). Raises ValueError for other shapes.
        """
        tokens = self.tokens(self._checked(image))
        kinds = {"use_bias": False, **self.kinds(image)}
        made = []
        for i, width in enumerate(self.widths):
            dense = [nn.Dense(width, name=f"layer_{i}_{n}", **kinds) for n in ("k", "v")]
            made.append((dense[0](tokens), dense[1](tokens)))
        return tuple(made)

    def tokens(self, image: Array) -> Array:
        """Return the tokens (batch, pictures * count, token_width) of features that have an axis of
        pictures, for the module's own ``nn.compact`` call.
        """
        b, pictures, *rest = image.shape
        each = image.reshape(b * pictures, *rest)
        kinds = self.kinds(image)
        if self.depth:
            made = Resampler(
                self.count, self.token_width, self.depth, self.width, self.heads, self.head_width,
                **kinds, name="image",
            )(each)  # fmt: skip
        else:
            made = nn.Dense(self.count * self.token_width, name="image", **kinds)(each)
            made = made.reshape(-1, self.count, self.token_width)
            made = LayerNorm(self.param_dtype, name="image_norm")(made)
        return made.reshape(b, pictures * self.count, self.token_width)

    def kinds(self, image: Array) -> dict[str, Any]:
        """Return the dtypes, as layers take them."""
        return {"dtype": jnp.dtype(self.dtype or image.dtype), "param_dtype": self.param_dtype}

    def _checked(self, image: Array) -> Array:
        """Return the features with an axis of pictures."""
        least = 3 if self.depth else 2
        if image.ndim not in (least, least + 1) or image.shape[-1] != self.image_width:
            shape = "batch, places" if self.depth else "batch"
            raise ValueError(
                f"an IP-Adapter takes features ({shape}, {self.image_width}) of a picture, or of "
                f"several, on a second axis; got {image.shape}"
            )
        return image if image.ndim == least + 1 else image[:, None]


def decoupled(attention: AttentionFn, layers: Mapping[str, Pair], scale: float) -> AttentionFn:
    """Return an attention that adds the pictures' to that of the layers with these paths.

    Args:
        attention: of the text, and of all other layers.
        layers: keys and values (batch, tokens, width) by the path of the layer.
        scale: of what is added.

    Returns:
        ``attention(q, k, v, place)``.

    Source: Ye et al., IP-Adapter, arXiv 2308.06721, equation 5.
    """

    def both(q: Array, k: Array, v: Array, place: Place) -> Array:
        out = attention(q, k, v, place)
        if place.path not in layers:
            return out
        own_k, own_v = (
            a.reshape(*a.shape[:2], *q.shape[2:]).astype(v.dtype) for a in layers[place.path]
        )
        # all of a picture's tokens are seen, whatever the mask of the text
        return out + jnp.asarray(scale, out.dtype) * softmax_attention(q, own_k, own_v)

    return both


def cross_layers(unet: UNet2DCondition) -> tuple[tuple[str, int], ...]:
    """Return path and width of each layer of a U-Net that attends to a text, in the order of
    publishers: those of the way down, of the way up from the coarsest, and of the bottom.
    """
    stages = [
        (f"down_{i}", kind, unet.channels[i], unet.depth_down[i])
        for i, kind in enumerate(unet.down)
    ]
    stages += [
        (f"up_{i}", kind, unet.channels[i], unet.depth_up[i])
        for i, kind in reversed([*enumerate(unet.up)])
    ]
    stages += [("middle", unet.middle, unet.channels[-1], (unet.depth_middle,))]
    return tuple(
        (f"{stage}/attention_{i}/block_{j}/cross", width)
        for stage, kind, width, depths in stages
        if kind == "cross"
        for i, depth in enumerate(depths)
        for j in range(depth)
    )


def adapter_for(unet: UNet2DCondition, **fields: Any) -> IPAdapter:
    """Return an adapter whose layers are a U-Net's. fields: further ones of :class:`IPAdapter`.

    Raises ValueError for a U-Net without layers that attend to a text.
    """
    if not (layers := cross_layers(unet)):
        raise ValueError("no layer of this U-Net attends to a text: there is nothing to adapt")
    widths = tuple(width for _, width in layers)
    return IPAdapter(widths, **{"token_width": unet.token_width, **fields})


def check_adapter(unet: UNet2DCondition, adapter: IPAdapter) -> None:
    """Raise ValueError for an adapter of another U-Net."""
    widths = tuple(width for _, width in cross_layers(unet))
    if widths != adapter.widths:
        raise ValueError(
            f"the IP-Adapter is of another U-Net: its {len(adapter.widths)} layers have widths "
            f"{adapter.widths}, and the {len(widths)} of this one {widths}"
        )
    if unet.token_width != adapter.token_width:
        raise ValueError(
            f"the IP-Adapter is of another U-Net: it makes tokens of width {adapter.token_width}, "
            f"and this one attends to {unet.token_width}"
        )
