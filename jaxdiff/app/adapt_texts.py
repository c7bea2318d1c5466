"""Texts that an adapter of a text model is trained with."""

import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.conditions import class_beside
from jaxdiff.app.data import check_classes
from jaxdiff.app.models import Model
from jaxdiff.app.options import refuse
from jaxdiff.app.text import CLASSES, in_turn, texts_condition
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.words import WordTokenizer, split
from jaxdiff.typing import Cond


def conditions_of(model: Model, config: configs.Adapt, data: Dataset) -> tuple[Cond, Cond]:
    """Return the conditions of a text model's images, and of its own samples. ValueError for texts
    that are missing, or that do not say where a new token goes.
    """
    if not model.classes:
        refuse(config, "this model is conditioned on texts", "label", "prior_label")
    words = model.tokenizer
    assert words is not None
    given = (config.prompt,) if config.prompt else _templates(words) if config.token else ()
    captions: list[str] = list(data.conditions.get("text", ()))
    if not given and not captions:
        raise ValueError(f"{data.name} has no captions: give the images' --prompt")
    if config.kind == "dreambooth" and config.prior_weight and config.prior_prompt is None:
        raise ValueError(
            "own samples of a text model need a text, such as of the class: --prior-prompt"
        )
    if config.token and not all("{}" in text for text in given):
        raise ValueError(f"--prompt {config.prompt!r} does not say with {{}} where the token goes")
    known = words if config.token is None else words.with_token(config.token, config.vectors)
    texts = [text.replace("{}", config.token or "{}") for text in given] or captions
    plain = [text.replace("{}", config.start or "{}") for text in given] or captions
    own = [config.prior_prompt] if config.prior_prompt else plain
    prior = texts_condition(words, in_turn(own, config.prior_count))
    prior |= class_beside(model, config.prior_label, config.prior_count)
    cond = texts_condition(known, texts if not given else texts * len(data))
    return cond | _classes(model, config, data, len(given) or 1), prior


def _classes(
    model: Model, config: configs.Adapt, data: Dataset, each: int
) -> dict[str, np.ndarray]:
    """Return the classes beside the texts of images, ``each`` for one, nothing of a model without:
    the one that is given, else the data's own, else none.
    """
    if config.label is not None or not model.classes or data.labels is None:
        return class_beside(model, config.label, len(data) * each)
    check_classes(data, model)
    return {CLASSES: np.repeat(data.labels, each)}


def _templates(words: WordTokenizer) -> tuple[str, ...]:
    """Return texts around a new token, of words that are known."""
    from jaxdiff.adapt.textual_inversion import TEMPLATES

    known = lambda text: all(w in words.vocabulary for w in split(text.replace("{}", "")))  # noqa: E731
    return tuple(text for text in TEMPLATES if known(text)) or ("{}",)


def start_of(config: configs.Adapt, model: Model) -> tuple[int, ...]:
    """Return the number of the word that a new token starts as. ValueError for no such word."""
    words = model.tokenizer
    if words is None:
        raise ValueError(f"{config.run} takes no text: --kind {config.kind} is of text models")
    if config.start not in words.vocabulary:
        raise ValueError(f"--start {config.start!r} is not a word that {config.run} knows")
    return (words.vocabulary[str(config.start)],)
