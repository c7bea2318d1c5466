"""Restoration networks of the command line: what they are shown, and which measurements they take.

Such a run is trained to denoise an image given a measurement of it that stands beside x
(:class:`jaxdiff.networks.Beside`). Where the measurement is dropped, as it sometimes is in
training, it is the model of images that any other run is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.app.config_measure import Measure
from jaxdiff.app.restoration_tasks import NOISE, TASKS, operator_of
from jaxdiff.app.text import away
from jaxdiff.conditioning.operators import (
    Measurement,
    Observe,
    beside,
    measured_batches,
    observing,
    random_box,
)
from jaxdiff.data.words import WordTokenizer

BOUNDS = (-1.0, 1.0)
NOTHING = "this run's network is shown no measurement (jaxdiff train super trains one that is)"
Shape = tuple[int, ...]


def observe_of(measure: Measure, shape: Shape) -> Observe:
    """Return how an image of a shape is measured. ValueError for options that do not go with it."""
    if len(shape) != 3:
        raise ValueError(f"a restoration network is trained on images, not on arrays of {shape}")
    low, high = measure.noise
    if low > high:
        raise ValueError(f"--measure.noise is the least and the largest, not {low} and {high}")
    try:
        operator, _ = operator_of(measure, shape, BOUNDS)
    except ValueError as error:
        raise ValueError(str(error).replace("--", "--measure.")) from error
    drawn = random_box(shape) if measure.task == "inpaint" else operator
    return observing(drawn, (low, high))


def channels_of(measure: Measure, shape: Shape) -> int:
    """Return how many channels stand beside x."""
    one = jax.eval_shape(
        observe_of(measure, shape), jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    return one.shape[-1]


def with_measurements(data: Callable[..., Any], measure: Measure, shape: Shape, seed: int) -> Any:
    """Return batches with measurements beside their images."""
    return measured_batches(data, observe_of(measure, shape), seed)


def null_of(classes: int, tokenizer: WordTokenizer | None, shown: bool) -> dict[str, Any] | None:
    """Return what stands for no condition of a network of texts, or of one that is shown an array
    beside x; None of any other, whose classes have an index for none.
    """
    if tokenizer is None and not shown:
        return None
    null: dict[str, Any] = {"beside": 0.0} if shown else {}
    null |= {"classes": classes} if classes else {}
    return null | ({} if tokenizer is None else away(tokenizer, classes=classes))


def refusal(
    measure: Measure | None, task: str, options: dict[str, Any], noise: float
) -> str | None:
    """Return why a run's network is not shown a measurement of ``jaxdiff restore``; None if it is.

    measure: what the network was trained on, None for one that is shown nothing. options: of the
    task, resolved. noise: of the measurement.
    """
    if measure is None:
        return NOTHING
    if task != measure.task:
        return f"this run's network was trained for --task {measure.task}"
    own = {k: getattr(measure, k) for k in TASKS[task].defaults if k != "share"}
    own = {k: TASKS[task].defaults[k] if v is None else v for k, v in own.items()}
    for name, value in own.items():
        if options[name] != value:
            return f"this run's network was trained for --{name} {value}"
    low, high = measure.noise
    if not low <= noise <= high:
        return f"this run's network was trained for --noise from {low:g} to {high:g}"
    return None


def options_of(measure: Measure) -> str:
    """Return the options with which ``jaxdiff restore`` shows a network what it was trained on."""
    known = {name: getattr(measure, name, None) for name in TASKS[measure.task].defaults}
    own = [f" --{name} {value}" for name, value in known.items() if value is not None]
    low, high = measure.noise
    noise = "" if low <= NOISE <= high else f" --noise {low:g}"
    return f"--task {measure.task}{''.join(own)}{noise}"


def condition(seen: Measurement, classes: Any) -> dict[str, Any]:
    """Return the condition of measurements: what is shown, and classes where there are some, or the
    entries of a dictionary.
    """
    known = classes if isinstance(classes, dict) else {"classes": classes}
    return {"beside": beside(seen)} | {k: v for k, v in known.items() if v is not None}
