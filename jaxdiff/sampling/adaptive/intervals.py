"""Corrections in solves by diffrax: level by level.

diffrax hands out no state between its steps, and corrections after whichever steps it happens to
accept would make samples depend on the tolerances. So the accepted states of such a solve are those
at the requested levels and at the lowest: it goes from one to the next, each time with
steps of its own, and is corrected there. Without levels only the last state is corrected.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxdiff.sampling.adaptive.outcome import Adaptive, denoised, save_at, times_of
from jaxdiff.sampling.correction import corrected
from jaxdiff.sampling.finished import check_finished, finite_rows
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key

Solve = Callable[[Array, Array, Array, Any], Adaptive]


class Request(NamedTuple):
    """Arguments of :func:`jaxdiff.sampling.adaptive.probability_flow
    .adaptive`, and the most steps.
    """

    high: Any
    low: float | Array
    levels: ArrayLike | Sequence[float] | None
    dense: bool
    denoise: bool
    most: int
    throw: bool


def integrate(
    solve: Solve,
    start: Array,
    request: Request,
    D: Denoiser,
    cond: Cond,
    correct: Correct | None = None,
    keys: Key | None = None,
) -> Adaptive:
    """Return the outcome of ``solve(y, begin, end, save)`` over times -log level, corrected and
    denoised where requested, or raise RuntimeError for samples not finished.
    """
    high, low = (jnp.asarray(level, start.dtype) for level in (request.high, request.low))
    begin, end, number = -jnp.log(high), -jnp.log(low), jnp.int32(0)
    if correct is None:
        out = solve(start, begin, end, save_at(request.levels, request.dense, begin, end))
        longest = out.num_steps
    else:
        fix = lambda y, level, number: corrected(correct, y, level, keys, number)  # noqa: E731
        out, longest, number = _by_levels(solve, fix, start, request, begin, end, low)
    if request.denoise:
        out = denoised(out, D, low, cond)
    if request.denoise and correct is not None:
        state = corrected(correct, out.states, jnp.zeros_like(low), keys, number + 1)
        out = out._replace(states=state, finished=out.finished & finite_rows(state))
    if not request.throw:
        return out
    goal = f"level {request.low}"
    states = check_finished(out.states, out.finished, longest, request.most, goal)
    return out._replace(states=states)


def _by_levels(
    solve: Solve,
    fix: Callable[[Array, Array, Array], Array],
    start: Array,
    request: Request,
    begin: Array,
    end: Array,
    low: Array,
) -> tuple[Adaptive, Array, Array]:
    """Return the outcome, the most steps of a sample between two levels, and how many states there
    were: a level equal to the one before it, as ``high`` may be among the levels, is none.
    """
    if request.dense:
        raise ValueError("a corrected solution jumps at its levels: it has saved=, and no dense=")
    levels = jnp.asarray([] if request.levels is None else request.levels, start.dtype)
    times = jnp.append(times_of(levels, begin, end), end)
    save = save_at(None, False, begin, end)

    def advance(y: Array, number: Array, a: Array, b: Array, level: Array) -> Any:
        out = solve(y, a, b, save)
        state = fix(out.states, level, number + 1)
        return out._replace(states=state, finished=out.finished & finite_rows(state)), number + 1

    def stay(y: Array, number: Array, *_: Array) -> Any:
        like, _ = jax.eval_shape(advance, y, number, begin, end, low)
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
        return nothing._replace(states=y, finished=finite_rows(y)), number

    def one(carry: Any, interval: Any) -> Any:
        a, b, level = interval
        out, number = lax.cond(b > a, advance, stay, *carry, a, b, level)
        return (out.states, number), out

    intervals = jnp.append(begin, times[:-1]), times, jnp.append(levels, low)
    (last, number), outs = lax.scan(one, (start, jnp.int32(0)), intervals)
    summed = lambda a: jnp.sum(a, axis=0, dtype=a.dtype)  # noqa: E731
    out = Adaptive(
        last,
        None if outs.nfe is None else summed(outs.nfe),
        summed(outs.num_steps),
        outs.finished.all(axis=0),
        None if request.levels is None else outs.states[:-1],
    )
    return out, outs.num_steps.max(axis=0), number
