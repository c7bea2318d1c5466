"""Options of reading images, checked before anything is opened."""

import dataclasses
from typing import get_args

import numpy as np

from jaxdiff.data.labels import PARTS
from jaxdiff.data.pictures import Range
from jaxdiff.data.tree import Labels


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of reading: see :func:`jaxdiff.data.readers.load`."""

    split: str = "train"
    limit: int | None = None
    size: int | None = None
    grayscale: bool = False
    labels: Labels = "auto"
    range: Range | None = None
    progress: bool = False
    lazy: bool = False
    captions: bool = False
    pairs: str | None = None

    def __post_init__(self) -> None:
        if self.split not in PARTS:
            raise ValueError(f'split must be "train", "val" or "test", got {self.split!r}')
        if self.labels not in get_args(Labels):
            raise ValueError(
                f"labels must be one of {', '.join(get_args(Labels))}, got {self.labels!r}"
            )
        if self.pairs is not None and self.lazy:
            raise ValueError("pairs are read into memory, lazy images are not: give one of them")
        for name, value in (("limit", self.limit), ("size", self.size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.range is not None and not (
            len(self.range) == 2 and np.isfinite(self.range).all() and self.range[0] < self.range[1]
        ):
            raise ValueError(f"range must be two numbers, black below white, got {self.range}")
