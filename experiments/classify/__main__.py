"""Distilling classifiers: accuracies of the students of every method, in one table.

    python -m experiments.classify --method all --pair tiny --data fashion --pool 2 --seeds 1 2 3

For every seed a teacher and a student without one are trained by labels, then a student by every
method; online methods train groups of the student's network. Rows are kept in the JSON file as they
are made, and a run that was stopped goes on where it was. ``--preset paper`` has the recipe of the
papers, 240 epochs in batches of 64 (300 of 128 online), for a machine with a GPU.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.classify.problem import FILES, Batches, Problem, pairs, read
from experiments.classify.report import page
from jaxdiff import classify
from jaxdiff.classify import Recipe, Trained
from jaxdiff.files import write_text
from jaxdiff.method import Method
from jaxdiff.training import fit

OFFLINE, ONLINE = classify.OFFLINE, classify.ONLINE_METHODS
VARIANTS = {  # further rows: (method, choices)
    "simkd-4": ("simkd", {"factor": 4}),
    "simkd-8": ("simkd", {"factor": 8}),
    "simkd-weight-30": ("simkd", {"weight": 30.0}),
    "semckd-weight-100": ("semckd", {"weight": 100.0}),
    "semckd-weight-25": ("semckd", {"weight": 25.0}),
    "simkd-1-block": ("simkd", {"blocks": 1}),
    "okddip-networks": ("okddip", {"branches": False}),
    "okddip-reference": ("okddip", {"reference": True}),
}


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m experiments.classify")
    add = parser.add_argument
    add("--method", nargs="+", default=["all"], metavar="NAME",
        help=f"all, or of {', '.join((*OFFLINE, *ONLINE, *VARIANTS))}")  # fmt: skip
    add("--pair", default="tiny", choices=list(pairs(10)), help="teacher and student")
    add("--data", default="fashion", choices=list(FILES))
    add("--folder", type=Path, default=Path("../shared/data"), help="of the data sets")
    add("--pool", type=int, default=1, help="average over squares of so many pixels")
    add("--images", type=int, help="train on so many, all by default")
    add("--test-images", type=int, help="score on so many, all by default")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--updates", type=int, default=1500, help="of a student (1500)")
    add("--teacher-updates", type=int, default=3000, help="of a teacher (3000)")
    add("--batch", type=int, default=64)
    add("--rate", type=float, help="another rate than the recipes'")
    add("--teachers", type=Path, metavar="FOLDER", help="where teachers are kept for other runs")
    add("--preset", choices=["small", "paper"], default="small")
    add("--json", type=Path, default=Path("experiments/results/classify.json"))
    options = parser.parse_args(given)
    names = [*OFFLINE, *ONLINE, *VARIANTS]
    options.method = names if options.method == ["all"] else options.method
    if strange := set(options.method) - set(names):
        parser.error(f"no method is called {', '.join(sorted(strange))}; there are {names}")
    return options


def recipes(options: argparse.Namespace, count: int) -> tuple[Recipe, Recipe]:
    """Return the recipes of methods with a teacher and of those without."""
    changed: dict[str, Any] = {} if options.rate is None else {"rate": options.rate}
    if options.preset == "paper":
        epoch = count // options.batch
        numbers = 240 * epoch, 300 * epoch
    else:
        numbers = options.updates, options.updates
    first, second = numbers
    return (
        Recipe()._replace(num_updates=first, **changed),
        classify.ONLINE._replace(num_updates=second, **changed),
    )


def method_of(
    name: str, teacher: Trained, student: Any, problem: Problem, options: argparse.Namespace
) -> Method:
    """Return a method by its name, for a teacher and a student."""
    base, chosen = VARIANTS.get(name, (name, {}))
    choices: dict[str, Any] = dict(chosen)
    offline, online = recipes(options, len(problem.images))
    if base in ONLINE:
        return ONLINE[base](student, recipe=online, **choices)
    if base == "semckd":
        choices |= {"batch": options.batch}
    if base == "crd":
        negatives = min(16_384, len(problem.images) // 4)
        choices |= {"labels": problem.labels, "negatives": negatives}
    return OFFLINE[base](teacher, student, recipe=offline, **choices)


def trained(
    method: Method, batches: Batches, updates: int, seed: int, stored: Path | None = None
) -> tuple[Any, float]:
    """Return the state after training, and the seconds it took, compilation included."""
    begun = time.monotonic()
    state = fit(method, batches, num_updates=updates, key=seed, progress=False, checkpoint=stored)
    jax.block_until_ready(state.params)
    return state, time.monotonic() - begun


def row(
    name: str, seed: int, classifier: Any, problem: Problem, seconds: float, updates: int
) -> dict[str, Any]:
    """Return the numbers of a classifier."""
    network = classifier.network
    found = classify.accuracy(classifier, problem.test_images, problem.test_labels)
    return {
        "method": name, "seed": seed, "accuracy": found, "seconds": seconds, "updates": updates,
        "parameters": network.num_parameters(), "multiply_adds": network.multiply_adds(),
    }  # fmt: skip


def measure(options: argparse.Namespace, problem: Problem, keep: Any) -> None:
    """Train and score all that ``keep`` does not have yet."""
    modules = pairs(problem.classes)[options.pair]
    big, small = (problem.network(module) for module in modules)
    offline, _ = recipes(options, len(problem.images))
    for seed in options.seeds:
        batches = Batches(problem, options.batch, seed)
        wanted = [n for n in ("teacher", "vanilla", *options.method) if not keep.has(n, seed)]
        if not wanted:
            continue
        updates = offline.num_updates if options.preset == "paper" else options.teacher_updates
        teach = classify.vanilla(big, recipe=offline._replace(num_updates=updates))
        stored = None if options.teachers is None else options.teachers / f"teacher-{seed}"
        state, seconds = trained(teach, batches, updates, seed, stored)
        teacher = teach.sampler(state)
        for name in wanted:
            if name == "teacher":
                keep(row(name, seed, teacher, problem, seconds, updates))
                continue
            if name == "vanilla":
                method = classify.vanilla(small, recipe=offline)
            else:
                try:
                    method = method_of(name, teacher, small, problem, options)
                except ValueError as error:  # a pair that the method is not for
                    keep({"method": name, "seed": seed, "not_for": str(error)})
                    continue
            number = offline.num_updates
            if VARIANTS.get(name, (name,))[0] in ONLINE:
                number = recipes(options, len(problem.images))[1].num_updates
            try:
                state, seconds = trained(method, batches, number, seed)
            except FloatingPointError as error:  # it diverged, which is a result
                keep({"method": name, "seed": seed, "diverged": str(error).split(";")[0]})
                continue
            made = row(name, seed, method.sampler(state), problem, seconds, number)
            if VARIANTS.get(name, (name,))[0] in ONLINE:
                ensemble = method.sampler(state, member="ensemble")
                scored = classify.accuracy(ensemble, problem.test_images, problem.test_labels)
                made["ensemble"] = scored
            keep(made)


class Kept:
    """Rows in a JSON file, written whole after each."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Read what is there. Raises ValueError for rows of other settings."""
        self.path, self.settings, self.rows, self.notes = path, settings, [], []
        if path.exists():
            known = json.loads(path.read_text())
            if known["settings"] != settings:
                raise ValueError(f"{path} holds rows of other settings, {known['settings']}")
            self.rows, self.notes = known["rows"], known.get("notes", [])

    def has(self, name: str, seed: int) -> bool:
        """Return whether there is such a row."""
        return any(r["method"] == name and r["seed"] == seed for r in self.rows)

    def __call__(self, made: dict[str, Any]) -> None:
        """Keep a row."""
        self.rows.append(made)
        numbers = {
            "settings": self.settings, "machine": machine(), "notes": self.notes,
            "rows": self.rows,
        }  # fmt: skip
        write_text(self.path, json.dumps(numbers, indent=1) + "\n")
        print(json.dumps(made), flush=True)


def machine() -> str:
    """Return what it runs on, in words."""
    return f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}"


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    options = arguments_of(given)
    problem = read(options.folder, options.data, options.pool, options.images)
    if options.test_images is not None:
        n = options.test_images
        problem = problem._replace(
            test_images=problem.test_images[:n], test_labels=problem.test_labels[:n]
        )
    names = ("pair", "data", "pool", "images", "test_images", "updates", "teacher_updates", "batch",
             "rate", "preset")  # fmt: skip
    kept = Kept(options.json, {name: getattr(options, name) for name in names})
    measure(options, problem, kept)
    numbers = json.loads(options.json.read_text())
    write_text(options.json.with_suffix(".md"), page(numbers))
    print(page(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
