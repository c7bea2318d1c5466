"""Signals that stop a run: collected, agreed upon by all processes, and acted on after a step."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from jaxdiff.training import hosts


def stop_requested(received: list[int], n: int, every: int) -> bool:
    """Return whether a signal came; with several processes, to any of them, as agreed every few
    steps.
    """
    if not hosts.several():
        return bool(received)
    return n % every == 0 and hosts.anyone(bool(received))


def leave_run(number: int, message: str) -> NoReturn:
    """End a run that a signal has stopped, as the signal has it."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt(message)
    print(message, file=sys.stderr)
    raise SystemExit(128 + number)


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while inside; the second one interrupts. Main thread only."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
