"""LCM-LoRA: few steps as an adapter, of one model and then of another.

    python -m experiments.conditional.few_steps

A LoRA of the model of digits that comes with the package is trained by consistency distillation
(algorithm 2 of arXiv 2303.01469, without guidance): it makes the base a sampler of a few
evaluations (Luo et al., LCM-LoRA, arXiv 2311.05556). Another model is specialised from the same
base, all parameters of it being trained: digits between two bright bars. It never saw the LoRA, nor
the LoRA it; put into the special model, unchanged, the LoRA makes that a sampler of a few
evaluations, too. Of samples of all classes:

    accuracy    share that a classifier of real digits, shown them without the bars' columns, calls
                what was asked for
    bars        share that has both bars: columns whose mean is above 0.5
    distance    Frechet distance of that classifier's features to those of real digits

beside the same models without the LoRA by as many Euler steps through the same levels, and by
twenty evaluations of DPM-Solver++. Few steps of those give means of digits, which have the right
class and are far from digits: the distance says what the LoRA is worth. Rows are kept in the JSON
file as they are made.

In two evaluations the LoRA halves the special model's distance, from 1.74 to 0.83, and from 1.45 to
0.69 in four; in twenty, without it, it is 0.44. It moves with a loss: the base's own is 0.43 in
two, and of the special model's bars 5 % go. One seed.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.classify.__main__ import Kept
from jaxdiff import grids, solvers
from jaxdiff.adapt import LowRank, Whole, adapted, adapter_only, merged, moved, save_adapter
from jaxdiff.app.generate import generate
from jaxdiff.data.dataset import to_float
from jaxdiff.data.digits import load_digits
from jaxdiff.denoisers import description
from jaxdiff.distill import Student, consistency_distillation, score_matching
from jaxdiff.distill.consistency.consistency import student_levels
from jaxdiff.metrics import frechet_distance
from jaxdiff.metrics.features import classifier_features
from jaxdiff.networks import count_parameters
from jaxdiff.pretrained import load_pretrained
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training.ema import constant
from jaxdiff.training.loop import fit
from jaxdiff.typing import Denoiser

SHAPE, CLASSES, HIGH, MIDDLE = (8, 8, 1), 10, 80.0, (0.821,)
FEW, MANY = (1, 2, 4), 20


class Batches(NamedTuple):
    """Batches of images and their classes."""

    images: np.ndarray
    labels: np.ndarray
    batch: int

    def __call__(self, step: int) -> dict[str, Any]:
        """Return the batch of a step."""
        rows = np.random.default_rng([step, 4]).integers(0, len(self.images), self.batch)
        return {"image": self.images[rows], "label": self.labels[rows]}


class Judge(NamedTuple):
    """What scores samples. classifier: of images without the first and the last column. real: its
    features of real ones.
    """

    classifier: Any
    real: np.ndarray

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return the scores of the module's text."""
        inner = images[:, :, 1:-1]
        found = np.asarray(self.classifier.logits(inner)).argmax(axis=1)
        outer = images[:, :, [0, -1], 0].mean(axis=1)
        made = {
            "accuracy": float((found == labels).mean()),
            "bars": float((outer > 0.5).all(axis=1).mean()),
            "distance": frechet_distance(np.asarray(self.classifier.features(inner)), self.real),
        }
        return {name: round(value, 4) for name, value in made.items()}


def judge(images: np.ndarray, labels: np.ndarray) -> Judge:
    """Return what scores, made of real digits."""
    inner = images[:, :, 1:-1]
    classifier, _ = classifier_features(inner, labels)
    return Judge(classifier, np.asarray(classifier.features(inner)))


def barred(images: np.ndarray) -> np.ndarray:
    """Return images with a bright first and last column."""
    made = np.array(images)
    made[:, :, [0, -1]] = 1.0
    return made


def special_of(D: Denoiser, data: Any, updates: int, seed: int) -> Denoiser:
    """Return the base with all of its parameters trained on other images."""
    rate = optax.cosine_decay_schedule(1e-3, updates)
    start = adapted(D, Whole())
    student = Student.of(
        start, classes=CLASSES, optimiser=adapter_only(optax.adam(rate)),
        ema={"average": constant(0.99)},
    )  # fmt: skip
    state = fit(score_matching(student), data, num_updates=updates, key=seed, progress=False)
    return merged(student.denoiser(state.ema["student"]["average"]))


def quick_of(
    D: Denoiser, data: Any, options: argparse.Namespace, file: Path
) -> tuple[dict[int, Sampler], int]:
    """Return the samplers, by their evaluations, of the base with the LoRA, which is saved, and how
    many numbers were trained.
    """
    lora = LowRank(options.rank)
    rate = optax.cosine_decay_schedule(options.rate, options.updates)
    student = Student.of(
        adapted(D, lora), classes=CLASSES, optimiser=adapter_only(optax.adam(rate)),
        ema={"average": constant(0.99)},
    )  # fmt: skip
    method = consistency_distillation(D, student, scales=options.scales, intermediate=MIDDLE)
    state = fit(method, data, num_updates=options.updates, key=options.seed, progress=False)
    made: Any = description(D)
    small = state.ema["student"]["average"]["adapter"]
    save_adapter(file, made["params"], lora, small)
    samplers = {n: method.sampler(state, n, ema="average") for n in FEW}
    return samplers, count_parameters(small)


def plain(D: Denoiser, evaluations: int) -> Sampler:
    """Return the sampler without a LoRA: Euler's steps, or DPM-Solver++ of many."""
    if evaluations == MANY:
        return Sampler(D, table(solvers.dpmpp, grids.karras(evaluations, high=HIGH)))
    return Sampler(D, table(solvers.euler, student_levels(evaluations, HIGH, MIDDLE)))


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and keep the rows."""
    options = arguments_of(given)
    names = ("updates", "special_updates", "batch", "rank", "rate", "scales", "count")
    kept = Kept(options.out, {name: getattr(options, name) for name in names})
    digits, base = load_digits("train"), load_pretrained("digits").denoiser
    images, labels = to_float(digits.images), np.asarray(digits.labels, np.int32)
    score, asked = judge(images, labels), np.arange(options.count, dtype=np.int32) % CLASSES
    own, other = (Batches(x, labels, options.batch) for x in (images, barred(images)))
    special = special_of(base, other, options.special_updates, options.seed)
    options.runs.mkdir(parents=True, exist_ok=True)
    start, file = time.process_time(), options.runs / "few-steps.safetensors"
    quick, trained = quick_of(base, own, options, file)
    known = {"trained": trained, "bytes": file.stat().st_size}
    known |= {"processor_seconds": round(time.process_time() - start)}
    params: Any = description(special)
    rows: dict[str, tuple[Sampler, dict[str, Any]]] = {}
    for n in FEW:
        there = moved(quick[n].denoiser, params["params"])
        rows[f"base, {n}"] = plain(base, n), {}
        rows[f"base with LoRA, {n}"] = quick[n], known
        rows[f"special, {n}"] = plain(special, n), {}
        rows[f"special with LoRA, {n}"] = quick[n]._replace(denoiser=there), {}
    for name, D in {"base": base, "special": special}.items():
        rows[f"{name}, {MANY}"] = plain(D, MANY), {}
    for name, (sampler, more) in rows.items():
        if kept.has(name, options.seed):
            continue
        made = generate(sampler, options.count, SHAPE, asked, progress=False, seed=1)
        row = {"method": name, "seed": options.seed, "nfe": sampler.table.nfe}
        kept(row | score(np.asarray(jax.device_get(made)), asked) | more)
    return 0


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(prog="python -m experiments.conditional.few_steps")
    add = parser.add_argument
    add("--updates", type=int, default=600, help="of the LoRA")
    add("--special-updates", type=int, default=400, help="of the special model")
    add("--batch", type=int, default=32)
    add("--rank", type=int, default=16)
    add("--rate", type=float, default=5e-3, help="learning rate of the LoRA, at first")
    add("--scales", type=int, default=12, help="levels of the consistency distillation")
    add("--count", type=int, default=500, help="samples of each score")
    add("--seed", type=int, default=1)
    add("--runs", type=Path, default=Path("runs/few-steps"))
    here = Path("experiments/results/few_steps.json")
    add("--out", type=Path, default=here, help="rows, as JSON")
    options = parser.parse_args(given)
    for field in ("updates", "special_updates", "batch", "rank", "scales", "count"):
        if getattr(options, field) < 1:
            parser.error(f"--{field.replace('_', '-')} must be positive")
    return options


if __name__ == "__main__":
    sys.exit(main())
