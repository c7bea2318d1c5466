"""Data sets, in memory or read as they are needed, and batches that are functions of the step."""

from jaxdiff.data.composed import Composed, compose
from jaxdiff.data.dataset import Dataset, split, to_float, to_uint8
from jaxdiff.data.digits import load_digits
from jaxdiff.data.epochs import Batches, batches
from jaxdiff.data.items import ItemBatches, batches_of_items
from jaxdiff.data.lazy import LazyImages
from jaxdiff.data.readers import load, parts
from jaxdiff.data.words import WordTokenizer, read_words, words_of

__all__ = [
    "Batches",
    "Composed",
    "Dataset",
    "ItemBatches",
    "LazyImages",
    "WordTokenizer",
    "batches",
    "batches_of_items",
    "compose",
    "load",
    "load_digits",
    "parts",
    "read_words",
    "split",
    "to_float",
    "to_uint8",
    "words_of",
]
