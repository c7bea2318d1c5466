"""Smaller denoisers of handwritten digits: quality against parameters and multiplications.

    python -m experiments.bridge --widths 8 12 --updates 2000 --seeds 1 2 3

A class-conditional U-Net is the teacher. For each width a U-Net of the same levels is trained
without it ("alone"), by output regression, by regression of outputs and maps, by calibrated maps
(SemCKD), as the encoder of the teacher's own decoder (SimKD, of 0, 1 and 2 reused stages), and with
peers in place of a teacher (OKDDip). All have equally many updates and are sampled in the same
steps. Reused decoders count among a student's parameters: compare rows of like size, not width.

Rows are kept in the JSON file as they are made, and a run that was stopped goes on where it was. A
Markdown page comes beside it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.bridge.report import page
from experiments.classify.__main__ import Kept
from experiments.gym.cost import multiplications
from jaxdiff import grids, solvers
from jaxdiff.app.evaluator import Evaluator, make_evaluator, measure
from jaxdiff.app.generate import generate
from jaxdiff.data.digits import load_digits
from jaxdiff.data.epochs import batches
from jaxdiff.distill import (
    Shares,
    Student,
    block_knowledge,
    okddip,
    score_matching,
    semckd,
    simkd,
)
from jaxdiff.files import write_text
from jaxdiff.method import Method
from jaxdiff.networks import UNet, count_parameters, from_linen, init
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training.ema import constant
from jaxdiff.training.loop import fit
from jaxdiff.typing import Denoiser

SHAPE, QUALITY = (8, 8, 1), "Frechet distance"


def student_of(channels: int, updates: int) -> Student:
    """Return a student of a width, with a rate that falls to 0."""
    module = UNet(channels=channels, embedding=4 * channels, num_classes=10)
    rate = optax.cosine_decay_schedule(2e-3, updates)
    return Student(
        from_linen(module), lambda key: init(module, key, SHAPE), classes=10, label_drop=0.1,
        optimiser=optax.adam(rate), ema={"average": constant(0.99)},
    )  # fmt: skip


def methods(options: argparse.Namespace) -> dict[str, Callable[[Denoiser, Student], Method]]:
    """Return the methods by name, each of a teacher and a student."""
    made: dict[str, Callable[[Denoiser, Student], Method]] = {
        "alone": lambda T, S: score_matching(S),
        "output": lambda T, S: block_knowledge(T, S, SHAPE, shares=Shares(features=0.0)),
        "output and maps": lambda T, S: block_knowledge(T, S, SHAPE),
        "semckd": lambda T, S: semckd(T, S, SHAPE, batch=options.batch),
        "okddip": lambda T, S: okddip(S, num_updates=options.updates),
    }
    for reused in (0, 1, 2):
        made[f"simkd-{reused}"] = lambda T, S, n=reused: simkd(T, S, SHAPE, reused=n)
    return made


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bridge")
    add, names = parser.add_argument, list(methods(argparse.Namespace()))
    add("--method", nargs="+", default=["all"], metavar="NAME", help=f"all, or of {names}")
    add("--widths", type=int, nargs="+", default=[8, 12], help="of students (8 12)")
    add("--teacher-width", type=int, default=24)
    add("--seeds", type=int, nargs="+", default=[1])
    add("--updates", type=int, default=2000, help="of a student (2000)")
    add("--teacher-updates", type=int, default=4000, help="of a teacher (4000)")
    add("--batch", type=int, default=64)
    add("--count", type=int, default=500, help="samples that are scored (500)")
    add("--num-steps", type=int, default=9, help="of Heun's method (9)")
    add("--json", type=Path, default=Path("experiments/results/bridge.json"))
    options = parser.parse_args(given)
    options.method = names if options.method == ["all"] else options.method
    if strange := set(options.method) - set(names):
        parser.error(f"no method is called {', '.join(sorted(strange))}; there are {names}")
    for name in ("updates", "teacher_updates", "batch", "count", "num_steps", "teacher_width"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def trained(method: Method, updates: int, seed: int, batch: int) -> tuple[Any, float]:
    """Return the state after training on the digits, and the seconds that it took."""
    data, began = batches(load_digits("train"), batch, seed), time.monotonic()
    state = fit(method, data, num_updates=updates, key=seed, progress=False)
    jax.block_until_ready(state.params)
    return state, time.monotonic() - began


def row(
    name: str, width: int, seed: int, D: Any, seconds: float, evaluator: Evaluator,
    options: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """Return the numbers of a denoiser."""
    steps = table(solvers.heun, grids.karras(options.num_steps))
    labels = evaluator.labels(options.count)
    images = generate(Sampler(D, steps), options.count, SHAPE, labels, seed=seed, progress=False)
    score = measure(evaluator, images, labels, [QUALITY])
    one = jnp.zeros((1, *SHAPE)), jnp.ones((1,)), jnp.zeros((1,), jnp.int32)
    return {
        "method": f"{name} {width}", "seed": seed, QUALITY: score[QUALITY].value,
        "agreement": score["agreement"].value, "seconds": seconds, "nfe": steps.nfe,
        "parameters": count_parameters(D.args[0]),
        "multiplications": multiplications(lambda *given: D(*given), *one),
    }  # fmt: skip


def compare(options: argparse.Namespace, kept: Kept) -> None:
    """Train and score all that ``kept`` does not have yet."""
    makers = methods(options)
    for seed in options.seeds:
        wanted = [
            (name, width)
            for width in options.widths
            for name in options.method
            if not kept.has(f"{name} {width}", seed)
        ]
        teacher_row = ("teacher", options.teacher_width)
        fresh = not kept.has(f"teacher {options.teacher_width}", seed)
        if not wanted and not fresh:
            continue
        evaluator = make_evaluator(load_digits("train"), load_digits("test"), "classifier", seed)
        teach = score_matching(student_of(options.teacher_width, options.teacher_updates))
        state, seconds = trained(teach, options.teacher_updates, seed, options.batch)
        T = teach.sampler(state, ema="average").denoiser
        if fresh:
            made = row(*teacher_row, seed, T, seconds, evaluator, options)
            real = evaluator.real_data_scores(options.count, [QUALITY])[QUALITY]
            kept({**made, "real": real.value})
        for name, width in wanted:
            method = makers[name](T, student_of(width, options.updates))
            state, seconds = trained(method, options.updates, seed, options.batch)
            D = method.sampler(state, ema="average").denoiser
            kept(row(name, width, seed, D, seconds, evaluator, options))


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    options = arguments_of(given)
    names = ("teacher_width", "updates", "teacher_updates", "batch", "count", "num_steps")
    kept = Kept(options.json, {name: getattr(options, name) for name in names})
    compare(options, kept)
    numbers = json.loads(options.json.read_text())
    write_text(options.json.with_suffix(".md"), page(numbers))
    print(page(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
