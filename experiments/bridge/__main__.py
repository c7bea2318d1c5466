"""Smaller denoisers of digits: quality against parameters and multiplications.

    python -m experiments.bridge --data digits mnist --widths 8 12 --seeds 1 2 3

The teachers are the class-conditional U-Nets that come with the package. For each width a U-Net of
the same levels is trained without one ("alone"), by output regression, by regression of outputs and
maps (the maps' squares at weight 1, as their paper has it, and at 1/100), by calibrated maps
(SemCKD), as the encoder of the teacher's own decoder (SimKD, of 0, 1 and 2 reused stages), and with
peers in place of a teacher (OKDDip). All have equally many updates, on the
levels that their teacher was trained on, and are sampled in the same steps. Reused decoders count
among a student's parameters: compare rows of like size, not width.

Rows are kept in the JSON file as they are made, and a run that was stopped goes on where it was. A
Markdown page and a picture come beside it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.bridge.report import QUALITY, figure, page
from experiments.classify.__main__ import Kept
from experiments.gym.cost import multiplications
from jaxdiff import grids, load_pretrained, solvers
from jaxdiff.app.evaluator import Evaluator, make_evaluator, measure
from jaxdiff.app.generate import generate
from jaxdiff.app.presets import PRESETS
from jaxdiff.data import Dataset, load
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
from jaxdiff.distill.parts.level_distributions import LevelDistribution, log_normal
from jaxdiff.files import write_text
from jaxdiff.method import Method
from jaxdiff.networks import count_parameters, from_linen, init
from jaxdiff.pretrained import Pretrained
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training.ema import constant
from jaxdiff.training.loop import fit

PRESET = {"digits": "digits", "mnist": "mnist-small"}  # what the teachers were trained by


class Problem(NamedTuple):
    """A teacher that comes with the package, the levels it was trained on, and its images."""

    name: str
    teacher: Pretrained
    levels: LevelDistribution
    train: Dataset
    test: Dataset

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self.teacher.shape)


def read(name: str, folder: Path) -> Problem:
    """Return a problem by its name; MNIST is read from a folder."""
    preset = PRESETS[PRESET[name]][1]
    mean, std = preset.level_mean, preset.level_std
    levels = log_normal() if mean is None or std is None else log_normal(mean, std)
    train, test = (
        load_digits(part) if name == "digits" else load(folder / "mnist.npz", split=part)
        for part in ("train", "test")
    )
    return Problem(name, load_pretrained(name), levels, train, test)


def student_of(problem: Problem, channels: int, updates: int) -> Student:
    """Return a student of a width, with a rate that falls to 0."""
    large: Any = problem.teacher.network
    module = large.clone(parent=None, channels=channels, embedding=4 * channels)
    rate = optax.cosine_decay_schedule(2e-3, updates)
    return Student(
        from_linen(module), lambda key: init(module, key, problem.shape), classes=10,
        label_drop=0.1, optimiser=optax.adam(rate), ema={"average": constant(0.99)},
    )  # fmt: skip


def methods(options: argparse.Namespace) -> dict[str, Callable[[Problem, Student], Method]]:
    """Return the methods by name, each of a problem with its teacher and a student."""

    def regression(p: Problem, S: Student, features: float) -> Method:
        shares = Shares(features=features)
        return block_knowledge(p.teacher.denoiser, S, p.shape, shares=shares, levels=p.levels)

    def reused(p: Problem, S: Student, stages: int) -> Method:
        return simkd(p.teacher.denoiser, S, p.shape, reused=stages, levels=p.levels)

    def calibrated(p: Problem, S: Student) -> Method:
        return semckd(p.teacher.denoiser, S, p.shape, batch=options.batch, levels=p.levels)

    return {
        "alone": lambda p, S: score_matching(S, levels=p.levels),
        "output": lambda p, S: regression(p, S, 0.0),
        "output and maps": lambda p, S: regression(p, S, 1.0),
        "output and maps/100": lambda p, S: regression(p, S, 0.01),
        "semckd": calibrated,
        "okddip": lambda p, S: okddip(S, num_updates=options.updates, levels=p.levels),
        **{f"simkd-{n}": lambda p, S, n=n: reused(p, S, n) for n in (0, 1, 2)},
    }


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    form = argparse.RawDescriptionHelpFormatter
    prog = "python -m experiments.bridge"
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=form)
    add, names = parser.add_argument, list(methods(argparse.Namespace()))
    add("--method", nargs="+", default=["all"], metavar="NAME", help=f"all, or of {names}")
    add("--data", nargs="+", choices=list(PRESET), default=["digits"])
    add("--folder", type=Path, default=Path("../shared/data"), help="of mnist.npz")
    add("--widths", type=int, nargs="+", default=[8, 12], help="of students (8 12)")
    add("--seeds", type=int, nargs="+", default=[1])
    add("--updates", type=int, default=2000, help="of a student (2000)")
    add("--batch", type=int, default=64)
    add("--count", type=int, default=1000, help="samples that are scored (1000)")
    add("--num-steps", type=int, default=9, help="of Heun's method (9)")
    add("--json", type=Path, default=Path("experiments/results/bridge.json"))
    options = parser.parse_args(given)
    options.method = names if options.method == ["all"] else options.method
    if strange := set(options.method) - set(names):
        parser.error(f"no method is called {', '.join(sorted(strange))}; there are {names}")
    for name in ("updates", "batch", "count", "num_steps", "widths"):
        number = getattr(options, name)
        if (min(number) if isinstance(number, list) else number) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def row(
    problem: Problem, name: str, seed: int, D: Any, seconds: float, evaluator: Evaluator,
    options: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """Return the numbers of a denoiser."""
    steps = table(solvers.heun, grids.karras(options.num_steps))
    labels = evaluator.labels(options.count)
    made = Sampler(D, steps)
    images = generate(made, options.count, problem.shape, labels, seed=seed, progress=False)
    score = measure(evaluator, images, labels, [QUALITY])
    one = jnp.zeros((1, *problem.shape)), jnp.ones((1,)), jnp.zeros((1,), jnp.int32)
    return {
        "method": f"{problem.name}: {name}", "seed": seed, QUALITY: score[QUALITY].value,
        "agreement": score["agreement"].value, "seconds": seconds, "nfe": steps.nfe,
        "parameters": count_parameters(D.args[0]),
        "multiplications": multiplications(lambda *given: D(*given), *one),
    }  # fmt: skip


def compare(problem: Problem, options: argparse.Namespace, kept: Kept) -> None:
    """Train and score all that ``kept`` does not have yet."""
    makers = methods(options)
    trained = [(f"{name} {w}", name, w) for w in options.widths for name in options.method]
    evaluator = make_evaluator(problem.train, problem.test, "classifier")
    for seed in options.seeds:
        if not kept.has(f"{problem.name}: teacher", seed):
            D = problem.teacher.denoiser
            made = row(problem, "teacher", seed, D, 0.0, evaluator, options)
            real = evaluator.real_data_scores(options.count, [QUALITY])[QUALITY]
            kept({**made, "real": real.value})
        for title, name, width in trained:
            if kept.has(f"{problem.name}: {title}", seed):
                continue
            method = makers[name](problem, student_of(problem, width, options.updates))
            data, began = batches(problem.train, options.batch, seed), time.monotonic()
            state = fit(method, data, num_updates=options.updates, key=seed, progress=False)
            jax.block_until_ready(state.params)
            seconds = time.monotonic() - began
            D = method.sampler(state, ema="average").denoiser
            kept(row(problem, title, seed, D, seconds, evaluator, options))


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and write the page and the picture."""
    options = arguments_of(given)
    names = ("updates", "batch", "count", "num_steps")
    try:  # all of them before anything is trained
        problems = [read(name, options.folder) for name in options.data]
        kept = Kept(options.json, {name: getattr(options, name) for name in names})
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        compare(problem, options, kept)
    numbers = json.loads(options.json.read_text())
    write_text(options.json.with_suffix(".md"), page(numbers))
    figure(numbers).savefig(options.json.with_suffix(".png"), dpi=110)
    print(page(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
