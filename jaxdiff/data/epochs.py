"""Batches of a data set as a function of the step: the order is drawn anew every epoch."""

import dataclasses
from typing import Any

import numpy as np

from jaxdiff.data import conditions as conds
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.data.order import epoch_order


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Batches of a dataset as a function of the step, made by :func:`batches`."""

    dataset: Dataset
    batch_size: int
    seed: int
    flip: bool

    def __call__(self, step: int, rows: slice = slice(None)) -> dict[str, Any]:
        """Return the batch of a step, or the given rows of it alone."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        samples = np.arange(self.batch_size)[rows] + int(step) * self.batch_size
        epochs, places = np.divmod(samples, len(self.dataset))
        chosen, mirrored = np.empty(len(samples), np.int64), np.empty(len(samples), bool)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here], mirrored[here] = epoch_order(
                self.seed, int(epoch), len(self.dataset), places[here]
            )
        images = to_float(self.dataset.images[chosen])
        if self.flip:
            images[mirrored] = images[mirrored, :, ::-1]
        given = _labels(self.dataset, chosen)
        if self.flip and isinstance(given.get("label"), dict):
            for values in filter(conds.is_picture, given["label"].values()):
                values[mirrored] = values[mirrored, :, ::-1]
        return {"image": images} | given


def batches(dataset: Dataset, batch_size: int, seed: int = 0, flip: bool = False) -> Batches:
    """Return batches as a function of the step: ``batch(step)`` is the same whenever it is called.

    A batch is {"image": float32 (B, h, w, c) in [-1, 1], "label": int32 (B,)}, without "label" if
    there are none. With ``flip``, each image is mirrored left to right with probability 1/2, drawn
    anew every epoch. ``batch(step, rows)`` makes a slice of it alone, as each of several processes
    needs. Of a data set with conditions "label" is a dictionary of them, the class indices among
    them as "classes"; pictures are mirrored with their images.

    Args:
        dataset: images and labels.
        batch_size: images per batch.
        seed: of the order, drawn anew every epoch.
        flip: mirror images at random.

    Returns:
        ``batch(step)``, with the attribute ``batch_size``.

    Raises:
        ValueError: for a batch size below 1; for texts that are no tokens yet.
    """
    conds.check_tokens(dataset.conditions)
    if batch_size < 1 or batch_size != int(batch_size):
        raise ValueError(f"batch_size must be a whole number, at least 1, got {batch_size}")
    epoch_order(
        seed, 0, len(dataset), np.arange(1)
    )  # an unusable seed is reported here, not in the first step
    return Batches(dataset, batch_size, seed, flip)


def _labels(dataset: Dataset, rows: np.ndarray) -> dict[str, Any]:
    own = {} if dataset.labels is None else {"label": dataset.labels[rows]}
    if not dataset.conditions:
        return own
    given = {
        key: to_float(values[rows]) if conds.is_picture(values) else values[rows]
        for key, values in dataset.conditions.items()
    }
    return {"label": given | ({conds.CLASSES: own["label"]} if own else {})}
