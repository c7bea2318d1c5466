"""Images that stay where they are and are read when a batch needs them: for data beyond memory.

A :class:`LazyImages` stands in a :class:`~jaxdiff.data.Dataset` for the array of its images. Files
are decoded by several threads; arrays are mapped into memory.
"""

import concurrent.futures
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.data.labels import NoSplit
from jaxdiff.files import read_array_header

Read = Callable[[np.ndarray], np.ndarray]
LARGEST_READ = 1 << 34  # bytes that are made one array, where that is requested
THREADS = min(16, os.cpu_count() or 1)


class LazyImages:
    """Images (n, height, width, channels), read by ``read(rows)`` when they are indexed.

    read: positions (k,) to images (k, height, width, channels), of the same dtype, uint8 or float32
    in [-1, 1]. shape, dtype: of all of them. rows: which positions these are, in their order.
    """

    def __init__(
        self, read: Read, shape: tuple[int, ...], dtype: Any, rows: np.ndarray | None = None
    ) -> None:
        """Take the reader, and the shape of one image."""
        self._read = read
        self._rows = rows
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)

    ndim = 4

    @property
    def size(self) -> int:
        """Of all numbers."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Of all images, if they were in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyImages({self.dtype}{list(self.shape)})"

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, at: Any) -> np.ndarray:
        """Read images: of an index one, of a slice or of indices an array of them."""
        if isinstance(at, (int, np.integer)):
            return self[np.array([at])][0]
        return self._read(self._positions(at))

    def take(self, at: ArrayLike) -> "LazyImages":
        """Return the images at these indices, still unread."""
        rows = self._positions(np.asarray(at))
        return LazyImages(self._read, (len(rows), *self.shape[1:]), self.dtype, rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all of them. Raises ValueError for more than fit into memory."""
        if self.nbytes > LARGEST_READ:
            raise ValueError(
                f"{len(self)} images of {self.nbytes} bytes, which are read as they are needed, "
                f"would all have to be in memory here; the limit is {LARGEST_READ}: pass limit= "
                "(--data.limit)"
            )
        made = self[:]
        return made if dtype is None else made.astype(dtype)

    def _positions(self, at: Any) -> np.ndarray:
        """Return positions (k,) of an index expression; IndexError for one out of range."""
        if self._rows is not None:
            return np.asarray(self._rows[at])
        if isinstance(at, slice):
            return np.arange(*at.indices(len(self)))
        rows = np.asarray(at)
        if rows.dtype == bool:
            return np.flatnonzero(rows)
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"image {rows.max()} of {len(self)}")
        return rows % len(self)


def by_file(
    picture: Callable[[str], np.ndarray], names: list[str], where: str, threads: int = THREADS
) -> LazyImages:
    """Return the pictures in files, each decoded on demand, by several threads.

    All must have the size of the first, and its channels; grey ones among coloured ones fill all
    channels. Raises ValueError, naming the file, as it is read.
    """
    first = picture(names[0])
    shape = first.shape

    def one(name: str) -> np.ndarray:
        image = picture(name)
        if image.shape[:2] != shape[:2]:
            raise ValueError(
                f"{where}: {name} is {image.shape[0]} x {image.shape[1]}, {names[0]} is "
                f"{shape[0]} x {shape[1]}; pass size= (--data.size) to crop and resize"
            )
        if image.shape[2] > shape[2]:
            raise ValueError(
                f"{where}: {name} has colours and the first, {names[0]}, has none: pass grayscale="
                " (--data.grayscale) to make all grey"
            )
        return np.broadcast_to(image, shape)

    def read(rows: np.ndarray) -> np.ndarray:
        made = np.empty((len(rows), *shape), first.dtype)
        chosen = (names[row] for row in rows)
        for i, image in enumerate(_pool(threads).map(one, chosen)):
            made[i] = image
        return made

    return LazyImages(read, (len(names), *shape), first.dtype)


@functools.cache
def _pool(threads: int) -> concurrent.futures.Executor:
    return concurrent.futures.ThreadPoolExecutor(threads, "images")


def by_array(
    path: pathlib.Path, split: str, labelled: bool, values: tuple[float, float] | None
) -> tuple[LazyImages, np.ndarray | None, str]:
    """Return the images in an .npy, mapped into memory, the labels beside it, and how values are
    read, in words.

    Labels are those of NAME_labels.npy, or of labels.npy beside images.npy, read as they are.
    Floats need ``values``, what is black and what is white: they are not searched for them.
    """
    if split != "train":
        raise NoSplit(f"{path} has no parts; give the path of the {split} images themselves")
    shape, dtype = read_array_header(path)
    whole = shape if len(shape) == 4 else (*shape, 1)
    if len(whole) != 4 or 0 in whole:
        raise ValueError(
            f"{path}: images must be (n, h, w) or (n, h, w, c), not {shape}; points, signals and "
            "volumes are read by --data.arrays"
        )
    mapped = np.load(path, mmap_mode="r", allow_pickle=False).reshape(whole)
    if dtype != np.uint8 and values is None:
        raise ValueError(
            f"{path}: {dtype} images that are read as they are needed are not searched for their "
            "range: say which value is black and which white, --data.range -1 1, or range=(-1, 1)"
        )
    kind = np.dtype(np.uint8 if values is None else np.float32)
    black, white = values or (0, 255)

    def read(rows: np.ndarray) -> np.ndarray:
        given = mapped[rows]
        if values is None:
            return np.array(given)
        inside = ((given >= black) & (given <= white)).all(axis=(1, 2, 3))  # NaN neither
        if not inside.all():
            row = rows[np.argmin(inside)]
            raise ValueError(f"{path}: image {row} is not in the range {black:g}..{white:g}")
        return ((given.astype(np.float32) - black) * (2 / (white - black)) - 1).astype(np.float32)

    labels = _labels_beside(path) if labelled else None
    return LazyImages(read, whole, kind), labels, f"{dtype}, read as {black:g}..{white:g}"


def _labels_beside(path: pathlib.Path) -> np.ndarray | None:
    for name in (f"{path.stem}_labels.npy", path.name.replace("images", "labels")):
        beside = path.with_name(name)
        if beside != path and beside.exists():
            read_array_header(beside)
            return np.load(beside, allow_pickle=False)
    return None
