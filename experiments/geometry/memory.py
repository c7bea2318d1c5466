r"""Peak memory of what runs over many trajectories, or over all data, in a process of its own.

    python -m experiments.geometry.memory streamed          # 10,000 trajectories of 3,072 numbers
    python -m experiments.geometry.memory finite            # data of 50,000 times 3,072 numbers

``streamed``: principal components of all states of Euler's 20 steps, solved and added up block by
block (:func:`jaxdiff.analysis.streamed_components`); the states themselves would be 2.6 GB.
``finite``: a denoiser beside the optimal one of a finite data set, 0.6 GB of normal numbers, which
the caller and the model have each: coupled trajectories, their four distances, and how many of the
data count (:mod:`jaxdiff.analysis.deviation`). The peak is the process's largest resident set,
Python and JAX within; a GB is 1e9 bytes.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.geometry.closed import HIGH, LOW, STEPS
from experiments.numbers import count
from jaxdiff import analysis, grids, solvers
from jaxdiff.exact import Gaussian
from jaxdiff.metrics.neighbours import nearest_distances
from jaxdiff.noise import start_noise
from jaxdiff.sampling.sample import trajectory
from jaxdiff.sampling.trace import table
from jaxdiff.training.measures import resident
from jaxdiff.typing import Array

run = jax.jit(trajectory)


def peak() -> float:
    """Return the largest resident set so far, in GB of 1e9 bytes."""
    return resident() / 1e9


def streamed(count: int, dimension: int, block: int) -> dict[str, float]:
    """Return peak and seconds of the components of ``count`` trajectories of a Gaussian whose
    variances fall as the images' do, and the sum of all variances beside its closed form.
    """
    variances = 220.0 * np.arange(1, dimension + 1) ** -1.8
    model = Gaussian(jnp.zeros(dimension), jnp.asarray(variances, jnp.float32))
    made = table(solvers.euler, grids.karras(STEPS, LOW, HIGH, zero=False))
    first, began = peak(), time.process_time()

    def blocks() -> Iterator[Array]:
        for begin in range(0, count, block):
            index = jnp.arange(begin, min(begin + block, count), dtype=jnp.int32)
            noise = start_noise(jax.random.key(0), index, (dimension,))
            yield run(model.denoiser, made, HIGH * noise).states

    found = analysis.streamed_components(blocks(), 3, centred=False)
    scale = np.asarray([1.0])
    squares = np.zeros(dimension)
    for s, r in zip(made.levels[:-1], made.levels[1:], strict=True):  # Euler's factor of a step
        squares += scale[-1] * np.ones(dimension) if len(scale) == 1 else scale
        scale = (scale if len(scale) > 1 else np.ones(dimension)) * (
            1 + (r - s) * s / (variances + s * s)
        ) ** 2
    squares += scale
    exact = HIGH**2 * squares.sum() / (STEPS + 1)
    return {
        "trajectories": count, "dimension": dimension, "peak GB": peak(), "GB before": first,
        "seconds of processor time": time.process_time() - began,
        "sum of variances": float(found.total), "in closed form": float(exact),
    }  # fmt: skip


def finite(points: int, dimension: int, count: int) -> dict[str, float]:
    """Return peak and seconds of an isotropic Gaussian's denoiser against the optimal one of so
    many normal vectors, how many of these count at the first and the last level, and how far the
    optimal trajectories end from one of them at most.
    """
    given = np.random.default_rng(0).standard_normal((points, dimension), np.float32)
    data = analysis.finite_data_set(given)
    first, began = peak(), time.process_time()
    start = HIGH * start_noise(jax.random.key(0), count, (dimension,))
    made = table(solvers.euler, grids.karras(STEPS, LOW, HIGH, zero=False))
    model = Gaussian(jnp.zeros(dimension), jnp.ones(dimension))
    found = analysis.coupled(model.denoiser, data.denoiser, made, start)
    few = np.asarray(analysis.effective_neighbours(data, found.optimal)).mean(axis=1)
    seconds, most = time.process_time() - began, peak()
    near = nearest_distances(np.asarray(found.optimal.states[-1]), given).distance
    return {
        "points": points, "dimension": dimension, "trajectories": count, "peak GB": most,
        "GB before": first, "seconds of processor time": seconds,
        "largest |r(x*) - r*(x*)|": float(jnp.mean(found.on_optimal, axis=1).max()),
        "neighbours first": float(few[0]), "neighbours last": float(few[-1]),
        "largest distance to the nearest": float(np.max(near)),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one, and print the numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m experiments.geometry.memory")
    add = parser.add_argument
    add("what", choices=("streamed", "finite"))
    add("--count", type=count, help="trajectories: 10,000 of streamed, 16 of finite")
    add("--dimension", type=count, default=3072, help="of a sample (3072)")
    add("--points", type=count, default=50_000, help="of finite (50,000)")
    add("--block", type=count, default=250, help="trajectories at a time, of streamed (250)")
    options = parser.parse_args(arguments)
    if options.what == "streamed":
        numbers = streamed(options.count or 10_000, options.dimension, options.block)
    else:
        numbers = finite(options.points, options.dimension, options.count or 16)
    print(json.dumps(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
