"""Running a solver as it stands, without a table.

Most solvers are linear in their states and become tables. Those that are not (a derivative of the
denoiser along the trajectory, a variance that the network predicts for every element) run here: in
Python, on arrays, with one compiled evaluation of the denoiser that every step shares. Under
``jax.jit`` the whole solve becomes one unrolled program.

A table and its solver run here give the same samples for the same key.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import DTypeLike

from jaxdiff.arrays import check_cond
from jaxdiff.denoisers import as_partial, check_network_cond
from jaxdiff.noise import draw, sample_keys
from jaxdiff.sampling.checks import (
    as_states,
    check_key,
    check_no_noise,
    check_start,
    check_typed,
    warn_beyond,
)
from jaxdiff.sampling.correction import as_correction, corrected
from jaxdiff.sampling.run import call
from jaxdiff.sampling.solver_options import check_options, check_solver, solver_name
from jaxdiff.solvers.held import Held, hold, value
from jaxdiff.solvers.scalar import Scalar, State, check_levels
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key, Solver

Fix = Callable[[Array, Array, int], Array]  # of an accepted state, its level and its number


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
    correct: Correct | None = None,
    **options: Any,
) -> Array:
    """Sample with a textbook solver, executed as it is written.

    Args:
        denoiser: ``D(y, level, cond)``, or whatever else the solver needs.
        solver: generator function ``solver(D, y, levels, **options)``; a stochastic one also takes
            ``noise``.
        levels: as for :func:`jaxdiff.sampling.trace.table`.
        start: (batch, *shape) states at ``levels[0]``, float32 or float64.
        cond: handed to the denoiser.
        key, index: as for :func:`jaxdiff.sampling.sample.sample`.
        noise: recorded noise (draws, batch, *shape) in the order the solver draws it, instead of
            ``key``.
        correct: ``correct(y, level, key) -> y``, applied to every accepted state, which it
            replaces (:mod:`jaxdiff.sampling.correction`). A solver of one's own that hands its
            states to functions of ``jax.numpy`` gives them the array,
            :func:`jaxdiff.solvers.held.value`.
        options: handed to the solver.

    Returns:
        The last state, of the shape of ``start``.

    Raises:
        ValueError, TypeError: if the arguments do not fit together, before anything is compiled.
    """
    check_solver(solver)
    knots = check_levels(levels)
    check_start(start, index, knots[0])
    warn_beyond(denoiser, knots[0])
    return execute(denoiser, solver, knots, start, cond, key, index, noise, options, correct)


def execute(
    denoiser: Denoiser, solver: Solver, knots: list[Scalar], start: Array, cond: Cond,
    key: Key | None, index: Array | None, noise: Array | None, options: dict[str, Any],
    correct: Correct | None = None,
) -> Array:  # fmt: skip
    """:func:`direct` from a start at whatever level the solver begins at."""
    D = as_partial(denoiser)
    check_cond(cond, start.shape[0])
    check_network_cond(D, cond)
    stochastic = check_options(solver, options)
    if stochastic:
        check_key(solver_name(solver), key, noise)
    check_no_noise(solver_name(solver), stochastic, noise)
    if key is not None:
        check_typed(key)
    keys = None if key is None else sample_keys(key, start, index)
    fix = None if correct is None else functools.partial(_corrected, as_correction(correct), keys)
    run = functools.partial(_run, D, solver, knots, cond, stochastic, options, fix)
    if noise is None:
        return run(start, lambda count, slot: draw(keys, count, slot, start.shape[1:], start.dtype))  # type: ignore[arg-type]
    shape, needed = jnp.shape(noise), _draws(run, start)
    if shape != (needed, *start.shape):
        raise ValueError(
            f"{solver_name(solver)} draws {needed} noises of shape {start.shape} on these levels; "
            f"recorded: {shape}"
        )
    recorded = iter(noise)
    return run(start, lambda count, slot: jnp.asarray(next(recorded), start.dtype))


def _run(
    D: Partial, solver: Solver, knots: list[Scalar], cond: Cond, stochastic: bool,
    options: dict[str, Any], fix: Fix | None, start: Array, drawn: Callable[[int, int], Array],
) -> Array:  # fmt: skip
    """Return the solve, with noise ``drawn(evaluations so far, draws since the last one)`` and
    accepted states replaced by ``fix(state, level, number)``.
    """
    count, slot = 0, 0
    held = (lambda x: x) if fix is None else functools.partial(hold, like=start)

    def evaluate(y: Array, level: Scalar, target: Scalar | None = None) -> Any:
        nonlocal count, slot
        count, slot = count + 1, 0
        r = None if target is None else jnp.asarray(target, start.dtype)
        return held(_answer(D, value(y), jnp.asarray(level, start.dtype), r, cond))

    def normal() -> Array:
        nonlocal slot
        slot += 1
        return held(drawn(count, slot - 1))

    extra = {"noise": normal} if stochastic else {}
    states = solver(evaluate, held(start), knots, **extra, **options)
    if fix is None:
        *_, last = states
        return last
    return _replaced(solver_name(solver), states, knots, start.dtype, fix)


def _replaced(
    name: str, states: Iterator[State], knots: list[Scalar], dtype: DTypeLike, fix: Fix
) -> Array:
    """Replace each state that a solver yields; return the last one."""
    number, last = 0, None
    for number, state in enumerate(states, 1):
        if not isinstance(state, Held) or number >= len(knots):
            raise ValueError(
                f"{name} yields what correct= cannot replace: it takes one state per step, made by "
                "+, -, * and / of the states, outputs and noises that the solver was given"
            )
        last = state.array = fix(state.array, jnp.asarray(knots[number], dtype), number)
    if last is None or number != len(knots) - 1:
        raise ValueError(f"{name} yielded {number} states on a grid of {len(knots) - 1} steps")
    return last


def _draws(run: Callable[..., Array], start: Array) -> int:
    """Return how many noises a solve draws: it is run on shapes alone."""
    drawn: list[int] = []

    def counted(start: Array) -> Array:
        return run(start, lambda count, slot: drawn.append(slot) or jnp.zeros_like(start))

    jax.eval_shape(counted, start)
    return len(drawn)


@jax.jit
def _corrected(correct: Partial, keys: Key | None, y: Array, level: Array, number: int) -> Array:
    return corrected(correct, y, level, keys, number)


@jax.jit
def _answer(D: Partial, y: Array, level: Array, target: Array | None, cond: Cond) -> Any:
    """Return the denoiser's output, floating numbers in the dtype of the states."""
    answer = call(D, y, level, target, cond)
    if isinstance(answer, jax.Array):
        return as_states(answer, y)
    real = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)  # noqa: E731
    return jax.tree.map(lambda x: jnp.asarray(x, y.dtype) if real(x) else x, answer)
