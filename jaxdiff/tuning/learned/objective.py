"""Objectives of tuning: losses of a table on a batch.

An objective is ``objective(denoiser, table, batch, key) -> scalar``. Batches are of stored pairs
(:func:`jaxdiff.sampling.pairs.make_pairs`): "start" (batch, *shape), states at the table's first
level, "image" (batch, *shape), where an accurate solver takes them, "label" (batch,), if there are
classes. For an exact model the pairs can be its exact flow's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.distance import Distance, squared
from jaxdiff.sampling.sample import sample, trajectory
from jaxdiff.sampling.table import Table
from jaxdiff.tuning.learned.path import path_of
from jaxdiff.typing import Array, Denoiser, Key

Batch = Mapping[str, Any]
Objective = Callable[[Denoiser, Table, Batch, Key], Array]


def end_point(distance: Distance = squared, **options: Any) -> Objective:
    """Return the objective that is the mean distance of the samples to where the accurate solver
    takes the same starts.

    Args:
        distance: of samples, one number each; :func:`jaxdiff.distance.of_features` makes one of any
            feature network.
        options: of :func:`jaxdiff.sample`, such as ``remat`` and ``unroll``.

    Returns:
        ``objective(D, table, batch, key)``, a scalar.
    """

    def objective(D: Denoiser, table: Table, batch: Batch, key: Key) -> Array:
        made = sample(D, table, batch["start"], batch.get("label"), **options)
        return jnp.mean(distance(made, batch["image"]))

    return objective


def each(objective: Objective) -> Callable[[Denoiser, Table, Batch, Key], Array]:
    """Return what an objective that is a mean over pairs says of every pair alone, (batch,)."""

    def apart(D: Denoiser, table: Table, batch: Batch, key: Key) -> Array:
        alone = lambda row: objective(D, table, jax.tree.map(lambda x: x[None], row), key)  # noqa: E731
        return jax.vmap(alone)(dict(batch))

    return apart


def every_state(
    distance: Distance = squared, *, sigma_data: float = 0.5, **options: Any
) -> Objective:
    """Return the objective that is the mean distance of all accepted states to the accurate
    trajectory at their levels.

    The batch also has the trajectories, as :func:`jaxdiff.tuning.learned.path.path_of` reads them.
    Each state's distance is multiplied by sigma_data^2/(sigma_data^2 + s^2), which makes squared
    distances of data and of noisy states comparable.

    Args:
        distance: of states, one number each.
        sigma_data: standard deviation of the data.
        options: of :func:`jaxdiff.trajectory`, such as ``remat`` and ``unroll``.

    Returns:
        ``objective(D, table, batch, key)``, a scalar.
    """

    def objective(D: Denoiser, table: Table, batch: Batch, key: Key) -> Array:
        found = trajectory(D, table, batch["start"], batch.get("label"), **options)
        truth = path_of(batch)
        total = jnp.mean(distance(found.states[-1], batch["image"]))
        for n in range(1, found.states.shape[0] - 1):
            level = found.levels[n]
            own = jnp.mean(distance(found.states[n], truth.at(level)))
            total = total + own * sigma_data**2 / (sigma_data**2 + level**2)
        return total / (found.states.shape[0] - 1)

    return objective


def kernel_distance(features: Callable[[Array], Array], **options: Any) -> Objective:
    """Return the objective that is the squared maximum mean discrepancy of the samples to data,
    with the cubic kernel of KID.

    The unbiased estimate, so it can be negative. The batch has "start", "label" if there are
    classes, "index" (batch,) naming the samples' noises, and "reference" (m, *shape), data. Source:
    Watson et al. 2022, arXiv 2202.05830, with any feature function (batch, *shape) -> (batch, d).

    Args:
        features: a function (batch, *shape) -> (batch, d).
        options: of :func:`jaxdiff.sample`, such as ``remat`` and ``unroll``.

    Returns:
        ``objective(D, table, batch, key)``, a scalar.

    Raises:
        ValueError: when it is first called, for fewer than two samples or data.
    """

    def objective(D: Denoiser, table: Table, batch: Batch, key: Key) -> Array:
        least = min(len(batch["start"]), len(batch["reference"]))
        if least < 2:
            raise ValueError(f"a kernel distance needs two samples and two data; got {least}")
        more: dict[str, Any] = {"key": key, "index": batch["index"]} if table.stochastic else {}
        made = sample(D, table, batch["start"], batch.get("label"), **more, **options)
        return mmd2(features(made), features(batch["reference"]))

    return objective


def mmd2(x: Array, y: Array) -> Array:
    """Unbiased squared MMD of features (n, d) and (m, d) with the kernel (x.y/d + 1)^3; what
    :func:`jaxdiff.metrics.mmd2` computes on the host, differentiable.
    """

    def kernel(a: Array, b: Array) -> Array:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    def within(a: Array) -> Array:
        n, k = a.shape[0], kernel(a, a)
        return (jnp.sum(k) - jnp.trace(k)) / (n * (n - 1))

    return within(x) + within(y) - 2 * jnp.mean(kernel(x, y))
