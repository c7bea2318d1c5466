"""Distil one teacher of handwritten digits by every method and score the students.

    python -m experiments.digits --method all
    python -m experiments.digits --method easy_consistency scd --updates 1500

The teacher is the demo's class-conditional network (a finished run of another kind is taken with
--teacher). Every method has the same number of updates. Students are scored at 1, 2 and 4 network
evaluations (NFE) against digits that neither teacher nor evaluator saw, by a classifier's features:
Frechet distance, kernel distance (MMD^2), sliced Wasserstein, precision, recall, and how often the
classifier sees the class that was requested. The cost of training is in seconds and in
multiplications per update relative to score matching with the same network, the teacher's
evaluations included.

Writes the table as JSON, with a Markdown page and a figure beside it. Every row is kept in --out as
soon as it is made; the same command uses it again, so a command that was stopped goes on. With 600
updates a method takes half a minute to four minutes on one CPU core, and reflow, whose pairs are
many, eight.
"""

import argparse
import functools
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from experiments.gym import cost, figures, store
from experiments.gym.reference_metrics import LOWEST, NFES
from experiments.gym.train import Watch, few_steps
from jaxdiff import grids, solvers
from jaxdiff.app import config as configs
from jaxdiff.app.data import batches_of, read_data
from jaxdiff.app.evaluator import Evaluator, make_evaluator, measure
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.methods import goal_of, make_stages
from jaxdiff.app.models import Model
from jaxdiff.app.train import train as train_teacher
from jaxdiff.data.digits import load_digits
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.files import write_text
from jaxdiff.metrics.protocol import Score
from jaxdiff.networks import count_parameters
from jaxdiff.recipes import RECIPES
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training.checkpoint import fingerprint
from jaxdiff.training.fit_stages import fit_stages, split_updates

Row = dict[str, Any]
QUALITY, KERNEL, CLASS = "Frechet distance", "MMD^2", "agreement"


def teacher_of(options: argparse.Namespace) -> Model:
    """Return the run given, or the demo's teacher in --out, trained now if it is not there yet."""
    if options.teacher:
        return load_model(options.teacher)
    network, folder = configs.UNet(channels=24), str(options.out / "teacher")
    return train_teacher(
        configs.Train(folder, network=network, updates=options.teacher_updates, seed=options.seed),
        progress=sys.stderr.isatty(),
    )


def scores_of(
    evaluator: Evaluator, sampler: Sampler, model: Model, options: argparse.Namespace
) -> dict[str, Score]:
    """Scores of one sampler by every metric."""
    labels = evaluator.labels(options.count)
    images = generate(
        sampler, options.count, model.shape, labels, batch=options.count, seed=options.seed,
        progress=False,
    )  # fmt: skip
    return measure(evaluator, images, labels)


def values(scores: dict[str, Score]) -> dict[str, float]:
    """Return the numbers alone."""
    return {name: score.value for name, score in scores.items()}


def best_euler(nfe: int, model: Model, score: Callable[..., dict[str, Score]]) -> dict[str, float]:
    """Return the scores of Euler's method on the best of the gym's grids."""
    lowest = LOWEST if nfe > 1 else LOWEST[:1]
    tables = [table(solvers.euler, grids.karras(nfe, low)) for low in lowest]
    found = [values(score(sampler=Sampler(model.denoiser, made))) for made in tables]
    return min(found, key=lambda scores: scores[QUALITY])


def references(evaluator: Evaluator, model: Model, options: argparse.Namespace) -> Row:
    """Return what the teacher's samplers and other real digits score."""
    score = functools.partial(scores_of, evaluator, model=model, options=options)
    best = score(sampler=Sampler(model.denoiser, table(solvers.heun, grids.karras(18))))
    return {
        "teacher": values(best),
        "euler": {n: best_euler(n, model, score) for n in NFES},
        "real": {name: s.real_data.value for name, s in best.items() if s.real_data},
    }


def train(name: str, evaluator: Evaluator, model: Model, options: argparse.Namespace) -> Row:
    """Distil by one method; return its scores and what it cost."""
    config = configs.Distill(
        "", "", method=name, updates=options.updates, batch=options.batch, seed=options.seed
    )
    images = read_data(configs.Data(**model.metadata["data"]), progress=False)
    batches, watch = batches_of(images, config, model.metadata), Watch()
    began = time.perf_counter()
    stages = make_stages(name, goal_of(config, model), {})
    last, state = fit_stages(
        watch.stages(stages, batches), batches, num_updates=options.updates, key=options.seed,
        ema="average", progress=sys.stderr.isatty(),
    )  # fmt: skip
    jax.block_until_ready(state.params)
    seconds = time.perf_counter() - began
    samplers, older = few_steps(
        lambda num_steps: last.sampler(state, num_steps=num_steps, ema="average"), watch.samplers
    )
    scores = {n: values(scores_of(evaluator, s, model, options)) for n, s in samplers.items()}
    module = model.denoiser.func.apply
    plain = score_matching(Student(module, model.denoiser.args[0], classes=model.classes))
    return {
        "nfe": scores,
        "earlier": older,
        "best": min(scores, key=lambda n: scores[n][QUALITY]),
        "seconds": seconds,
        "pair_seconds": watch.making,
        "cost": watch.cost(split_updates(stages, options.updates))
        / cost.of_update(plain, batches(0)),
        "parameters": count_parameters(state.params["student"]),
        "samples": options.updates * options.batch,
    }


def line(row: Row) -> str:
    """Return a row for the terminal."""
    if row["error"]:
        return f"  failed: {row['error']}"
    found = [f"{scores[QUALITY]:.2f} at NFE {n}" for n, scores in row["nfe"].items()]
    seconds = f"{row['seconds']:.0f} s ({row['pair_seconds']:.0f} s for pairs)"
    return f"  {QUALITY} {', '.join(found)}; {seconds}, {row['cost']:.2f} per update"


def markdown(rows: list[Row], known: Row, metadata: dict[str, Any]) -> str:
    """Return the table with what it means."""
    head = ["", *[f"{QUALITY}, NFE {n}" for n in NFES], "kernel distance", "precision", "recall"]
    head += ["class", "seconds", "cost"]
    text = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    one = {"teacher, Heun, NFE 35": known["teacher"], "other real digits": known["real"]}
    for name, scores in one.items():
        cells = [name, f"{scores[QUALITY]:.2f}", "", "", *_others(scores), "", ""]
        text.append("| " + " | ".join(cells) + " |")
    euler = {"nfe": known["euler"], "best": max(NFES)}
    text.append("| " + " | ".join(["teacher, Euler", *_scores(euler), "", ""]) + " |")
    done = [r for r in rows if not r["error"]]
    for row in sorted(done, key=lambda r: r["nfe"][r["best"]][QUALITY]):
        cost = f"{row['cost']:.2f}"
        cells = [f"`{row['method']}`", *_scores(row), f"{row['seconds']:.0f}", cost]
        text.append("| " + " | ".join(cells) + " |")
    for row in (r for r in rows if r["error"]):
        reason = " ".join(row["error"].split()).replace("|", "\\|")
        text.append(f"| `{row['method']}` | failed: {reason} |" + " |" * (len(head) - 2))
    machines = sorted({r["machine"] for r in rows})
    intro = (__doc__ or "").split("\n\n")[2]
    first = rows[0]
    return "\n".join(
        [
            "# Every method of distillation on handwritten digits",
            "",
            f"Made by `{metadata['command']}`: {first['updates']} updates of {first['batch']} "
            f"digits, {first['count']} samples per score, seed {first['seed']}.",
            f"jax {metadata['jax']}, {metadata['device']}; rows made on: {'; '.join(machines)}.",
            "",
            intro,
            "",
            f"Rows are in the order of the least {QUALITY}; the other scores are at that NFE (of "
            f"Euler's method at {max(NFES)}). A star: by the student of an earlier stage.",
            "",
            *text,
            "",
        ]
    )


def _scores(row: Row) -> list[str]:
    star = {n: " *" for n in row.get("earlier", [])}
    found = [
        f"{row['nfe'][n][QUALITY]:.2f}{star.get(n, '')}" if n in row["nfe"] else "-" for n in NFES
    ]
    return [*found, *_others(row["nfe"][row["best"]])]


def _others(scores: Row) -> list[str]:
    others = [f"{scores[KERNEL]:.4f}"]
    return others + [f"{scores[name]:.2f}" for name in ("precision", "recall", CLASS)]


def write(rows: list[Row], known: Row, options: argparse.Namespace, arguments: list[str]) -> None:
    """Write the table of the rows made so far."""
    metadata = store.metadata(shlex.join(["python", "-m", "experiments.digits", *arguments]))
    whole = {"machine": metadata, "references": known, "rows": rows}
    write_text(options.json, json.dumps(whole, indent=1) + "\n")
    write_text(options.json.with_suffix(".md"), markdown(rows, known, metadata))
    panel = {"teacher, Euler": {n: s[QUALITY] for n, s in known["euler"].items()}}
    for row in (r for r in rows if not r["error"]):
        panel[row["method"]] = {n: scores[QUALITY] for n, scores in row["nfe"].items()}
    label = f"{QUALITY} to digits that were set aside; dashed: the teacher at NFE 35"
    real_data, aim = (known[name][QUALITY] for name in ("real", "teacher"))
    figure = figures.dots({"digits": panel}, label, real_data, aim, first=1)
    figure.savefig(options.json.with_suffix(".png"), dpi=110)


def _data_of(teacher: str) -> str | None:
    """Return the path of the data of a run; None of weights that do not say."""
    return (load_model(teacher).metadata["data"] or {}).get("path")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options and methods. Leaves with a message if something is wrong with them."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.digits", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--method", nargs="+", required=True, metavar="NAME",
        help=f"all, or some of {', '.join(RECIPES)}")  # fmt: skip
    add("--updates", type=int, default=1500, help="updates of a method, all its stages (1500)")
    add("--batch", type=int, default=32, help="digits per update (32)")
    add("--count", type=int, default=360, help="samples per score (360)")
    add("--seed", type=int, default=0, help="of everything (0)")
    add("--teacher", metavar="FOLDER", help="a finished run; by default one is trained in --out")
    add("--teacher-updates", type=int, default=3000, help="updates of that one (3000)")
    store.add_options(parser, "runs/digits-methods", "teacher and rows are")
    options = parser.parse_args(arguments)
    try:
        methods = store.chosen(",".join(options.method), list(RECIPES), "method")
        for name in ("updates", "batch", "teacher_updates"):
            if getattr(options, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is at least 1")
        if options.count < 20 or options.seed < 0:
            raise ValueError("--count is at least 20, --seed not negative")
        if options.teacher and _data_of(options.teacher) != "digits":
            raise ValueError(f"{options.teacher} was not trained on the digits")
        store.make_places(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return options, methods


def main(arguments: Sequence[str] | None = None) -> int:
    """Make every row and write the table; return 1 if a method failed, 130 if stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options, methods = parse(arguments)
    rows: list[Row] = []
    known = None
    try:
        model = teacher_of(options)
        evaluator = make_evaluator(
            load_digits("train"), load_digits("test"), "classifier", options.seed
        )
        known = references(evaluator, model, options)
        for number, name in enumerate(methods, 1):
            settings = {
                "method": name,
                "problem": "digits",
                "updates": options.updates,
                "seed": options.seed,
                "batch": options.batch,
                "count": options.count,
                "teacher": fingerprint(model.params),
            }
            make = functools.partial(train, name, evaluator, model, options)
            title = f"[{number}/{len(methods)}] {name}"
            again = options.fresh, options.current
            rows.append(store.obtain(options.out, settings, make, title, *again))
            print(line(rows[-1]), flush=True)
    except KeyboardInterrupt:
        print(f"stopped: {len(rows)} of {len(methods)} rows are in {options.out}; the same command "
              "goes on", file=sys.stderr)  # fmt: skip
        return 130
    finally:
        if rows and known is not None:
            write(rows, known, options, arguments)
    print(f"table: {options.json}, and .md and .png beside it")
    return int(any(row["error"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
