"""Arrays of samples that are no images: points (n, d), signals (n, length, channels), volumes."""

import pathlib
from typing import TypeAlias

import numpy as np

from jaxdiff.data.arrays import choice, keys, read_labels, unread
from jaxdiff.data.dataset import Dataset
from jaxdiff.files import check_names, open_archive, read_array

Classes: TypeAlias = tuple[np.ndarray | None, tuple[str, ...], str]


def load_samples(
    path: pathlib.Path | str,
    split: str = "train",
    *,
    labelled: bool = True,
    limit: int | None = None,
) -> Dataset:
    """Return the samples of an .npy, or of an .npz with their labels if it has them; their numbers
    as they are, in float32.

    split, limit: see :func:`jaxdiff.data.readers.load`. The arrays of an .npz are called as those
    of images are: images and labels, x_train and y_train, arr_0 and arr_1; or samples and labels.

    Raises FileNotFoundError, :class:`~jaxdiff.data.labels.NoSplit`, and ValueError for another
    file, for numbers that are not finite or not real, and for a shape without samples or axes.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    classes: Classes = (None, (), "labels none: an .npy has none")
    notes: list[str] = []
    if path.suffix.lower() == ".npy":
        if split != "train":
            raise ValueError(f"{path} has no {split} samples: an .npy has only those of train")
        samples = np.load(path, allow_pickle=False)
    elif path.suffix.lower() == ".npz":
        with open_archive(path) as archive:
            check_names(archive, path, archive.namelist())
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            sampled = split == "train" and "samples" in names  # as jaxdiff sample writes them
            own, key = ("samples", "labels") if sampled else keys(names, split, path)
            samples = read_array(archive, path, own)
            classes = read_labels(archive, path, key if labelled else None, split)
            notes = unread(names, (own, key))
    else:
        raise ValueError(f"{path}: samples that are no images are read of an .npy or .npz")
    whole = _dataset(samples, classes, notes, path, split)
    return whole if limit is None else whole.take(choice(len(whole), limit))


def _dataset(
    samples: np.ndarray, classes: Classes, notes: list[str], path: pathlib.Path, split: str
) -> Dataset:
    if samples.dtype.kind not in "iuf":
        raise ValueError(f"{path}: samples are integers or floats, not {samples.dtype}")
    index, names, how = classes
    return Dataset(
        np.asarray(samples, np.float32), index, len(names), f"{path.stem}-{split}", str(path),
        names, notes=(how, *notes), pictures=False,
    )  # fmt: skip
