"""Running a table in stages: evaluations that do not wait for one another, in one call.

Every state that a table evaluates is a combination of earlier states, outputs and noises. Where
several consecutive ones use no output of one another, as the K intermediate states of an EPD step
(:func:`jaxdiff.solvers.epd.epd`), the denoiser can have them all as one batch: a *stage*,
which on a device that one batch does not fill takes the time of one evaluation ("parallel NFE",
arXiv 2507.14797). The numbers are those of :func:`jaxdiff.sampling.sample.sample`; what is bought
is latency, not work, so the number of stages is to be reported with the number of evaluations and
never in its place.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial

from jaxdiff.denoisers import as_partial
from jaxdiff.noise import draw, sample_keys
from jaxdiff.sampling.checks import check_run
from jaxdiff.sampling.correction import as_correction, check_correction, row_correction
from jaxdiff.sampling.run import Windows, evaluate, first_windows, make_rows
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key


def stages(table: Table) -> tuple[int, ...]:
    """Return sizes of the fewest groups of consecutive evaluations such that no state made in a
    group, evaluated or accepted, uses an output of the same group.

    Their number is the table's parallel NFE. Raises TypeError for a traced table, whose weights
    are not known, ValueError for a padded one.

    Args:
        table: concrete, not padded.

    Returns:
        Sizes of the stages, in order; their sum is the table's number of evaluations.
    """
    sizes: list[int] = []
    first = 0  # of the group
    for n, newest in enumerate(_newest_outputs(table)):
        if not sizes or newest >= first:
            first = n
            sizes.append(0)
        sizes[-1] += 1
    return tuple(sizes)


def _newest_outputs(table: Table) -> list[int]:
    """Number of the newest output that the rows before each evaluation use, -1 for none."""
    if table.count is not None:
        raise ValueError("a padded table has no stages: use the table it was made from")
    if isinstance(table.denoised, Tracer):
        raise TypeError("the weights of a traced table are not known: find its stages outside")
    used = np.any(np.asarray(table.denoised)[:-1] != 0, axis=1)  # (N, L), newest first
    return [n - 1 - int(np.argmax(row)) if row.any() else -1 for n, row in enumerate(used)]


def sample_in_stages(
    denoiser: Denoiser,
    table: Table,
    start: Array,
    cond: Cond = None,
    *,
    stages: Sequence[int] | None = None,
    key: Key | None = None,
    index: Array | None = None,
    noise: Array | None = None,
    correct: Correct | None = None,
    remat: bool = False,
) -> Array:
    """Sample with a table, each stage in one call of the denoiser on size * batch states.

    One compiled program without a loop: its size grows with the number of stages. All noise is
    drawn before the first.

    Args:
        denoiser, table, start, key, index, noise, correct: as for
            :func:`jaxdiff.sampling.sample.sample`; a stage is one call by ``jax.vmap`` over its
            evaluations, in which the denoiser sees the batch as it is.
        cond: handed to the denoiser.
        stages: sizes of the stages, in order, to be given where the table is traced; found by
            :func:`stages` otherwise. Weights that would break them are taken for 0, and get
            gradient 0: of a table that is trained they are not part.
        remat: recompute each stage in the backward pass.

    Returns:
        The last state, (batch, *shape), of the dtype of ``start``.

    Raises:
        ValueError, TypeError: as ``sample``; for a padded table, or stages that do not add up to
            the table's evaluations or in which a state needs an output of its own stage.
    """
    noise = check_run(denoiser, table, start, key, index, noise, cond)
    if correct is not None:
        check_correction(table, key)
    needed = table.stochastic or correct is not None
    keys = sample_keys(key, start, index) if needed and key is not None else None
    sizes, D, fix = _checked(table, stages), as_partial(denoiser), as_correction(correct)
    return _run(D, table, start, cond, keys, noise, fix, sizes, remat)


def _checked(table: Table, sizes: Sequence[int] | None) -> tuple[int, ...]:
    if table.count is not None or sizes is None:
        return stages(table)
    given, number = tuple(int(size) for size in sizes), table.nodes.shape[0]
    if min(given, default=0) < 1 or sum(given) != number:
        raise ValueError(f"stages must be positive and add up to {number} evaluations; got {given}")
    if not isinstance(table.denoised, Tracer):
        firsts = np.repeat(np.cumsum((0, *given[:-1])), given)
        for n, newest in enumerate(_newest_outputs(table)):
            if newest >= firsts[n]:
                raise ValueError(
                    f"evaluation {n} needs the output of evaluation {newest}, which is in the "
                    f"same stage of {given}; {table!r} has stages {stages(table)}"
                )
    return given


@functools.partial(jax.jit, static_argnames=("sizes", "remat"))
def _run(
    denoiser: Denoiser,
    t: Table,
    start: Array,
    cond: Cond,
    keys: Key | None,
    noise: Array | None,
    correct: Partial | None,
    sizes: tuple[int, ...],
    remat: bool,
) -> Array:
    dtype, zero = start.dtype, jnp.zeros_like(start)
    weights = Windows(*(jnp.asarray(a, dtype) for a in (t.states, t.denoised, t.noises)))
    nodes = jnp.asarray(t.nodes, dtype)
    targets = None if t.targets is None else jnp.asarray(t.targets, dtype)
    noises = _drawn(t, keys, start) if noise is None else noise
    corrections = None if correct is None else row_correction(correct, t, keys, dtype)

    def rows(n: int, windows: Windows) -> tuple[Windows, Array]:
        """Return the rows before evaluation n: the windows after them, and the last state made."""
        drawn = [] if noises is None else list(noises[n])
        fix = None if corrections is None else functools.partial(corrections, n)
        windows, made = make_rows(windows, Windows(*(w[n] for w in weights)), drawn, fix)
        return windows, made[-1]

    def stage(windows: Windows, first: int, size: int) -> Windows:
        known, states = windows.denoised, []
        for n in range(first, first + size):
            windows, state = rows(n, windows)
            states.append(state)
            windows = windows._replace(denoised=(zero, *windows.denoised)[: len(known)])
        level, target = (None if a is None else a[first : first + size] for a in (nodes, targets))
        # over the stage: what the denoiser knows of its samples meets the batch as it was given
        one = lambda y, s, r: evaluate(denoiser, y, s, r, cond)  # noqa: E731
        outputs = jax.vmap(one)(jnp.stack(states), level, target)
        return windows._replace(denoised=(*outputs[::-1], *known)[: len(known)])

    windows = first_windows(weights, start)
    run = jax.checkpoint(stage, static_argnums=(1, 2)) if remat else stage
    first = 0
    for size in sizes:
        windows, first = run(windows, first, size), first + size
    return rows(first, windows)[1]


def _drawn(t: Table, keys: Key | None, start: Array) -> Array | None:
    """Return the noise of every evaluation and slot (N + 1, slots, batch, *shape): one operation,
    as each draw on its own takes long to compile.
    """
    if keys is None or not t.slots:
        return None

    def of(n: Array) -> Array:
        slots = [draw(keys, n, q, start.shape[1:], start.dtype) for q in range(t.slots)]
        return jnp.stack(slots)

    return jax.vmap(of)(jnp.arange(t.nodes.shape[0] + 1, dtype=jnp.int32))
