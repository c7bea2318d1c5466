r"""A U-Net and a text encoder that are one network: text to image.

    h = encoder(ids),    F(x, label, ids) = unet(x, label, {"tokens": h}),

both with parameters that are trained together, {"unet": ..., "encoder": ...}. Cross-attention reads
the hidden states of all tokens, padding among them, after the encoder's last norm, as in Stable
Diffusion 1 and 2; as the encoder is causal, those of the padding know the whole text. No condition
is the text "", as there.

Sources: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv
2112.10752, section 3.3 (cross-attention; there too the encoder is trained with the U-Net); Radford
et al., arXiv 2103.00020 (the encoder).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check
from jaxdiff.networks.attention import AttentionFn
from jaxdiff.networks.clip import ClipText
from jaxdiff.networks.controlled import Controlled
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.typing import Array, Cond, Outputs


class TextToImage(nn.Module):
    """A text encoder in front of a U-Net.

    unet: it attends to tokens of the encoder's width; also one that is steered. encoder: of texts.
    empty: token ids of the text "", which stands for no text. label_scale: what the label is
    multiplied by, so that the U-Net's waves, made for whole steps, resolve it: 100 for the labels
    of EDM and of times in [0, 1], 1 for steps.

    Where the U-Net has classes ("index"), the last of its ``num_classes`` rows stands for no class.
    """

    unet: UNet2DCondition | Controlled
    encoder: ClipText
    empty: tuple[int, ...]
    label_scale: float = 100.0

    def __call__(
        self,
        x: Array,
        label: Array,
        cond: Cond = None,
        *,
        deterministic: bool = True,
        full: bool = False,
        attention: AttentionFn | None = None,
    ) -> Array | Outputs:
        """Map ``x`` (batch, height, width, channels) to the U-Net's output.

        label: (batch,). cond: a dictionary with "text", token ids (batch, length), or "tokens"
        (batch, length, width) that take the place of the encoder's; without either it is the text
        "". "classes" (batch,), and all else that the U-Net takes. None for no condition. attention:
        what the U-Net's attention layers call; the encoder's call its own ``attention_fn``. Raises
        TypeError and ValueError, naming the entry, for conditions that do not fit.
        """
        if cond is not None and not isinstance(cond, dict):
            raise TypeError(f"cond must be a dictionary with 'text'; got {type(cond).__name__}")
        given = {k: v for k, v in (cond or {}).items() if v is not None}
        needed, possible = self.keys(x.shape[-1])
        if strange := sorted({*given} - {*needed, *possible}):
            raise ValueError(
                f"cond[{strange[0]!r}] was given to a network that takes "
                f"{', '.join((*needed, *possible))}"
            )
        if {"text", "tokens"} <= {*given}:
            raise ValueError(
                "cond has both 'text' and 'tokens', of which one takes the other's place"
            )
        self.check_cond({key: given[key] for key in given if key == "classes"})
        if "tokens" not in given:
            given["tokens"] = self.encoder(self._ids(given.pop("text", None), x.shape[0])).last
        if self.unet.classes == "index" and "classes" not in given:
            given["classes"] = jnp.full(x.shape[:1], self.unet.num_classes - 1, jnp.int32)
        return self.unet(
            x, label * self.label_scale, given, deterministic=deterministic, full=full,
            attention=attention,
        )  # fmt: skip

    def null(self) -> dict[str, Any]:
        """Return what stands for no condition: one sample's "text", and "classes" where there are
        some. Entries of further kinds are the caller's to add.
        """
        classes = {"classes": self.unet.num_classes - 1} if self.unet.classes == "index" else {}
        return {"text": np.asarray(self.empty, np.int32), **classes}

    def keys(self, channels: int | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the keys that cond must have, and those that it may have; see the U-Net's."""
        needed, possible = self.unet.keys(channels)
        optional = {"tokens", "classes"} if self.unet.classes == "index" else {"tokens"}
        rest = tuple(key for key in needed if key not in optional)
        own = ("text", *(key for key in needed if key in optional))
        return rest, (*own, *possible)

    def check_cond(self, cond: Cond) -> None:
        """Raise ValueError for known numbers of tokens or classes that there are not."""
        given, classes = cond if isinstance(cond, dict) else {}, self.unet.classes == "index"
        counts = {"text": self.encoder.vocabulary, "classes": self.unet.num_classes * classes}
        for key in (key for key, n in counts.items() if n and given.get(key) is not None):
            check(
                f"cond[{key!r}] must be whole numbers from 0 to {counts[key] - 1}",
                lambda i, n=counts[key]: bool((i >= 0).all() and (i < n).all()), given[key],
            )  # fmt: skip

    def _ids(self, ids: Array | None, batch: int) -> Array:
        """Return token ids (batch, length), checked; those of "" where none are given."""
        if ids is None:
            if not self.empty:
                raise ValueError("cond has no 'text', and the network no `empty` to stand for it")
            return jnp.broadcast_to(jnp.asarray(self.empty, jnp.int32), (batch, len(self.empty)))
        self.check_cond({"text": ids})
        shape = jnp.shape(ids)
        if len(shape) != 2 or shape[0] != batch or not 0 < shape[1] <= self.encoder.length:
            raise ValueError(
                f"cond['text'] must be token ids ({batch}, up to {self.encoder.length}); its shape "
                f"is {shape}"
            )
        if not jnp.issubdtype(jnp.result_type(ids), jnp.integer):
            raise TypeError(f"cond['text'] must be whole numbers, not {jnp.result_type(ids)}")
        return jnp.asarray(ids)


def small_text_to_image(
    vocabulary: int,
    length: int,
    empty: tuple[int, ...],
    *,
    image_channels: int = 3,
    channels: tuple[int, ...] = (32, 64),
    blocks: int = 1,
    attention: tuple[bool, ...] | None = None,
    head_width: int = 16,
    text_width: int = 64,
    text_depth: int = 2,
    num_classes: int = 0,
    dropout: float = 0.0,
    dtype: Any = None,
) -> TextToImage:
    """Return a network for training from nothing in minutes: Stable Diffusion's layout, its widths
    small.

    Its last convolution starts at zero, so that with EDM's preconditioning training starts from the
    best denoiser of Gaussian data, and the encoder as one that returns the words, so that the U-Net
    is given them from the start; everything else starts as the published networks do.

    Args:
        vocabulary: number of tokens.
        length: the longest text, in tokens.
        empty: token ids of the text "".
        image_channels: of the images.
        channels: of each level, the finest first, multiples of 8 and of ``head_width``.
        blocks: per level.
        attention: per level, whether it attends to the text; all but the finest by default.
        head_width: channels of a head of attention.
        text_width: of the encoder, a multiple of ``head_width``.
        text_depth: blocks of the encoder.
        num_classes: number of classes that are given beside the text; 0 for none.
        dropout: rate, in the U-Net's blocks.
        dtype: what is computed in; None for that of the images.

    Returns:
        The linen module.

    Raises:
        ValueError: for widths that do not divide as above, or fewer than one level.
    """
    where = (False, *(True,) * (len(channels) - 1)) if attention is None else attention
    if not channels or len(where) != len(channels):
        raise ValueError(f"attention needs an entry for each of the levels {channels}; got {where}")
    if wrong := [n for n in (*channels, text_width) if n % head_width or n % 8]:
        raise ValueError(f"{wrong[0]} channels do not divide by 8 and by heads of {head_width}")
    kinds = {True: "cross", False: "plain"}
    stages = tuple(kinds[bool(here)] for here in where)
    levels = len(channels)
    unet = UNet2DCondition(
        channels=channels, in_channels=image_channels, out_channels=image_channels, down=stages,
        up=stages, middle="cross", blocks=(blocks,) * levels,
        heads=tuple(n // head_width for n in channels), depth_down=((1,) * blocks,) * levels,
        depth_up=((1,) * (blocks + 1),) * levels, only_cross=(False,) * levels, groups=8,
        token_width=text_width, added="text", pool_heads=text_width // head_width,
        dropout=dropout, dtype=dtype,
        classes="index" if num_classes else "", num_classes=num_classes + bool(num_classes),
        zero_out=True,
    )  # fmt: skip
    encoder = ClipText(
        vocabulary, length, text_width, text_depth, text_width // head_width, 4 * text_width,
        from_words=True, dtype=jnp.float32 if dtype is None else dtype,
    )  # fmt: skip
    return TextToImage(unet, encoder, tuple(empty))
