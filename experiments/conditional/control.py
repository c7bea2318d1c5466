"""Control by edges: how well samples keep to the picture that a network is shown.

    python -m experiments.conditional.control --folder ../shared/data

A class-conditional U-Net of MNIST at 14x14 (2x2 averages) is trained once. Then it is given edges,
in each of the ways that there are: a ControlNet and a T2I-Adapter beside the frozen U-Net, and
further channels of its first convolution, all of it being trained. All have equally many updates.
The control of a sample are the edges of a picture of the test set and its class; the overlap is
Dice's coefficient of these and the edges of the sample,

    2 |A and B| / (|A| + |B|),    A, B = {pixels that :func:`jaxdiff.data.edges.edges` marks},

beside that of the base, which is told the class alone, and of another real picture of the class.
Accuracy is that of a linear classifier of real pictures on the samples. Rows are kept in the JSON
file as they are made; a run that was stopped goes on where it was.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from experiments.classify.__main__ import Kept
from jaxdiff import grids, solvers
from jaxdiff.adapt import STEERING, controlnet_of, t2i_adapter_of, trainable, widened
from jaxdiff.app.generate import generate
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.edges import edges
from jaxdiff.data.epochs import batches
from jaxdiff.distill import Student, score_matching
from jaxdiff.networks import UNet2DCondition, count_parameters, from_linen, init
from jaxdiff.pretrained import with_controlnet, with_t2i_adapter
from jaxdiff.pretrained.steering import unet_of
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training.ema import constant
from jaxdiff.training.loop import fit
from jaxdiff.typing import Array, Denoiser

SHAPE, CLASSES = (14, 14, 1), 10
METHODS = ("ControlNet", "T2I-Adapter", "concatenation")


class Problem(NamedTuple):
    """Pictures in [-1, 1] and their classes, to train on and to take controls from."""

    train: Dataset
    test_images: np.ndarray
    test_labels: np.ndarray


def read(folder: Path, test: int) -> Problem:
    """Return MNIST at 14x14; test: how many pictures controls are taken from."""
    made = np.load(folder / "mnist.npz")
    small = [
        made[f"{part}_images"].reshape(-1, 14, 2, 14, 2).mean((2, 4)).round().astype(np.uint8)
        for part in ("train", "test")
    ]
    train, others = (x[..., None] for x in small)
    labels = made["train_labels"].astype(np.int32)
    return Problem(
        Dataset(train, labels, CLASSES), others[:test].astype(np.float32) / 127.5 - 1,
        made["test_labels"][:test].astype(np.int32),
    )  # fmt: skip


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Dice's coefficient of two sets of pixels, (batch,).

    >>> overlap(np.array([[True, True, False]]), np.array([[False, True, True]]))
    array([0.5])
    """
    first, second = first > 0, second > 0
    both, axes = first & second, tuple(range(1, first.ndim))
    return 2 * both.sum(axes) / np.maximum(first.sum(axes) + second.sum(axes), 1)


class Shown(NamedTuple):
    """Batches with the edges of their images under a key of cond."""

    data: Any
    key: str

    def __call__(self, step: int) -> dict[str, Any]:
        """Return the batch of a step."""
        batch = self.data(step)
        control = edges(batch["image"])
        return batch | {"label": {"classes": batch["label"], self.key: control}}


class Classes(NamedTuple):
    """Batches whose condition is the class alone."""

    data: Any

    def __call__(self, step: int) -> dict[str, Any]:
        """Return the batch of a step."""
        batch = self.data(step)
        return batch | {"label": {"classes": batch["label"]}}


def label(level: Array) -> Array:
    """Return what the U-Net is conditioned on: its waves are made for whole steps."""
    return 25.0 * jnp.log(level)


def base_student(channels: tuple[int, ...], updates: int) -> Student:
    """Return the U-Net that all begin from, at its own start."""
    levels = len(channels)
    module = UNet2DCondition(
        channels=channels, in_channels=1, out_channels=1, down=("plain",) * levels,
        up=("plain",) * levels, middle="single", blocks=(1,) * levels, heads=(1,) * levels,
        depth_down=((1,),) * levels, depth_up=((1, 1),) * levels, only_cross=(False,) * levels,
        groups=8, token_width=0, classes="index", num_classes=CLASSES + 1, zero_out=True,
    )  # fmt: skip
    cond = {"classes": jnp.zeros(1, jnp.int32)}
    rate = optax.cosine_decay_schedule(2e-3, updates)
    return Student(
        from_linen(module), lambda key: init(module, key, SHAPE, cond=cond), label=label,
        null={"classes": CLASSES}, label_drop=0.1,
        optimiser=optax.adam(rate), ema={"average": constant(0.99)},
    )  # fmt: skip


def begun(D: Denoiser, name: str, updates: int) -> tuple[Student, str]:
    """Return what is trained by a method, and the key of cond that its picture is at."""
    rate = optax.cosine_decay_schedule(1e-3, updates)
    if name == "ControlNet":
        start = with_controlnet(D, controlnet_of(D, channels=1, widths=(16,)))
    elif name == "T2I-Adapter":
        start = with_t2i_adapter(D, t2i_adapter_of(D, channels=1, factor=1))
    else:
        start = widened(D, 1)
    whole = name == "concatenation"
    optimiser = optax.adam(rate) if whole else trainable(optax.adam(rate), STEERING)
    student = Student.of(
        start, optimiser=optimiser, label_drop=0.0, ema={"average": constant(0.99)}
    )
    return student, "beside" if whole else "control"


def trained_by(options: argparse.Namespace, student: Student, data: Any, name: str) -> Denoiser:
    """Return a student's denoiser after its updates, which go on where they were."""
    updates = options.base_updates if name == "base" else options.updates
    state = fit(
        score_matching(student, mean=-0.8), data, num_updates=updates, key=options.seed,
        checkpoint=options.runs / name, save_every=100, progress=False,
    )  # fmt: skip
    return student.denoiser(state.ema["student"]["average"])


def measured(
    problem: Problem, D: Denoiser, key: str, classifier: Any, *, steps: int
) -> dict[str, float]:
    """Return overlap with its standard error, and accuracy, of a sample for each test picture."""
    control, cond = edges(problem.test_images), {"classes": problem.test_labels}
    if key:
        cond = cond | {key: control}
    sampler = Sampler(D, table(solvers.heun, grids.karras(steps)))
    made = generate(sampler, len(control), SHAPE, cond, progress=False, seed=1)
    return scores(made, control, problem.test_labels, classifier)


def scores(
    images: np.ndarray, control: np.ndarray, labels: np.ndarray, classifier: Any
) -> dict[str, float]:
    """Return overlap with its standard error, and accuracy, of given images."""
    found = overlap(edges(images), control)
    right = classifier.predict(images.reshape(len(images), -1)) == labels
    return {
        "overlap": round(float(found.mean()), 4),
        "overlap_error": round(float(found.std() / len(found) ** 0.5), 4),
        "accuracy": round(float(right.mean()), 4),
    }


def another_of_the_class(labels: np.ndarray) -> np.ndarray:
    """Return for each picture the number of the next one of its class."""
    others = np.arange(len(labels))
    for c in np.unique(labels):
        here = np.flatnonzero(labels == c)
        others[here] = np.roll(here, 1)
    return others


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and keep the rows."""
    options = arguments_of(given)
    problem = read(options.folder, options.test)
    settings = {
        "base_updates": options.base_updates, "updates": options.updates, "batch": options.batch,
        "channels": list(options.channels), "test": options.test, "steps": options.steps,
    }  # fmt: skip
    kept = Kept(options.out, settings)
    classifier = linear_classifier(problem)
    data = batches(problem.train, options.batch, seed=options.seed)
    student = base_student(tuple(options.channels), options.base_updates)
    D = trained_by(options, student, Classes(data), "base")
    if not kept.has("base", options.seed):
        found = measured(problem, D, "", classifier, steps=options.steps)
        count = count_parameters(unet_of(D)[1])
        row = {"method": "base", "seed": options.seed, "trained": count}
        kept(row | found)
        control = edges(problem.test_images)
        real = problem.test_images[another_of_the_class(problem.test_labels)]
        found = scores(real, control, problem.test_labels, classifier)
        kept({"method": "another picture of the class", "seed": options.seed} | found)
    for name in options.methods:
        if kept.has(name, options.seed):
            continue
        student, key = begun(D, name, options.updates)
        fresh, start = not (options.runs / name).exists(), time.process_time()
        made = trained_by(options, student, Shown(data, key), name)
        seconds = round(time.process_time() - start) if fresh else None  # of a whole run alone
        params = student.params
        free = {k: v for k, v in params.items() if k.startswith("controls_")} or params
        found = measured(problem, made, key, classifier, steps=options.steps)
        row = {"method": name, "seed": options.seed, "trained": count_parameters(free)}
        kept(row | {"processor_seconds": seconds} | found)
    return 0


def linear_classifier(problem: Problem) -> Any:
    """Return a linear discriminant analysis of real pictures, ten thousand at most."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    count, labels = 10000, np.asarray(problem.train.labels)
    images = problem.train.images[:count].astype(np.float32) / 127.5 - 1
    made = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return made.fit(images.reshape(len(images), -1), labels[:count])


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(prog="python -m experiments.conditional.control")
    parser.add_argument("--folder", type=Path, default=Path("../shared/data"), help="of mnist.npz")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--base-updates", type=int, default=800)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--test", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="Heun steps of a sample")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/control"), help="checkpoints")
    here = Path("experiments/results/control.json")
    parser.add_argument("--out", type=Path, default=here, help="rows, as JSON")
    options = parser.parse_args(given)
    for name in ("base_updates", "updates", "batch", "test", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    if not (options.folder / "mnist.npz").exists():
        parser.error(f"--folder {options.folder} has no mnist.npz")
    return options


if __name__ == "__main__":
    sys.exit(main())
