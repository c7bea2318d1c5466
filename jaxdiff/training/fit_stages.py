"""Training in stages: a plain loop over methods, each made of what the one before left."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdiff.distill.parts.stage import Before, Data, Stage
from jaxdiff.method import Method
from jaxdiff.training.devices import over_batch
from jaxdiff.training.loop import fit
from jaxdiff.training.sinks.protocol import Later, Sink, check_sinks
from jaxdiff.training.step import State
from jaxdiff.typing import Key


def split_updates(stages: Sequence[Stage], num_updates: int) -> list[int]:
    """Return updates of each stage: ``num_updates`` in all, by share, at least one each. ValueError
    if there are fewer updates than stages.

    Args:
        stages: each with its share.
        num_updates: in all.

    Returns:
        Updates of each stage.

    Raises:
        ValueError: if there are fewer updates than stages.
    """
    if num_updates < len(stages):
        raise ValueError(f"{len(stages)} stages need at least as many updates, not {num_updates}")
    whole = sum(stage.share for stage in stages)
    ends, done = [], 0.0
    for number, stage in enumerate(stages, 1):
        done += stage.share
        least = ends[-1] + 1 if ends else 1
        most = num_updates - (len(stages) - number)
        ends.append(min(max(round(num_updates * done / whole), least), most))
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def fit_stages(
    stages: Sequence[Stage],
    data: Data,
    *,
    num_updates: int,
    key: Key | int = 0,
    ema: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    log: Callable[[str, int, dict[str, Any]], None] | None = None,
    sinks: Sequence[Sink] = (),
    watch: Callable[[Method, int, State], bool] | None = None,
    **options: Any,
) -> tuple[Method, State]:
    """Train all stages in turn; return the last one's method and state.

    Args:
        stages: in order, each with its share of the updates.
        data: ``data(step)``, batches, as for :func:`jaxdiff.training.loop.fit`.
        num_updates: updates in all, divided by the stages' shares.
        key: a key or a seed.
        ema: the average that a stage hands on and that later stages use; None for the parameters
            themselves.
        checkpoint: a folder; each stage has one of its own in it, and a run that was stopped goes
            on in the stage where it was.
        log: called as ``log(stage, step, metrics)``.
        sinks: as for :func:`jaxdiff.training.loop.fit`; their steps are counted through all stages.
        watch: called as ``watch(method, step, state)`` with a stage's method and the run's step,
            every ``watch_every`` steps of a stage and after its last; True ends the stage.
        options: of :func:`jaxdiff.training.loop.fit`; what a stage makes of the data is made on the
            same devices.

    Returns:
        The last stage's method and its state.

    Raises:
        TypeError: for sinks that are none. ValueError: for fewer updates than stages.
    """
    check_sinks(sinks)
    base = jax.random.key(key) if isinstance(key, int) else key
    placing = {k: options[k] for k in ("parallel", "devices") if k in options}
    spread = functools.partial(over_batch, **placing)
    before, result, done = None, None, 0
    for number, (stage, count) in enumerate(
        zip(stages, split_updates(stages, num_updates), strict=True)
    ):
        method = stage.method(before)
        source = data if stage.data is None else stage.data(data, before, spread)
        folder = None if checkpoint is None else Path(checkpoint) / f"{number}-{stage.name}"
        note = None if log is None else lambda n, row, name=stage.name: log(name, n, row)
        look = None if watch is None else functools.partial(_look, watch, method, done)
        own = jax.random.fold_in(base, number) if number else base  # one stage is what fit does
        state = fit(
            method, source, num_updates=count, key=own, checkpoint=folder, log=note,
            sinks=[Later(sink, done) for sink in sinks], watch=look, **options
        )  # fmt: skip
        done += count
        result, before = (method, state), left(method, state, ema)
    assert result is not None
    return result


def _look(watch: Any, method: Method, done: int, step: int, state: State) -> bool:
    return watch(method, done + step, state)


def left(method: Method, state: State, ema: str | None) -> Before:
    """Return what a stage hands to the next: its sampler and its student's parameters."""
    params = state.params["student"] if ema is None else state.ema["student"][ema]
    return Before(lambda num_steps=1: method.sampler(state, num_steps=num_steps, ema=ema), params)
