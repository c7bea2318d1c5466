"""Images and labels, and batches of them as a pure function of the step.

Images are (n, height, width, channels), either uint8, kept so in memory and scaled batch by batch,
or float32 in [-1, 1]; or they are read as batches need them (:mod:`jaxdiff.data.lazy`). A pixel
value v in 0..255 stands for v / 127.5 - 1. Labels are class indices, int32 (n,), or None.

Batches number the samples 0, 1, 2, ... for ever: sample i belongs to epoch i // n, whose order is a
permutation drawn from (seed, epoch), and batch ``step`` holds samples step B .. step B + B - 1.
Every image is seen once per epoch, batches run across the borders of epochs, and a run resumed at
any step sees what an uninterrupted one would have.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.data import conditions as conds
from jaxdiff.data.lazy import LazyImages

LARGEST_HASHED = 1 << 30  # bytes of images
HASHED = 1 << 24  # bytes of images that are not in memory
LISTED = 20  # classes whose counts are listed one by one


@dataclasses.dataclass(frozen=True, repr=False)
class Dataset:
    """Labelled or unlabelled images, checked when they are put together.

    images: (n, h, w, c), uint8, or float32 in [-1, 1]; in memory, or read as they are needed.
    labels: (n,), integers in 0..num_classes-1, kept as int32; or None.
    num_classes: number of classes, 0 without labels.
    name: what to call it; source: where it came from and how its values were read.
    class_names: of the classes in their order; "0", "1", ... by default, none without labels.
    values: how the values were read. notes: what else a reader has to say. skipped: what it left
    out, by reason. pictures: whether samples are images; if not they are finite float32 of any
    shape (n, ...), and any size. conditions: what else a sample is conditioned on
    (:mod:`jaxdiff.data.conditions`): {"text": n texts, ...}.

    Raises TypeError for images of another type, ValueError for wrong shapes, values, labels or
    names.
    """

    images: Any  # np.ndarray or LazyImages, which is indexed alike
    labels: np.ndarray | None = None
    num_classes: int = 0
    name: str = "images"
    source: str = ""
    class_names: tuple[str, ...] = ()
    values: str = ""
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    pictures: bool = True
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        (_check_images if self.pictures else _check_samples)(self.images, self.name)
        if self.labels is not None:
            labels = _checked_labels(self.labels, len(self.images), self.num_classes, self.name)
            object.__setattr__(self, "labels", labels)
        given = conds.checked(self.conditions, len(self.images), self.name)
        object.__setattr__(self, "conditions", given)
        names = tuple(self.class_names) or tuple(map(str, range(self.num_classes)))
        if len(set(names)) != self.num_classes or len(names) != self.num_classes:
            raise ValueError(
                f"{self.name}: {self.num_classes} classes need as many different names, got "
                f"{', '.join(names)}"
            )
        object.__setattr__(self, "class_names", names)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image, or the shape of a sample."""
        return self.images.shape[1:]

    def take(self, indices: ArrayLike) -> "Dataset":
        """Return the images (and labels) at ``indices``, in that order."""
        at = np.asarray(indices)
        labels = None if self.labels is None else self.labels[at]
        lazy = isinstance(self.images, LazyImages)
        images = self.images.take(at) if lazy else self.images[at]
        given = {key: values[at] for key, values in self.conditions.items()}
        return dataclasses.replace(self, images=images, labels=labels, conditions=given)

    def tokenized(self, tokenizer: Callable[[Sequence[str]], np.ndarray]) -> "Dataset":
        """Return the same samples, their texts as numbers of tokens (n, length).

        tokenizer: texts to numbers, as :class:`jaxdiff.data.WordTokenizer`.
        """
        return dataclasses.replace(self, conditions=conds.tokens(self.conditions, tokenizer))

    def fingerprint(self) -> dict[str, Any]:
        """Return what these images are known again by, wherever they lie: how many, their shape,
        digests of the names of classes, of the labels and of the images as read. Of more than a
        gigabyte, and of images that are read as they are needed, the digest is of some that are
        spread evenly.
        """
        most = HASHED if isinstance(self.images, LazyImages) else LARGEST_HASHED
        some = max(1, min(len(self), most // self.images[0].nbytes))
        rows = np.linspace(0, len(self) - 1, some).astype(int)
        contents = hashlib.blake2b(digest_size=8)
        for row in rows:
            contents.update(self.images[row].tobytes())
        digest = lambda data: hashlib.blake2b(data, digest_size=8).hexdigest()  # noqa: E731
        more = {
            f"condition {key}": digest(
                repr(v.tolist()).encode() if conds.is_text(v) else v.tobytes()
            )
            for key, v in self.conditions.items()
        }
        return more | {
            "number of images": len(self),
            "shape": list(self.shape),
            "classes": self.num_classes,
            "names of classes": digest(repr(self.class_names).encode()),
            "labels": digest(b"" if self.labels is None else self.labels.tobytes()),
            "images": contents.hexdigest(),
        }

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"Dataset({self.name!r}: {len(self)} of {size}, {self.num_classes} classes)"

    def describe(self) -> str:
        """Return one line: images, size, channels, range, classes with names and counts, what a
        reader noticed and what it skipped.
        """
        values = self.values or _values(self.images)
        parts = [f"{_number(self)}", f"values {values}"]
        if not self.pictures:
            parts.append(f"standard deviation {self.images.std():.3g}")
        parts += [_classes(self), *conds.described(self.conditions), *self.notes]
        parts.append("skipped: " + (", ".join(self.skipped) or "nothing"))
        line = f"{self.name}: " + "; ".join(parts)
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _number(dataset: Dataset) -> str:
    """Return how many images or samples there are, and of what shape."""
    count, plural = len(dataset), "s" * (len(dataset) > 1)
    if not dataset.pictures:
        return f"{count} sample{plural} of shape {'x'.join(map(str, dataset.shape))}"
    h, w, c = dataset.shape
    return f"{count} image{plural} of {h} x {w}, {c} channel{'s' * (c > 1)}"


def _values(images: np.ndarray | LazyImages) -> str:
    if isinstance(images, LazyImages):
        return f"{images.dtype}, read as they are needed"
    return f"{images.dtype} {images.min()}..{images.max()}"


def _classes(dataset: Dataset) -> str:
    """Return the classes of a data set, with how many images each has."""
    if dataset.labels is None:
        return "no classes"
    names, counts = dataset.class_names, np.bincount(dataset.labels, minlength=dataset.num_classes)
    if len(names) <= LISTED:
        listed = ", ".join(f"{n} ({count})" for n, count in zip(names, counts, strict=True))
        return f"{len(names)} class{'es' * (len(names) > 1)}: {listed}"
    empty = f", {np.sum(counts == 0)} without images" if not counts.all() else ""
    return (
        f"{len(names)} classes: {', '.join(names[:3])}, ..., {names[-1]}, of {counts.min()} to "
        f"{counts.max()} images{empty}"
    )


def _check_images(images: np.ndarray | LazyImages, name: str) -> None:
    if isinstance(images, LazyImages):  # which are checked as they are read
        return
    if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(
            f"{name}: images must be one NumPy array of uint8 (0..255) or float32 (-1..1), got "
            f"{kind}; convert it with .astype"
        )
    check_channels_last(images, name)
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


def _check_samples(samples: np.ndarray, name: str) -> None:
    if not isinstance(samples, np.ndarray) or samples.dtype != np.float32:
        raise TypeError(f"{name}: samples must be one NumPy array of float32")
    if samples.ndim < 2 or not samples.size:
        raise ValueError(f"{name}: samples must be (n, ...), none of them 0; got {samples.shape}")
    finite = np.isfinite(samples).reshape(len(samples), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name}: sample {np.argmin(finite)} has NaN or infinite values")


def check_channels_last(images: np.ndarray, name: str) -> None:
    """Raise ValueError for images (n, c, h, w), as PyTorch has them."""
    if images.ndim == 4 and images.shape[1] <= 4 < min(images.shape[2:]):
        raise ValueError(
            f"{name}: images {images.shape} have channels first; move them last, by "
            "np.moveaxis(images, 1, -1)"
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


def to_float(images: np.ndarray | LazyImages) -> np.ndarray:
    """Return images in [-1, 1], float32: uint8 v becomes v / 127.5 - 1, float32 stays as it is.

    Args:
        images: uint8, or floats in [-1, 1].

    Returns:
        float32, of the same shape.

    Raises:
        TypeError: for other integers, and booleans, which do not say what is black and white.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise TypeError(
            f"images are uint8 in 0..255 or floats in [-1, 1], not {images.dtype}: of whole "
            "numbers in 0..255 give .astype(np.uint8)"
        )
    if images.dtype != np.uint8:
        return images.astype(np.float32)
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: ArrayLike) -> np.ndarray:
    """Return images in [-1, 1] as the nearest uint8, clipped; the inverse of :func:`to_float`.

    Args:
        images: finite floats in [-1, 1].

    Returns:
        uint8, of the same shape.

    Raises:
        ValueError: for integers, or numbers that are not finite.
    """
    array = np.asarray(images)
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise ValueError(f"images must be finite floats in [-1, 1], got {array.dtype}")
    return np.clip(np.rint((array + 1) * 127.5), 0, 255).astype(np.uint8)


def split(dataset: Dataset, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Set aside ``fraction`` of the images at random, of every class the same share to rounding.

    Returns the rest and what was set aside, both in the order of ``dataset``.

    Args:
        dataset: images and labels.
        fraction: in (0, 1), of the images that are set aside.
        seed: of the choice.

    Returns:
        The rest, and what was set aside.

    Raises:
        ValueError: if one is empty.
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
