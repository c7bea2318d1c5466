"""Files of textual inversion (2208.01618): new rows of a text encoder's table of tokens.

    learned_embeds.bin, .safetensors   {token: (width,) or (vectors, width)}       diffusers
    .pt                                {"name": token, "string_to_param": {"*": ...}}      A1111
    .safetensors                       {"clip_l": ..., "clip_g": ...}, or "emb_params", no token

A token of several vectors stands, in a prompt, for as many tokens: "t t_1 t_2". New numbers are
the largest. So an encoder that takes a text's vector at its largest number (``end=None``: Stable
Diffusion's, SDXL's) takes it at the new token, there as in the publishers' pipelines.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.brief import short
from jaxdiff.pretrained.clip import TextEncoder
from jaxdiff.pretrained.model import Pretrained
from jaxdiff.pretrained.saving import write_tensors
from jaxdiff.pretrained.tensors import open_tensors

ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
A1111 = "string_to_param.*"


class LearnedToken(NamedTuple):
    """A token of a file. token: its text, "" where the file says none. vectors: (count, width), by
    part of the pipeline: "text_encoder" and, of SDXL, "text_encoder_2".
    """

    __repr__ = short

    token: str
    vectors: dict[str, np.ndarray]


def read_tokens(path: str | os.PathLike[str]) -> list[LearnedToken]:
    """Read a file of textual inversion, of any of the layouts.

    Args:
        path: of the file.

    Returns:
        Its tokens: one, but for files of diffusers' layout with several.

    Raises:
        OSError: if there is no file.
        ValueError: for a file of another layout, and vectors of more than two axes.
    """
    tensors = open_tensors(path)
    names = [name for name in tensors if name != "string_to_token.*"]
    if not names or any("." in n and n != A1111 and not n.startswith("<") for n in names):
        raise ValueError(
            f"{path} is no file of textual inversion: its tensors are {', '.join(names[:3])}"
        )
    rows = {name: _rows(tensors[name], name, path) for name in names}
    if set(rows) <= {*ENCODERS}:
        return [LearnedToken("", {ENCODERS[name]: value for name, value in rows.items()})]
    if A1111 in rows or set(rows) == {"emb_params"}:
        name = str(tensors.metadata.get("name") or "") if A1111 in rows else ""
        return [LearnedToken(name, {"text_encoder": next(iter(rows.values()))})]
    return [LearnedToken(name, {"text_encoder": value}) for name, value in rows.items()]


def write_tokens(path: str | os.PathLike[str], tokens: Mapping[str, Any]) -> None:
    """Write learned tokens as diffusers does, {token: (vectors, width)}, whole or not at all.

    Args:
        path: of the file, ``.safetensors``.
        tokens: rows of each token, (vectors, width).

    Returns:
        None, when the file is written.

    Raises:
        ValueError: for no tokens, or rows of other than two axes.
        OSError: where the file cannot be written.
    """
    if not tokens or any(np.ndim(rows) != 2 for rows in tokens.values()):
        raise ValueError("learned tokens are a text and rows (vectors, width) each")
    write_tensors(path, {t: np.asarray(rows) for t, rows in tokens.items()}, {"format": "pt"})


def with_tokens(
    encoder: TextEncoder,
    path: str | os.PathLike[str],
    token: str | None = None,
    *,
    part: str = "text_encoder",
) -> TextEncoder:
    """Return a text encoder that knows the tokens of a file, each as many rows as it has vectors.

    Args:
        encoder: with its tokenizer.
        path: of the file.
        token: how it is written in prompts; None for what the file says.
        part: of the pipeline that the encoder is, for files of several.

    Returns:
        The encoder, its vocabulary and its tokenizer larger.

    Raises:
        OSError: if there is no file.
        ValueError: for an encoder without tokenizer, vectors of another width, a token that there
            is already, and a file that names none, or several where ``token`` is given.
    """
    if encoder.tokenizer is None:
        raise ValueError("the encoder came without a tokenizer, which a new token is added to")
    found = [entry for entry in read_tokens(path) if part in entry.vectors]
    if not found:
        raise ValueError(f"{path} has no vectors for the {part}")
    if token is not None and len(found) > 1:
        raise ValueError(f"{path} has {len(found)} tokens; one name for all of them, {token!r}")
    for entry in found:
        name = token or entry.token
        if not name:
            raise ValueError(f"{path} does not say its token: give one")
        encoder = _with_rows(encoder, name, entry.vectors[part], path)
    return encoder


def with_textual_inversion(
    model: Pretrained, path: str | os.PathLike[str], token: str | None = None
) -> Pretrained:
    """Return a text-to-image pipeline whose text encoders know the tokens of a file.

    Args:
        model: with its text encoders as parts.
        path: of the file.
        token: how it is written in prompts; None for what the file says.

    Returns:
        The model.

    Raises:
        OSError: if there is no file.
        ValueError: as :func:`with_tokens`, and for a file of encoders that the model does not have.
    """
    wanted = {part for entry in read_tokens(path) for part in entry.vectors}
    if absent := wanted - set(model.parts):
        raise ValueError(f"{path} has vectors for a {min(absent)}, which {model!r} does not have")
    both = {name for name in ENCODERS.values() if name in model.parts}
    if left := both - wanted:
        raise ValueError(f"{path} has no vectors for the {min(left)} of {model!r}")
    own = {part: with_tokens(model.parts[part], path, token, part=part) for part in wanted}
    return dataclasses.replace(model, parts={**model.parts, **own})


def _with_rows(encoder: TextEncoder, name: str, rows: np.ndarray, path: Any) -> TextEncoder:
    assert encoder.tokenizer is not None
    table = encoder.params["tokens"]["embedding"]
    if rows.shape[1] != table.shape[1]:
        raise ValueError(
            f"{path} has vectors of {rows.shape[1]} numbers, and the encoder's have "
            f"{table.shape[1]}: it is for another model"
        )
    words = encoder.tokenizer.with_token(name, len(rows))
    gap = len(words) - len(rows) - table.shape[0]
    if gap < 0:
        raise ValueError(
            f"the encoder has {table.shape[0]} rows, and its tokenizer {len(words) - len(rows)} "
            "tokens: a new one has no place"
        )
    unused = np.zeros((gap, table.shape[1]), table.dtype)
    new = jnp.concatenate([table, unused, jnp.asarray(rows, table.dtype)])
    params = {**encoder.params, "tokens": {"embedding": new}}
    network = encoder.network.clone(vocabulary=len(words))
    return dataclasses.replace(encoder, params=params, network=network, tokenizer=words)


def _rows(value: np.ndarray, name: str, path: Any) -> np.ndarray:
    rows = np.atleast_2d(np.asarray(value))
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating) or not rows.size:
        raise ValueError(f"{path}: {name} has shape {value.shape}; vectors are (count, width)")
    return rows
