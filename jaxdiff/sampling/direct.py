"""Running a solver as it stands, without a table.

Most solvers are linear in their states and become tables. Those that are not (a derivative of the
denoiser along the trajectory, a variance that the network predicts for every element) run here: in
Python, on arrays, with one compiled evaluation of the denoiser that every step shares. Under
``jax.jit`` the whole solve becomes one unrolled program.

A table and its solver run here give the same samples for the same key.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.prediction import as_partial
from jaxdiff.sampling.sample import call, check_key, check_start, draw, sample_keys
from jaxdiff.sampling.trace import check_options, solver_name
from jaxdiff.solvers.scalar import Scalar, check_levels
from jaxdiff.typing import Array, Cond, Denoiser, Key, Solver

_call = jax.jit(call)


def direct(
    denoiser: Denoiser,
    solver: Solver,
    levels: Sequence[Scalar] | np.ndarray | Array,
    start: Array,
    cond: Cond = None,
    *,
    key: Key | None = None,
    index: Array | None = None,
    noise: Array | None = None,
    **options: Any,
) -> Array:
    """Sample with a textbook solver, executed as it is written.

    Args:
        denoiser: ``D(y, level, cond)``, or whatever else the solver asks of it.
        solver: generator function ``solver(D, y, levels, **options)``; a stochastic one also takes
            ``noise``.
        levels: as for :func:`jaxdiff.sampling.trace.table`.
        start: (batch, *shape) states at ``levels[0]``, float32 or float64.
        cond: handed to the denoiser.
        key, index: as for :func:`jaxdiff.sampling.sample.sample`.
        noise: recorded noise (draws, batch, *shape), instead of ``key``.
        options: handed to the solver.

    Returns:
        The last state, of the shape of ``start``.

    Raises:
        ValueError, TypeError: if the arguments do not fit together, before anything is compiled.
    """
    knots, D = check_levels(levels), as_partial(denoiser)
    check_start(start, index)
    stochastic = check_options(solver, options)
    if stochastic:
        check_key(solver_name(solver), key, noise)
    count, slot = 0, 0  # evaluations so far, and draws since the last one: they name a draw
    recorded = iter(() if noise is None else noise)
    keys = None if key is None else sample_keys(key, start, index)

    def evaluate(y: Array, level: Scalar, target: Scalar = None) -> Any:
        nonlocal count, slot
        count, slot = count + 1, 0
        r = None if target is None else jnp.asarray(target, start.dtype)
        return _call(D, y, jnp.asarray(level, start.dtype), r, cond)

    def normal() -> Array:
        if keys is None:
            return jnp.asarray(next(recorded), start.dtype)
        nonlocal slot
        slot += 1
        return draw(keys, count, slot - 1, start.shape[1:], start.dtype)

    extra = {"noise": normal} if stochastic else {}
    *_, last = solver(evaluate, start, knots, **extra, **options)
    return last
