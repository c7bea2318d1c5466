"""Read images from a folder, a zip or an .npz: what is read is what a viewer shows.

Folder or zip: images of every suffix that PIL can read, at any depth, in sorted order; links are
followed. With a ``dataset.json``, {"labels": [[name, class], ...]} or {"labels": null} with names
relative to where it lies (the format of the EDM and StyleGAN dataset tools), that says the classes;
else the folders they lie in are the classes. Folders called train, val and test are parts of the
data instead. Whatever is left out is counted and named in :meth:`~jaxdiff.data.Dataset.describe`; a
folder that cannot be read or a class without images is an error.

Images are turned as their EXIF says, laid on white where they are transparent, converted to sRGB;
of an animation the first picture is read. They are grey (one channel) if all are, else RGB.

Npz: ``images`` and ``labels`` (or ``arr_0`` and ``arr_1``), or ``train_images``, ``train_labels``,
``test_images``, ``test_labels`` (or ``x_train``, ``y_train``, ...). Images (n, h, w) get a channel.
Integers must be 0..255; floats must lie in [0, 1] or [-1, 1], distinguished by whether any is
negative; other ranges, and sets that would be nearly black, need ``range``. Labels are indices of
``class_names`` if there is such an array of texts; else the classes are the numbers that occur:
they are the names, and the indices count from 0.

Captions and numbers beside the images (:mod:`jaxdiff.data.beside`), further arrays of an .npz and
pictures of a second folder are conditions (:mod:`jaxdiff.data.conditions`) where these are asked
for.

Nothing is ever unpacked to disk, and declared sizes are checked before anything is read
(:func:`jaxdiff.files.open_archive`).
"""

import contextlib
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np

from jaxdiff.data import beside as besides
from jaxdiff.data import tree as trees
from jaxdiff.data.added import with_captions, with_pairs
from jaxdiff.data.arrays import DARK, arranged, choice, read_npz
from jaxdiff.data.arrays import parts as parts_of_arrays
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.options import Options
from jaxdiff.data.pictures import Range
from jaxdiff.data.shards import CLASS, by_class_files, class_file, shards, tree_of
from jaxdiff.data.tally import Tally
from jaxdiff.data.unread import decoder, lazy_tree, load_npy
from jaxdiff.data.zips import LARGEST_FILE, LARGEST_TOTAL, check_members, own_names
from jaxdiff.files import check_names, open_archive, read_member

DARK_NOTE = "nearly all black: if 255 is not their white, say what is (--data.range 0 1)"


def load(
    path: str | pathlib.Path,
    *,
    split: str = "train",
    limit: int | None = None,
    size: int | None = None,
    grayscale: bool = False,
    labels: trees.Labels = "auto",
    range: Range | None = None,
    progress: bool = False,
    lazy: bool = False,
    captions: bool = False,
    pairs: str | pathlib.Path | None = None,
) -> Dataset:
    """Read the images (and labels) at ``path``: a folder, a .zip, a .tar or a folder of them, an
    .npz, or an .npy, which is always mapped into memory.

    Args:
        path: a folder, .zip, .tar, .npz or .npy.
        split: "train", "val" or "test", where there are such arrays or folders; "test" reads the
            folder val if there is none called test. Other data have only "train".
        limit: read only that many images, a random choice that is always the same and grows with
            it.
        size: centre-crop to a square and resize to this side.
        grayscale: one channel (ITU-R 601 luma).
        labels: where the classes come from: "json" (a dataset.json), "folders", "none"; "auto"
            takes the first of these that there is, and says in the notes which.
        range: the values that are black and white, where they are not 0 and 255 (or 0 and 1, or -1
            and 1, of floats).
        progress: show a progress bar.
        lazy: leave the images where they are, and read those of each batch when it is made, for
            data beyond memory. Their sizes and channels are those of the first; what is wrong with
            one is found when it is read. Floats in an .npy need ``range``.
        captions: read what lies beside the images: the condition "text", and numbers by their own
            names; of an .npz the other arrays with a row for every image.
        pairs: a second folder or zip, whose pictures are the condition "beside", each of the image
            of its path, or of its last name, but for the suffix.

    Returns:
        Images, labels, names of classes, and notes on how they were read.

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        jaxdiff.data.labels.NoSplit: for a part that is not there.
        ValueError: naming the file and the image, for anything that cannot be read as intended:
            damaged or truncated files, images of different sizes, names without labels, labels
            without images, classes without images, folders that may be shards or classes, unsafe
            names or sizes.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    second = None if pairs is None else str(pairs)
    options = Options(
        split, limit, size, grayscale, labels, range, progress, lazy, captions, second
    )
    try:
        return _load(path, options)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    except MemoryError as error:
        raise ValueError(
            f"{path} does not fit into memory ({error}); pass size= or limit="
        ) from error


def parts(path: str | pathlib.Path) -> tuple[str, ...]:
    """Return the parts of the data at ``path`` that :func:`load` can read, of "train", "val" and
    "test". Raises as it does.

    Args:
        path: as for :func:`load`.

    Returns:
        Names of the parts.

    Raises:
        FileNotFoundError, ValueError: as :func:`load`.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() == ".npz":
        with open_archive(path) as archive:
            return parts_of_arrays([name.removesuffix(".npy") for name in archive.namelist()])
    if path.suffix.lower() == ".npy":
        return ("train",)
    with _opened(path, Tally()) as tree:
        return trees.parts(tree)


def _load(path: pathlib.Path, options: Options) -> Dataset:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return load_npy(path, options)
    if suffix == ".npz" and options.lazy:
        raise ValueError(f"{path} cannot be read piece by piece: save its images as an .npy")
    if suffix == ".npz":
        return _load_npz(path, options)
    skipped = Tally()
    with contextlib.ExitStack() as open_files:
        tree = open_files.enter_context(_opened(path, skipped))
        beside = besides.find(tree, str(path)) if options.captions else None
        if beside is not None:
            tree = tree._replace(files=[name for name in tree.files if name not in beside.files])
        found = _chosen(tree, options, skipped)
        names = [found.names[i] for i in choice(len(found.names), options.limit)]
        paired = None if options.pairs is None else _paired(names, options)
        if options.lazy:
            data = lazy_tree(tree, found, options, skipped, open_files.pop_all())
        else:
            data = _load_tree(tree, found, options, skipped)
        data = data if beside is None else with_captions(data, beside, names, options.labels)
        return data if paired is None else with_pairs(data, *paired)


def _paired(names: list[str], options: Options) -> tuple[np.ndarray, str]:
    """Return the pictures of a second folder that belong to images, and a note on them."""
    assert options.pairs is not None
    path = pathlib.Path(options.pairs)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    skipped, notes = Tally(), Tally()
    with _opened(path, skipped) as tree:
        others = trees.images(tree)
        chosen = besides.pairs(names, others, str(path))
        pictures = _decoded(tree, chosen, options, notes)
    left = len(others) - len({*chosen})
    how = (f"{left} of none" if left else "", *notes.lines(), *skipped.lines())
    return pictures, ", ".join([f"beside them the pictures of {path}", *filter(None, how)])


def _chosen(tree: trees.Tree, options: Options, skipped: Tally) -> trees.Chosen:
    """Return which images are read, with which classes; those of a .cls beside them come first."""
    if options.labels == "auto" and any(name.endswith(CLASS) for name in tree.files):
        used = {class_file(name) for name in trees.images(tree)}
        return by_class_files(tree, trees.choose(tree, options.split, "none", skipped, used))
    return trees.choose(tree, options.split, options.labels, skipped)


def _load_npz(path: pathlib.Path, options: Options) -> Dataset:
    if options.labels in ("folders", "json"):
        raise ValueError(f"{path}: labels {options.labels} is for folders and zips, not for arrays")
    if options.pairs is not None:
        raise ValueError(f"{path}: pairs are for folders and zips, not for arrays")
    with open_archive(path) as archive:
        check_members(archive, path, LARGEST_TOTAL, LARGEST_TOTAL)
    whole = read_npz(path, options.split, options.labels != "none", options.range, options.captions)
    chosen = whole.take(choice(len(whole), options.limit))
    return arranged(chosen, options.size, options.grayscale, options.progress)


# Folders and zips


@contextlib.contextmanager
def _opened(path: pathlib.Path, skipped: Tally) -> Iterator[trees.Tree]:
    """Provide what there is in a folder or a zip."""
    if archives := shards(path):
        yield tree_of(path, archives, skipped)
    elif path.is_dir():
        files, folders = trees.walk(path, skipped)
        yield trees.Tree(path, files, folders, lambda name: _bounded(path / name))
    elif path.suffix.lower() == ".zip":
        with open_archive(path) as archive:
            check_members(archive, path, LARGEST_FILE, LARGEST_TOTAL)
            own = own_names(archive, path)
            files, folders = trees.members([name for name in own if name], skipped)
            read = lambda name: read_member(archive, path, own[name])  # noqa: E731
            tree = trees.Tree(path, files, folders, read, zipped=True)
            check_names(archive, path, (own[name] for name in own.keys() - trees.images(tree)))
            yield tree
    else:
        raise ValueError(f"{path} is neither a folder nor a .zip, .tar, .npz or .npy file")


def _bounded(file: pathlib.Path) -> bytes:
    if (size := file.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"{file} has {size} bytes; the limit is {LARGEST_FILE}")
    return file.read_bytes()


def _load_tree(tree: trees.Tree, found: trees.Chosen, options: Options, skipped: Tally) -> Dataset:
    chosen, notes = choice(len(found.names), options.limit), Tally()
    images = _decoded(tree, [found.names[i] for i in chosen], options, notes)
    low, high = images.min(), images.max()
    values = f"8 bits, {low}..{high}"
    if options.range is not None:
        values += f" from {options.range[0]:g}..{options.range[1]:g}"
    description = (*found.how, *notes.lines(), *([DARK_NOTE] if high < DARK else []))
    labels = None if found.labels is None else found.labels[chosen]
    return Dataset(
        images, labels, len(found.class_names), tree.path.stem, f"{tree.path}, 8 bits",
        found.class_names, values, description, skipped.lines(),
    )  # fmt: skip


def _decoded(tree: trees.Tree, names: list[str], options: Options, notes: Tally) -> np.ndarray:
    from tqdm import tqdm

    shown = tqdm(names, disable=not options.progress, desc=tree.path.name)
    return _stacked(map(decoder(tree, options, notes), shown), names, tree.path, notes)


def _stacked(
    images: Iterator[np.ndarray], names: list[str], path: pathlib.Path, notes: Tally
) -> np.ndarray:
    first = next(images)
    shape: tuple[int, ...] = first.shape
    if (size := len(names) * first.size) > LARGEST_TOTAL:
        raise ValueError(
            f"{path}: {len(names)} images of {shape} are {size} bytes; the limit is "
            f"{LARGEST_TOTAL}: pass size= or limit="
        )
    stack, grey = np.empty((len(names), *shape), np.uint8), []
    for i, image in enumerate(itertools.chain([first], images)):
        if image.shape[:2] != shape[:2]:
            raise ValueError(
                f"{path}: {names[i]} is {image.shape[0]} x {image.shape[1]}, {names[0]} is "
                f"{shape[0]} x {shape[1]}; pass size= (--data.size) to crop and resize"
            )
        if image.shape[2] > stack.shape[-1]:
            stack = np.repeat(stack, 3, axis=-1)
        if image.shape[2] == 1:
            grey.append(names[i])
        stack[i] = image  # a grey image among coloured ones fills all channels
    for name in grey if stack.shape[-1] > 1 else []:
        notes.add("grey among coloured ones", name)
    return stack
