"""Data sets whose images are read when a batch needs them: of files, and of an .npy."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdiff.data import tree as trees
from jaxdiff.data.arrays import checked_labels, choice, scaled, with_channel
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.labels import numbered
from jaxdiff.data.lazy import by_array, by_file
from jaxdiff.data.options import Options
from jaxdiff.data.pictures import decode
from jaxdiff.data.tally import Tally
from jaxdiff.files import reading

LOOKED_AT = 64  # images of an .npy, at most


def load_npy(path: pathlib.Path, options: Options) -> Dataset:
    """Return the images of an .npy, which is never read as a whole."""
    for name, given in (
        ("size", options.size), ("grayscale", options.grayscale), ("captions", options.captions),
        ("pairs", options.pairs),
    ):  # fmt: skip
        if given:
            raise ValueError(f"{path}: {name} is for files of images, not for an .npy")
    if options.labels in ("folders", "json"):
        raise ValueError(f"{path}: labels {options.labels} is for folders and zips, not for arrays")
    labelled = options.labels != "none"
    images, labels, values = by_array(path, options.split, labelled, options.range)
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    with_channel(mapped, path)
    if options.range is None:  # a few of them say whether 255 is their white
        scaled(np.array(mapped[:: -(-len(mapped) // LOOKED_AT)]), None, str(path))
    names: tuple[str, ...] = ()
    if labels is not None:
        labels, names = numbered([str(label) for label in checked_labels(labels, path).tolist()])
    how = "labels none" if labels is None else "labels by the .npy beside it"
    whole = Dataset(
        images, labels, len(names), path.stem, f"{path}, {values}", names, values, (how,)
    )
    return whole if options.limit is None else whole.take(choice(len(whole), options.limit))


def lazy_tree(
    tree: trees.Tree, found: trees.Chosen, options: Options, skipped: Tally, open_files: Any
) -> Dataset:
    """Return the images of a tree unread; ``open_files`` are closed with the last of them."""
    chosen = choice(len(found.names), options.limit)
    names, notes = [found.names[i] for i in chosen], Tally()
    decoded = decoder(tree, options, notes)

    def picture(name: str, held: Any = open_files) -> np.ndarray:
        return decoded(name)

    images = by_file(picture, names, str(tree.path))
    first = [f"of the first image: {line}" for line in notes.lines()]
    labels = None if found.labels is None else found.labels[chosen]
    return Dataset(
        images, labels, len(found.class_names), tree.path.stem, f"{tree.path}, 8 bits",
        found.class_names, "8 bits, read as they are needed", (*found.how, *first),
        skipped.lines(),
    )  # fmt: skip


def decoder(tree: trees.Tree, options: Options, notes: Tally) -> Callable[[str], np.ndarray]:
    """Return what makes a picture of a file's name."""

    def picture(name: str) -> np.ndarray:
        with reading(tree.path, name):
            return decode(
                tree.read(name), name, notes, size=options.size, grayscale=options.grayscale,
                values=options.range,
            )  # fmt: skip

    return picture
