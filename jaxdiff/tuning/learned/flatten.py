"""A table as the combinations it is: every evaluated state in terms of start, outputs and noises.

Whatever a solver does between evaluations, the state it evaluates n-th is

    y_n = a_n y_0 + sum_{j < n} b_nj D_j + sum_{q drawn so far} c_nq z_q,

and so is its sample, y_N. These numbers and the levels of the evaluations are the whole sampler:
the *non-stationary solvers* of Shaul et al. (arXiv 2403.01329, eq. 9), of which every linear solver
is one (theorem 3.2 there), with the denoised output in the place of the flow's direction.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.brief import short
from jaxdiff.sampling.table import Label, Table
from jaxdiff.typing import Array


class Flat(NamedTuple):
    """Weights of the evaluated states and, last, of the sample, for N evaluations.

    start: (N + 1,). denoised: (N + 1, N), strictly lower triangular but for its last row. noises:
    (N + 1, (N + 1) slots), by evaluation and slot. nodes: (N,), levels handed to the denoiser.
    states: (N + 1,), levels that the states belong to: the nodes, in a table whose network is
    conditioned on the states' own levels, and the last level.
    """

    __repr__ = short

    start: Array | np.ndarray
    denoised: Array | np.ndarray
    noises: Array | np.ndarray
    nodes: Array | np.ndarray
    states: Array | np.ndarray


def flatten(t: Table) -> Flat:
    """Replay a table on its own basis. Traced tables too, and differentiable.

    Args:
        t: the table.

    Returns:
        Weights of every state in the start, the denoised outputs and the noises.

    Raises:
        ValueError: for a padded table or one of a map between two levels.
    """
    if t.count is not None or t.targets is not None:
        raise ValueError(
            f"{t!r} is padded or samples a map between two levels; it has no flat form"
        )
    xp = jnp if any(isinstance(x, jax.Array) for x in jax.tree.leaves(t)) else np
    number, rows, _ = t.states.shape
    size = number + (number * t.slots)
    basis = xp.eye(size, dtype=xp.asarray(t.states).dtype)
    windows = [[basis[0]], [], []]
    blocks = (t.states, t.denoised, t.noises)
    found = []
    for n in range(number):
        for q in range(t.slots):
            windows[2].insert(0, basis[number + n * t.slots + q])
        for row in range(rows):
            terms = [
                block[n, row, k] * vector
                for block, window in zip(blocks, windows, strict=True)
                for k, vector in enumerate(window[: block.shape[2]])
            ]
            windows[0].insert(0, sum(terms))
        found.append(windows[0][0])
        if n < number - 1:
            windows[1].insert(0, basis[1 + n])
    whole = xp.stack(found)
    levels = xp.concatenate([xp.asarray(t.nodes), xp.asarray(t.levels)[-1:]])
    return Flat(whole[:, 0], whole[:, 1:number], whole[:, number:], t.nodes, levels)


def unflatten(flat: Flat, like: Table, label: Label | None = None) -> Table:
    """Return the table of these weights: one row per evaluation, its windows holding everything.

    Args:
        flat: weights, of :func:`flatten` or trained.
        like: the table that was flattened, for its first level, its draws and whether an analytic
            step comes before its first evaluation.
        label: levels that the network is conditioned on in place of the nodes' own.

    Returns:
        The table.
    """
    xp = jnp if any(isinstance(x, jax.Array) for x in flat) else np
    number, slots = flat.start.shape[0], like.slots
    lag = np.arange(number)[:, None] - 1 - np.arange(number - 1)[None]
    weights = xp.take_along_axis(flat.denoised, np.maximum(lag, 0), axis=1)
    denoised = xp.where(lag >= 0, weights, xp.zeros_like(weights))
    drawn = (np.arange(number)[:, None] + 1) * slots - 1 - np.arange(number * slots)[None]
    weights = xp.take_along_axis(flat.noises, np.maximum(drawn, 0), axis=1)
    noises = xp.where(drawn >= 0, weights, xp.zeros_like(weights))
    early = 0 if any(p < like.states.shape[1] for p in like.accepted) else 1
    levels = xp.concatenate([xp.asarray(like.levels)[:1], flat.states[early:]])
    return Table(
        levels=levels,
        nodes=flat.nodes,
        states=xp.diag(flat.start)[:, None],
        denoised=denoised[:, None],
        noises=noises[:, None],
        accepted=tuple(range(early, number)),
        draws=like.draws,
        slots=slots,
        label=label or like.label,
    )
