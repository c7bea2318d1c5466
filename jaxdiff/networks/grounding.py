r"""GLIGEN (2301.07093): boxes and what is in them, by gated self-attention in a frozen U-Net.

    g = perceptron([e, fourier(box)]),
    h <- h + tanh(a) S(attention(norm([h, W g]))),    h <- h + tanh(b) mlp(norm(h)),

with e the embedding of what is in a box, and S keeping the tokens of the map. The second line comes
between each block's attention of the map on itself and that on the text (equations 7 and 8 of the
paper, with the perceptron of its authors' code); a and b are 0 at the start of training: then the
U-Net is as it was. A box that is not there has learned vectors in place of e and its waves.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks.embedding import wide
from jaxdiff.typing import Array

FREQUENCIES = 8
HIDDEN = 512
KEYS = ("boxes", "box_tokens", "box_mask")


class Grounding(nn.Module):
    """The tokens g of boxes.

    width: of the result. dtype: what it computes in; param_dtype: what parameters are kept in.
    """

    width: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, boxes: Array, tokens: Array, mask: Array | None = None) -> Array:
        """Return g, (batch, boxes, width).

        boxes: left, upper, right and lower end of each in [0, 1], (batch, boxes, 4). tokens: e,
        (batch, boxes, any). mask: whether each is there, (batch, boxes), all without it.
        """
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        place = fourier_boxes(boxes).astype(self.dtype)
        tokens = tokens.astype(self.dtype)
        keep = jnp.ones(boxes.shape[:2], bool) if mask is None else mask.astype(bool)

        def kept(value: Array, name: str) -> Array:
            none = self.param(name, nn.initializers.zeros, value.shape[-1:], self.param_dtype)
            return jnp.where(keep[..., None], value, none.astype(value.dtype)[None, None])

        h = jnp.concatenate([kept(tokens, "no_token"), kept(place, "no_place")], axis=-1)
        for i in range(2):
            h = nn.silu(nn.Dense(HIDDEN, name=f"linear_{i}", **kinds)(h))
        return nn.Dense(self.width, name="linear_2", **kinds)(h)


def fourier_boxes(boxes: Array) -> Array:
    """Return sine and cosine of 100^(i/8) times each end of boxes, i = 0 ... 7.

    Args:
        boxes: (batch, boxes, 4), in [0, 1].

    Returns:
        (batch, boxes, 64): for each frequency the sines of the four ends, then their cosines.

    Source: Li et al., GLIGEN, arXiv 2301.07093, section 4.1, and the frequencies of its code.
    """
    x = boxes.astype(wide(boxes.dtype))
    frequencies = jnp.asarray(100.0 ** (np.arange(FREQUENCIES) / FREQUENCIES), x.dtype)
    angle = x[:, :, None, :] * frequencies[None, None, :, None]
    both = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=3)
    return both.reshape(*x.shape[:2], 8 * FREQUENCIES)


def grounded(width: int, given: dict[str, Array], parts: Any) -> Array | None:
    """Return the tokens of the boxes in a condition, None without, for a network's own
    ``nn.compact`` call. ValueError for entries that are missing or ill-shaped.

    width: of the tokens. parts: the network's :class:`jaxdiff.networks.residual.Parts`.
    """
    there = [key for key in KEYS if key in given]
    if not there:
        return None
    if missing := [key for key in KEYS[:2] if key not in given]:
        raise ValueError(f"cond[{there[0]!r}] was given without cond[{missing[0]!r}]")
    boxes, tokens, mask = (given.get(key) for key in KEYS)
    assert boxes is not None and tokens is not None
    if boxes.shape[2] != 4:
        raise ValueError(
            "cond['boxes'] must be (batch, boxes, 4), left, upper, right and lower ends in [0, 1]; "
            f"its shape is {boxes.shape}"
        )
    if tokens.shape != (*boxes.shape[:2], width):
        raise ValueError(
            f"cond['box_tokens'] must be {(*boxes.shape[:2], width)}, one for each box; its shape "
            f"is {tokens.shape}"
        )
    if mask is not None and mask.shape != boxes.shape[:2]:
        raise ValueError(
            f"cond['box_mask'] must be {boxes.shape[:2]}, one number per box; its shape is "
            f"{mask.shape}"
        )
    return Grounding(width, parts.dtype, parts.param_dtype, name="grounding")(boxes, tokens, mask)
