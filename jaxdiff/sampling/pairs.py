"""Stored pairs of noise and data: a sampler run once from many noises, for what is trained on its
results.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.sampling.sample import Sampler, start_noise, trajectory
from jaxdiff.typing import Key


def make_pairs(
    teacher: Sampler,
    count: int,
    shape: tuple[int, ...],
    key: Key,
    *,
    labels: np.ndarray | None = None,
    batch: int = 512,
    path: bool = False,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Solve the teacher's ODE from ``count`` noises and keep both ends, the data of knowledge
    distillation and reflow.

    Returns "start" (count, *shape), the states at the sampler's highest level; "image", its
    samples; with ``path`` also "path" (count, A + 1, *shape), every accepted state; with labels
    (count,) "label". Pair i depends on ``key`` and i alone. Raises ValueError for a stochastic
    sampler.
    """
    from tqdm import tqdm

    if teacher.table.stochastic:
        raise ValueError("pairs need a deterministic sampler; this one draws noise")
    parts: list[dict[str, Any]] = []
    level = float(teacher.table.levels[0])
    with tqdm(total=count, desc="pairs", disable=not progress, leave=False) as bar:
        for first in range(0, count, batch):
            numbers = np.minimum(np.arange(first, first + batch), count - 1)
            start = level * start_noise(key, jnp.asarray(numbers, jnp.int32), shape)
            cond = None if labels is None else jnp.asarray(labels[numbers], jnp.int32)
            states = np.asarray(trajectory(teacher.denoiser, teacher.table, start, cond).states)
            kept = {"start": states[0], "image": states[-1]}
            parts.append(kept | ({"path": np.moveaxis(states, 0, 1)} if path else {}))
            bar.update(min(batch, count - first))
    pairs = {k: np.concatenate([part[k] for part in parts])[:count] for k in parts[0]}
    return pairs if labels is None else pairs | {"label": np.asarray(labels[:count], np.int32)}


def pair_batches(
    pairs: dict[str, np.ndarray], batch: int, seed: int = 0
) -> Callable[[int], dict[str, np.ndarray]]:
    """``data(step)`` over stored pairs: random rows, the same for the same step."""
    count = len(pairs["image"])

    def data(step: int) -> dict[str, np.ndarray]:
        rows = np.random.default_rng([seed, step]).integers(0, count, batch)
        return {name: values[rows] for name, values in pairs.items()}

    return data
