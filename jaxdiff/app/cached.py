"""A cache of features of real images, which are costly to compute, by the images' contents."""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff import metrics
from jaxdiff.data.dataset import Dataset
from jaxdiff.files import open_archive, read_array, replacing
from jaxdiff.metrics.statistics import Statistics


def key_of(images: Iterable[Dataset | Statistics | None], how: bool | str, seed: int) -> str:
    """Return a digest of all that an evaluator is made of, and of the code that makes it.

    how: whether it learns, or what its features are known again by.
    """
    digest = hashlib.sha256(json.dumps([how, seed, jax.__version__]).encode())
    for folder in (Path(metrics.__path__[0]), Path(__file__).parent):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.read_bytes())
    for data in images:
        for array in _arrays(data):
            digest.update(repr(None if array is None else (array.shape, array.dtype)).encode())
            digest.update(b"" if array is None else np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _arrays(data: Dataset | Statistics | None) -> tuple[np.ndarray | None, ...]:
    if isinstance(data, Statistics):
        return data.mean, data.covariance, data.features
    return (None,) if data is None else (data.images, data.labels)


def read(path: Path, key: str, needed: Iterable[str]) -> dict[str, np.ndarray]:
    """Return what was kept of these images; nothing if it is of others, or damaged."""
    try:
        with open_archive(path) as archive:
            if str(read_array(archive, path, "key")) != key:
                return {}
            return {name: read_array(archive, path, name) for name in needed}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        warnings.warn(f"made anew: {error}", stacklevel=3)
        return {}


def write(path: Path, key: str, arrays: dict[str, Any]) -> None:
    """Keep arrays for the next time. Where that cannot be written, it is done without."""
    with contextlib.suppress(OSError), replacing(path) as file:
        np.savez(file, allow_pickle=False, key=np.str_(key), **arrays)
