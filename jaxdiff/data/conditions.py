"""What the samples of a data set are conditioned on beside a class: texts, numbers, pictures.

Each is an array with a row for every sample, by the key of cond that a network takes it under:
"text" (n,) texts, or (n, k) texts, which become tokens (n, length), or (n, k, length), before a
network sees them; "beside" (n, h, w, c) pictures, uint8 or float32 in [-1, 1], as images are;
vectors and numbers. In a batch they are
{"label": {"text": ..., "classes": ..., ...}}.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
CLASSES = "classes"


def checked(conditions: Mapping[str, Any], count: int, name: str) -> dict[str, np.ndarray]:
    """Return conditions as arrays of texts, 32-bit numbers or booleans.

    Raises ValueError, naming the entry, for another number of rows, numbers that are not finite,
    and the name "classes", which labels have; TypeError for what is neither texts nor numbers.
    """
    made = {}
    for key, values in conditions.items():
        where = f"{name}: the condition {key!r}"
        if key == CLASSES:
            raise ValueError(f"{where} is given by labels")
        array = _array(values, where)
        if len(array) != count:
            raise ValueError(f"{where} has {len(array)} rows for {count} samples")
        made[key] = array
    return made


def _array(values: Any, where: str) -> np.ndarray:
    some = isinstance(values, list | tuple) and any(isinstance(v, str) for v in values)
    array = np.asarray(values, object if some else None)
    if array.dtype == object or array.dtype.kind == "U":
        if array.ndim not in (1, 2) or not all(isinstance(text, str) for text in array.flat):
            raise TypeError(
                f"{where} must be a text for each sample, or as many texts for each, or numbers"
            )
        return array.astype(object)
    if array.dtype.kind not in "biuf" or array.ndim < 1:
        raise TypeError(f"{where} must be texts or numbers, a row for each sample: {array.dtype}")
    if array.ndim == 4 and array.dtype.kind in "biu":
        if array.dtype != np.uint8:
            raise TypeError(
                f"{where} is pictures of {array.dtype}: give uint8 in 0..255, or floats in [-1, 1]"
            )
        return array
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError(f"{where} has NaN or infinite values")
        return array.astype(np.float32)
    if array.dtype.kind == "b":
        return array
    if array.size and not -(2**31) <= array.min() <= array.max() < 2**31:
        raise ValueError(f"{where} has whole numbers beyond 32 bits")
    return array.astype(np.int32)


def is_text(values: np.ndarray) -> bool:
    """Return whether a condition is texts that are not yet tokens."""
    return values.dtype == object


def is_picture(values: np.ndarray) -> bool:
    """Return whether a condition is pictures."""
    return values.ndim == 4


def tokens(
    conditions: Mapping[str, np.ndarray], tokenizer: Callable[[Sequence[str]], np.ndarray]
) -> dict[str, np.ndarray]:
    """Return conditions whose texts are numbers of tokens."""

    def made(values: np.ndarray) -> np.ndarray:
        return tokenizer(values.ravel().tolist()).reshape(*values.shape, -1)

    return {key: made(v) if is_text(v) else v for key, v in conditions.items()}


def check_tokens(conditions: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError for texts that are no tokens yet."""
    for key, values in conditions.items():
        if is_text(values):
            raise ValueError(
                f"the condition {key!r} is texts: make it tokens, dataset.tokenized(tokenizer)"
            )


def check_mirrored(conditions: Mapping[str, np.ndarray], name: str) -> None:
    """Raise ValueError, naming a text, for texts that would not be true of mirrored images."""
    for key, values in conditions.items():
        if is_text(values) and (told := next(filter(SIDES.search, values.flat), None)):
            raise ValueError(f"{name}: {key!r} of a mirrored image would not be true: {told!r:.80}")


def described(conditions: Mapping[str, np.ndarray]) -> list[str]:
    """Return a few words on each condition."""
    made = []
    for key, values in conditions.items():
        if is_text(values):
            count, first = len({*values.flat}), next(values.flat)
            of = "" if values.ndim == 1 else f", {values.shape[1]} of each image"
            made.append(f"{key}: {count} different texts{of}, as {first!r:.60}")
        else:
            shape = "x".join(map(str, values.shape[1:])) or "one number"
            made.append(f"{key}: {values.dtype}, {shape}")
    return made
