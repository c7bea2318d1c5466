"""Conditions of Stable Diffusion's networks, made of a prompt.

Versions 1 and 2 take the last hidden state, normed; SDXL takes the last but one of both of its
encoders, side by side and not normed, with the projected vector of the second. "Skipping" k layers
takes a state k layers earlier, which versions 1 and 2 norm, too.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxdiff.pretrained.clip import TextEncoder
from jaxdiff.typing import Array


def encode_prompt(encoder: TextEncoder, texts: str | Sequence[str], *, skip: int = 0) -> Array:
    """Return the tokens (batch, tokens, width) of prompts for Stable Diffusion 1 and 2.

    skip: so many of the encoder's last layers are left out. Raises ValueError for as many as there
    are.
    """
    _check(encoder, skip, 0)
    encoded = encoder(_list(texts))
    return encoder.final(encoded.hidden[-1 - skip]) if skip else encoded.last


def encode_prompt_xl(
    encoders: Sequence[TextEncoder],
    texts: str | Sequence[str],
    second: str | Sequence[str] | None = None,
    *,
    skip: int = 0,
) -> dict[str, Array]:
    """Return {"tokens": (batch, tokens, width), "pooled": (batch, projection)} of prompts for SDXL.

    encoders: both, or the refiner's second alone, the last with a projection. second: prompts for
    the second encoder, those of the first if None. skip: so many layers more than the last one are
    left out. Raises ValueError for as many as there are, and for an encoder without a projection.
    """
    given = [_list(texts), _list(texts if second is None else second)][-len(encoders) :]
    if not 1 <= len(encoders) <= 2 or len(given[0]) != len(given[-1]):
        raise ValueError("SDXL has one or two text encoders, and as many prompts for each")
    made = []
    for encoder, prompts in zip(encoders, given, strict=True):
        _check(encoder, skip, 1)
        made.append(encoder(prompts))
    if made[-1].projected is None:
        raise ValueError("the last text encoder has no projection")
    tokens = jnp.concatenate([encoded.hidden[-2 - skip] for encoded in made], axis=-1)
    return {"tokens": tokens, "pooled": made[-1].projected}


def no_prompt_xl(cond: dict[str, Array]) -> dict[str, Array]:
    """Return zeros like the condition of a prompt, which SDXL's base model was trained with
    for no prompt (``force_zeros_for_empty_prompt``); the prompt "" is another.
    """
    return {
        **cond,
        "tokens": jnp.zeros_like(cond["tokens"]),
        "pooled": jnp.zeros_like(cond["pooled"]),
    }


def size_ids(
    batch: int,
    size: tuple[int, int],
    *,
    original: tuple[int, int] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> Array:
    """Return SDXL's six numbers of each image, (batch, 6): height and width of the original, top
    and left of the part that was cut out, height and width of the image.

    size: of the image, in pixels. original: that of the image if None.
    """
    numbers = [*(original or size), *corner, *size]
    return jnp.broadcast_to(jnp.asarray(numbers, jnp.float32)[None], (batch, 6))


def _list(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _check(encoder: TextEncoder, skip: int, more: int) -> None:
    depth = encoder.network.depth
    if skip != int(skip) or not 0 <= skip + more <= depth:
        raise ValueError(f"an encoder of {depth} layers cannot leave out {skip + more} of them")
