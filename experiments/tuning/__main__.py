"""Tune a sampler by every method for 3 to 10 evaluations and measure it on fresh noise.

    python -m experiments.tuning --method all --problem all
    python -m experiments.tuning --method gs ld3 --problem digits --nfe 3 5 8

On the exact problems of experiments.gym the error is the root mean square distance, per coordinate,
of a sampler's result to where the exact probability flow takes the same noise; the data have
standard deviation 0.5. On "digits", whose teacher is the network of experiments.digits, it is the
Frechet distance of the samples to digits that were set aside, by a classifier's features, and the
distance to the teacher's own samples is beside it.

Each row tunes on some starts, chooses on others and is measured on yet others. "baseline" is the
best of some 300 samplers (11 solvers, 5 grids, 3 lowest levels, with and without an analytic
first step), chosen on the same starts as the others are tuned on.

Writes the table as JSON, with a Markdown page and a figure beside it. Rows are kept in --out as
soon as they are made; the same command uses them again, so a command that was stopped goes on. A
row of an exact problem takes 5 to 60 seconds on a core, one of the digits a minute or two.
"""

import argparse
import functools
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.digits.__main__ import QUALITY, scores_of, teacher_of, values
from experiments.gym import store
from experiments.tuning import report
from jaxdiff import grids, solvers
from jaxdiff.app.data import class_labels
from jaxdiff.app.evaluator import Evaluator, make_evaluator
from jaxdiff.app.models import Model
from jaxdiff.app.problems import HIGH, LOW, PROBLEMS, Problem, make_problem
from jaxdiff.app.tune_tasks import halves_of
from jaxdiff.data.dataset import to_float
from jaxdiff.data.digits import load_digits
from jaxdiff.files import write_text
from jaxdiff.noise import start_noise
from jaxdiff.recipes.tuning import TUNERS
from jaxdiff.recipes.tuning.kernel import kernel_score
from jaxdiff.recipes.tuning.solve import check, solve
from jaxdiff.recipes.tuning.task import Task, ranked_baselines
from jaxdiff.sampling.pairs import make_pairs
from jaxdiff.sampling.parallel import stages
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.training.tune import Scorer, held_out

Row = dict[str, Any]
BASELINE = "baseline"
METHODS = (BASELINE, *(name for name in TUNERS if name not in ("pas", "amed_predictor")))  # tables
COUNT = 4096  # starts to tune on, as many to choose by, as many to measure on


def exact_pairs(problem: Problem, seed: int, number: int) -> dict[str, np.ndarray]:
    """Starts and where the exact flow takes them."""
    key = jax.random.fold_in(jax.random.key(seed), number)
    start = HIGH * start_noise(key, COUNT, (problem.dimension,))
    return {"start": np.asarray(start), "image": np.asarray(problem.flow(start))}


@functools.cache
def exact_task(name: str, seed: int) -> tuple[Task, dict[str, np.ndarray]]:
    """Return a task on an exact problem, for any number of evaluations, and the pairs to measure
    on.
    """
    problem = make_problem(name)
    pairs = [exact_pairs(problem, seed, number) for number in range(3)]
    data = np.asarray(problem.samples(jax.random.key(seed + 1000), 2 * COUNT))
    task = Task(
        problem.model.denoiser, 1, pairs[0], pairs[1], data, low=LOW, high=HIGH, batch=512,
        num_updates=2000, seed=seed,
    )  # fmt: skip
    return task, pairs[2]


def exact_row(method: str, name: str, nfe: int, options: argparse.Namespace) -> Row:
    """Return a row of an exact problem."""
    task, fresh = exact_task(name, options.seed)
    task = task._replace(nfe=nfe, num_updates=options.updates or task.num_updates)
    score = held_out(task.denoiser, fresh)
    made, known = sampler_of(method, task)
    error = None if made.stochastic else score(made)  # one that draws noise has no end to compare
    return known | {"error_of": error, "mmd2": kernel_score(task._replace(held=fresh))(made)}


def sampler_of(method: str, task: Task) -> tuple[Table, dict[str, Any]]:
    """Return the sampler that a method finds, and its record."""
    began = time.perf_counter()
    if method == BASELINE:
        best = ranked_baselines(check(task, "gs"))[0]
        made = best.table()
        score = held_out(task.denoiser, task.held, task.distance)(made)
        metadata = {"name": best.name, "held_out": score}
    else:
        every = 100 if task.num_updates >= 1000 else 50
        found = solve(task, method, every=every, progress=sys.stderr.isatty()).tuned
        assert isinstance(found.table, Table)
        made, metadata = found.table, {"name": repr(found.table.label), "held_out": found.score}
    seconds = time.perf_counter() - began
    return made, metadata | {"calls": len(stages(made)), "seconds": seconds}


@functools.cache
def digits_task(out: pathlib.Path, seed: int) -> tuple[Task, Model, Evaluator, Scorer]:
    """Return a task on the digits' teacher, its model, the evaluator, and the score of
    distances.
    """
    choices = argparse.Namespace(teacher=None, out=out, teacher_updates=3000, seed=seed)
    model = teacher_of(choices)
    images = load_digits("train")
    teacher = Sampler(model.denoiser, table(solvers.unipc, grids.karras(40), order=3))
    solved = lambda count, key: make_pairs(  # noqa: E731
        teacher, count, model.shape, jax.random.key(key), progress=False,
        labels=class_labels(count, model.classes),
    )  # fmt: skip
    both, fresh = solved(1024, seed + 1), held_out(model.denoiser, solved(256, seed + 2))
    pairs = [{k: v[rows] for k, v in both.items()} for rows in halves_of(512)]
    order = np.random.default_rng(seed).permutation(len(images))
    unroll = {"unroll": True} if jax.default_backend() == "cpu" else {}
    task = Task(
        model.denoiser, 1, pairs[0], pairs[1], to_float(images.images[order]),
        np.asarray(images.labels)[order], batch=32, num_updates=300, seed=seed, options=unroll,
    )  # fmt: skip
    return task, model, make_evaluator(images, load_digits("test"), "classifier", seed), fresh


def digits_row(method: str, nfe: int, options: argparse.Namespace) -> Row:
    """Return a row of the digits."""
    task, model, evaluator, fresh = digits_task(options.out, options.seed)
    task = task._replace(nfe=nfe, num_updates=options.updates or task.num_updates)
    made, known = sampler_of(method, task)
    choices = argparse.Namespace(count=360, seed=options.seed)
    scores = values(scores_of(evaluator, Sampler(model.denoiser, made), model, choices))
    distance = None if made.stochastic else fresh(made)
    return known | {"error_of": scores[QUALITY], "distance": distance} | scores


def row_of(method: str, problem: str, nfe: int, options: argparse.Namespace, title: str) -> Row:
    """Return a row of the table, made now or before."""
    settings = {
        "method": method, "problem": problem, "evaluations": nfe, "seed": options.seed,
        "updates": options.updates,
    }  # fmt: skip
    if problem == "digits":
        make = functools.partial(digits_row, method, nfe, options)
    else:
        make = functools.partial(exact_row, method, problem, nfe, options)
    return store.obtain(options.out, settings, make, title, options.fresh, options.current)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options. Leaves with a message if something is wrong with them."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tuning", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add, places = parser.add_argument, (*PROBLEMS, "digits")
    add("--method", nargs="+", default=["all"], metavar="NAME",
        help=f"all, or some of {', '.join(METHODS)}; {BASELINE} is always among them")  # fmt: skip
    add("--problem", nargs="+", default=["mixture-2d"], metavar="NAME",
        help=f"exact (the first three), all, or some of {', '.join(places)}")  # fmt: skip
    add("--nfe", type=int, nargs="+", default=[3, 4, 5, 6, 8, 10], help="evaluations (3 to 10)")
    add("--updates", type=int, help="of a descent (2000 on an exact problem, 300 on digits)")
    add("--seed", type=int, default=0, help="of everything (0)")
    store.add_options(parser, "runs/tuning")
    options = parser.parse_args(arguments)
    try:
        wanted = store.chosen(",".join(options.method), list(METHODS), "method")
        options.method = list(dict.fromkeys([BASELINE, *wanted]))
        names = ",".join(options.problem).replace("exact", ",".join(PROBLEMS))
        options.problem = store.chosen(names, list(places), "problem")
        if min(options.nfe) < 1 or options.seed < 0 or (options.updates or 1) < 1:
            raise ValueError("--nfe and --updates are at least 1, --seed is not negative")
        store.make_places(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Make every row and write the table; return 1 if a row failed, 130 if stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(arguments)
    jobs = [(m, p, n) for p in options.problem for n in options.nfe for m in options.method]
    rows: list[Row] = []
    try:
        for number, (method, problem, nfe) in enumerate(jobs, 1):
            title = f"[{number}/{len(jobs)}] {problem}, {nfe} evaluations, {method}"
            rows.append(row_of(method, problem, nfe, options, title))
            print(report.line(rows[-1]), flush=True)
    except KeyboardInterrupt:
        print(f"stopped: {len(rows)} of {len(jobs)} rows are in {options.out}; the same command "
              "goes on", file=sys.stderr)  # fmt: skip
        return 130
    finally:
        if rows:
            metadata = store.metadata(
                shlex.join(["python", "-m", "experiments.tuning", *arguments])
            )
            whole = json.dumps({"machine": metadata, "rows": rows}, indent=1) + "\n"
            write_text(options.json, whole)
            write_text(options.json.with_suffix(".md"), report.markdown(rows, metadata))
            if any(not row["error"] for row in rows):
                report.figure(rows).savefig(options.json.with_suffix(".png"), dpi=110)
    print(f"table: {options.json}, and .md and .png beside it")
    return int(any(row["error"] and "cannot have" not in row["error"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
