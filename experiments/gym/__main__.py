"""Distil exact denoisers by every method and measure the students against exact answers.

    python -m experiments.gym --method easy_consistency --problem mixture-2d --seed 0 --json e.json
    python -m experiments.gym --method all --problem all --current
    python -m experiments.gym --page experiments/results/gym.json

A small network learns from the exact denoiser of a distribution whose samples and flow are known:
mixture-2d and mixture-8d (6 Gaussians of unequal weights), gaussian (16-D, its variances falling as
1/k^2). The table is written as JSON, with a Markdown page and a figure beside it. Every row is kept
in --out as soon as it is made; the same command uses it again, so a command that was stopped goes
on. A method that fails is a row that says so. With --current rows of other code are made anew: the
command that makes a table of one version, however often it is stopped.

The last command makes page and figure of a table that there is.

A row takes about a minute on two CPU cores, the reference metrics of a problem another; each method
has two seeds on the 8-D mixture.
"""

import argparse
import functools
import json
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from experiments.gym import figures, report, store, train
from experiments.gym.reference_metrics import VERSION
from jaxdiff.app.problems import PROBLEMS, Problem, make_problem
from jaxdiff.files import read_json, write_text
from jaxdiff.recipes import RECIPES

Row = dict[str, Any]


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str], list[Problem]]:
    """Options, methods and problems. Leaves with a message if something is wrong with them."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gym", description=__doc__,
        epilog="What the numbers mean:\n\n" + report.LEGEND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--method", required=True, metavar="NAMES",
        help=f"all, or some of these with commas between: {', '.join(RECIPES)}")  # fmt: skip
    add("--problem", default="mixture-2d", metavar="NAMES",
        help=f"all, or some of these with commas between: {', '.join(PROBLEMS)}")  # fmt: skip
    add("--seed", type=int, help="of training, starting noise and exact samples; by default 0, and "
        "of the 8-D mixture 0 and 1, in two rows")  # fmt: skip
    add(
        "--updates",
        type=int,
        default=8000,
        help="updates of a method, all its stages; those of dear updates get a part of them (8000)",
    )
    add("--start-updates", type=int, default=3000, help="updates of the pretrained start (3000)")
    add("--components", type=int, help="of the mixtures (6)")
    add("--dimension", type=int, help="of the problems (2, 8 and 16)")
    add("--problem-seed", type=int, default=0, help="another draw of means, weights, axes (0)")
    store.add_options(parser, "runs/gym")
    options = parser.parse_args(arguments)
    try:
        methods = store.chosen(options.method, list(RECIPES), "method")
        names = store.chosen(options.problem, PROBLEMS, "problem")
        made = [_problem(name, options) for name in names]
        if options.dimension and {"mixture-2d", "mixture-8d"} <= set(names):
            raise ValueError("of one dimension mixture-2d and mixture-8d are the same: choose one")
        for name in ("updates", "start_updates"):
            if getattr(options, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is at least 1")
        if min(options.seed or 0, options.problem_seed) < 0:
            raise ValueError("seeds are not negative")
        store.make_places(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return options, methods, made


def _problem(name: str, options: argparse.Namespace) -> Problem:
    """Make a problem. Of several, each takes the options it has; a single one must fit them all."""
    several = options.problem == "all" or "," in options.problem
    components = None if several and name == "gaussian" else options.components
    return make_problem(
        name, dimension=options.dimension, components=components, seed=options.problem_seed
    )


def seeds(problem: Problem, options: argparse.Namespace) -> tuple[int, ...]:
    """Return the seeds of a problem's rows."""
    if options.seed is not None:
        return (options.seed,)
    return (0, 1) if problem.name == "mixture-8d" else (0,)


def row_of(
    method: str, problem: Problem, seed: int, options: argparse.Namespace, title: str
) -> Row:
    """Return a row of the table, made now or before."""
    choices = {"seed": seed, "budget": options.updates, "start_updates": options.start_updates}
    settings = {
        "method": method, "problem": problem.name, "dimension": problem.dimension,
        "components": len(problem.modes), "problem_seed": options.problem_seed, **choices,
        "updates": train.updates_of(method, options.updates), "reference_metrics": VERSION,
    }  # fmt: skip
    make = functools.partial(train.run, method, problem, progress=sys.stderr.isatty(), **choices)
    row = store.obtain(options.out, settings, make, title, options.fresh, options.current)
    return row | {"weakness": RECIPES[method].weakness}  # as is known now


def write(rows: list[Row], options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Write the table of the rows made so far."""
    metadata = store.metadata(shlex.join(["python", "-m", "experiments.gym", *arguments]))
    write_text(options.json, json.dumps({"machine": metadata, "rows": rows}, indent=1) + "\n")
    _show(options.json, rows, metadata)


def page(path: pathlib.Path) -> int:
    """Write page and figure of a table that was made before."""
    found = read_json(path)
    _show(path, [store.numbered(row) for row in found["rows"]], found["machine"])
    return 0


def _show(path: pathlib.Path, rows: list[Row], metadata: Row) -> None:
    write_text(path.with_suffix(".md"), report.markdown(rows, metadata))
    if any(not row["error"] for row in rows):
        figures.figure(rows).savefig(path.with_suffix(".png"), dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make every row and write the table; return 1 if a method failed, 130 if stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--page"]:
        return page(pathlib.Path(arguments[1]))
    options, methods, made = parse(arguments)
    jobs = [(m, p, seed) for p in made for seed in seeds(p, options) for m in methods]
    rows: list[Row] = []
    try:
        for number, (method, problem, seed) in enumerate(jobs, 1):
            title = f"[{number}/{len(jobs)}] {problem.name}, seed {seed}, {method}"
            rows.append(row_of(method, problem, seed, options, title))
            print("\n".join(report.lines(rows[-1])), flush=True)
    except KeyboardInterrupt:
        print(f"stopped: {len(rows)} of {len(jobs)} rows are in {options.out}; the same command "
              "goes on", file=sys.stderr)  # fmt: skip
        return 130
    finally:
        if rows:
            write(rows, options, arguments)
    print(f"table: {options.json}, and .md and .png beside it")
    return int(any(row["error"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
