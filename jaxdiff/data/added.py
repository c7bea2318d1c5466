"""Conditions added to images that were read: captions, numbers, pictures."""

import dataclasses

import numpy as np

from jaxdiff.data import beside as besides
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.labels import numbered


def with_captions(data: Dataset, found: besides.Found, names: list[str], labels: str) -> Dataset:
    """Return images with what lies beside them: conditions, and classes where there are none.

    Raises ValueError for images without anything beside them, and for classes that are neither
    names nor numbers.
    """
    given, classes, notes = besides.conditions(found, names, data.source.rpartition(", ")[0])
    changes = {"conditions": {**data.conditions, **given}, "notes": (*data.notes, *notes)}
    if classes is not None and data.labels is None and labels == "auto":
        if not all(type(c) in (int, str) for c in classes):
            raise ValueError(f"{data.name}: not every image has a label that is a name or a number")
        index, class_names = numbered([str(c) for c in classes])
        changes |= {
            "labels": index, "num_classes": len(class_names), "class_names": class_names,
            "notes": (*changes["notes"], "labels beside the images"),
        }  # fmt: skip
    return dataclasses.replace(data, **changes)


def with_pairs(data: Dataset, pictures: np.ndarray, note: str) -> Dataset:
    """Return images with a picture beside each."""
    given = {**data.conditions, "beside": pictures}
    return dataclasses.replace(data, conditions=given, notes=(*data.notes, note))
