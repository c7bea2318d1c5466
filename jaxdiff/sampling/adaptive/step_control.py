"""Adaptive steps, each sample its own: an embedded pair of methods under error control.

A pair of methods shares the evaluations of a step and differs in order, so that the difference of
its two results measures the error. With low and high the two results, x the state before the step
and x' the lower-order result that led to it, the error of a sample of n elements is

    E = || (high - low)/delta ||_2 / sqrt(n),    delta = max(atol, rtol max(|low|, |x'|)),

elementwise; the step is taken, to ``high``, or tried again shorter.

The loop makes one evaluation of the whole batch per turn, with every sample at its own stage of
its own step. So a batch costs what its most expensive sample costs, no sample sees another, and
there is one call of the network to compile. A step that is tried again keeps its first evaluation.

The loop is a ``lax.while_loop``: it can be differentiated in forward mode (``jax.jvp``,
``jax.jacfwd``), the chosen steps held fixed, and not in reverse.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import PyTree

from jaxdiff.arrays import expand
from jaxdiff.brief import short
from jaxdiff.sampling.checks import as_states
from jaxdiff.sampling.correction import corrected
from jaxdiff.sampling.finished import check_finished, finite_rows
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key


class Stepped(NamedTuple):
    """Outcome of an adaptive solve, with N the most attempts allowed.

    states: (batch, *shape) at the lowest level, or denoised there.
    nfe: (batch,) int32 evaluations made for each sample, rejected steps included; the batch costs
        its largest.
    accepted, rejected: (batch,) int32 steps taken, and attempts that were not.
    finished: (batch,) whether the lowest level was reached.
    levels: (batch, N) level that each attempt went for, in order; NaN after the last.
    errors: (batch, N) error of each attempt in units of the tolerance.
    taken: (batch, N) whether it was accepted.
    """

    __repr__ = short

    states: Array
    nfe: Array
    accepted: Array
    rejected: Array
    finished: Array
    levels: Array
    errors: Array
    taken: Array


class Step(NamedTuple):
    """Progress of a sample.

    y: its state; before: the lower-order result there; time: increasing towards the data; size: of
    the next step; stage: which evaluation of the step comes next; slopes: (stages, *shape) those
    made; memory: what the method remembers from step to step, a pytree.
    """

    __repr__ = short

    y: Array
    before: Array
    time: Array
    size: Array
    stage: Array
    slopes: Array
    memory: Any
    nfe: Array
    accepted: Array
    rejected: Array
    finished: Array
    times: Array
    errors: Array
    taken: Array


class Embedded(NamedTuple):
    """An embedded pair, as functions of one sample (``own`` is what else belongs to it, its key).

    stages: evaluations per step.
    nodes: ``nodes(step, h, own)``, states and times of the evaluations; each may use the slopes of
        those before it.
    see: ``see(x, time) -> (y, level)``, state and level as the denoiser takes them.
    slope: ``slope(x, time, denoised)``, what is remembered of an evaluation.
    finish: ``finish(step, h, own) -> (low, high)``.
    error: ``error(step, h, low, high)``, E.
    control: ``control(step, h, E, own) -> (accept, size of the next step, memory)``.
    memory: ``memory(y)``, at the start.
    couple: errors (batch,) to errors (batch,): identity, unless samples are to share their steps.
    retry: stage at which a rejected step begins again.
    put: ``put(x, y, time)``, x with y in place of what ``see`` shows of it.
    """

    stages: int
    nodes: Callable[[Step, Array, Any], list[tuple[Array, Array]]]
    see: Callable[[Array, Array], tuple[Array, Array]]
    slope: Callable[[Array, Array, Array], Array]
    finish: Callable[[Step, Array, Any], tuple[Array, Array]]
    error: Callable[[Step, Array, Array, Array], Array]
    control: Callable[[Step, Array, Array, Any], tuple[Array, Array, Any]]
    memory: Callable[[Array], Any] = lambda y: ()
    couple: Callable[[Array], Array] = lambda errors: errors
    retry: int = 1
    put: Callable[[Array, Array, Array], Array] = lambda x, y, time: y


def rms_error(low: Array, high: Array, before: Array, rtol: Array, atol: Array) -> Array:
    """Return E of one sample, bounded below so that powers of it stay finite."""
    delta = jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(low), jnp.abs(before)))
    return jnp.sqrt(jnp.maximum(jnp.mean(((high - low) / delta) ** 2), 1e-20))


def march(
    denoiser: Denoiser,
    pair: Embedded,
    start: Array,
    begin: Array,
    end: Array,
    cond: Cond,
    own: PyTree,
    first_step: Array,
    max_steps: int,
    correct: Correct | None = None,
    keys: Key | None = None,
) -> Stepped:
    """Step every sample from time ``begin`` to ``end``, or until its attempts run out.

    A sample also stops, unfinished, where its step size is no longer a positive number. Every
    state that is accepted is corrected by ``correct``, if given, with ``keys`` (batch,).
    """

    def turn(step: Step) -> Step:
        x, time = jax.vmap(functools.partial(_node, pair, end))(step, own)
        output = denoiser(*jax.vmap(pair.see)(x, time), cond).astype(start.dtype)
        evaluated = functools.partial(_evaluated, pair, max_steps)
        step = jax.vmap(evaluated)(step, x, time, output)
        low, high, error = jax.vmap(functools.partial(_compare, pair, end))(step, own)
        decide = functools.partial(_decide, pair, end, max_steps)
        after = jax.vmap(decide)(step, own, low, high, lax.stop_gradient(pair.couple(error)))
        return after if correct is None else _fixed(pair, correct, keys, end, step, after)

    first = jax.vmap(lambda y: _first(pair, y, begin, first_step, max_steps))(start)
    last = lax.while_loop(lambda step: jnp.any(_active(step, max_steps)), turn, first)
    _, levels = jax.vmap(jax.vmap(pair.see, (None, 0)), (0, 0))(
        jnp.zeros_like(last.time), last.times
    )
    return Stepped(
        last.y, last.nfe, last.accepted, last.rejected, last.finished,
        levels, last.errors, last.taken,
    )  # fmt: skip


def _fixed(
    pair: Embedded, correct: Correct, keys: Key | None, end: Array, before: Step, after: Step
) -> Step:
    """The samples that took a step with their states corrected, in one call for the batch."""
    taken = after.accepted > before.accepted
    time = jnp.where(after.finished, end, after.time)

    def fix(x: Array) -> Array:
        y, level = jax.vmap(pair.see)(x, time)
        y = corrected(correct, y, level, keys, after.accepted)
        return jnp.where(expand(taken, x), jax.vmap(pair.put)(x, y, time), x)

    return after._replace(y=lax.cond(taken.any(), fix, lambda x: x, after.y))


def denoised(
    out: Stepped,
    denoiser: Denoiser,
    low: Array,
    cond: Cond,
    correct: Correct | None = None,
    keys: Key | None = None,
) -> Stepped:
    """Return the outcome with its states denoised at the lowest level, and corrected, at level 0:
    one more evaluation.
    """
    level = jnp.broadcast_to(low, out.states.shape[:1])
    states = as_states(denoiser(out.states, level, cond), out.states)
    if correct is not None:
        states = corrected(correct, states, jnp.zeros_like(level), keys, out.accepted + 1)
    finished = out.finished & finite_rows(states)
    return out._replace(states=states, nfe=out.nfe + 1, finished=finished)


def thrown(out: Stepped, low: float | Array, most: int) -> Stepped:
    """Raise RuntimeError if a sample gave up; under ``jax.jit`` nothing is known and none is."""
    if not isinstance(out.finished, Tracer):
        attempts = out.accepted + out.rejected
        check_finished(out.states, out.finished, attempts, most, f"level {low}")
    return out


def _first(pair: Embedded, y: Array, begin: Array, size: Array, max_steps: int) -> Step:
    zero, unknown = jnp.int32(0), jnp.full(max_steps, jnp.nan, y.dtype)
    return Step(
        y=y,
        before=y,
        time=begin,
        size=size,
        stage=zero,
        slopes=jnp.zeros((pair.stages, *y.shape), y.dtype),
        memory=pair.memory(y),
        nfe=zero,
        accepted=zero,
        rejected=zero,
        finished=jnp.array(False),
        times=unknown,
        errors=unknown,
        taken=jnp.zeros(max_steps, bool),
    )


def _active(step: Step, max_steps: int) -> Array:
    return ~step.finished & (step.accepted + step.rejected < max_steps) & (step.size > 0)


def _node(pair: Embedded, end: Array, step: Step, own: PyTree) -> tuple[Array, Array]:
    states, times = zip(*pair.nodes(step, _length(step, end), own), strict=True)
    return lax.select_n(step.stage, *states), lax.select_n(step.stage, *times)


def _length(step: Step, end: Array) -> Array:
    return jnp.minimum(step.size, end - step.time)


def _evaluated(
    pair: Embedded, max_steps: int, step: Step, x: Array, time: Array, output: Array
) -> Step:
    slopes = step.slopes.at[step.stage].set(pair.slope(x, time, output))
    nfe = step.nfe + _active(step, max_steps).astype(jnp.int32)
    return step._replace(slopes=slopes, nfe=nfe)


def _compare(pair: Embedded, end: Array, step: Step, own: PyTree) -> tuple[Array, Array, Array]:
    h = _length(step, end)
    low, high = pair.finish(step, h, own)
    return low, high, pair.error(step, h, low, high)


def _decide(
    pair: Embedded,
    end: Array,
    max_steps: int,
    step: Step,
    own: PyTree,
    low: Array,
    high: Array,
    error: Array,
) -> Step:
    """Take the step, try it again, or go on to its next evaluation.

    A finished sample stays at the beginning of its last step, where evaluations are harmless.
    """
    h, active = _length(step, end), _active(step, max_steps)
    whole = active & (step.stage == pair.stages - 1)
    accept, size, memory = pair.control(step, h, error, own)
    take, arrived = whole & accept, step.size >= end - step.time
    attempt = jnp.where(whole, step.accepted + step.rejected, max_steps)  # beyond the end: dropped
    again = jnp.where(accept, jnp.int32(0), jnp.int32(pair.retry))
    return step._replace(
        y=jnp.where(take, high, step.y),
        before=jnp.where(take, low, step.before),
        time=jnp.where(take & ~arrived, step.time + h, step.time),
        size=jnp.where(whole & ~(take & arrived), size, step.size),
        stage=jnp.where(whole, again, step.stage + active.astype(jnp.int32)),
        memory=jax.tree.map(lambda a, b: jnp.where(whole, a, b), memory, step.memory),
        accepted=step.accepted + take.astype(jnp.int32),
        rejected=step.rejected + (whole & ~accept).astype(jnp.int32),
        finished=step.finished | (take & arrived),
        times=step.times.at[attempt].set(step.time + h, mode="drop"),
        errors=step.errors.at[attempt].set(error, mode="drop"),
        taken=step.taken.at[attempt].set(accept, mode="drop"),
    )
