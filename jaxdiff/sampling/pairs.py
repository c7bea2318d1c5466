"""Stored pairs of noise and data: a sampler run once from many noises, for what is trained on its
results.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxdiff.arrays import check_any_rows, check_rows, take
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import start_noise
from jaxdiff.sampling.sample import trajectory
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Key

Data: TypeAlias = Callable[[int], Any]
"""``data(step)``, the batch of a step."""
Spread: TypeAlias = Callable[..., Callable[[Any], Any]]
"""Placement of a function of rows: :func:`here`, or on several devices
:func:`jaxdiff.training.devices.over_batch`.
"""


def here(f: Callable[..., Any], given: PyTree, **static: Any) -> Callable[[Any], Any]:
    """``f(given, batch)`` as a function of the batch, on the default device."""
    return lambda batch: f(given, batch, **static)


def make_pairs(
    teacher: Sampler,
    count: int,
    shape: tuple[int, ...],
    key: Key,
    *,
    labels: Cond = None,
    batch: int = 512,
    path: bool = False,
    progress: bool = True,
    spread: Spread = here,
) -> dict[str, Any]:
    """Solve the teacher's ODE from ``count`` noises and keep both ends, the data of knowledge
    distillation and reflow.

    Args:
        teacher: a deterministic sampler.
        count, shape: of the pairs, and of one sample.
        key: pair i depends on it and i alone.
        labels: the teacher's conditions, any tree of arrays with a row for every pair. Their dtypes
            are kept.
        batch: pairs made at once.
        path: keep every accepted state, too.
        progress: show a bar.
        spread: where they are made.

    Returns:
        "start" (count, *shape), the states at the sampler's highest level; "image", its samples;
        with ``path`` also "path" (count, A + 1, *shape); with labels "label", the first ``count``
        rows of them.

    Raises:
        ValueError: for a stochastic sampler, fewer than one pair or pairs at once, labels with
            fewer rows, and a denoiser that holds numbers per sample where there are several blocks.
    """
    from tqdm import tqdm

    if teacher.table.stochastic:
        raise ValueError("pairs need a deterministic sampler; this one draws noise")
    if not isinstance(teacher.table, Table):
        raise ValueError(f"pairs are made by a table, not by {teacher.table!r}")
    if count < 1 or batch < 1:
        raise ValueError(f"count and batch must be at least 1; got {count} and {batch}")
    whole, batch = np.arange(count, dtype=np.int32), min(batch, count)
    labels = jax.tree.map(lambda x: x[:count] if np.ndim(x) else x, labels)
    check_rows(labels, count, "labels")
    given = (as_partial(teacher.denoiser), teacher.table, key)
    constant = {"shape": tuple(shape), "path": path}
    if count > batch:
        solved = functools.partial(_solved, **constant)
        check_any_rows(solved, given, take((whole, labels), slice(batch)), "make_pairs")
    run = spread(_solved, given, **constant)
    parts: list[dict[str, Any]] = []
    with tqdm(total=count, desc="pairs", disable=not progress, leave=False) as bar:
        for first in range(0, count, batch):
            numbers = np.minimum(np.arange(first, first + batch), count - 1)
            made = run(take((whole, labels), numbers))
            parts.append({k: np.asarray(x) for k, x in made.items()})
            bar.update(min(batch, count - first))
    pairs = {k: np.concatenate([part[k] for part in parts])[:count] for k in parts[0]}
    return pairs if labels is None else pairs | {"label": jax.tree.map(np.asarray, labels)}


def _solved(
    given: PyTree, batch: PyTree, *, shape: tuple[int, ...], path: bool
) -> dict[str, Array]:
    """Return the pairs of these numbers and labels."""
    (D, table, key), (numbers, cond) = given, batch
    start = jnp.asarray(table.levels, jnp.float32)[0] * start_noise(key, numbers, shape)
    states = trajectory(D, table, start, cond).states
    ends = {"start": states[0], "image": states[-1]}
    return ends | ({"path": jnp.moveaxis(states, 0, 1)} if path else {})


def pair_batches(
    pairs: dict[str, Any], batch: int, seed: int = 0, *, distinct: bool = False
) -> Data:
    """``data(step)`` over stored pairs: random rows, the same for the same step.

    Args:
        pairs: arrays by name, a row per pair, as :func:`make_pairs` returns them.
        batch: rows per step.
        seed: of the draw of rows.
        distinct: no row is twice in a batch.

    Returns:
        ``data(step)``, a dictionary of arrays (batch, ...).
    """
    count = len(pairs["image"])
    check_rows(pairs, count, "pairs")
    if distinct and batch > count:
        raise ValueError(f"a batch of {batch} distinct pairs cannot be drawn of {count}")

    def data(step: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, step])
        rows = rng.permutation(count)[:batch] if distinct else rng.integers(0, count, batch)
        return take(pairs, rows)

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
        rows = [given(step)["label"] for step in range(-(-count // batch))]
        labels = jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *rows)
    pairs = make_pairs(
        maker, count, shape, key, labels=labels, path=states is not None, progress=progress,
        spread=spread,
    )  # fmt: skip
    if states is not None:
        pairs["path"] = np.ascontiguousarray(pairs["path"][:, list(states)])
    return pair_batches(pairs, batch, seed)
