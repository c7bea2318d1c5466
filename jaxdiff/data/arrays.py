"""Images and labels in an .npz: which arrays they are, and what their values mean."""

import dataclasses
import pathlib
import zipfile
from collections.abc import Iterable, Sequence

import numpy as np

from jaxdiff.data.dataset import Dataset, check_channels_last
from jaxdiff.data.labels import LARGEST_CLASS, NoSplit, numbered
from jaxdiff.data.pictures import Range, fitted, usual_range
from jaxdiff.data.tally import Tally
from jaxdiff.files import check_names, open_archive, read_array

NAMES = "class_names"
DARK = 32  # a set without brighter values than this of 0..255 was hardly meant so
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def read_npz(
    path: pathlib.Path, split: str, labelled: bool, values: Range | None, more: bool = False
) -> Dataset:
    """Return the images (and labels) of one part of an .npz whose members have been checked; with
    ``more``, its other arrays as conditions.
    """
    with open_archive(path) as archive:
        check_names(archive, path, archive.namelist())
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        image_key, label_key = keys(names, split, path)
        images = read_array(archive, path, image_key)
        index, class_names, how = read_labels(archive, path, label_key if labelled else None, split)
        keys_read = _others(names, image_key, split) if more else {}
        conditions = {key: read_array(archive, path, name) for key, name in keys_read.items()}
    if more and not conditions:
        raise ValueError(f"{path} has no other arrays than images and labels: no captions")
    images, scale = scaled(with_channel(images, path), values, str(path))
    notes = (how, *unread(names, keys_read.values()))
    return Dataset(
        images, index, len(class_names), f"{path.stem}-{split}", f"{path}, {image_key}, {scale}",
        class_names, scale, notes, conditions=conditions,
    )  # fmt: skip


def read_labels(
    archive: zipfile.ZipFile, path: pathlib.Path, key: str | None, split: str
) -> tuple[np.ndarray | None, tuple[str, ...], str]:
    """Return class indices by the array ``key`` of an .npz, the names of the classes, and that in
    words. Of another part than train the classes of train come first. None for no labels.
    """
    names = {name.removesuffix(".npy") for name in archive.namelist()}
    if key is None:
        return None, (), "labels none, as requested"
    if key not in names:
        return None, (), f"labels none: there is no array {key}"
    labels, how = checked_labels(read_array(archive, path, key), path), f"labels by the array {key}"
    if NAMES in names:
        return labels, _checked_names(read_array(archive, path, NAMES), path), how
    other = key.replace(split, "train")
    first: list[int] = []
    if other != key and other in names:
        first = checked_labels(read_array(archive, path, other), path).tolist()
    return *numbered(list(map(str, labels.tolist())), map(str, first)), how


def unread(names: Sequence[str], read: Iterable[str]) -> list[str]:
    """Return a note on the arrays that are read neither as images or labels of a part nor
    otherwise.
    """
    left = [n for n in names if n not in {*_known(names), *read}]
    return [f"other arrays are not read: {', '.join(left)}"] if left else []


def _others(names: Sequence[str], images: str, split: str) -> dict[str, str]:
    """Return which arrays are conditions of a part's images, by their own names: those that are
    named as the images are, "train_text" beside "train_images", "text" beside "images".
    """
    rest = [name for name in names if name not in _known(names)]
    if images == f"{split}_images":
        start = f"{split}_"
        return {n.removeprefix(start): n for n in rest if n.startswith(start)}
    if images == f"x_{split}":
        return {n.removesuffix(f"_{split}"): n for n in rest if n.endswith(f"_{split}")}
    return {n: n for n in rest}


def _pairs(split: str) -> list[tuple[str, str]]:
    pairs = [(f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")]
    return pairs + [("images", "labels"), ("arr_0", "arr_1")] * (split == "train")


def _known(names: Sequence[str]) -> set[str]:
    read = [next(p for p in _pairs(s) if p[0] in names) for s in parts(names)]
    return {name for pair in read for name in pair} | {NAMES}


def parts(names: Sequence[str]) -> tuple[str, ...]:
    """Return the parts that arrays of these names have: of train, val and test those that are
    there.
    """
    return tuple(
        split for split in ("train", "val", "test") if any(p[0] in names for p in _pairs(split))
    )


def keys(arrays: Sequence[str], split: str, path: pathlib.Path) -> tuple[str, str]:
    """Return the names of a part's images and labels, which may not be there; NoSplit without
    images.
    """
    for images, labels in _pairs(split):
        if images in arrays:
            return images, labels
    raise NoSplit(
        f"{path} has no {split} images: its arrays are {', '.join(arrays)}, expected one of "
        f"{', '.join(images for images, _ in _pairs(split))}"
    )


def with_channel(images: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Return images (n, h, w, c). ValueError for another shape, and for channels before the last
    axis.
    """
    if images.ndim not in (3, 4) or not images.size:
        raise ValueError(
            f"{path}: images must be (n, h, w) or (n, h, w, c), none of them 0; got {images.shape};"
            " points, signals and volumes are read by --data.arrays"
        )
    check_channels_last(images, str(path))
    if images.ndim == 4:
        return images
    if images.shape[2] in (3, 4) and min(images.shape[:2]) > 4:
        raise ValueError(
            f"{path}: {images.shape} is one image with channels, or images of width "
            f"{images.shape[2]}; add the axis that is missing"
        )
    return images[..., None]


def scaled(images: np.ndarray, values: Range | None, where: str) -> tuple[np.ndarray, str]:
    """Images as uint8, or as float32 in [-1, 1], and how their values were read.

    values: what is black and what is white. Without it, integers are 0..255 and floats lie in
    [0, 1] or [-1, 1], unless no value is brighter than an eighth of that.
    """
    kind = images.dtype.kind
    if kind == "b":
        if values is not None:
            raise ValueError(f"{where}: true and false have no range; give none")
        return images.astype(np.uint8) * np.uint8(255), "false and true, read as black and white"
    if kind not in "iuf":
        raise ValueError(f"{where}: images must be integers or floats, got {images.dtype}")
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"{where}: image {np.argmin(finite)} has NaN or infinite values")
    low, high = images.min(), images.max()
    found = f"{images.dtype} {low:g}..{high:g}"
    black, white = values or _guessed(float(low), float(high), kind, found, where)
    if not black <= low <= high <= white:
        raise ValueError(f"{where}: images are {found}, not in the range {black:g}..{white:g}")
    description = f"{found}, read as {black:g}..{white:g}"
    if kind in "iu" and black == 0 and white > 0 and 255 % white == 0:
        return images.astype(np.uint8) * np.uint8(255 // white), description
    if kind == "f" and (black, white) == (0, 1):
        return (images * 2 - 1).astype(np.float32), description
    if (black, white) == (-1, 1):
        return images.astype(np.float32), description
    wide = images.astype(np.float64 if images.dtype.itemsize > 2 else np.float32)
    return ((wide - black) * (2 / (white - black)) - 1).astype(np.float32), description


def _guessed(low: float, high: float, kind: str, found: str, where: str) -> Range:
    """Return the range of values for which none is given, where it is beyond doubt."""
    if kind in "iu" and low >= 0 and DARK <= high <= 255:
        return 0, 255
    if kind == "f" and low >= 0 and DARK / 255 <= high <= 1:
        return 0, 1
    if kind == "f" and -1 <= low <= -0.5 and high <= 1:  # else [0, 1] with some rounding
        return -1, 1
    black, white = usual_range(low, high)
    why, also = "expected integers in 0..255, or floats in [0, 1] or [-1, 1]", ""
    if low >= 0 and high < (DARK if kind in "iu" else DARK / 255):
        why = "in the range of its dtype this is nearly all black"
        also = f"; or 0 {255 if kind in 'iu' else 1} if they are so dark"
    elif kind == "f" and -0.5 < low < 0 and high <= 1:
        black, white = -1, 1
        why = "is that [0, 1] and a little below (clip it), or [-1, 1]?"
    raise ValueError(
        f"{where}: images are {found}; {why}. Say which value is black and which is white: "
        f"--data.range {black:g} {white:g}, or range=({black:g}, {white:g}){also}"
    )


def checked_labels(labels: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Labels (n,), integers that are not negative."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels must be integers, got {labels.dtype}")
    if labels.ndim != 1:
        raise ValueError(
            f"{path}: labels must be (n,), got {labels.shape} (of one-hot rows the argmax)"
        )
    if labels.size and (labels.min() < 0 or labels.max() > LARGEST_CLASS):
        at = int(np.argmax((labels < 0) | (labels > LARGEST_CLASS)))
        raise ValueError(f"{path}: label {labels[at]} of image {at} is not in 0..{LARGEST_CLASS}")
    return labels


def _checked_names(names: np.ndarray, path: pathlib.Path) -> tuple[str, ...]:
    if names.dtype.kind != "U" or names.ndim != 1:
        raise ValueError(f"{path}: {NAMES} must be texts (classes,), got {names.dtype}")
    return tuple(names.tolist())


def choice(count: int, limit: int | None) -> np.ndarray:
    """Return which of ``count`` images are read: at random, the same ones in every call."""
    # not evenly spaced: labels that repeat 0, 1, ..., 9 would leave one class
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])


def arranged(dataset: Dataset, size: int | None, grayscale: bool, progress: bool) -> Dataset:
    """Return a data set made grey and resized, where it is not so already; what was done is
    noted.
    """
    from tqdm import tqdm

    images, notes = dataset.images, Tally()
    if grayscale and images.shape[3] not in (1, 3):
        raise ValueError(
            f"{dataset.name}: grayscale is for images of 3 channels, these have {images.shape[3]}"
        )
    if grayscale and images.shape[3] == 3:
        grey = (images @ LUMA)[..., None]
        images = np.rint(grey).astype(np.uint8) if images.dtype == np.uint8 else grey
    if size is not None and images.shape[1:3] != (size, size):
        bar = tqdm(images, disable=not progress, desc="resizing")
        images = np.stack([fitted(x, size, f"image {i}", notes) for i, x in enumerate(bar)])
    return dataclasses.replace(dataset, images=images, notes=(*dataset.notes, *notes.lines()))
