"""How long a user waits: for ``import jaxdiff``, and for the first samples of a trained run.

    python -m experiments.benchmarks.first_sample [--json FILE] [--markdown FILE]

Import, in fresh processes bound to one core (where the system allows it): seconds of numpy, of the
rest of jax, and of jaxdiff itself, one after the other. Aim: all under 1.5 s, in the median.

First sample: ``jaxdiff sample --run DIR``, in fresh processes, from the start of the process to the
last file on disk. The run is made before by ``jaxdiff train`` with its preset for digits, but for
the number of updates. Once with an empty folder for compiled programs, then several times with what
that left there. Aim: under 5 s with the programs kept, in the median. Where the time goes:

    start       the interpreter;
    import      jaxdiff and what the command needs of it, jax included;
    options     reading the command line;
    load        the model from its file;
    sampler     the solver made a table;
    samples     drawn in batches, of which "XLA" is compiling programs, or reading them from disk;
    picture     drawn and written, matplotlib's import included, and the numbers written.

"On the CPU" is what all threads of the process spend there. Takes one to two minutes on two CPU
cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.numbers import count

ROOT = Path(__file__).parents[2]
MOST_IMPORT, MOST_SAMPLE = 1.5, 5.0  # the aims, seconds
PARTS = ("start", "import", "options", "load", "sampler", "samples", "picture")

IMPORT = """
import os, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
times = [time.perf_counter()]
import numpy
times.append(time.perf_counter())
import jax
times.append(time.perf_counter())
import jaxdiff
times.append(time.perf_counter())
print(*[b - a for a, b in zip(times, times[1:])], time.process_time())
"""
"""A process that imports, and reports the seconds."""

COMMAND = """
import sys, time
started = time.time()
import jaxdiff.app.main, jaxdiff.app.sample, jaxdiff.report.images
imported = time.time()
from experiments.benchmarks.first_sample import timed_command
timed_command(sys.argv[1], sys.argv[2:], started, imported)
"""
"""A process that runs a command of jaxdiff, and writes the times of its parts to a file."""


def imports(repeats: int) -> dict[str, Any]:
    """Seconds of imports: medians of several processes, after one that fills the file cache."""
    rows = []
    for _ in range(repeats + 1):
        out = subprocess.run(
            [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
        rows.append([float(word) for word in out.split()])
    rows = rows[1:]
    names = ("numpy", "jax", "jaxdiff")
    medians = {f"{n}_s": statistics.median(r[i] for r in rows) for i, n in enumerate(names)}
    totals = [sum(row[:3]) for row in rows]
    processor = statistics.median(row[3] for row in rows)
    return {
        "seconds": statistics.median(totals), "each": totals, "processor_s": processor, **medians
    }  # fmt: skip


def timed_command(file: str, arguments: Sequence[str], started: float, imported: float) -> None:
    """Run a command in this process; write when its parts began and ended to a file."""
    from experiments.benchmarks.common import compilations
    from jaxdiff.app import main as cli
    from jaxdiff.app import sample as sampling
    from jaxdiff.report import images

    marks: dict[str, tuple[float, float]] = {}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **more: Any) -> Any:
            began = time.time()
            out = call(*given, **more)
            marks[name] = began, time.time()
            return out

        return run

    entered: Any = time.time()
    parts: Any = sampling
    parts.load_model = timed("load", sampling.load_model)
    parts.make_sampler = timed("sampler", sampling.make_sampler)
    parts.generate = timed("samples", sampling.generate)
    drawing: Any = images
    drawing.image_grid = timed("picture", images.image_grid)
    with compilations() as programs:
        status = cli.main(arguments)
    record = {
        "status": status, "started": started, "imported": imported, "entered": entered,
        "ended": time.time(), "marks": marks, "programs": len(programs),
        "from_disk": sum(p.cached for p in programs),
        "xla_s": sum(p.seconds for p in programs),
    }  # fmt: skip
    Path(file).write_text(json.dumps(record))


def command(
    folder: Path, arguments: Sequence[str], cache: Path, out: Path | None = None
) -> dict[str, Any]:
    """Run a command of jaxdiff in a fresh process. Seconds to the last file in ``out``, and of its
    parts. RuntimeError with what it said if it fails.
    """
    file = folder / "times.json"
    environment = os.environ | {"JAXDIFF_CACHE": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    began, spent = time.time(), _children()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(file), *arguments],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    if done.returncode or json.loads(file.read_text())["status"]:
        raise RuntimeError(f"jaxdiff {' '.join(arguments)} failed:\n{done.stderr}")
    if out is None:
        return {"seconds": time.time() - began}
    record = json.loads(file.read_text())
    marks = record["marks"]
    written = max(path.stat().st_mtime for path in out.iterdir())
    parts = {
        "start": record["started"] - began,
        "import": record["imported"] - record["started"],
        "options": marks["load"][0] - record["entered"],
        **{name: end - start for name, (start, end) in marks.items()},
        "picture": written - marks["picture"][0],
    }
    xla: dict[str, float] = {name: record[name] for name in ("programs", "from_disk", "xla_s")}
    xla["processor_s"] = _children() - spent
    # what this benchmark adds to the command: its own imports
    return {"seconds": written - began - (record["entered"] - record["imported"]), **parts, **xla}


def _children() -> float:
    """Seconds that processes started from here, and ended, have spent on the CPU."""
    times = os.times()
    return times.children_user + times.children_system


def first_samples(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: cold, then warm several times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, cache, out = folder / "run", folder / "programs", folder / "samples"
        train = ["train", options.preset, "--run", str(run), "--updates", str(options.updates)]
        command(folder, train, folder / "of-training")
        sample = ["sample", "--run", str(run), "--out", str(out), "--count", str(options.count)]
        rows = []
        for number in range(options.repeats + 1):
            row = command(folder, sample, cache, out)
            rows.append({"cache": "warm" if number else "cold", **row})
    return rows


def lines_of(imported: dict[str, Any], rows: Sequence[dict[str, Any]], count: int) -> list[str]:
    """Return the page's findings."""
    from experiments.benchmarks.common import table

    word = "reached" if imported["seconds"] < MOST_IMPORT else "missed"
    each = ", ".join(f"{s:.2f}" for s in imported["each"])
    lines = ["## Import", ""]
    lines += [
        f"Aim: under {MOST_IMPORT} s on one core: {word}, with {imported['seconds']:.2f} s (each: "
        f"{each}). Of these numpy takes {imported['numpy_s']:.2f} s, the rest of jax "
        f"{imported['jax_s']:.2f} s, jaxdiff itself {imported['jaxdiff_s']:.3f} s. The process "
        f"spends {imported['processor_s']:.2f} s on the CPU: less than the time that passes where "
        "it has to wait for others.",
        "",
    ]
    if not rows:
        return lines
    kinds = {kind: [r for r in rows if r["cache"] == kind] for kind in ("cold", "warm")}
    warm = statistics.median(r["seconds"] for r in kinds["warm"])
    word = "reached" if warm < MOST_SAMPLE else "missed"
    each = ", ".join(f"{r['seconds']:.2f}" for r in kinds["warm"])
    lines += ["## First sample", ""]
    lines += [
        f"Aim: {count} samples on disk within {MOST_SAMPLE:.0f} s with a warm cache: {word}, with "
        f"{warm:.2f} s (each: {each}). Medians of seconds:",
        "",
    ]
    cells = []
    for kind, own in kinds.items():
        at = lambda k, own=own: f"{statistics.median(r[k] for r in own):.2f}"  # noqa: E731
        cells.append([kind, at("seconds"), at("processor_s"), *map(at, PARTS), at("xla_s")])
        cells[-1].append(f"{own[-1]['programs'] - own[-1]['from_disk']}")
    header = ["cache", "in all", "on the CPU", *PARTS, "XLA", "programs compiled"]
    return [*lines, *table(header, cells), ""]


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    from experiments.benchmarks import common

    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=count, default=5, help="processes of each kind (5)")
    parser.add_argument("--only", choices=("import", "sample"), help="measure this alone")
    parser.add_argument("--preset", default="digits", help="of jaxdiff train (digits)")
    parser.add_argument("--updates", type=count, default=4, help="updates of the run (4)")
    parser.add_argument("--count", type=count, default=100, help="samples (100)")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print and write."""
    from experiments.benchmarks import common

    options = options_of()
    imported = imports(options.repeats)
    rows = [] if options.only == "import" else first_samples(options)
    lines = lines_of(imported, rows, options.count)
    machine = common.metadata(count=options.count, repeats=options.repeats)
    title = "Import and first sample"
    common.publish(options, title, __doc__, machine, lines, imports=imported, first_samples=rows)


if __name__ == "__main__":
    main()
