"""The one training loop.

It calls one program for a step (:mod:`jaxdiff.training.step`), and the batch is a pure function of
the step number: a run that was stopped anywhere and resumed gives the numbers of one that was not.

The host decides which players are due and calls one compiled program for each combination: no
control flow is compiled around a gradient, because XLA on CPU computes gradients of convolutions
inside control flow fifty times slower. Frozen trees are arguments of the program, never constants
in it.
"""

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.method import Batch, Method
from jaxdiff.training import checkpoint as checkpoints
from jaxdiff.training import devices as placement
from jaxdiff.training import hosts
from jaxdiff.training.feed import batches_ahead, own_rows
from jaxdiff.training.inputs import check_data, explained
from jaxdiff.training.interrupts import leave_run, signals, stop_requested
from jaxdiff.training.nonfinite import nonfinite_error, store
from jaxdiff.training.reporting import (
    Log,
    NotFinite,
    newest_checkpoint,
    progress_bar,
    report_metrics,
    start_reporting,
)
from jaxdiff.training.sinks.protocol import Sink, check_sinks
from jaxdiff.training.step import State, due, guarded_update, init_state
from jaxdiff.typing import Array, Key

Watch = Callable[[int, State], bool]


def fit(
    method: Method,
    data: Callable[..., Mapping[str, Any]],
    *,
    num_updates: int,
    key: Key | int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: int = 1000,
    keep: int = 3,
    parallel: placement.Parallel = "jit",
    devices: placement.Devices | None = None,
    gradient_accumulation: int = 1,
    nonfinite: Literal["stop", "skip"] = "stop",
    progress: bool = True,
    log: Log | None = None,
    log_every: int = 50,
    sinks: Sequence[Sink] = (),
    watch: Watch | None = None,
    watch_every: int = 100,
    resume: bool = True,
    ahead: int = 2,
) -> State:
    """Train until ``num_updates`` updates are made in all.

    Args:
        method: its players, how they start, and what its data must be.
        data: ``data(step)``, a dictionary of numpy arrays with the batch first; the same for the
            same step, and in every process. If it has a ``batch_size``, processes that share a run
            call ``data(step, rows)`` for the slice of it that they need.
        num_updates: training steps of the whole run, those of a resumed run included.
        key: a key or a seed.
        checkpoint: a folder for checkpoints and the history (:mod:`jaxdiff.training.history`); None
            keeps none.
        save_every: steps between two checkpoints; there is one at the end, too.
        keep: number of checkpoints that stay.
        parallel: "jit" (parameters on every device), "fsdp" (parameters split over the devices) or
            "pmap".
        devices: by default all, of all processes.
        gradient_accumulation: number of parts that the batch is taken in, so that memory for one
            part is enough.
        nonfinite: what happens where a loss or a gradient is not finite. "stop" raises
            FloatingPointError; the state before that step is kept as a checkpoint, and beside it
            the batch and key for :func:`replay`. "skip" makes no update in that step and counts it
            (``State.skipped``, "skipped" in the history), until most steps of a run are such.
        progress: show a bar on standard error.
        log: called as ``log(step, metrics)`` with the latest metrics of each player, in one
            process.
        log_every: steps between two calls of ``log``, and two rows of the history and the sinks.
        sinks: where rows go beside the history: TensorBoard, Weights & Biases, trackio, one's own
            (:mod:`jaxdiff.training.sinks`). With any, rows have the norms of the gradients,
            learning rates, samples per second and memory, too. They are closed at the end.
        watch: called as ``watch(step, state)`` and after the last step, for held-out scores;
            training ends where it returns True. A resumed run calls it for the step that it starts
            from, too, so that no call is lost whenever a run is stopped.
        watch_every: steps between two calls of ``watch``.
        resume: go on with the run found in ``checkpoint``, for which ``method.init`` is traced, not
            run.
        ahead: batches that another thread makes in advance; 0 for none.

    Returns:
        The state after the last update.

    Raises:
        TypeError: for sinks that are none.
        ValueError: if arguments do not fit, or the folder holds another run (other network, other
            key, or ``resume=False``).
        OSError: if the folder cannot be written.
        FloatingPointError: see ``nonfinite``. No checkpoint holds parameters that are not finite.
        KeyboardInterrupt, SystemExit: after SIGINT (SystemExit(143) after SIGTERM) in any process;
            the step is finished and saved before. A second signal ends at once.
    """
    check_data(data)
    check_sinks(sinks)
    if min(num_updates, save_every, log_every, watch_every, keep, gradient_accumulation) < 1:
        raise ValueError(
            "num_updates, save_every, log_every, watch_every, keep and gradient_accumulation must "
            "be at least 1"
        )
    placement.check_parallel(parallel)
    if nonfinite not in ("stop", "skip"):
        raise ValueError(f'nonfinite is "stop" or "skip"; got {nonfinite!r}')
    key = jax.random.key(key) if isinstance(key, int) else key
    folder = None if checkpoint is None else Path(checkpoint).absolute()
    skip = nonfinite == "skip"
    runner = step_runner(method, parallel, devices, gradient_accumulation, skip, bool(sinks))
    make, feed = own_rows(data, runner, method.check)
    state, known = _first_state(method, key, folder, num_updates, resume, make)
    state = state if skip else state._replace(skipped=jnp.zeros((), jnp.int32))
    n = saved = int(state.step)
    latest, pending, compiled = {}, {}, set()
    size = getattr(data, "batch_size", None)
    reporter = start_reporting(method, state, size, num_updates, folder, skip, log, sinks)
    state, look = runner.enter(state), _Look(watch, watch_every, num_updates)
    with (
        signals() as received,
        progress_bar(n, num_updates, progress and hosts.is_main_process()) as bar,
        batches_ahead(
            lambda n: known.pop(n) if n in known else make(n), n, num_updates, ahead
        ) as batches,
        reporter.closing(),
    ):
        report = functools.partial(report_metrics, reporter, bar, runner.leave)
        try:
            enough = look.due(n) and look.watch(n, runner.leave(state))
            while n < num_updates and not enough and not stop_requested(received, n, log_every):
                active = due(method, n)
                batch = next(batches)
                reporter.measures.saw(batch)
                with _announced(bar, compiled, active):
                    state, metrics = _run(runner, state, batch, feed, active)
                n, latest = n + 1, latest | metrics
                report(pending)
                if n % log_every == 0 or n == num_updates:
                    pending[n] = latest
                if look.due(n):
                    report(pending, now=latest)
                    enough = look.watch(n, runner.leave(state))
                if n % save_every == 0:
                    report(pending, now=latest)
                    saved = store(runner.leave(state), folder, keep)
                bar.update()
            report(pending, now=latest)
        except KeyboardInterrupt:
            if hosts.several():  # the others are not at this step
                raise
            received.append(signal.SIGINT)
        except NotFinite:
            raise nonfinite_error(method, runner, state, data, feed, folder, keep) from None
        if state.step.is_deleted():
            raise KeyboardInterrupt(f"stopped inside step {n}; {newest_checkpoint(folder)}")
        if n != saved:
            store(runner.leave(state), folder, keep)
    if received or not (n == num_updates or enough):
        number = received[0] if received else signal.SIGTERM  # sent to another process
        leave_run(number, f"stopped after {n} updates; {newest_checkpoint(folder)}")
    return runner.leave(state)


class _Look(NamedTuple):
    """When a run is watched: every so many steps, and after the last."""

    watch: Any
    every: int
    num_updates: int

    def due(self, n: int) -> bool:
        return self.watch is not None and n > 0 and (n % self.every == 0 or n == self.num_updates)


def step_runner(
    method: Method,
    parallel: placement.Parallel,
    devices: placement.Devices | None,
    gradient_accumulation: int = 1,
    skip: bool = False,
    norms: bool = False,
) -> placement.Runner:
    """Return the step as a function of the frozen trees too, on the devices requested."""
    devices = jax.devices() if devices is None else devices
    unroll = devices[0].platform == "cpu"

    def step(
        state: State, batch: Batch, frozen: Any, *, active: tuple[str, ...], axis_name: str | None
    ) -> tuple[State, dict[str, Array]]:
        given = method._replace(frozen=frozen)
        return guarded_update(
            given, state, batch, active, skip, axis_name, gradient_accumulation, unroll, norms
        )

    if parallel == "pmap":
        return placement.by_pmap(step, method.frozen, devices)
    mesh = placement.mesh(devices)
    rule = placement.fsdp(mesh) if parallel == "fsdp" else placement.replicated(mesh)
    return placement.by_jit(step, method.frozen, mesh, rule)


@contextlib.contextmanager
def _announced(bar: Any, compiled: set[Any], program: Any) -> Iterator[None]:
    """Show that a program is being compiled, where it is called for the first time."""
    if program in compiled:
        yield
        return
    bar.set_description("compiling, once per shape")
    yield
    compiled.add(program)
    bar.set_description()


def _run(
    runner: placement.Runner, state: State, batch: Any, feed: Any, active: Any
) -> tuple[State, Any]:
    """Make a step; an error in tracing its losses is explained."""
    try:
        return runner.run(state, feed(batch), active)
    except Exception as error:  # flax has its own types
        if (meant := explained(error, batch)) is None:
            raise
        raise meant from error


def _first_state(
    method: Method, key: Key, folder: Path | None, num_updates: int, resume: bool, make: Any
) -> tuple[State, dict[int, Batch]]:
    """Return a fresh state, and by its step the first batch, which is checked before; or the newest
    sound state in ``folder``. Both are checked before any compilation.
    """
    if folder is None:
        known = _first_batch(make, folder)
        return init_state(method, key), known
    like = jax.eval_shape(functools.partial(init_state, method), key)
    checkpoints.probe(folder, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like)))
    if checkpoints.latest_step(folder) is None:
        known = _first_batch(make, folder)
        return init_state(method, key), known
    if not resume:
        raise ValueError(f"{folder} holds checkpoints and resume is False; choose another folder")
    state = checkpoints.restore(folder, like).state
    base = jax.random.split(key)[1]
    if not np.array_equal(jax.random.key_data(state.key), jax.random.key_data(base)):
        raise ValueError(f"{folder} holds a run with another key; use its key or another folder")
    if state.step > num_updates:
        raise ValueError(f"{folder} holds a run of {state.step} updates, more than {num_updates}")
    return state, {}


def _first_batch(make: Callable[[int], Any], folder: Path | None) -> dict[int, Batch]:
    try:
        return {0: make(0)}
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped before the first step; {newest_checkpoint(folder)}"
        ) from None
