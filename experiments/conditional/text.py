"""Text to image: how often samples have the attributes that their prompt says.

    python -m experiments.conditional.text --folder ../shared/data

``jaxdiff train text`` trains a network of pictures composed of MNIST's digits (of scikit-learn's
without a folder), on all pairs of class and colour but a fourth. Then it is given prompts that say
all five attributes, of pairs that it has seen and of those that were held out, which no caption in
training had. A perceptron that was trained on real composed pictures, of all pairs, reads the
attributes off the samples; beside each accuracy is that on real pictures of other digits, which is
what the best samples would get, and that of guessing. Samples are by DPM-Solver++. Rows are kept in
the JSON file as they are made; a run that was stopped goes on where it was.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.classify.__main__ import Kept
from jaxdiff import grids, guidance, solvers
from jaxdiff.app import config as configs
from jaxdiff.app.generate import generate
from jaxdiff.app.models import Model
from jaxdiff.app.presets import PRESETS
from jaxdiff.app.text import away, texts_condition
from jaxdiff.app.train import train
from jaxdiff.data import Composed, compose, load, load_digits, to_float
from jaxdiff.data.dataset import Dataset
from jaxdiff.files import replacing
from jaxdiff.networks import count_parameters
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table

ATTRIBUTES = ("class", "position", "scale", "thickness", "colour")
COMBINATIONS = {"seen": False, "held out": True}


class Reader(NamedTuple):
    """A perceptron that reads attributes off pictures; sizes: how many values each has."""

    model: Any
    sizes: tuple[int, ...]

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the number of each attribute's value, (n,), of images in [-1, 1]."""
        odds = self.model.predict_proba(images.reshape(len(images), -1))
        parts = np.split(odds, np.cumsum(self.sizes)[:-1], axis=1)
        return {name: part.argmax(axis=1) for name, part in zip(ATTRIBUTES, parts, strict=True)}


def symbols(folder: Path | None, part: str) -> Dataset:
    """Return the digits of a part."""
    if folder is None:
        return load_digits(part)
    return load(folder / "mnist.npz", split=part)  # type: ignore[arg-type]


def reader(made: Composed, seed: int) -> Reader:
    """Return what reads attributes, trained on real composed pictures: one hidden layer of 256
    units, logistic outputs for each value.
    """
    from sklearn.neural_network import MLPClassifier

    sizes = tuple(len(made.values[name]) for name in ATTRIBUTES)
    targets = np.concatenate(
        [
            np.eye(size, dtype=int)[made.attributes[name]]
            for name, size in zip(ATTRIBUTES, sizes, strict=True)
        ],
        axis=1,
    )
    model = MLPClassifier(
        (256,), max_iter=40, early_stopping=True, n_iter_no_change=5,
        random_state=seed,
    )  # fmt: skip
    images = to_float(made.images).reshape(len(made.images), -1)
    return Reader(model.fit(images, targets), sizes)


def accuracies(read: Reader, images: np.ndarray, wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Return how often each attribute of images in [-1, 1] is as wanted, and all at once."""
    found = read(images)
    right = {name: found[name] == wanted[name] for name in ATTRIBUTES}
    every = np.stack([*right.values()]).all(axis=0)
    made = {name: float(hit.mean()) for name, hit in right.items()} | {"all": float(every.mean())}
    return {name: round(value, 4) for name, value in made.items()}


def trained(options: argparse.Namespace) -> Model:
    """Return the model of the run, trained by the preset of the command line."""
    _, preset = PRESETS["text"]
    path = "digits" if options.folder is None else str(options.folder / "mnist.npz")
    config = configs.Train(
        **{
            **vars(preset), "run": str(options.run), "updates": options.updates,
            "data": configs.Data(path, compose=options.pictures, size=options.size),
            "seed": options.seed,
        }
    )  # fmt: skip
    return train(config, progress=False)


def sampled(model: Model, prompts: Sequence[str], weight: float, steps: int) -> np.ndarray:
    """Return a sample for each prompt."""
    assert model.tokenizer is not None
    D = guidance.classifier_free(model.denoiser, weight, away(model.tokenizer, None))
    sampler = Sampler(
        D if weight != 1 else model.denoiser, table(solvers.dpmpp, grids.karras(steps))
    )
    cond = texts_condition(model.tokenizer, prompts)
    return generate(sampler, len(prompts), model.shape, cond, progress=False, seed=1, batch=128)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and keep the rows and some of the samples."""
    options = arguments_of(given)
    names = ("updates", "pictures", "size", "test", "steps")
    settings = {name: getattr(options, name) for name in names}
    kept = Kept(options.out, settings | {"digits": options.folder is None})
    other = symbols(options.folder, "test")
    wanted = {
        name: compose(other, options.test, size=options.size, seed=7, held_out=held, mentioned=1.0)
        for name, held in COMBINATIONS.items()
    }
    start = time.process_time()
    model = trained(options)
    seconds = round(time.process_time() - start)
    shown = compose(
        symbols(options.folder, "train"), options.pictures, size=options.size, seed=11,
        held_out=None,
    )  # fmt: skip
    read = reader(shown, options.seed)
    rows = {"real pictures": None, **{f"guidance {w:g}": w for w in options.guidance}}
    for label, weight in rows.items():
        for name, made in wanted.items():
            method = f"{label}, {name}"
            if kept.has(method, options.seed):
                continue
            images = to_float(made.images)
            if weight is not None:
                images = sampled(model, made.captions, weight, options.steps)
                keep(options.samples, method, images[:40], made.captions[:40])
            row = {"method": method, "seed": options.seed, "guidance": weight}
            row |= {"combinations": name, "count": len(images)}
            kept(row | accuracies(read, images, made.attributes))
    if not kept.has("guessing", options.seed):
        odds = {name: round(1 / size, 4) for name, size in zip(ATTRIBUTES, read.sizes, strict=True)}
        row = {"method": "guessing", "seed": options.seed, "processor_seconds": seconds}
        row |= {"trained": count_parameters(model.params)}
        kept(row | odds | {"all": round(float(np.prod([1 / n for n in read.sizes])), 4)})
    return 0


def keep(path: Path, method: str, images: np.ndarray, prompts: Sequence[str]) -> None:
    """Write samples and their prompts beside those that the file has already."""
    known = dict(np.load(path)) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    known |= {method: images, f"{method}: prompts": np.array(prompts)}
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **known)


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(prog="python -m experiments.conditional.text")
    add = parser.add_argument
    add("--folder", type=Path, help="of mnist.npz; by default the digits of scikit-learn")
    add("--updates", type=int, default=4000)
    add("--pictures", type=int, default=20_000, help="composed pictures to train on")
    add("--size", type=int, default=16, help="side of a picture")
    add("--test", type=int, default=512, help="prompts of each kind")
    add("--steps", type=int, default=12, help="of DPM-Solver++")
    add("--guidance", type=float, nargs="+", default=[1.0, 3.0])
    add("--seed", type=int, default=0)
    add("--run", type=Path, default=Path("runs/conditional-text"), help="folder of the run")
    add("--samples", type=Path, default=Path("runs/conditional-text-samples.npz"))
    add("--out", type=Path, default=Path("experiments/results/text.json"), help="rows, as JSON")
    options = parser.parse_args(given)
    for name in ("updates", "pictures", "test", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be positive")
    if options.folder is not None and not (options.folder / "mnist.npz").exists():
        parser.error(f"--folder {options.folder} has no mnist.npz")
    return options


if __name__ == "__main__":
    sys.exit(main())
