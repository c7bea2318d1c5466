"""Real weights made by strangers, sampled in ten evaluations and fewer: J. Hughes's MNIST models.

    python -m experiments.mnist_ddpm --weights DIR --data mnist.npz

makes numbers, a page and pictures. Of the checkpoint 0400 of the published run, and of the earlier
0100, the page has

    start       what is sampled from several levels: the highest need a threshold
    solvers     distances to accurate end points on held-out noise, of two solvers, of the best of
                all baselines, and of tables tuned from it (:mod:`experiments.mnist_ddpm.tables`)
    reasons     how far richer rules come with the same evaluations (.limits)
    guidance    autoguidance with the early checkpoint as the worse model (arXiv 2406.02507)
    students    distilled to one and two evaluations (.students)
    scores      samples beside test digits (.scores)

Pairs, tables, students and scores are kept in --runs: a command that was stopped goes on there. On
one CPU core all of it takes about twenty minutes.
"""

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.mnist_ddpm import students, tables
from experiments.mnist_ddpm.ends import (
    SOLVERS,
    START,
    accurate,
    distance,
    ends,
    kept,
    kept_arrays,
    on_grid,
    spread,
)
from experiments.mnist_ddpm.limits import limits
from experiments.mnist_ddpm.page import page
from experiments.mnist_ddpm.scores import SHOWN, outside, pictures, samples, scored
from experiments.numbers import count, finite, natural, positive
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.published import to_pictures
from jaxdiff.arrays import take
from jaxdiff.conditioning.guidance import autoguidance
from jaxdiff.conditioning.threshold import static
from jaxdiff.files import read_json, write_text
from jaxdiff.report.images import side_by_side
from jaxdiff.sampling.sampler import Sampler

LATE, EARLY = "mnist_ddpm_0001_0400.pt", "mnist_ddpm_0001_0100.pt"
LONGER = 40  # evaluations that show how accurate the accurate ends are
ALONE = 0.05  # rate of levels of a table for one sample, whose gradients have no noise
HIGHS = (40.0, START, 4.0)  # levels to start from, after the highest
RANGE = (-0.5, 0.5)  # of the data
Images = dict[str, np.ndarray]


def starts(model: Model, noise: np.ndarray) -> tuple[list[dict[str, float]], Images]:
    """Return what is sampled from several levels in ten evaluations, and what the denoiser makes
    whose output is held within the data's range.
    """
    rows, drawn, held = [], {}, static(model.denoiser, *RANGE)
    for high in (model.levels[1], *HIGHS):
        for kind, D, solver in (("from", model.denoiser, "unipc"), ("held, from", held, "dpmpp")):
            made = ends(D, high * noise, on_grid(model, solver, 10, high))
            row = {"high": high, "outside": outside(made), "std": float(made.std())}
            rows.append({**row, "threshold": D is held, "solver": solver})
            if high in (model.levels[1], START):
                drawn[f"{kind} {high:.3g}"] = made
    order = sorted(drawn, key=lambda name: name.startswith("held"))
    return rows, {name: drawn[name] for name in order}


def guided(
    late: Model, early: Model, noise: np.ndarray, weight: float
) -> tuple[list[dict[str, Any]], Images]:
    """Return what the early checkpoint makes alone, and what it makes of the late one."""
    D = autoguidance(late.denoiser, early.denoiser, weight)
    drawn = {
        "early": ends(early.denoiser, START * noise, on_grid(early, "unipc", 10)),
        "guided": ends(D, START * noise, on_grid(late, "unipc", 10)),
    }
    names = {"early": "early checkpoint", "guided": f"autoguidance {weight:g}"}
    rows = [
        {"model": names[k], "outside": outside(x), "std": float(x.std())} for k, x in drawn.items()
    ]
    return rows, drawn


def measured(
    model: Model, held: dict[str, np.ndarray], found: dict[int, tables.Pair]
) -> tuple[list[dict[str, Any]], Images]:
    """Return distances to accurate ends on held-out noise, by sampler."""
    D, rows, drawn = model.denoiser, [], {}
    for name in SOLVERS:
        for nfe in (*found, 10):
            made = ends(D, held["start"], on_grid(model, name, nfe))
            rows.append({"sampler": name, "nfe": nfe, **spread(made, held["image"])})
    for nfe, pair in found.items():
        own = (("best baseline", "best", pair.baseline), ("tuned", "tuned", pair.tuned))
        for kind, title, one in own:
            made = ends(D, held["start"], one)
            row = {"sampler": kind, "nfe": nfe, **spread(made, held["image"])}
            rows.append({**row, "name": pair.name})
            drawn[f"{title} {nfe}"] = made
    return rows, drawn


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.mnist_ddpm")
    add = parser.add_argument
    add("--weights", type=Path, required=True, metavar="DIR", help=f"with {LATE} and {EARLY}")
    add("--data", type=Path, required=True, help="mnist.npz, to score samples by")
    add("--json", type=Path, default=Path("experiments/results/mnist_ddpm.json"))
    add("--runs", type=Path, default=Path("runs/mnist_ddpm"), help="what is kept (runs/mnist_ddpm)")
    add("--nfe", type=count, nargs="+", default=[3, 4, 5, 6, 8], help="to tune at (3 4 5 6 8)")
    add("--count", type=count, default=64, help="samples that distances are measured on (64)")
    add("--pairs", type=count, default=64, help="to tune on, and to choose by (64)")
    add("--updates", type=count, default=120, help="of a table (120)")
    add("--rate", type=positive, default=0.005, help="of a table's levels (0.005)")
    add("--batch", type=count, default=16, help="of a table (16)")
    add("--alone", type=natural, default=8, help="samples with a table of their own (8)")
    add("--alone-nfe", type=count, nargs="*", default=[5], help="of these (5)")
    add("--weight", type=finite, default=2.0, help="of autoguidance (2)")
    add("--paths", type=count, default=768, help="of the teacher, to distil from (768)")
    add("--student-updates", type=count, default=300, help="of each student (300)")
    add("--student-batch", type=count, default=32, help="of each student (32)")
    add("--samples", type=count, default=256, help="that are scored (256)")
    add("--images", type=count, default=4000, help="of the data's two parts, at most (4000)")
    return parser.parse_args(arguments)


def begin(options: argparse.Namespace) -> None:
    """Keep the settings in the folder. ValueError for a folder of other settings."""
    own = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    own = {k: v for k, v in own.items() if k not in ("json", "runs", "weights", "data")}
    there = kept(options.runs / "settings.json", lambda: own)
    if there != own:
        other = [k for k in own if there.get(k) != own[k]]
        raise ValueError(
            f"{options.runs} holds numbers made with other {', '.join(other)}: give another --runs"
        )


def distilled(
    options: argparse.Namespace, model: Model
) -> tuple[list[dict[str, Any]], dict[int, Sampler]]:
    """Return the students' rows, and their samplers by evaluations."""
    stored, levels = students.paths(model, options.paths, options.runs, seed=3)
    rows, samplers = [], {}
    for num_steps in students.RATES:
        samplers[num_steps], far = students.distil(
            model, stored, levels, num_steps, options.student_updates, options.student_batch,
            options.runs,
        )  # fmt: skip
        rows.append({
            "nfe": num_steps, "updates": options.student_updates, "batch": options.student_batch,
            "distance": far,
        })  # fmt: skip
        print(f"student of {num_steps}: {far:.4f}", flush=True)
    return rows, samplers


def make(options: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[Images, str, int]]]:
    """Return the page's numbers, and its pictures: each with the end of its name and columns."""
    late, early = load_model(options.weights / LATE), load_model(options.weights / EARLY)
    held = kept_arrays(options.runs / "held.npz", lambda: accurate(late, options.count, seed=1))
    noise = held["start"] / np.float32(START)
    longer = ends(late.denoiser, held["start"], on_grid(late, "unipc", LONGER))
    start, drawn = starts(late, noise)
    fit = {"count": options.pairs, "updates": options.updates, "batch": options.batch}
    found = tables.tuned(late, options.nfe, options.runs / "tables", rate=options.rate, **fit)
    solved, more = measured(late, held, found)
    reasons = kept(options.runs / "reasons.json", lambda: why(options, late, held, found))
    guidance, others = guided(late, early, noise, options.weight)
    rows, made = distilled(options, late)
    single = {n: tables.best(late, n, options.runs / "tables", options.pairs) for n in made}
    own = on_grid(late, "unipc", 10)
    D = autoguidance(late.denoiser, early.denoiser, options.weight)
    title = f"UniPC, autoguidance {options.weight:g}, both networks"
    samplers = {
        "UniPC": (10, Sampler(late.denoiser, own)),
        "UniPC, from level 4": (10, Sampler(late.denoiser, on_grid(late, "unipc", 10, 4.0))),
        "UniPC, early checkpoint": (10, Sampler(early.denoiser, own)),
        title: (20, Sampler(D, own)),
        **{f"best baseline in {n}": (n, Sampler(late.denoiser, t)) for n, t in single.items()},
        **{f"student in {n}": (n, sampler) for n, sampler in made.items()},
        **{f"best baseline in {n}": (n, Sampler(late.denoiser, p.baseline))
           for n, p in found.items()},
        **{f"tuned in {n}": (n, Sampler(late.denoiser, p.tuned)) for n, p in found.items()},
        **{f"DPM-Solver++, held within the range, from level {high:.4g}": (10, Sampler(
            static(late.denoiser, *RANGE), on_grid(late, "dpmpp", 10, high)
        )) for high in (late.levels[1], START)},
    }  # fmt: skip
    scores = scored(
        samplers, late, options.data, options.samples, options.images, options.runs / "scores"
    )
    numbers = {
        "levels": late.levels, "start": start, "solvers": solved, "guidance": guidance,
        "accuracy": distance(held["image"], longer), "longer": LONGER, "count": options.count,
        "reasons": reasons, "alone": options.alone, "students": rows, "paths": options.paths,
        "tuning": fit | {"rate": options.rate}, "scores": scores,
    }  # fmt: skip
    few = {
        "teacher, NFE 10": samplers["UniPC"][1],
        **{f"student, NFE {n}": sampler for n, sampler in made.items()},
        **{f"baseline, NFE {n}": Sampler(late.denoiser, t) for n, t in single.items()},
    }
    shown = {name: pictures(late, samples(s, late, SHOWN)) for name, s in few.items()}
    whole = [drawn | others, {"accurate": held["image"]} | more]
    first, second = ({k: to_pictures(late.source, v) for k, v in x.items()} for x in whole)
    return numbers, [(first, "", 3), (second, "_tuned", 1), (shown, "_students", 3)]


def why(
    options: argparse.Namespace, model: Model, held: dict[str, np.ndarray],
    found: dict[int, tables.Pair],
) -> list[dict[str, Any]]:  # fmt: skip
    """Return how far richer rules come, by evaluations and by the table they start from."""
    pairs = tables.pairs_of(model, options.pairs, options.runs / "tables")
    rows = []
    for nfe, pair in found.items():
        given = tables.task(
            model, nfe, pairs, 2 * options.pairs, num_updates=options.updates, rate=ALONE
        )
        alone = options.alone if nfe in options.alone_nfe else 0
        for name, made in (("best baseline", pair.baseline), ("tuned", pair.tuned)):
            more = alone if name == "best baseline" else 0
            rows.append({"nfe": nfe, "table of": name, **limits(given, made, held, more)})
            print(rows[-1], flush=True)
    return rows


def timed(path: Path, begun: float) -> float:
    """Add the processor time since ``begun`` to what the file says; return the sum."""
    total = time.process_time() - begun + (read_json(path) if path.exists() else 0.0)
    write_text(path, json.dumps(total))
    return total


def draw(images: Images, path: Path, columns: int = 3) -> None:
    """Write pictures, four rows of each title."""
    shown = {title: np.clip(take(x, slice(SHOWN)), -1, 1) for title, x in images.items()}
    side_by_side(shown, rows=4, columns=columns).savefig(path, dpi=100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing, and write the page."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(arguments)
    begin(options)
    begun, clock = time.process_time(), options.runs / "seconds.json"
    try:
        numbers, drawn = make(options)
    finally:
        seconds = timed(clock, begun)
    machine = f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    command = shlex.join(["python", "-m", "experiments.mnist_ddpm", *arguments])
    numbers |= {"seconds": seconds, "machine": machine, "command": command}
    write_text(options.json, json.dumps(numbers, indent=1) + "\n")
    text = page(numbers, command, options.json.stem)
    write_text(options.json.with_suffix(".md"), text)
    for images, end, columns in drawn:
        draw(images, options.json.with_name(f"{options.json.stem}{end}.png"), columns)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
