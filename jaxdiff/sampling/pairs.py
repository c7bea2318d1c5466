"""Stored pairs of noise and data: a sampler run once from many noises, for what is trained on its
results.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from jaxdiff.prediction import as_partial
from jaxdiff.sampling.sample import Sampler, start_noise, trajectory
from jaxdiff.typing import Array, Key

Data: TypeAlias = Callable[[int], Any]
"""``data(step)``, the batch of a step."""
Spread: TypeAlias = Callable[..., Callable[[Any], Any]]
"""Where a function of rows is run: :func:`here`, or on several devices
:func:`jaxdiff.training.devices.over_batch`.
"""


def here(f: Callable[..., Any], given: Any, **static: Any) -> Callable[[Any], Any]:
    """``f(given, batch)`` as a function of the batch, on the default device."""
    return lambda batch: f(given, batch, **static)


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
    spread: Spread = here,
) -> dict[str, np.ndarray]:
    """Solve the teacher's ODE from ``count`` noises and keep both ends, the data of knowledge
    distillation and reflow.

    Returns "start" (count, *shape), the states at the sampler's highest level; "image", its
    samples; with ``path`` also "path" (count, A + 1, *shape), every accepted state; with labels
    (count,) "label". Pair i depends on ``key`` and i alone. spread: where they are made. Raises
    ValueError for a stochastic sampler.
    """
    from tqdm import tqdm

    if teacher.table.stochastic:
        raise ValueError("pairs need a deterministic sampler; this one draws noise")
    given = (as_partial(teacher.denoiser), teacher.table, key)
    run = spread(_solved, given, shape=tuple(shape), path=path)
    parts: list[dict[str, Any]] = []
    with tqdm(total=count, desc="pairs", disable=not progress, leave=False) as bar:
        for first in range(0, count, batch):
            numbers = np.minimum(np.arange(first, first + batch), count - 1)
            cond = None if labels is None else np.asarray(labels[numbers], np.int32)
            made = run((numbers.astype(np.int32), cond))
            parts.append({k: np.asarray(x) for k, x in made.items()})
            bar.update(min(batch, count - first))
    pairs = {k: np.concatenate([part[k] for part in parts])[:count] for k in parts[0]}
    return pairs if labels is None else pairs | {"label": np.asarray(labels[:count], np.int32)}


def _solved(given: Any, batch: Any, *, shape: tuple[int, ...], path: bool) -> dict[str, Array]:
    """The pairs of these numbers and labels."""
    (D, table, key), (numbers, cond) = given, batch
    start = jnp.asarray(table.levels, jnp.float32)[0] * start_noise(key, numbers, shape)
    states = trajectory(D, table, start, cond).states
    ends = {"start": states[0], "image": states[-1]}
    return ends | ({"path": jnp.moveaxis(states, 0, 1)} if path else {})


def pair_batches(pairs: dict[str, np.ndarray], batch: int, seed: int = 0) -> Data:
    """``data(step)`` over stored pairs: random rows, the same for the same step."""
    count = len(pairs["image"])

    def data(step: int) -> dict[str, np.ndarray]:
        rows = np.random.default_rng([seed, step]).integers(0, count, batch)
        return {name: values[rows] for name, values in pairs.items()}

    return data


def pairs_like(
    given: Data,
    maker: Sampler,
    count: int,
    key: Key,
    *,
    seed: int = 0,
    states: Sequence[int] | None = None,
    progress: bool = False,
    spread: Spread = here,
) -> Data:
    """``data(step)`` over ``count`` pairs made by a sampler, with the batches, shapes and labels of
    the data ``given``. states: numbers of the path's states to keep as "path"; None for ends only.
    seed: of the rows drawn. The rest as for :func:`make_pairs`.
    """
    first = given(0)
    batch, shape = len(first["image"]), tuple(first["image"].shape[1:])
    labels = None
    if "label" in first:
        rows = [np.asarray(given(step)["label"]) for step in range(-(-count // batch))]
        labels = np.concatenate(rows)[:count]
    pairs = make_pairs(
        maker, count, shape, key, labels=labels, path=states is not None, progress=progress,
        spread=spread,
    )  # fmt: skip
    if states is not None:
        pairs["path"] = np.ascontiguousarray(pairs["path"][:, list(states)])
    return pair_batches(pairs, batch, seed)
