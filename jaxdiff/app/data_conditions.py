"""Conditions that only data have: texts, pictures beside images, and measurements of images."""

from typing import Any

import numpy as np

from jaxdiff.app.models import Model
from jaxdiff.app.shown import with_measurements
from jaxdiff.app.text import BESIDE, CLASSES, TEXT, texts_condition
from jaxdiff.data.dataset import Dataset, to_float


def of_data(model: Model) -> bool:
    """Return whether a model is conditioned on what lies in data: texts, or an array beside x."""
    return model.tokenizer is not None or model.shown


def has_conditions(model: Model, data: Any) -> bool:
    """Return whether these are data with conditions for such a model."""
    wanted = {TEXT} if model.tokenizer is not None else set()
    wanted |= {BESIDE} if model.pairs else set()
    return isinstance(data, Dataset) and wanted <= set(data.conditions)


def what_of(model: Model) -> str:
    """Return, in words, what of data such a model is conditioned on."""
    said = ["captions"] * (model.tokenizer is not None)
    said += ["pictures beside the images"] * bool(model.pairs)
    said += ["measurements"] * (model.measure is not None)
    return " and ".join([*said, *(["classes"] if model.classes else [])])


def rows_in_turn(data: Dataset, count: int, seed: int) -> np.ndarray:
    """Return the rows of ``count`` images of a data set, each as often as another, in an order that
    is drawn.
    """
    order = np.random.default_rng([seed, 3]).permutation(len(data))
    return order[np.arange(count) % len(order)]


def conditions_of(model: Model, data: Dataset, rows: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return what images of a data set are conditioned on: the tokens of their captions, the
    pictures beside them or measurements, drawn anew for each row, and their classes.

    data: with the model's own class numbers. Of data without classes each image has none.
    Raises ValueError for data without captions or pictures, and for pictures of another size.
    """
    cond: dict[str, Any] = {}
    if model.tokenizer is not None:
        if TEXT not in data.conditions:
            raise ValueError(f"the model takes texts, and {data.name} has no captions")
        cond |= texts_condition(model.tokenizer, data.conditions[TEXT][rows].tolist())
    if model.pairs:
        cond[BESIDE] = pictures_beside(model, data, rows)
    if (measure := model.measure) is not None:
        given = {"image": to_float(data.images[rows])}
        cond |= with_measurements(lambda step: given, measure, model.shape, seed)(0)["label"]
    if model.classes:
        none = np.full(len(rows), model.classes, np.int32)
        cond[CLASSES] = none if data.labels is None else data.labels[rows].astype(np.int32)
    return cond


def pictures_beside(model: Model, data: Dataset, rows: Any = slice(None)) -> np.ndarray:
    """Return what a run of pairs is shown beside images. ValueError for other pictures."""
    wanted = (*model.shape[:2], model.pairs)
    if BESIDE not in data.conditions:
        raise ValueError(f"{data.name} has no pictures beside its images: give --data.pairs")
    made = to_float(data.conditions[BESIDE][rows])
    if made.shape[1:] != wanted:
        raise ValueError(f"this run is shown pictures of {wanted}; these are {made.shape[1:]}")
    return made
