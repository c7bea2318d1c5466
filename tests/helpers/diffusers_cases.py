"""Golden cases and published shapes of diffusers' networks, where they lie beside the project."""

import functools
import json

import jax
import numpy as np
import pytest
from helpers.golden_numbers import SHARED

# Compilation is what costs here, so do without the optimisations.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def folder(name):
    """The folder of a golden case; the test is skipped where it is not at hand."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the golden folder {name} is not beside this checkout")
    return path


@functools.cache
def family(name):
    """The cases of a family, and its arrays."""
    folder(f"{name}.json")
    text = json.loads((SHARED / f"{name}.json").read_text())
    return text["cases"], np.load(SHARED / f"{name}.npz", allow_pickle=False)


def case(name, **fields):
    """The only case with these fields, and its arrays by name, channels last."""
    cases, arrays = family(name)
    (found,) = (c for c in cases if all(c.get(k) == v for k, v in fields.items()))
    return found, {a: channels_last(arrays[f"{found['id']}/{a}"]) for a in found["arrays"]}


def channels_last(array):
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def distance(made, expected):
    """The largest difference, in units of the largest number expected."""
    return float(np.abs(np.asarray(made) - expected).max() / np.abs(expected).max())
