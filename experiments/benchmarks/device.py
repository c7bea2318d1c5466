"""Every benchmark of a device, in one command: for whoever has a GPU for a quarter of an hour.

    python -m experiments.benchmarks.device [--out runs/device] [--edm FOLDER] [--dit FOLDER]

    check            the solvers on a Gaussian against closed forms, and one denoiser in float32 and
                     bfloat16, on this device;
    first_sample     how long a user waits;
    sampling         overhead of a sampler over bare calls;
    derivatives      losses built with forward-mode derivatives against plain ones;
    throughput       images per second, sampling and training;
    diffrax_table    an adaptive solve against a table;
    publishers       the same networks in their publishers' PyTorch code, where folders are given
                     (:mod:`experiments.benchmarks.publishers`).

Each runs in a process of its own and writes its page and numbers to the folder when it has ended; a
file index.json says versions, device, and how each ended. What would go beyond ``--minutes`` (10)
is stopped and said; a second command does what is missing. On a CPU, where the same takes an hour,
``--small`` measures small forms of them in about five minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxdiff.files import write_text

SMALL: dict[str, tuple[str, ...]] = {
    "check": (),
    "first_sample": ("--repeats", "1", "--updates", "2", "--count", "4"),
    "sampling": ("--seconds", "1", "--only", "overhead"),
    "derivatives": ("--network", "perceptron", "--batch", "64", "--repeats", "3"),
    "throughput": (
        "--network", "unet", "--dtype", "float32", "--batch", "1", "--first", "1", "--steps", "1",
    ),
    "diffrax_table": ("--batch", "16", "--repeats", "2"),
}  # fmt: skip
"""Options of the small forms; the full ones have none."""


def commands(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Return names and command lines of what is to be run."""
    for name, small in SMALL.items():
        yield name, [f"experiments.benchmarks.{name}", *(small if options.small else ())]
    given = [(f, getattr(options, f)) for f in ("edm", "dit") if getattr(options, f)]
    if given:
        more = [word for name, folder in given for word in (f"--{name}", str(folder))]
        more += ["--small", "--repeats", "3"] if options.small else []
        yield "publishers", ["experiments.benchmarks.publishers", *more]


def run(name: str, command: Sequence[str], folder: Path, seconds: float) -> dict[str, Any]:
    """Run one benchmark, its output to NAME.log; return how it ended."""
    files = ["--json", f"{folder / name}.json", "--markdown", f"{folder / name}.md"]
    began = time.perf_counter()
    with open(folder / f"{name}.log", "w") as log:
        try:
            done = subprocess.run(
                [sys.executable, "-m", *command, *files],
                stdout=log, stderr=subprocess.STDOUT, timeout=seconds, check=False,
            )  # fmt: skip
            ended = "done" if done.returncode == 0 else f"exit status {done.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
    return {"ended": ended, "seconds": time.perf_counter() - began, "command": list(command)}


def read_index(folder: Path) -> dict[str, Any]:
    """Return how the benchmarks in a folder ended, {} where none has been run.

    Raises ValueError for an index that is damaged.
    """
    path = folder / "index.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())["benchmarks"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no index of benchmarks ({error}); remove it") from error


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/device"), help="(runs/device)")
    parser.add_argument("--minutes", type=float, default=10, help="that all may take (10)")
    parser.add_argument("--small", action="store_true", help="small forms, for a CPU")
    parser.add_argument("--fresh", action="store_true", help="what is there is measured again too")
    for name in ("edm", "dit"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help="the publisher's code")
    made = parser.parse_args(arguments)
    if made.minutes <= 0:
        parser.error("--minutes must be positive")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; return 1 if anything did not end well."""
    options = options_of(arguments)
    folder, ends = options.out, time.monotonic() + 60 * options.minutes
    os.makedirs(folder, exist_ok=True)
    found = {} if options.fresh else read_index(folder)
    # This process leaves the device to the others; the versions are those of a child.
    for name, command in commands(options):
        if found.get(name, {}).get("ended") == "done" and found[name]["command"] == command:
            print(f"{name}: done before")
            continue
        left = ends - time.monotonic()
        found[name] = (
            run(name, command, folder, left)
            if left > 0
            else {"ended": "no time was left", "seconds": 0.0, "command": command}
        )
        print(f"{name}: {found[name]['ended']}, {found[name]['seconds']:.0f} s", flush=True)
        write_text(folder / "index.json", json.dumps({"benchmarks": found}, indent=1) + "\n")
    return int(any(row["ended"] != "done" for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
