r"""Inversion of a table: the start from which it arrives at given data.

A deterministic table, unrolled, makes each state of the start and the denoised outputs before it,

    Y_n = a_n start + sum_{j < n} b_nj D_j,        D_j = D(Y_j, s_j),

so that a state follows from the next one, with r = a_n/a_{n+1} and g_j = b_nj - r b_{n+1,j}:

    Y_n = r Y_{n+1} + sum_{j <= n} g_j D_j.

The outputs D_n, and those before it, are of states still to be found: a fixed point. A sweep goes
from the data up to the start. At each state it holds the outputs before it and solves for the state
itself, where 1 - g_n dD/dy is symmetric, and positive definite as g_n is negative: a few steps of
the gradient method of Barzilai and Borwein (1988, doi 10.1093/imanum/8.1.141), each sample its own,
the first one exact for N(0, data_std^2). For a table without memory one sweep would be enough.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxdiff.arrays import check, check_cond, expand
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.checks import check_start
from jaxdiff.sampling.run import evaluate
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Denoiser


class _Upwards(NamedTuple):
    """The step up to every state: ratio r, weights g of the outputs, first part of what a state
    lacks that it is moved by, level; and a_0.
    """

    ratios: Any
    weights: Any
    parts: Any
    nodes: Any
    first: float


def invert_table(
    denoiser: Denoiser,
    table: Table,
    data: Array,
    cond: Cond = None,
    *,
    sweeps: int = 100,
    iterations: int = 4,
    tolerance: float = 1e-4,
    data_std: float = 1.0,
) -> Array:
    """Latents z = start/levels[0] of data, (batch, *shape), for a table of known weights.

    From the start levels[0] z the table arrives at the data, to the tolerance. A table that ends in
    level 0 determines no start; there data are taken for states at its last evaluation's level.

    Args:
        denoiser, cond: as for :func:`jaxdiff.sampling.sample.sample`.
        table: any deterministic one, of one or several steps' memory.
        data: (batch, *shape), float32 or float64.
        sweeps: at most. iterations: for each state in a sweep, which costs 1 + iterations times the
            table's evaluations.
        tolerance: of what a state lacks, root mean square, in units of sqrt(1 + level^2).
        data_std: of the order of the data's standard deviation.

    Raises:
        ValueError: for a table that is stochastic, padded or of jumps, or that forgets its start;
            and for numbers out of range.
        TypeError: for a traced table.
        RuntimeError: naming the samples whose sweeps do not settle, or are not finite, which ends
            theirs; under ``jax.jit`` when the program is run, without their names.
    """
    check_start(data, None)
    check_cond(cond, data.shape[0])
    positive = "tolerance and data_std must be positive and finite"
    check(positive, lambda *a: all(0 < x < math.inf for x in a), tolerance, data_std)
    if min(sweeps, iterations) < 1:
        raise ValueError(f"sweeps and iterations are at least 1, not {sweeps} and {iterations}")
    steps = _upwards(table, data_std)
    start, lacking = _solve(as_partial(denoiser), steps, data, cond, tolerance, sweeps, iterations)
    if isinstance(lacking, Tracer):
        import equinox

        text = f"a sample did not settle to {tolerance} in {sweeps} sweeps, or is not finite"
        start = equinox.error_if(start, ~(lacking <= tolerance), text)
    else:
        _check_settled(table, np.asarray(lacking), tolerance, sweeps)
    return start / jnp.asarray(table.levels[0], data.dtype)


def _check_settled(table: Table, lacking: np.ndarray, tolerance: float, sweeps: int) -> None:
    """Raise RuntimeError, naming the samples, for what states lack above the tolerance."""
    if (rows := np.flatnonzero(np.isnan(lacking))).size:
        raise RuntimeError(
            f"{table!r} is not inverted: samples {rows[:5].tolist()} are not finite; look at their "
            "data and conditions"
        )
    if (rows := np.flatnonzero(lacking > tolerance)).size:
        raise RuntimeError(
            f"{table!r} is not inverted: after {sweeps} sweeps a state of samples "
            f"{rows[:5].tolist()} lacks {lacking.max():.2g} (the tolerance is {tolerance}): raise "
            "sweeps or the tolerance, or use more steps"
        )


def _upwards(table: Table, data_std: float) -> _Upwards:
    """Return the steps up to the states of a table's evaluations, made of its weights."""
    _check(table)
    made, count = unrolled(table)[:, -1], table.nodes.shape[0]
    last = count - (table.levels[-1] == 0)  # whose state the data are
    if last < 1 or not made[: last + 1, 0].all():
        raise ValueError(f"{table!r} forgets its start: no data determine it")
    ratios = made[:last, 0] / made[1 : last + 1, 0]
    weights = (made[:last] - ratios[:, None] * made[1 : last + 1])[:, 1 : last + 1]
    nodes = np.asarray(table.nodes, np.float64)[:last]
    slopes = 1.0 / (1.0 + (nodes / data_std) ** 2)
    parts = 1.0 / (1.0 + np.abs(np.diagonal(weights)) * slopes)
    return _Upwards(ratios, weights, parts, nodes, float(made[0, 0]))


def _check(table: Table) -> None:
    if isinstance(table.states, Tracer) or isinstance(table.denoised, Tracer):
        raise TypeError("the weights of a traced table are not known: invert it outside")
    if table.stochastic:
        raise ValueError(f"{table!r} draws noise, so it has no inverse")
    if table.count is not None:
        raise ValueError("a padded table is not inverted: use the table it was made from")
    if table.targets is not None:
        raise ValueError(f"{table!r} jumps from level to level: a flow map has no inverse here")
    if table.levels[0] < table.levels[-1]:
        raise ValueError(f"{table!r} goes up in level: it is an inverse already")


def unrolled(table: Table) -> np.ndarray:
    """Return what every row of a deterministic table of known weights makes, of the start and the
    N denoised outputs: (N + 1, rows, 1 + N), the start first.
    """
    count = table.nodes.shape[0]
    own, outputs = (np.asarray(a, np.float64) for a in (table.states, table.denoised))
    unit = np.eye(1 + count)
    states, denoised, made = [unit[0]], [], []
    for n in range(count + 1):
        for row in range(own.shape[1]):
            terms = [w * v for w, v in zip(own[n, row], states, strict=False)]
            terms += [w * v for w, v in zip(outputs[n, row], denoised, strict=False)]
            states = [sum(terms, np.zeros(1 + count)), *states]
            made.append(states[0])
        denoised = [unit[1 + n], *denoised] if n < count else denoised
    return np.stack(made).reshape(*own.shape[:2], 1 + count)


@functools.partial(jax.jit, static_argnames=("sweeps", "iterations"))
def _solve(
    D: Denoiser, steps: _Upwards, data: Array, cond: Cond, tolerance: float, sweeps: int,
    iterations: int,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the start, and the most by which a state of each sample misses what the next one
    implies, (batch,). A sample's sweeps end where it has settled, whatever its batch.
    """
    dtype, count = data.dtype, steps.nodes.shape[0]
    steps = jax.tree.map(lambda a: jnp.asarray(a, dtype), steps)

    def move(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        states, outputs, most = carry
        n = count - 1 - i
        level, weights = steps.nodes[n], steps.weights[n]
        known = steps.ratios[n] * states[n + 1]
        known = known + jnp.tensordot(weights.at[n].set(0), outputs, 1, precision="highest")

        def lack(state: Array) -> tuple[Array, Array]:
            output = evaluate(D, state, level, None, cond)
            return known + weights[n] * output - state, output

        def again(_: Array, at: tuple[Array, ...]) -> tuple[Array, ...]:
            state, lacking, part, _ = at
            moved = expand(part, state) * lacking
            new, output = lack(state + moved)
            change = lacking - new  # A moved, A the positive definite 1 + |g_n| dD/dy
            own = _dot(change, moved) / jnp.maximum(_dot(change, change), 1e-30)
            part = jnp.where(own > 0, jnp.minimum(own, 1), part / 2)
            return state + moved, new, part, output

        lacking, output = lack(states[n])
        size = jnp.sqrt(_dot(lacking, lacking) / data[0].size)
        most = jnp.maximum(most, size / jnp.sqrt(1.0 + level**2))
        at = states[n], lacking, jnp.broadcast_to(steps.parts[n], len(data)), output
        state, _, _, output = lax.fori_loop(0, iterations, again, at)
        return states.at[n].set(state), outputs.at[n].set(output), most

    def sweep(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        *before, made = carry
        zero = jnp.zeros(len(data), dtype)
        after = lax.fori_loop(0, count, move, (*before[:2], zero))
        settled = before[2] <= tolerance
        rows = expand(settled, data).astype(bool)
        *kept, most = zip(before, after, strict=True)
        states, outputs = (jnp.where(rows[None], old, new) for old, new in kept)
        return states, outputs, jnp.where(settled, *most), made + 1

    # first guesses: the data brought to the norms of the levels
    sizes = jnp.sqrt(1.0 + jnp.append(steps.nodes, 0.0) ** 2)
    states = sizes.reshape(-1, *[1] * data.ndim) * data[None]
    output = lambda at: evaluate(D, at[0], at[1], None, cond)  # noqa: E731
    outputs = lax.map(output, (states[:-1], steps.nodes))
    unsettled = lambda c: (c[2] > tolerance).any() & (c[3] < sweeps)  # noqa: E731 - not of NaN
    carry = (states, outputs, jnp.full(len(data), jnp.inf, dtype), jnp.int32(0))
    states, _, most, _ = lax.while_loop(unsettled, sweep, carry)
    return states[0] / steps.first, most


def _dot(a: Array, b: Array) -> Array:
    """Inner product of every sample."""
    return jnp.sum((a * b).reshape(len(a), -1), axis=1)
