"""Read images from a folder, an EDM-format zip or an .npz file.

Folder: images found recursively, in sorted order. If they lie in sub-folders, the sorted names of
the top-level ones are the classes. A ``dataset.json`` in the folder overrides that.

Zip: images at any depth, and optionally ``dataset.json`` with {"labels": [[name, class], ...]} or
{"labels": null}, names relative to where it lies: the format written by the EDM and StyleGAN
dataset tools. Nothing is ever unpacked to disk, and declared sizes are checked before anything is
read (:func:`jaxdiff.files.open_archive`).

Npz: ``images`` and ``labels`` (or ``arr_0`` and ``arr_1``), or ``train_images``, ``train_labels``,
``test_images``, ``test_labels`` (or ``x_train``, ``y_train``, ...). Images (n, h, w) get a channel.
Integers must be 0..255; floats must lie in [0, 1] or [-1, 1], told apart by whether any is
negative, which the ``source`` of the data set states.

Images in files are grey (one channel) if all of them are, else RGB; transparency is dropped.
"""

import dataclasses
import io
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from jaxdiff.data.dataset import Dataset
from jaxdiff.files import check_names, open_archive, parse_json, read_array, read_member, reading

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # no other: for EPS, say, PIL starts a program
LARGEST_FILE = 1 << 28
LARGEST_TOTAL = 1 << 36
LARGEST_CLASS = (1 << 20) - 1

Read: TypeAlias = Callable[[str], bytes]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to read: see :func:`load`."""

    limit: int | None = None
    size: int | None = None
    grayscale: bool = False
    labelled: bool = True
    progress: bool = False


def load(
    path: str | pathlib.Path,
    *,
    split: str = "train",
    limit: int | None = None,
    size: int | None = None,
    grayscale: bool = False,
    labelled: bool = True,
    progress: bool = False,
) -> Dataset:
    """Read the images (and labels) at ``path``: a folder, a .zip or an .npz.

    split: "train" or "test", for an .npz that has both; the others have only "train".
    limit: read only that many images, a random choice that is always the same and grows with it.
    size: centre-crop to a square and resize to this side.
    grayscale: one channel (ITU-R 601 luma).
    labelled: False leaves the labels out.
    progress: show a progress bar.

    Raises FileNotFoundError, and ValueError naming the file and the image for anything that cannot
    be read as intended: damaged or truncated files, images of different sizes, names without
    labels, labels without images, unsafe names or sizes.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    for name, value in (("limit", limit), ("size", size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    try:
        return _load(path, split, Options(limit, size, grayscale, labelled, progress))
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    except MemoryError as error:
        raise ValueError(
            f"{path} does not fit into memory ({error}); pass size= or limit="
        ) from error


def _load(path: pathlib.Path, split: str, options: Options) -> Dataset:
    if path.suffix.lower() == ".npz":
        return _load_npz(path, split, options)
    if split != "train":
        raise ValueError(f"{path} has no parts; give the path of the {split} images themselves")
    if path.is_dir():
        return _load_folder(path, options)
    if path.suffix.lower() == ".zip":
        return _load_zip(path, options)
    raise ValueError(f"{path} is neither a folder nor a .zip nor an .npz file")


# Folders and zips: names, labels by name, decoded images


def _load_folder(path: pathlib.Path, options: Options) -> Dataset:
    files = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    names = _images(files)
    index, labels = path / "dataset.json", None
    if options.labelled and index.exists():
        labels = _json_labels(_bounded(index), "", names, str(index))
    elif options.labelled:
        labels = _folder_labels(names, path)
    return _dataset(path, names, labels, lambda name: _bounded(path / name), options)


def _bounded(file: pathlib.Path) -> bytes:
    if (size := file.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"{file} has {size} bytes; the limit is {LARGEST_FILE}")
    return file.read_bytes()


def _load_zip(path: pathlib.Path, options: Options) -> Dataset:
    with open_archive(path) as archive:
        _check_members(archive, path, LARGEST_FILE)
        names = _images(archive.namelist())
        check_names(archive, path, set(archive.namelist()) - set(names))
        indices = [n for n in archive.namelist() if n.split("/")[-1] == "dataset.json"]
        if len(indices) > 1:
            raise ValueError(f"{path} has more than one dataset.json: {', '.join(indices)}")
        labels = None
        if indices and options.labelled:
            text = read_member(archive, path, indices[0])
            prefix = indices[0].removesuffix("dataset.json")
            labels = _json_labels(text, prefix, names, f"{path}: {indices[0]}")
        read = lambda name: read_member(archive, path, name)  # noqa: E731
        return _dataset(path, names, labels, read, options)


def _images(names: Iterable[str]) -> list[str]:
    shown = (n for n in names if pathlib.PurePosixPath(n).suffix.lower() in SUFFIXES)
    return sorted(n for n in shown if _visible(n))


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _check_members(archive: zipfile.ZipFile, path: pathlib.Path, largest: int) -> None:
    total = 0
    for info in archive.infolist():
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise ValueError(f"{path}: refusing the unsafe member name {info.filename!r}")
        total += info.file_size
        if info.file_size > largest or total > LARGEST_TOTAL:
            raise ValueError(
                f"{path}: refusing {info.filename!r}, declared as {info.file_size} bytes "
                f"uncompressed, {total} with those before it; the limits are {largest} and "
                f"{LARGEST_TOTAL}"
            )


def _folder_labels(names: list[str], path: pathlib.Path) -> np.ndarray | None:
    tops = [name.split("/")[0] if "/" in name else "" for name in names]
    if not any(tops):
        return None
    if not all(tops):
        raise ValueError(
            f"{path}: {names[tops.index('')]} lies beside class folders; put every image into one, "
            "or give a dataset.json"
        )
    return np.unique(tops, return_inverse=True)[1]


def _json_labels(text: bytes, prefix: str, names: list[str], where: str) -> np.ndarray | None:
    try:
        table = parse_json(text, where)["labels"]
        if table is None:
            return None
        given = {prefix + str(name): value for name, value in table}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{where} must be {{"labels": [[name, class], ...]}} or {{"labels": null}}: {error!r}'
        ) from error
    if len(given) != len(table):
        raise ValueError(f"{where} has {len(table) - len(given)} names more than once")
    for name in [*names, *given]:
        if name not in given:
            raise ValueError(f"{where} has no label for {name}")
        if type(given[name]) is not int or not 0 <= given[name] <= LARGEST_CLASS:
            raise ValueError(
                f"{where}: the class of {name} must be 0, 1, ..., {LARGEST_CLASS} at most; got "
                f"{given[name]!r:.60}"
            )
    absent = given.keys() - set(names)
    if absent:
        raise ValueError(f"{where} has labels for {len(absent)} absent images, as {min(absent)}")
    return np.array([given[name] for name in names], np.int64)


def _dataset(
    path: pathlib.Path, names: list[str], labels: np.ndarray | None, read: Read, options: Options
) -> Dataset:
    if not names:
        raise ValueError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))})")
    chosen = _chosen(len(names), options.limit)
    images = _decoded(path, [names[i] for i in chosen], read, options)
    if labels is None:
        return Dataset(images, None, 0, path.stem, f"{path}, 8 bits")
    return Dataset(images, labels[chosen], int(labels.max()) + 1, path.stem, f"{path}, 8 bits")


def _chosen(count: int, limit: int | None) -> np.ndarray:
    # not evenly spaced: labels that repeat 0, 1, ..., 9 would leave one class
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])


def _decoded(path: pathlib.Path, names: list[str], read: Read, options: Options) -> np.ndarray:
    from PIL import Image
    from tqdm import tqdm

    def decode(name: str) -> np.ndarray:
        with reading(path, name):
            return _decode(read(name), options)

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        images = map(decode, tqdm(names, disable=not options.progress, desc=path.name))
        return _stacked(images, names, path)


def _stacked(images: Iterator[np.ndarray], names: list[str], path: pathlib.Path) -> np.ndarray:
    image = next(images)
    shape: tuple[int, ...] = image.shape
    if (size := len(names) * image.size) > LARGEST_TOTAL:
        raise ValueError(
            f"{path}: {len(names)} images of {shape} are {size} bytes; the limit is "
            f"{LARGEST_TOTAL}: pass size= or limit="
        )
    stack = np.empty((len(names), *shape), np.uint8)
    stack[0] = image
    for i, image in enumerate(images, start=1):
        if image.shape[:2] != shape[:2]:
            raise ValueError(
                f"{path}: {names[i]} is {image.shape[0]} x {image.shape[1]}, {names[0]} is "
                f"{shape[0]} x {shape[1]}; pass size= to crop and resize"
            )
        if image.shape[2] > stack.shape[-1]:
            stack = np.repeat(stack, 3, axis=-1)
        stack[i] = image  # a grey image among coloured ones fills all channels
    return stack


def _decode(data: bytes, options: Options) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        opened.verify()  # a PNG's checksums, which decoding does not look at
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        if opened.mode.startswith(("I", "F")):
            raise ValueError(f"mode {opened.mode} has more than 8 bits per channel")
        grey = options.grayscale or opened.mode in ("1", "L", "LA", "La")
        image = opened.convert("L" if grey else "RGB")
    array = np.asarray(image if options.size is None else _fitted(image, options.size))
    return array.reshape(*array.shape[:2], -1)


def _fitted(image: "Image.Image", size: int) -> "Image.Image":
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (size, size), method=Image.Resampling.LANCZOS)


# Arrays


def _load_npz(path: pathlib.Path, split: str, options: Options) -> Dataset:
    with open_archive(path) as archive:
        _check_members(archive, path, LARGEST_TOTAL)
        check_names(archive, path, archive.namelist())
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        image_key, label_key = _keys(names, split, path)
        images, labels = read_array(archive, path, image_key), None
        if options.labelled and label_key in names:
            labels = read_array(archive, path, label_key)
    images, scale = _scaled(_with_channel(images, path), path)
    name, source = f"{path.stem}-{split}", f"{path}, {image_key}, {scale}"
    whole = Dataset(images, *_flat_labels(labels, path), name, source)
    return _arranged(whole.take(_chosen(len(whole), options.limit)), options)


def _keys(arrays: Sequence[str], split: str, path: pathlib.Path) -> tuple[str, str]:
    pairs = [(f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")]
    if split == "train":
        pairs += [("images", "labels"), ("arr_0", "arr_1")]
    for images, labels in pairs:
        if images in arrays:
            return images, labels
    raise ValueError(
        f"{path} has no {split} images: its arrays are {', '.join(arrays)}, expected one of "
        f"{', '.join(images for images, _ in pairs)}"
    )


def _with_channel(images: np.ndarray, path: pathlib.Path) -> np.ndarray:
    if images.ndim not in (3, 4) or not images.size:
        raise ValueError(
            f"{path}: images must be (n, h, w) or (n, h, w, c), none of them 0; got {images.shape}"
        )
    if images.ndim == 3:
        return images[..., None]
    if images.shape[3] > 4 and images.shape[1] <= 4:
        raise ValueError(f"{path}: images {images.shape} have channels first; move them last")
    return images


def _scaled(images: np.ndarray, path: pathlib.Path) -> tuple[np.ndarray, str]:
    """Images as uint8, or as float32 in [-1, 1], and how their values were read."""
    if images.dtype == np.uint8:
        return images, "8 bits"
    if images.dtype.kind not in "iuf":
        raise ValueError(f"{path}: images must be integers or floats, got {images.dtype}")
    low, high = images.min(), images.max()
    if images.dtype.kind in "iu" and 0 <= low and high <= 255:
        return images.astype(np.uint8), f"{images.dtype} in 0..255"
    if images.dtype.kind == "f" and 0 <= low and high <= 1:
        return (images * 2 - 1).astype(np.float32), "floats in [0, 1] moved to [-1, 1]"
    if images.dtype.kind == "f" and -1 <= low and high <= 1:
        return images.astype(np.float32), "floats in [-1, 1]"
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"{path}: image {np.argmin(finite)} has NaN or infinite values")
    raise ValueError(
        f"{path}: images of {images.dtype} run from {low} to {high}; expected integers in 0..255, "
        "or floats in [0, 1] or [-1, 1]"
    )


def _flat_labels(labels: np.ndarray | None, path: pathlib.Path) -> tuple[np.ndarray | None, int]:
    if labels is None:
        return None, 0
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    last = int(labels.max()) if labels.dtype.kind in "iu" and labels.size else -1
    if last > LARGEST_CLASS:
        raise ValueError(f"{path}: class {last} is beyond {LARGEST_CLASS}, the largest there is")
    return labels, last + 1


def _arranged(dataset: Dataset, options: Options) -> Dataset:
    images = dataset.images
    if options.grayscale and images.shape[3] == 3:
        grey = (images @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
        images = np.rint(grey).astype(np.uint8) if images.dtype == np.uint8 else grey
    if options.size is not None:
        images = _resized(images, options)
    return dataclasses.replace(dataset, images=images)


def _resized(images: np.ndarray, options: Options) -> np.ndarray:
    from PIL import Image
    from tqdm import tqdm

    if images.dtype != np.uint8:
        raise ValueError("size= needs images of 8 bits, got floats")
    if images.shape[3] > 4:
        raise ValueError(f"size= needs images of 1 to 4 channels, got {images.shape[3]}")
    size = options.size or images.shape[1]
    bar = tqdm(images, disable=not options.progress, desc="resizing")
    pictures = (Image.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in bar)
    return np.stack([np.asarray(_fitted(p, size)).reshape(size, size, -1) for p in pictures])
