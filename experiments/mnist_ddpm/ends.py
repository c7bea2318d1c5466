"""Accurate ends of the published model's flow, what other samplers are compared with.

    y(10) = 10 eps    ->    x, by UniPC of order 3 with 30 evaluations on Karras's grid,

for standard normal eps. The distance of two sets of samples is the root of their mean square
difference, black and white being 1 apart.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.app.models import Model
from jaxdiff.files import read_json, replacing, write_text
from jaxdiff.sampling.pairs import make_pairs
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table

START, ACCURATE = 10.0, 30
SOLVERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpmpp": (solvers.dpmpp, {"order": 2}),
    "unipc": (solvers.unipc, {"order": 3}),
}
Pairs = dict[str, np.ndarray]
run = jax.jit(sample)


def on_grid(model: Model, name: str, num_steps: int, high: float = START) -> Table:
    """Return the table of a solver on Karras's grid from ``high`` to the model's lowest level."""
    solver, options = SOLVERS[name]
    return table(solver, grids.karras(num_steps, model.levels[0], high), **options)


def ends(D: Any, start: np.ndarray, made: Table) -> np.ndarray:
    """Return the samples (count, *shape) that a table makes of starts."""
    return np.asarray(run(D, made, start))


def accurate(model: Model, count: int, seed: int) -> Pairs:
    """Return ``count`` starts at level 10 and their accurate ends."""
    teacher = Sampler(model.denoiser, on_grid(model, "unipc", ACCURATE))
    key = jax.random.key(seed)
    return make_pairs(teacher, count, model.shape, key, batch=64, progress=False)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the root mean square difference, black and white being 1 apart."""
    return float(np.sqrt(np.mean((a - b) ** 2)))


def spread(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return the distance, and the quartiles of single samples' distances."""
    each = np.sqrt(np.mean((a - b) ** 2, axis=tuple(range(1, a.ndim))))
    low, middle, high = np.quantile(each, [0.25, 0.5, 0.75]).tolist()
    return {"distance": distance(a, b), "quarter": low, "median": middle, "three quarters": high}


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """Return the plain values of a file, made and written if there is none yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(make(), indent=1))
    return read_json(path)


def kept_arrays(path: Path, make: Callable[[], Pairs]) -> Pairs:
    """Return the arrays of a file, made and written if there is none yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, **make())
    with np.load(path) as found:
        return {name: found[name] for name in found.files}
