"""Parts that the benchmarks share: timing in turns, counts of compilations, the machine, the pages.

Timing. What is compared is run in turns, the order reversed every other round, so that a machine
that slows down, or does something else, does so to all of it; the medians of ratios within a round
are compared, not the medians of times. Their intervals of 95 % are between order statistics, which
assumes nothing of the distribution.

Compilations are counted by the events that jax reports of each, which hold in a process of any
length, unlike the number of programs that a jitted function remembers.
"""

import argparse
import contextlib
import datetime
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdiff.files import write_text

Calls = Mapping[str, Callable[[], Any]]


def parser(text: str | None) -> argparse.ArgumentParser:
    """Options of a benchmark: --help is its text; the numbers go to files with --json and
    --markdown.
    """
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the page to this file")
    return made


def metadata(**more: Any) -> dict[str, Any]:
    """Return what was measured on, and when: device, processor, cores to run on, versions, date;
    ``more`` with it.
    """
    device = jax.devices()[0]
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())  # type: ignore[arg-type]
    return {
        "device": str(device),
        "kind": device.device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": len(cores),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    } | more


def _processor() -> str:
    """Return the processor's name, where the system gives it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    return platform.processor() or platform.machine()


def where(machine: Mapping[str, Any]) -> str:
    """Return the sentence that says what was measured on."""
    on = machine["processor"] if machine["kind"] == "cpu" else machine["kind"]
    cores = f"{machine['cores']} core{'' if machine['cores'] == 1 else 's'}"
    versions = f"jax {machine['jax']}, Python {machine['python']}"
    return f"Measured on {on} with {cores} to run on, {versions}, {machine['date']}."


def add_clock(made: argparse.ArgumentParser) -> None:
    """Give a command line the option of what clock to time by."""
    made.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall",
        help="seconds as they pass (wall), or as this process spends them on the CPU (processor), "
        "which other work on the machine hardly disturbs but which says nothing of a GPU",
    )  # fmt: skip


def is_accelerator() -> bool:
    """Return whether arrays live on something other than the CPU."""
    return jax.default_backend() != "cpu"


CLOCKS: Mapping[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}
"""By which seconds are counted: as they pass, or as all threads of this process spend them on the
CPU, which hardly depends on what else the machine does.
"""


def alternate(calls: Calls, repeats: int, clock: str = "wall") -> dict[str, list[float]]:
    """Seconds of every call, ``repeats`` of each, in turns; after one of each that is not timed."""
    now = CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for number in range(repeats):
        for name in list(calls) if number % 2 == 0 else list(calls)[::-1]:
            began = now()
            jax.block_until_ready(calls[name]())
            times[name].append(now() - began)
    return times


def rounds(calls: Calls, seconds: float, least: int = 5, most: int = 500) -> int:
    """Return how many rounds of all calls take so long, within limits."""
    for call in calls.values():
        jax.block_until_ready(call())
    began = time.perf_counter()
    for call in calls.values():
        jax.block_until_ready(call())
    return min(max(least, int(seconds / (time.perf_counter() - began))), most)


class Ratio(NamedTuple):
    """The median of ratios within a round, and between what it lies with a chance of 95 %."""

    median: float
    low: float
    high: float


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Return how the times of one call compare with those of another in the same rounds."""
    values = sorted(a / b for a, b in zip(first, second, strict=True))
    n = len(values)
    # the number below the median is binomial (n, 1/2), of standard deviation sqrt(n)/2
    rank = max(0, math.floor((n - 1) / 2 - 1.96 * math.sqrt(n) / 2))
    return Ratio(statistics.median(values), values[rank], values[n - 1 - rank])


def verdict(found: Ratio, most: float) -> str:
    """Return whether a ratio is at most ``most``: "reached", "missed", or "open" if its interval
    has both sides of it.
    """
    if found.high <= most:
        return "reached"
    return "missed" if found.low > most else "open"


class Program(NamedTuple):
    """A compiled program: its name, seconds of XLA, and whether it came from a cache on disk."""

    name: str
    seconds: float
    cached: bool


_COMPILED = "/jax/core/compile/backend_compile_duration"
_RETRIEVED = "/jax/compilation_cache/cache_retrieval_time_sec"


@contextlib.contextmanager
def compilations() -> Iterator[list[Program]]:
    """Provide a list that grows by every program that is compiled within the block, small ones
    included.
    """
    programs: list[Program] = []
    retrieved: list[float] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _RETRIEVED:
            retrieved.append(duration_secs)
        elif event == _COMPILED:
            name = str(kwargs.get("fun_name"))
            programs.append(Program(name, duration_secs, bool(retrieved)))
            retrieved.clear()

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield programs
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Programs are compiled within the block, whatever a cache on disk holds of them."""
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # what it was decided to be is kept otherwise
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


class Built(NamedTuple):
    """A function compiled for some arguments: what it became, and the seconds of tracing (lowering
    included) and of compilation.
    """

    run: Any
    trace_s: float
    compile_s: float


def build(function: Callable[..., Any], *given: Any) -> Built:
    """Trace and compile a function for some arguments."""
    began = time.perf_counter()
    lowered = jax.jit(function).lower(*given)
    traced = time.perf_counter()
    run = lowered.compile()
    return Built(run, traced - began, time.perf_counter() - traced)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def page(title: str, text: str | None, machine: Mapping[str, Any], lines: Sequence[str]) -> str:
    """Return a benchmark's page: its text less the title and the command, the machine, the
    findings.
    """
    description = (text or "").split("\n\n", 2)[2].rstrip()
    return "\n".join([f"# {title}", "", description, "", where(machine), "", *lines]) + "\n"


def to_json(machine: Mapping[str, Any], **found: Any) -> str:
    """Return the numbers as a JSON text; what is not finite becomes null."""
    return json.dumps(_finite({"machine": dict(machine), **found}), indent=1) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def publish(
    options: argparse.Namespace,
    title: str,
    text: str | None,
    machine: Mapping[str, Any],
    lines: Sequence[str],
    **found: Any,
) -> None:
    """Print the page, and write page and numbers where the options say so."""
    made = page(title, text, machine, lines)
    print(made)
    for path, content in ((options.markdown, made), (options.json, to_json(machine, **found))):
        if path is not None:
            write_text(path, content)
