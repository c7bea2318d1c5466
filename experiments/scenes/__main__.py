"""Draw scenes with a diffusion model: score distillation sampling (SDS) and its variational form
(VSD), of many scenes at once, so that it is seen whether they are one scene or a distribution.

    python -m experiments.scenes
    python -m experiments.scenes --part points --particles 512
    python -m experiments.scenes --part digits --sds 1 30 --vsd 1 2 --scenes 8 --updates 300
    python -m experiments.scenes --teacher runs/digits-methods/teacher

Points: a scene is a point of the plane, its teacher the exact denoiser of six Gaussians. Digits: a
scene is sixteen soft, oriented blobs, drawn at 8 x 8 pixels for its teacher, a class-conditional
network of handwritten digits, and at any size for the eye. The teacher is that of
`python -m experiments.digits`, trained in --out if no finished run is given with --teacher.

--sds and --vsd are weights of classifier-free guidance, 1 being none: a row of the table for each.
Writes the table as JSON, with a Markdown page and a figure beside it. Every row is kept in --out as
soon as it is made; the same command uses it again, so a command that was stopped goes on. About ten
minutes on one CPU core, of which the points take one and the teacher two.
"""

import argparse
import functools
import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.digits.__main__ import teacher_of
from experiments.gym import store
from experiments.scenes import pictures, points, report
from jaxdiff.app.evaluator import make_evaluator
from jaxdiff.app.load import load_model
from jaxdiff.data.digits import load_digits
from jaxdiff.files import write_text
from jaxdiff.training.checkpoint import fingerprint

Row = dict[str, Any]
PARTS = ("points", "digits")


class Job(NamedTuple):
    """A row to be made: its settings, and how."""

    settings: Row
    make: Callable[[], Row]


def of_points(options: argparse.Namespace) -> list[Job]:
    """Return what is done with particles."""
    common = {
        "count": options.particles, "updates": options.point_updates,
        "start_updates": options.start_updates, "seed": options.seed,
    }  # fmt: skip
    return [
        Job(
            {**choice._asdict(), **common, "problem": "points", "name": name},
            functools.partial(points.run, choice, **common),
        )
        for name, choice in points.CHOICES.items()
    ]


def of_digits(options: argparse.Namespace) -> list[Job]:
    """Return what is done with scenes of blobs. Loads or trains the teacher, and trains the
    evaluator.
    """
    model, real = teacher_of(options), load_digits("train")
    evaluator = make_evaluator(real, load_digits("test"), "classifier", options.seed)
    measures = pictures.Measures(evaluator, real, model.classes)
    plan = pictures.Plan(options.scenes, options.blobs, options.updates, options.rank, options.seed)
    common = {"problem": "digits", **plan._asdict(), "teacher": fingerprint(model.params)}
    jobs = []
    for weight in sorted({1.0, *options.vsd}):
        settings = {**common, "method": "teacher", "weight": weight}
        settings["name"] = report.named("teacher", weight)
        make = functools.partial(pictures.run_teacher, weight, plan, model, measures)
        jobs.append(Job(settings, make))
    make = functools.partial(pictures.run_traced, plan, measures)
    jobs.append(Job({**common, "method": "traced", "name": report.TRACED}, make))
    choices = [pictures.Choice("sds", weight) for weight in options.sds]
    choices += [pictures.Choice("vsd", weight) for weight in options.vsd]
    choices += [pictures.Choice("vsd", options.vsd[0], annealed=True)] if options.vsd else []
    choices += [pictures.Choice("vsd", options.vsd[0], alone=True)] if options.vsd else []
    for choice in choices:
        chosen = choice._asdict()
        settings = {**common, **chosen, "name": report.named(**chosen)}
        make = functools.partial(pictures.run, choice, plan, model, measures)
        jobs.append(Job(settings, make))
    return jobs


def write(rows: list[Row], options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Write the table of the rows made so far."""
    metadata = store.metadata(shlex.join(["python", "-m", "experiments.scenes", *arguments]))
    kept = [{k: v for k, v in row.items() if k not in report.DRAWN} for row in rows]
    write_text(options.json, json.dumps({"machine": metadata, "rows": kept}, indent=1) + "\n")
    write_text(options.json.with_suffix(".md"), report.markdown(rows, metadata))
    if any(not row["error"] for row in rows):
        report.figure(rows).savefig(options.json.with_suffix(".png"), dpi=110)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options. Leaves with a message if something is wrong with them."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.scenes", description=__doc__,
        epilog="What the numbers mean:\n\n" + report.LEGEND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--part", nargs="+", default=list(PARTS), choices=PARTS, help="what to do (both)")
    add("--sds", nargs="*", type=float, default=[1.0, 3.0, 10.0, 100.0], metavar="WEIGHT",
        help="guidance of SDS on digits (1 3 10 100)")  # fmt: skip
    add("--vsd", nargs="*", type=float, default=[1.0, 3.0, 7.5], metavar="WEIGHT",
        help="guidance of VSD on digits; the first with annealed levels and with single scenes too "
        "(1 3 7.5)")  # fmt: skip
    add("--scenes", type=int, default=16, help="of each class of digits (16)")
    add("--blobs", type=int, default=16, help="of a scene (16)")
    add("--rank", type=int, default=16,
        help="of the adapters of the digits' fake score; 0 trains all of it (16)")  # fmt: skip
    add("--updates", type=int, default=600, help="updates of a row of digits (600)")
    add("--particles", type=int, default=1024, help="points (1024)")
    add("--point-updates", type=int, default=2000, help="updates of a row of points (2000)")
    add(
        "--start-updates",
        type=int,
        default=3000,
        help="of the network that points' VSD starts from (3000)",
    )
    add("--seed", type=int, default=0, help="of everything (0)")
    add("--teacher", metavar="FOLDER", help="a finished run; by default one is trained in --out")
    add("--teacher-updates", type=int, default=3000, help="updates of that one (3000)")
    store.add_options(parser, "runs/scenes", "teacher and rows are")
    options = parser.parse_args(arguments)
    try:
        _check(options)
        store.make_places(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return options


def _check(options: argparse.Namespace) -> None:
    least = {"scenes": 2, "particles": 20, "rank": 0, "seed": 0}
    whole = (
        "scenes",
        "blobs",
        "rank",
        "updates",
        "particles",
        "point_updates",
        "start_updates",
        "seed",
    )
    for name in (*whole, "teacher_updates"):
        if getattr(options, name) < least.get(name, 1):
            raise ValueError(f"--{name.replace('_', '-')} is at least {least.get(name, 1)}")
    for name in ("sds", "vsd"):
        weights = getattr(options, name)
        if not all(math.isfinite(w) and w >= 0 for w in weights):
            raise ValueError(f"weights of --{name} are not negative")
        setattr(options, name, list(dict.fromkeys(weights)))
    if options.teacher:
        metadata = load_model(options.teacher).metadata
        if (metadata["data"] or {}).get("path") != "digits" or metadata["kind"] != "teacher":
            raise ValueError(f"{options.teacher} is not a teacher of the digits")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make every row and write the table; return 1 if one failed, 130 if stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(arguments)
    rows: list[Row] = []
    try:
        for part in dict.fromkeys(options.part):
            jobs = of_points(options) if part == "points" else of_digits(options)
            for number, job in enumerate(jobs, 1):
                title = f"[{number}/{len(jobs)}] {part}, {job.settings['name']}"
                row = store.obtain(
                    options.out, job.settings, job.make, title, options.fresh, options.current
                )
                rows.append(row)
                print(report.line(row), flush=True)
    except KeyboardInterrupt:
        print(f"stopped: {len(rows)} rows are in {options.out}; the same command goes on",
              file=sys.stderr)  # fmt: skip
        return 130
    finally:
        if rows:
            write(rows, options, arguments)
    print(f"table: {options.json}, and .md and .png beside it")
    return int(any(row["error"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
