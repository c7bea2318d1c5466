"""Data sets, in memory or read as they are needed, and batches that are functions of the step."""

from jaxdiff.data.dataset import Dataset, split, to_float, to_uint8
from jaxdiff.data.digits import load_digits
from jaxdiff.data.epochs import Batches, batches
from jaxdiff.data.items import ItemBatches, batches_of_items
from jaxdiff.data.lazy import LazyImages
from jaxdiff.data.readers import load, parts

__all__ = [
    "Batches",
    "Dataset",
    "ItemBatches",
    "LazyImages",
    "batches",
    "batches_of_items",
    "load",
    "load_digits",
    "parts",
    "split",
    "to_float",
    "to_uint8",
]
