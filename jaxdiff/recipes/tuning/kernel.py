"""Weights for the kernel distance of samples to data: GGDM."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import solvers
from jaxdiff.arrays import take
from jaxdiff.noise import start_noise
from jaxdiff.ranges import Count, PositiveFraction
from jaxdiff.recipes.tuning.task import Descent, Task, Tuner, adam
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.table import Table
from jaxdiff.training.tune import Scorer
from jaxdiff.tuning.baselines import Baseline, baseline_grids
from jaxdiff.tuning.learned.family import of_grid, of_weights
from jaxdiff.tuning.learned.method import tuning
from jaxdiff.tuning.learned.objective import kernel_distance, mmd2


def ggdm(
    task: Task, *, eta: PositiveFraction = 0.5, window: Count | None = None, **options: Any
) -> Descent:
    """GGDM by DDSS (arXiv 2202.05830): all weights of a stochastic sampler, those of its noises
    too, for the kernel distance of its samples to data.

    eta: noise of DDIM, which it starts as. window: how many of the last outputs have free
    weights; all by default.
    """
    known = [
        Baseline(solvers.ddim, {"eta": eta}, levels, name)
        for name, levels in baseline_grids(task.nfe, task.low, task.high)
    ]
    base = min(known, key=lambda each: _or_inf(_kernel(task, task.pairs, each.table(), 1)))
    grid = of_grid(base.solver, base.levels, **base.options)
    family = of_weights(grid, window=window, noises=True, sigma_data=task.sigma_data)
    objective = kernel_distance(task.features, **{"remat": True, **task.options})
    method = tuning(task.denoiser, family, objective, optimiser=adam(task, **options))
    shown, classes = _apart(task)[0]
    size, key = min(task.batch, len(shown)), jax.random.fold_in(jax.random.key(task.seed), 0x66D)
    shape = shown.shape[1:]

    def data(step: int) -> dict[str, np.ndarray]:
        index = np.arange(step * size, (step + 1) * size, dtype=np.int32)
        rows = np.random.default_rng([task.seed, step]).integers(0, len(shown), (2, size))
        start = task.high * start_noise(key, jnp.asarray(index), shape, shown.dtype)
        batch = {"start": np.asarray(start), "index": index, "reference": shown[rows[0]]}
        return batch | ({} if classes is None else {"label": take(classes, rows[1])})

    return Descent(method, base.table(), data, kernel_score(task), "squared MMD")


def kernel_score(task: Task) -> Scorer:
    """Return the kernel distance of samples from the held-out starts to the data that are set
    aside.
    """
    return lambda made: _kernel(task, task.held, made, 2)


def _kernel(task: Task, pairs: Mapping[str, np.ndarray], made: Table, number: int) -> float:
    """From the starts of pairs; to data shown in tuning (number 1) or set aside (2)."""
    start, label = jnp.asarray(pairs["start"]), pairs.get("label")
    key = jax.random.fold_in(jax.random.key(task.seed), number)
    noise: dict[str, Any] = {"key": key} if made.stochastic else {}
    real = jax.tree.map(lambda x: jnp.asarray(x, start.dtype), made)
    samples = sample(task.denoiser, real, start, label, **noise)
    reference = _apart(task)[number - 1][0][: 4 * len(start)]
    return float(mmd2(task.features(samples), task.features(jnp.asarray(reference))))


def _or_inf(score: float) -> float:
    return score if math.isfinite(score) else math.inf


def _apart(task: Task) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Return the data that tuning may see and those that are set aside, with their classes."""
    cut = len(task.data) - len(task.data) // 4
    rows = (slice(cut), slice(cut, None))
    return [take((task.data, task.labels), r) for r in rows]


TUNERS: dict[str, Tuner] = {
    "ggdm": Tuner(ggdm, (adam,), data=True, own_solver=True, fewest=2, kernel=True),
}
