"""Golden cases and published shapes of diffusers' networks, where they lie beside the project."""

import functools
import json

import jax
import numpy as np
import pytest
from helpers.golden_numbers import HERE, SHARED

# Compilation is what costs here, so do without the optimisations.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def folder(name):
    """The folder or file of a golden case, the full one or a committed one; the test is skipped
    where neither is at hand.
    """
    for place in (SHARED, HERE):
        if (path := place / name).exists():
            return path
    pytest.skip(f"{name} is not beside this checkout, nor in the committed subset")


@functools.cache
def family(name):
    """The cases of a family, and its arrays."""
    text = json.loads(folder(f"{name}.json").read_text())
    return text["cases"], np.load(folder(f"{name}.npz"), allow_pickle=False)


def case(name, **fields):
    """The only case with these fields, and its arrays by name, channels last."""
    cases, arrays = family(name)
    found = [c for c in cases if all(c.get(k) == v for k, v in fields.items())]
    if not found:
        pytest.skip(f"the case {fields} of {name} is not in the committed subset")
    (one,) = found
    return one, {a: channels_last(arrays[f"{one['id']}/{a}"]) for a in one["arrays"]}


def channels_last(array):
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def distance(made, expected):
    """The largest difference, in units of the largest number expected."""
    return float(np.abs(np.asarray(made) - expected).max() / np.abs(expected).max())


def drawn(shapes, seed=0):
    """Parameters of these shapes, each another number."""
    rng = np.random.default_rng(seed)
    draw = lambda s: np.float32(0.4) * rng.standard_normal(s.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, shapes)
