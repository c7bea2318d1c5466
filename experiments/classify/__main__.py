"""Distilling classifiers: accuracies of the students of every method, in one table.

    python -m experiments.classify --method all --pair tiny --data fashion --pool 2 --seeds 1 2 3

For every seed a teacher and a student without one are trained by labels, then a student by every
method. Online methods train groups of the student's network and no teacher; beside them is that
network alone by their recipe, "vanilla-online". Rows are kept in the JSON file as they are made,
and a run that was stopped goes on where it was. ``--preset paper`` has the recipe of the papers,
240 epochs in batches of 64 (300 of 128 online), for a machine with a GPU.
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

Row = dict[str, Any]
OFFLINE, ONLINE = classify.OFFLINE, classify.ONLINE_METHODS
ALONE = "vanilla-online"  # the row of the network alone by the recipe of online methods
VARIANTS = {  # further rows: (method, choices)
    "simkd-weight-30": ("simkd", {"weight": 30.0}),
    "simkd-4-weight-30": ("simkd", {"factor": 4, "weight": 30.0}),
    "simkd-8-weight-30": ("simkd", {"factor": 8, "weight": 30.0}),
    "simkd-1-block-weight-30": ("simkd", {"blocks": 1, "weight": 30.0}),
    "semckd-weight-100": ("semckd", {"weight": 100.0}),
    "semckd-weight-25": ("semckd", {"weight": 25.0}),
    "okddip-networks": ("okddip", {"branches": False}),
    "okddip-reference": ("okddip", {"reference": True}),
}


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    form = argparse.RawDescriptionHelpFormatter
    prog = "python -m experiments.classify"
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=form)
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
    for name in ("pool", "images", "test_images", "updates", "teacher_updates", "batch"):
        if (number := getattr(options, name)) is not None and number < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if options.rate is not None and not 0 < options.rate < float("inf"):
        parser.error("--rate must be positive and finite")
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


def is_online(name: str) -> bool:
    """Return whether a row has the recipe of online methods, and no teacher."""
    return VARIANTS.get(name, (name,))[0] in (*ONLINE, ALONE)


def rows_of(methods: Sequence[str]) -> list[str]:
    """Return the rows of a seed: the methods, once each, and before them what they are compared
    with.
    """
    alone = [ALONE] if any(map(is_online, methods)) else []
    taught = [] if all(map(is_online, methods)) else ["teacher", "vanilla"]
    return [*taught, *alone, *dict.fromkeys(methods)]


def method_of(
    name: str, teacher: Trained | None, student: Any, problem: Problem, options: argparse.Namespace
) -> Method:
    """Return a method by its name, for a teacher (None of online methods) and a student."""
    base, chosen = VARIANTS.get(name, (name, {}))
    choices: dict[str, Any] = dict(chosen)
    offline, online = recipes(options, len(problem.images))
    if name in ("vanilla", ALONE):
        return classify.vanilla(student, recipe=online if name == ALONE else offline)
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
) -> Row:
    """Return the numbers of a classifier."""
    network = classifier.network
    found = classify.accuracy(classifier, problem.test_images, problem.test_labels)
    return {
        "method": name, "seed": seed, "accuracy": found, "seconds": seconds, "updates": updates,
        "parameters": network.num_parameters(), "multiply_adds": network.multiply_adds(),
    }  # fmt: skip


def taught(options: argparse.Namespace, problem: Problem, seed: int) -> tuple[Trained, Row]:
    """Return the teacher of a seed, and its row."""
    big = problem.network(pairs(problem.classes)[options.pair][0])
    offline, _ = recipes(options, len(problem.images))
    updates = offline.num_updates if options.preset == "paper" else options.teacher_updates
    method = classify.vanilla(big, recipe=offline._replace(num_updates=updates))
    stored = None if options.teachers is None else options.teachers / f"teacher-{seed}"
    if stored is not None:
        names = ("data", "pair", "pool", "images", "batch", "rate")
        check_stored(stored, {n: getattr(options, n) for n in names} | {"updates": updates})
    state, seconds = trained(method, Batches(problem, options.batch, seed), updates, seed, stored)
    teacher = method.sampler(state)
    return teacher, row("teacher", seed, teacher, problem, seconds, updates)


def check_stored(folder: Path, settings: dict[str, Any]) -> None:
    """Note what a stored teacher is trained on. Raises ValueError for one of other settings, whose
    shapes may be the same.
    """
    note = folder.with_suffix(".json")
    known = json.loads(note.read_text()) if note.exists() else settings
    if known != settings:
        raise ValueError(f"{folder} holds a teacher of other settings, {known}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_text(note, json.dumps(settings, indent=1) + "\n")


def student(
    name: str, teacher: Trained | None, problem: Problem, options: argparse.Namespace, seed: int
) -> Row:
    """Return the row of a method, or why there are no numbers."""
    small = problem.network(pairs(problem.classes)[options.pair][1])
    try:
        method = method_of(name, teacher, small, problem, options)
    except ValueError as error:  # a pair that the method is not for
        return {"method": name, "seed": seed, "not_for": str(error)}
    updates = recipes(options, len(problem.images))[is_online(name)].num_updates
    try:
        state, seconds = trained(method, Batches(problem, options.batch, seed), updates, seed)
    except FloatingPointError as error:  # it diverged, which is a result
        return {"method": name, "seed": seed, "diverged": str(error).split(";")[0]}
    made = row(name, seed, method.sampler(state), problem, seconds, updates)
    if is_online(name) and name != ALONE:
        ensemble = method.sampler(state, member="ensemble")
        made["ensemble"] = classify.accuracy(ensemble, problem.test_images, problem.test_labels)
    return made


def measure(options: argparse.Namespace, problem: Problem, keep: Any) -> None:
    """Train and score all that ``keep`` does not have yet."""
    for seed in options.seeds:
        wanted = [name for name in rows_of(options.method) if not keep.has(name, seed)]
        teacher = None
        if not all(map(is_online, wanted)):
            teacher, made = taught(options, problem, seed)
            if not keep.has("teacher", seed):
                keep(made)
        for name in wanted:
            if name != "teacher":
                keep(student(name, teacher, problem, options, seed))


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


def scored_on(problem: Problem, count: int | None) -> Problem:
    """Return the problem with the first test images alone. Raises ValueError for more than there
    are.
    """
    images, labels = problem.test_images, problem.test_labels
    if count is not None and count > len(images):
        raise ValueError(f"there are {len(images)} test images, not {count}")
    return problem._replace(test_images=images[:count], test_labels=labels[:count])


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    options = arguments_of(given)
    names = ("pair", "data", "pool", "images", "test_images", "updates", "teacher_updates", "batch",
             "rate", "preset")  # fmt: skip
    try:
        problem = scored_on(
            read(options.folder, options.data, options.pool, options.images), options.test_images
        )
        kept = Kept(options.json, {name: getattr(options, name) for name in names})
    except (OSError, ValueError) as error:  # no such data, or rows of other settings
        print(f"error: {error}", file=sys.stderr)
        return 2
    measure(options, problem, kept)
    numbers = json.loads(options.json.read_text())
    write_text(options.json.with_suffix(".md"), page(numbers))
    print(page(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
