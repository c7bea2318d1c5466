"""What keeps a tuned table from accurate ends: how far richer rules come with its evaluations.

A table's sample is x = a y_0 + sum_j b_j D_j, y_0 being the start and D_j the denoised outputs,
with N + 1 numbers for all samples and pixels. Of the same outputs, by least squares:

    filters         every number a 5x5 filter, learnt on the tuning pairs
    hindsight       N + 1 numbers of its own for every sample, learnt on that sample's accurate end

The second is below everything that adds up these outputs, whatever it knows of a sample. Where the
outputs are evaluated is free, too, so that with

    own table       all weights, levels and conditioning levels, learnt for one sample alone

stands what one rule for all samples loses. Both of hindsight know the answer: no sampler does.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.mnist_ddpm.ends import Pairs, distance, ends
from jaxdiff.arrays import take
from jaxdiff.recipes.tuning.task import Task, adam
from jaxdiff.sampling.sample import sample, trajectory
from jaxdiff.sampling.table import Table
from jaxdiff.tuning.learned.family import Numbers, of_weights
from jaxdiff.typing import Array, Denoiser

RADIUS, RIDGE = 2, 1e-4  # of filters; of least squares, in units of the mean square of the terms
paths = jax.jit(trajectory)


def terms(D: Denoiser, made: Table, start: np.ndarray) -> np.ndarray:
    """Return start and denoised outputs (batch, N + 1, height, width, channels)."""
    found = paths(D, made, start)
    outputs = np.moveaxis(np.asarray(found.denoised, np.float64), 0, 1)
    return np.concatenate([start[:, None], outputs], axis=1)


def hindsight(x: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the sum of each sample's own terms that is nearest to its image."""
    flat = x.reshape(*x.shape[:2], -1)
    wanted = images.reshape(len(images), -1)
    fits = [a.T @ np.linalg.lstsq(a.T, b, rcond=None)[0] for a, b in zip(flat, wanted, strict=True)]
    return np.stack(fits).reshape(images.shape)


def shifted(x: np.ndarray) -> np.ndarray:
    """Return every term at every place within the radius, (rows of pixels, terms)."""
    width = ((0, 0), (0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0))
    padded = np.pad(x, width, mode="edge")
    side = 2 * RADIUS + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    rows = np.moveaxis(windows, 1, 4)  # (batch, height, width, channels, N + 1, side, side)
    return rows.reshape(-1, x.shape[1] * side * side)


def filtered(x: np.ndarray, images: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return the images that the filters of least squares on (x, images) make of ``held``."""
    rows = shifted(x)
    square = rows.T @ rows
    square[np.diag_indices_from(square)] += RIDGE * np.trace(square) / len(square)
    filters = np.linalg.solve(square, rows.T @ images.reshape(-1))
    return (shifted(held) @ filters).reshape(len(held), *images.shape[1:])


def own_tables(given: Task, made: Table, pairs: Pairs) -> np.ndarray:
    """Return what tables tuned for each pair alone, from ``made``, make of its start at best."""
    family, nodes = of_weights(made, sigma_data=given.sigma_data), jnp.asarray(made.nodes)
    start, images = jnp.asarray(pairs["start"]), jnp.asarray(pairs["image"])
    optimiser = adam(given)

    def end(D: Denoiser, numbers: Numbers, start: Array) -> Array:
        own = dict(numbers)
        moved = nodes * jnp.exp(own.pop("offsets"))
        table = dataclasses.replace(family.build(own), nodes=moved)
        return sample(D, table, start[None], unroll=True)[0]

    every = jax.vmap(end, (None, 0, 0))

    def loss(numbers: Numbers, D: Denoiser) -> tuple[Array, tuple[Array, Array]]:
        made = every(D, numbers, start)
        apart = jnp.sum((made - images) ** 2, axis=tuple(range(1, made.ndim)))
        return jnp.sum(apart), (apart, made)  # no number is of two samples

    @jax.jit
    def update(D: Denoiser, numbers: Numbers, state: optax.OptState) -> Any:
        slope, (apart, made) = jax.grad(loss, has_aux=True)(numbers, D)
        change, state = optimiser.update(slope, state)
        return optax.apply_updates(numbers, change), state, apart, made

    first = {**family.init, "offsets": jnp.zeros(len(nodes))}
    numbers: Any = jax.tree.map(lambda x: jnp.stack([x] * len(start)), first)
    state, least, best = optimiser.init(numbers), np.full(len(start), np.inf), np.zeros(0)
    for _ in range(given.num_updates):
        numbers, state, apart, ended = update(given.denoiser, numbers, state)
        nearer = np.asarray(apart) < least
        best = np.where(nearer[:, None, None, None], ended, best if best.size else ended)
        least = np.minimum(least, apart)
    return best


def limits(given: Task, made: Table, held: Pairs, alone: int) -> dict[str, float]:
    """Return distances on held-out pairs: of the table, and of what is richer; with ``alone``, for
    so many of them, that of tables of their own beside this one's.
    """
    D, learnt = given.denoiser, dict(given.pairs)
    x, seen = terms(D, made, held["start"]), terms(D, made, learnt["start"])
    plain = ends(D, held["start"], made)
    found = {
        "table": distance(plain, held["image"]),
        "filters": distance(filtered(seen, learnt["image"], x), held["image"]),
        "hindsight": distance(hindsight(x, held["image"]), held["image"]),
    }
    if alone:
        few = take(held, slice(alone))
        found |= {
            "table, few": distance(plain[:alone], few["image"]),
            "own table, few": distance(own_tables(given, made, few), few["image"]),
        }
    return found
