r"""How much of the geometry of sampling needs a network: published statistics, and null models.

    python -m experiments.geometry --data ../shared/data/cifar10-train-32x32.zip \
        --mnist ../shared/data/mnist.npz --weights ../shared/data/weights --run digits

writes numbers, a page and a figure. Each data set that is given is measured anew and takes the
place of what the file says of it; the others stay:

    --data                 images, no network: their Gaussian, exactly and by Euler, and themselves
    --mnist                the model of MNIST that comes with the package, beside null models
    --weights              with --mnist, a published model of it instead
    --run                  "digits", the package's model, or a run of jaxdiff train digits; with
                           --students some of its students (jaxdiff distill --teacher digits)

Source: Chen et al., arXiv 2305.19947, 2405.11326 and 2506.10177, and the authors' notebook.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.geometry import closed, learned
from experiments.geometry.report import figure, page
from experiments.numbers import count, natural
from jaxdiff.files import read_json, write_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is given, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.geometry")
    add = parser.add_argument
    add("--data", help="zip or folder of images, measured without a network")
    add("--mnist", metavar="FILE", help="mnist.npz: the package's model of it")
    add("--weights", metavar="DIR", help=f"instead of that {learned.PUBLISHED}, in this folder")
    add("--run", metavar="DIR", help='"digits", or a run of jaxdiff train digits')
    add("--students", metavar="DIR", nargs="*", default=(), help="students of --run")
    add("--json", type=Path, default=Path("experiments/results/geometry.json"))
    add("--count", type=count, default=64, help="trajectories (64)")
    add("--seed", type=natural, default=0)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    if options.weights is not None and options.mnist is None:
        parser.error("--weights is of a model of --mnist")
    if options.students and options.run is None:
        parser.error("--students are of a --run")
    numbers = read_json(options.json) if options.json.exists() else {}
    for name, part in _parts(options).items():
        began = time.monotonic()
        numbers[name] = part() | {
            "command": "python -m experiments.geometry " + " ".join(arguments),
            "seconds": time.monotonic() - began,
            "machine": f"{platform.machine()}, {jax.devices()[0].device_kind}",
        }
        write_text(options.json, json.dumps(_rounded(numbers), indent=1) + "\n")
    if not numbers:
        parser.error("nothing to measure: give --data, --mnist or --run")
    write_text(options.json.with_suffix(".md"), page(numbers))
    figure(numbers).savefig(options.json.with_suffix(".png"), dpi=110)
    print(page(numbers))
    return 0


def _parts(options: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what is measured, by data set."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    if options.data is not None:
        parts["images"] = lambda: closed.measured(options.data, options.count, options.seed)
    given = options.mnist, options.count, options.seed
    if options.weights is not None:
        parts["published MNIST"] = lambda: learned.published(options.weights, *given)
    elif options.mnist is not None:
        parts["MNIST"] = lambda: learned.mnist(*given)
    if options.run is not None:
        students = tuple(options.students)
        parts["digits"] = lambda: learned.digits(options.run, students, options.count, options.seed)
    return parts


def _rounded(value: Any) -> Any:
    """Return numbers with six digits."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
