"""Configurations of images: those of a run, and others."""

import dataclasses
from typing import Literal

from jaxdiff.ranges import (
    Count,
    Number,
)


@dataclasses.dataclass(frozen=True)
class Data:
    """Source of the images."""

    path: str = "digits"
    """"digits" (scikit-learn's, 8x8), or a folder or zip of images, a .tar or a folder of them, an
    .npz or .npy.
    """
    split: Literal["train", "val", "test"] = "train"
    """Part to use: of the digits, of an .npz, of folders called train, val, test."""
    labels: Literal["auto", "none", "folders", "json"] = "auto"
    """Source of the classes: a dataset.json, the folders, nowhere; by default the first of these
    that there is, or the labels of an .npz.
    """
    size: Count | None = None
    """Resize images to size x size; by default they keep theirs."""
    limit: Count | None = None
    """Use at most this many images, a random choice that is always the same."""
    grayscale: bool = False
    """Turn colour images to grey."""
    range: tuple[Number, Number] | None = None
    """The values that are black and white, such as 0 1 for masks; by default 0 and 255, or for
    floats 0 and 1, or -1 and 1.
    """
    flip: bool = False
    """Mirror half of the images at random."""
    arrays: bool = False
    """Read an .npy or .npz as samples of any shape (n, ...) that are no images: points, signals
    (n, length, channels), volumes. Their numbers stay as they are: give --sigma-data theirs.
    """
    captions: bool = False
    """Read what lies beside images: captions in a metadata.jsonl, a .txt or .json per image, the
    dataset.json of a zip, or the array "text" of an .npz, and numbers there.
    """
    pairs: str | None = None
    """A second folder or zip: the picture of each image's name there is what the network is shown
    beside x, as a condition (sample --control shows it one).
    """
    compose: Count | None = None
    """Compose so many coloured pictures of the grey ones, with captions of class, position, size,
    thickness and colour; --data.size is then their side, by default 16.
    """
    nouns: tuple[str, ...] = ()
    """What captions of composed pictures call the classes; by default their names, or "zero",
    "one", ... where these are numbers.
    """
    lazy: bool = False
    """Leave the images where they are and read each batch as it is needed: for data beyond memory.
    """


@dataclasses.dataclass(frozen=True)
class OtherData:
    """Real images: the run's own data, but for what is given here; of published weights, which do
    not say theirs, what is given.
    """

    path: str | None = None
    """"digits", a folder or zip of images, an .npz: other images, or the run's own if they have
    been moved. Published weights need it.
    """
    split: Literal["train", "val", "test"] | None = None
    """Part to use."""
    labels: Literal["auto", "none", "folders", "json"] | None = None
    """Source of the classes."""
    size: Count | None = None
    """Resize images to size x size."""
    limit: Count | None = None
    """Use at most this many images."""
    grayscale: bool | None = None
    """Turn colour images to grey."""
    range: tuple[Number, Number] | None = None
    """The values that are black and white."""
    pairs: str | None = None
    """A second folder or zip, of a run that was trained on pairs: the picture of each image's name
    there is what it is shown.
    """


def of_run(own: Data, given: OtherData) -> Data | None:
    """Return a run's data with what is given in place of its own; None if nothing is."""
    changed = {k: v for k, v in dataclasses.asdict(given).items() if v is not None}
    return dataclasses.replace(own, **changed) if changed else None
