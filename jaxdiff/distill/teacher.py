"""What a frozen teacher does for a student: steps, roll-outs, and stored pairs of noise and data.

Levels are one per sample, (batch,), so that every sample of a batch may be anywhere on its
trajectory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.prediction import expand
from jaxdiff.sampling.sample import Sampler, start_noise, trajectory
from jaxdiff.solvers.singlestep import heun_step
from jaxdiff.typing import Array, Key

SolverStep = Callable[..., Array]  # step(D, y, s, r), which evaluates D first at (y, s)


def advance(
    D: Callable[[Array, Array], Array],
    y: Array,
    s: Array,
    r: Array,
    step: SolverStep = heun_step,
) -> Array:
    """One solver step of a denoiser from levels s to r, (batch,) each; no gradient. To level 0 it
    is D(y, s) for every solver: those that evaluate the end, too, cannot do so there.
    """
    outputs = []

    def told(y: Array, s: Array) -> Array:
        outputs.append(D(y, s.reshape(-1)))
        return outputs[-1]

    inner = r > 0
    lower = jnp.where(inner, r, 0.5 * s)  # any lower level: the result is not used
    out = step(told, y, expand(s, y), expand(lower, y))
    if outputs:
        out = jnp.where(expand(inner, y).astype(bool), out, outputs[0])
    else:  # a step that needs no denoiser, the exact flow, can end at 0
        out = step(told, y, expand(s, y), expand(r, y))
    return jax.lax.stop_gradient(out)


def rollout(
    D: Callable[[Array, Array], Array], y: Array, levels: Array, step: SolverStep = heun_step
) -> Array:
    """States (K + 1, batch, *shape) at levels (K + 1, batch) of K solver steps from ``y``; no
    gradient. A step between equal levels leaves the state as it is.
    """

    def body(y: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        s, r = ends
        still = expand(s == r, y)
        lower = jnp.where(s == r, 0.5 * s, r)  # any lower level: the result is not used
        y = jnp.where(still.astype(bool), y, advance(D, y, s, lower, step))
        return y, y

    _, path = jax.lax.scan(body, y, (levels[:-1], levels[1:]))
    return jax.lax.stop_gradient(jnp.concatenate([y[None], path]))


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
