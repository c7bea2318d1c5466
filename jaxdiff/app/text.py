"""Runs that are conditioned on texts: their tokenizer, and texts as the condition of samples."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdiff.app.config_network import Words
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.words import WordTokenizer, words_of

TEXT, BESIDE, CLASSES = "text", "beside", "classes"


def tokenizer_of(words: Words | dict[str, Any] | None) -> WordTokenizer | None:
    """Return the tokenizer that a model's metadata say; None of a model without text."""
    if words is None:
        return None
    known = words if isinstance(words, dict) else vars(words)
    each = {w: i for i, w in enumerate(known["words"])}
    return WordTokenizer(each, known["length"], known.get("runs", {}))


def with_token(known: dict[str, Any], name: str, count: int) -> dict[str, Any]:
    """Return what metadata say of a tokenizer that has a new word, of ``count`` numbers.

    Raises ValueError for a word that there is, or that is none.
    """
    before = tokenizer_of(known)
    assert before is not None
    more = before.with_token(name, count)
    return {**known, "words": vars(words(more))["words"], "runs": dict(more.runs)}


def words(tokenizer: WordTokenizer) -> Words:
    """Return what metadata say of a tokenizer: its words by their numbers, and its length."""
    each = sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.__getitem__)
    return Words(tuple(each), tokenizer.length)


def tokenizer_for(data: Dataset, known: WordTokenizer | None = None) -> WordTokenizer:
    """Return the tokenizer of a data set's captions, or the one that is known already.

    Raises ValueError for data without captions.
    """
    if TEXT not in data.conditions:
        raise ValueError(
            f"{data.name}: --network text is conditioned on captions, and the data have none: give "
            "--data.captions for those beside the images, or --data.compose COUNT for pictures "
            "composed of theirs"
        )
    return words_of(data.conditions[TEXT]) if known is None else known


def captioned(
    data: Dataset, *, classes: bool = False, beside: bool = False
) -> tuple[Dataset, tuple[str, ...]]:
    """Return data with their captions, which is what a network of texts takes, and the names of
    what is left out. classes, beside: whether it takes these, too.
    """
    taken = (TEXT, *([BESIDE] if beside else []))
    rest = [key for key in data.conditions if key not in taken]
    left = (*(["classes"] if data.labels is not None and not classes else []), *rest)
    own = {key: values for key, values in data.conditions.items() if key in taken}
    alone = dataclasses.replace(data, conditions=own)
    if not classes:
        alone = dataclasses.replace(alone, labels=None, num_classes=0, class_names=())
    return (alone if left else data), left


def tokenized(data: Dataset, tokenizer: WordTokenizer | None) -> Dataset:
    """Return data with tokens in place of texts, where a model takes them."""
    return data if tokenizer is None else data.tokenized(tokenizer)


def texts_condition(tokenizer: WordTokenizer, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the condition of samples, each with its text."""
    known = [*dict.fromkeys(texts)]
    rows = dict(zip(known, tokenizer(known), strict=True))
    return {TEXT: np.stack([rows[text] for text in texts])}


def classes_of(cond: Any, classes: int) -> Any:
    """Return the classes in the condition of samples; None where any of them has none."""
    found = cond.get(CLASSES) if isinstance(cond, dict) else cond
    return None if found is None or (np.asarray(found) == classes).any() else found


def away(
    tokenizer: WordTokenizer, negative: str | None = None, classes: int = 0
) -> dict[str, np.ndarray]:
    """Return one sample's null: the text that guidance keeps away from, "" by default, and, of a
    network with classes beside the text, the number of none.
    """
    none = {CLASSES: np.asarray(classes, np.int32)} if classes else {}
    return {TEXT: tokenizer(negative or "")[0], **none}


def in_turn(texts: Sequence[str], count: int) -> list[str]:
    """Return a text for each of ``count`` samples, in turn."""
    return [texts[i % len(texts)] for i in range(count)]
