"""Images and labels in memory, and batches of them as a pure function of the step.

Images are (n, height, width, channels), either uint8, kept so in memory and scaled batch by batch,
or float32 in [-1, 1]. A pixel value v in 0..255 stands for v / 127.5 - 1. Labels are class indices,
int32 (n,), or None.

Batches number the samples 0, 1, 2, ... for ever: sample i belongs to epoch i // n, whose order is a
permutation drawn from (seed, epoch), and batch ``step`` holds samples step B .. step B + B - 1.
Every image is seen once per epoch, batches run across the borders of epochs, and a run resumed at
any step sees what an uninterrupted one would have.
"""

import dataclasses
import functools

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled or unlabelled images, checked when they are put together.

    images: (n, h, w, c), uint8, or float32 in [-1, 1].
    labels: (n,), integers in 0..num_classes-1, kept as int32; or None.
    num_classes: number of classes, 0 without labels.
    name: what to call it; source: where it came from and how its values were read.

    Raises TypeError for images of another type, ValueError for wrong shapes, values or labels.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    num_classes: int = 0
    name: str = "images"
    source: str = ""

    def __post_init__(self) -> None:
        _check_images(self.images, self.name)
        if self.labels is not None:
            labels = _checked_labels(self.labels, len(self.images), self.num_classes, self.name)
            object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.images.shape[1:]

    def take(self, indices: ArrayLike) -> "Dataset":
        """The images (and labels) at ``indices``, in that order."""
        at = np.asarray(indices)
        labels = None if self.labels is None else self.labels[at]
        return dataclasses.replace(self, images=self.images[at], labels=labels)


def _check_images(images: np.ndarray, name: str) -> None:
    if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"{name}: images must be one NumPy array of uint8 or float32, got {kind}")
    if images.ndim != 4 or not images.size:
        raise ValueError(f"{name}: images must be (n, h, w, c), none of them 0; got {images.shape}")
    if images.dtype == np.float32:
        # false for NaN as well
        inside = (np.abs(images) <= 1.0 + 1e-6).all(axis=(1, 2, 3))
        if not inside.all():
            raise ValueError(
                f"{name}: image {np.argmin(inside)} has values that are not finite or lie outside "
                "[-1, 1]"
            )


def _checked_labels(labels: ArrayLike, count: int, num_classes: int, name: str) -> np.ndarray:
    array = np.asarray(labels)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name}: labels must be integers, got {array.dtype}")
    if array.shape != (count,):
        raise ValueError(
            f"{name}: {count} images need labels of shape ({count},), got {array.shape}"
        )
    wrong = (array < 0) | (array >= num_classes)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"{name}: label {array[at]} of image {at} is not in 0..{num_classes - 1} "
            f"(num_classes is {num_classes})"
        )
    return array.astype(np.int32)


def to_float(images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1], float32: uint8 v becomes v / 127.5 - 1, float32 stays as it is."""
    if images.dtype != np.uint8:
        return images.astype(np.float32)
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: ArrayLike) -> np.ndarray:
    """Images in [-1, 1] as the nearest uint8, clipped; the inverse of :func:`to_float`."""
    array = np.asarray(images)
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise ValueError(f"images must be finite floats in [-1, 1], got {array.dtype}")
    return np.clip(np.rint((array + 1) * 127.5), 0, 255).astype(np.uint8)


def split(dataset: Dataset, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Set aside ``fraction`` of the images at random, of every class the same share to rounding.

    Returns the rest and what was set aside, both in the order of ``dataset``. Raises ValueError if
    one is empty.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(len(dataset), np.int32) if dataset.labels is None else dataset.labels
    aside = np.zeros(len(dataset), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        aside[members[: round(fraction * len(members))]] = True
    if not 0 < fraction < 1 or aside.all() or not aside.any():
        raise ValueError(f"fraction {fraction} of {len(dataset)} images leaves one part empty")
    return dataset.take(np.flatnonzero(~aside)), dataset.take(np.flatnonzero(aside))


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Batches of a dataset as a function of the step, made by :func:`batches`."""

    dataset: Dataset
    batch_size: int
    seed: int
    flip: bool

    def __call__(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The batch of a step, or the given rows of it alone."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        samples = np.arange(self.batch_size)[rows] + int(step) * self.batch_size
        epochs, places = np.divmod(samples, len(self.dataset))
        chosen, mirrored = np.empty(len(samples), np.int64), np.empty(len(samples), bool)
        for epoch in np.unique(epochs):
            order, coins = _epoch_order(self.seed, int(epoch), len(self.dataset))
            here = epochs == epoch
            chosen[here], mirrored[here] = order[places[here]], coins[places[here]]
        images = to_float(self.dataset.images[chosen])
        if self.flip:
            images[mirrored] = images[mirrored, :, ::-1]
        return {"image": images} | _labels(self.dataset, chosen)


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """An epoch's order of the images, and which of them are mirrored."""
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(count), rng.random(count) < 0.5


def batches(dataset: Dataset, batch_size: int, seed: int = 0, flip: bool = False) -> Batches:
    """Batches as a function of the step: ``batch(step)`` is the same whenever it is called.

    A batch is {"image": float32 (B, h, w, c) in [-1, 1], "label": int32 (B,)}, without "label" if
    there are none. With ``flip``, each image is mirrored left to right with probability 1/2, drawn
    anew every epoch. ``batch(step, rows)`` makes a slice of it alone, as each of several processes
    needs.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    _epoch_order(seed, 0, len(dataset))  # an unusable seed is reported here, not in the first step
    return Batches(dataset, batch_size, seed, flip)


def _labels(dataset: Dataset, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {} if dataset.labels is None else {"label": dataset.labels[rows]}
