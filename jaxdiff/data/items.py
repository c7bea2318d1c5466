"""Batches of anything with a length and an index: lists, PyTorch's data sets, grain's, your own.

``source[i]`` is one sample: an array, which becomes the batch's "image", or a dictionary of arrays
and numbers. Order, epochs and mirroring are those of :mod:`jaxdiff.data.dataset`: batch ``step`` is
a function of the step, so a run resumes anywhere, and each process makes its own rows.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from jaxdiff.data.dataset import to_float
from jaxdiff.data.lazy import THREADS, _pool
from jaxdiff.data.order import epoch_order


class Source(Protocol):
    """Samples by number."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Return a sample."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ItemBatches:
    """Batches of a source as a function of the step, made by :func:`batches_of_items`."""

    source: Source
    batch_size: int
    seed: int
    threads: int

    def __call__(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Return the batch of a step, or the given rows of it alone."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        count = len(self.source)
        samples = np.arange(self.batch_size)[rows] + int(step) * self.batch_size
        epochs, places = np.divmod(samples, count)
        chosen = np.empty(len(samples), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here], _ = epoch_order(self.seed, int(epoch), count, places[here])
        each = _pool(self.threads).map(self._item, chosen.tolist())
        return _stacked(list(each), chosen)

    def _item(self, index: int) -> dict[str, np.ndarray]:
        item = self.source[index]
        item = item if isinstance(item, Mapping) else {"image": item}
        made = {name: np.asarray(value) for name, value in item.items()}
        if "image" in made and made["image"].dtype == np.uint8:
            made["image"] = to_float(made["image"])
        return made


def batches_of_items(
    source: Source, batch_size: int, seed: int = 0, threads: int = THREADS
) -> ItemBatches:
    """Return the batches, as a function of the step, of anything with a length and an index.

    Args:
        source: ``len(source)`` samples ``source[i]``: arrays, or dictionaries of arrays and numbers
            ({"image": (h, w, c), "label": 3}). Images of uint8 become floats in [-1, 1].
        batch_size: of the whole batch, over all processes.
        seed: of the order, drawn anew every epoch.
        threads: that read samples side by side; 1 for a source that is not made for that.

    Returns:
        ``batch(step)``, with the attribute ``batch_size``.

    Raises:
        ValueError: for an empty source, and, when a batch is made, for samples that do not fit
            together, which are named.
    """
    if batch_size < 1 or threads < 1:
        raise ValueError(f"batch_size and threads must be at least 1: {batch_size}, {threads}")
    if len(source) < 1:
        raise ValueError("the source has no samples")
    epoch_order(seed, 0, len(source), np.arange(1))
    return ItemBatches(source, batch_size, seed, threads)


def _stacked(each: list[dict[str, np.ndarray]], chosen: np.ndarray) -> dict[str, np.ndarray]:
    first = each[0]
    for index, item in zip(chosen, each, strict=True):
        for name in sorted({*first, *item}):
            given = [x[name].shape if name in x else None for x in (first, item)]
            if given[0] != given[1]:
                raise ValueError(
                    f"samples {chosen[0]} and {index} do not fit together: {name!r} has the shapes "
                    f"{given[0]} and {given[1]} (None where it is missing)"
                )
    made = {name: np.stack([item[name] for item in each]) for name in first}
    return {name: _narrow(value) for name, value in made.items()}


def _narrow(value: np.ndarray) -> np.ndarray:
    """Return numbers in 32 bits, as jax has them."""
    kinds = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    return value.astype(kinds.get(value.dtype, value.dtype))
