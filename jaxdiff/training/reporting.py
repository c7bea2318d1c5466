"""Metrics of a run, written as they arrive: the progress bar, the sinks, the log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdiff.method import Method
from jaxdiff.training import checkpoint as checkpoints
from jaxdiff.training import hosts
from jaxdiff.training.history import History
from jaxdiff.training.measures import Measures
from jaxdiff.training.sinks.protocol import Sink
from jaxdiff.training.step import SKIPPED, State
from jaxdiff.typing import Array

Log = Callable[[int, dict[str, Any]], None]


class NotFinite(Exception):
    """A step was not finite, and is to end the run."""


class Reporter(NamedTuple):
    """Destination of metrics, and the start of the run: its step, skipped updates and time.

    sinks: of the main process, the history first. measured: whether they get more than metrics.
    last: step of the run.
    """

    log: Log | None
    sinks: tuple[Sink, ...]
    measures: Measures
    measured: bool
    last: int
    folder: Path | None
    first: int
    skipped: int
    skip: bool
    began: float

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Close the sinks at the end."""
        with contextlib.ExitStack() as stack:
            for sink in self.sinks:
                stack.callback(sink.close)
            yield


def start_reporting(
    method: Method,
    state: State,
    batch_size: int | None,
    num_updates: int,
    folder: Path | None,
    skip: bool,
    log: Log | None,
    sinks: Sequence[Sink],
) -> Reporter:
    """Return the reporter of a run that begins or goes on; its sinks know from where."""
    step, main = int(state.step), hosts.is_main_process()
    own: tuple[Sink, ...] = () if folder is None else (History(folder),)
    writing = (*own, *sinks) if main else ()
    if step < num_updates:
        for sink in writing:
            sink.resume(step)
    return Reporter(
        log if main else None, writing, Measures(method, step, batch_size), bool(sinks),
        num_updates, folder, step, int(state.skipped), skip, time.monotonic(),
    )  # fmt: skip


def newest_checkpoint(folder: Path | None) -> str:
    """Return, in words, which checkpoint a run that ends here leaves."""
    if folder is None:
        return "nothing was saved, as no checkpoint folder was given"
    if (newest := checkpoints.latest_step(folder)) is None:
        return f"there is no checkpoint in {folder} yet"
    return f"the newest checkpoint is that of step {newest} in {folder}"


def progress_bar(first: int, num_updates: int, progress: bool) -> Any:
    """Return a bar over the updates of a run, which counts those made before."""
    from tqdm import tqdm

    return tqdm(
        total=num_updates, initial=first, unit="step", disable=not progress, dynamic_ncols=True
    )


def say_time_left(bar: Any, seconds: float) -> None:
    """Say above the bar how long a run will take, where that is a minute or more."""
    if seconds < 60 or bar.disable:
        return
    hours, minutes = divmod(round(seconds / 60), 60)
    bar.write(f"about {f'{hours} h ' if hours else ''}{minutes} min left", file=sys.stderr)


def report_metrics(
    reporter: Reporter,
    bar: Any,
    leave: Callable[[Any], Any],
    pending: dict[int, dict[str, Array]],
    now: dict[str, Array] | None = None,
) -> None:
    """Fetch and write the metrics in ``pending``, by step, and empty it.

    Called after the next step was dispatched, so that the device does not wait for the host; with
    the metrics of ``now`` where it does anyhow, for the state to be looked at or saved. Raises
    NotFinite if the run is to end.
    """
    while pending:
        step, metrics = pending.popitem()
        row = {k: v.tolist() for k, v in jax.device_get(leave(metrics)).items()}
        skipped = row.pop(SKIPPED)
        check_skipped(reporter, step, skipped)
        losses = {name: value for name, value in row.items() if name.endswith("/loss")}
        bar.set_postfix({**losses, SKIPPED: skipped} if skipped else losses, refresh=False)
        seconds = round(time.monotonic() - reporter.began, 3)
        row = {"seconds": seconds, **row, **({SKIPPED: skipped} if skipped else {})}
        row |= reporter.measures.at(step) if reporter.measured else {}
        say_time_left(bar, reporter.measures.seconds_left(reporter.last - step))
        for sink in reporter.sinks:
            sink.scalars(step, row)
        if reporter.log is not None:
            reporter.log(step, {"step": step, **row})
    if now:
        check_skipped(reporter, None, int(jax.device_get(leave(now[SKIPPED]))))


def check_skipped(reporter: Reporter, step: int | None, skipped: int) -> None:
    """Raise NotFinite for a skipped step that is to end the run, FloatingPointError for too
    many.
    """
    if skipped > 0 and not reporter.skip:
        raise NotFinite
    made, lost = 0 if step is None else step - reporter.first, skipped - reporter.skipped
    if reporter.skip and lost > max(10, made // 2) and step is not None:
        raise FloatingPointError(
            f"{lost} of the last {made} updates were not finite and were skipped; "
            f"{newest_checkpoint(reporter.folder)}"
        )
