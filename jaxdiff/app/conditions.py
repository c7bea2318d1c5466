"""Conditions of samples: classes, or a prompt."""

import warnings
from typing import Any

import jax
import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.data import class_labels
from jaxdiff.app.models import Model
from jaxdiff.app.options import refuse
from jaxdiff.app.text import CLASSES, in_turn, texts_condition
from jaxdiff.arrays import take

ENCODERS = ("text_encoder", "text_encoder_2")


def takes_text(model: Model) -> bool:
    """Return whether a model is conditioned on a prompt by a text encoder of its own."""
    return (
        model.tokenizer is not None
        or model.source is not None
        and any(name in model.source.parts for name in ENCODERS)
    )


def check_class_condition(model: Model, command: str) -> None:
    """Raise ValueError for a model that is conditioned on anything but a class."""
    source = model.source
    if model.tokenizer is not None:
        raise ValueError(
            f"jaxdiff {command} gives a model a class or nothing; this one is conditioned on texts"
        )
    if source is not None and not source.classes and (source.cond or takes_text(model)):
        raise ValueError(
            f"jaxdiff {command} gives a model a class or nothing; this one takes {source.cond}"
        )


def say_alone(model: Model, run: str, progress: bool) -> None:
    """Say that a network that can be shown an array beside x is shown none."""
    if model.shown and progress:
        print(f"{run} is used as it answers when nothing is shown beside x", flush=True)


def conditions(model: Model, config: configs.Sample) -> Any:
    """Return what each of ``config.count`` samples is conditioned on: labels (count,), a tree of a
    prompt with ``count`` rows, or None.

    Raises ValueError for a label or a prompt that the model does not take, for a prompt that is
    missing, and for a model conditioned on what no option gives.
    """
    alone = model.measure is not None and config.base is None
    if alone and model.student:
        raise ValueError(
            f"{config.run} is a student of a network that is shown a measurement, without which it "
            "has not learnt to sample: jaxdiff restore shows it one"
        )
    if not takes_text(model):
        check_class_condition(model, "sample")
        refuse(config, "this model takes no text", "prompt", "negative_prompt")
        if alone and not model.classes:
            refuse(config, "no measurement is shown: jaxdiff restore shows one", "guidance")
        names = model.metadata["class_names"]
        return class_labels(config.count, model.classes, config.label, names)
    beside = model.tokenizer is not None and bool(model.classes)
    if not beside:
        refuse(config, "this model is conditioned on a --prompt", "label")
    prompts = prompts_of(config)
    if not prompts and beside and config.label is not None:
        prompts = ("",)  # by its class alone
    if not prompts:
        raise ValueError("this model is conditioned on a text: give a --prompt")
    if config.guidance is None:
        refuse(config, "without --guidance nothing is kept away from", "negative_prompt")
    if config.count < len(prompts):
        warnings.warn(
            f"{config.count} samples for {len(prompts)} prompts: there is none of "
            f"{prompts[config.count]!r:.80}",
            stacklevel=2,
        )
    if model.tokenizer is not None:
        made = texts_condition(model.tokenizer, in_turn(prompts, config.count))
        return made | class_beside(model, config.label, config.count)
    from jaxdiff.pretrained.pipeline import text_condition

    source: Any = model.source
    cond: Any = text_condition(source, prompts, config.negative_prompt)
    cond = cond.positive if config.guidance is None else cond
    return take(jax.tree.map(np.asarray, cond), np.arange(config.count) % len(prompts))


def class_beside(model: Model, label: str | None, count: int) -> dict[str, np.ndarray]:
    """Return the class beside the texts of ``count`` samples, none by default; nothing of a model
    without classes. ValueError for a class that there is not.
    """
    if not model.classes:
        if label is not None:
            raise ValueError("--label would have no effect: this model has no classes")
        return {}
    if label is None:
        return {CLASSES: np.full(count, model.classes, np.int32)}
    made = class_labels(count, model.classes, label, model.metadata["class_names"])
    return {CLASSES: np.asarray(made, np.int32)}


def prompts_of(config: configs.Sample) -> tuple[str, ...]:
    """Return the prompts that samples have in turn."""
    return (config.prompt,) if isinstance(config.prompt, str) else tuple(config.prompt)
