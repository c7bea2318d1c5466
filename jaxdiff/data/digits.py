"""The 1797 handwritten digits of 8 x 8 pixels in scikit-learn: real data without a download.

Source: the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI
Machine Learning Repository). Values 0..16 become the multiples of 1/8 in [-1, 1], exactly.
"""

import dataclasses

import numpy as np

from jaxdiff.data.arrays import arranged, choice
from jaxdiff.data.dataset import Dataset, split
from jaxdiff.data.pictures import Range
from jaxdiff.data.readers import Options

TEST_FRACTION = 0.2


def load_digits(
    part: str = "all",
    *,
    limit: int | None = None,
    size: int | None = None,
    grayscale: bool = False,
    labels: str = "auto",
    range: Range | None = None,
) -> Dataset:
    """Return the digits, float32 (n, 8, 8, 1) in [-1, 1], with ten classes.

    ``part``: "train", "test" (a fifth of every class, always the same) or "all". ``limit``,
    ``size`` and ``labels`` (auto or none) are those of :func:`jaxdiff.data.load`. Raises ValueError
    for another part, and for the options of a reader that mean nothing here.

    Args:
        part: "train", "test" (a fifth of every class, always the same) or "all".
        limit: read only that many images.
        size: centre-crop to a square and resize to this side.
        grayscale: refused, as the digits are grey.
        labels: "auto" or "none".
        range: refused, as it is known.

    Returns:
        Images (n, 8, 8, 1) and labels.
    """
    from sklearn.datasets import load_digits as read

    if grayscale:
        raise ValueError("the digits are grey already: grayscale has no effect on them")
    if range is not None:
        raise ValueError("the range of the digits is known, 0..16: give none")
    if labels not in ("auto", "none"):
        raise ValueError(f"the digits lie in no folders: there are no labels {labels!r} of them")
    if part not in ("all", "train", "test"):
        raise ValueError(f'part must be "all", "train" or "test", got {part!r}')
    Options(limit=limit, size=size)  # checked there
    images, classes = read(return_X_y=True)
    scaled = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    digits = Dataset(
        scaled, classes, 10, "digits", "scikit-learn, values 0..16", values="0..16, read as 0..16"
    )
    if part != "all":
        digits = split(digits, TEST_FRACTION)[part == "test"]
        digits = dataclasses.replace(digits, notes=(f"the {part} part",))
    if labels == "none":
        digits = dataclasses.replace(digits, labels=None, num_classes=0, class_names=())
    return arranged(digits.take(choice(len(digits), limit)), size, False, False)
