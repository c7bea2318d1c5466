"""Metrics of a run, written as they arrive: the progress bar, the history, the log."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdiff.training import checkpoint as checkpoints
from jaxdiff.training import history, hosts
from jaxdiff.training.step import SKIPPED
from jaxdiff.typing import Array

Log = Callable[[int, dict[str, Any]], None]


class NotFinite(Exception):
    """A step was not finite, and is to end the run."""


class Reporter(NamedTuple):
    """Destination of metrics, and the start of the run: its step, skipped updates and time."""

    log: Log | None
    folder: Path | None
    first: int
    skipped: int
    skip: bool
    began: float


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
        row = {"step": step, "seconds": seconds, **row, **({SKIPPED: skipped} if skipped else {})}
        if reporter.folder is not None and hosts.is_main_process():
            history.append(reporter.folder, row)
        if reporter.log is not None:
            reporter.log(step, row)
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
