"""Golden files of networks that lie beside the project."""

import functools
import json
import pathlib

import numpy as np
import pytest

SHARED = pathlib.Path(__file__).parents[3] / "shared"


def file(name):
    """Path of a golden file of weights."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not beside this checkout")
    return path


@functools.cache
def golden(name):
    """Cases of a family of golden outputs, each with its arrays, those of images channels last."""
    text, arrays = file(f"golden/{name}.json"), np.load(file(f"golden/{name}.npz"))
    cases = json.loads(text.read_text())["cases"]
    for case in cases:
        names = [key.partition("/")[2] for key in arrays if key.startswith(f"{case['id']}/")]
        case["a"] = {name: last(arrays[f"{case['id']}/{name}"]) for name in names}
    return cases


def last(array):
    """Channels last, of images (batch, channels, height, width) or rows of them."""
    if array.ndim < 4:
        return array if array.dtype.kind != "f" else array.astype(np.float32)
    return np.moveaxis(array, -3, -1).astype(np.float32)


def apart(got, expected):
    """The largest difference, relative to the largest number expected."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, (got.shape, expected.shape)
    assert np.isfinite(got).all()
    return float(np.max(np.abs(got - expected)) / np.max(np.abs(expected)))
