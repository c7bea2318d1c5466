"""Data sets in memory: readers, splits, and batches that are functions of the step."""

from jaxdiff.data.dataset import Batches, Dataset, batches, split, to_float, to_uint8
from jaxdiff.data.digits import load_digits
from jaxdiff.data.readers import load

__all__ = [
    "Batches",
    "Dataset",
    "batches",
    "load",
    "load_digits",
    "split",
    "to_float",
    "to_uint8",
]
