r"""Classification of digits by the errors of a conditional diffusion model.

    python -m experiments.classification.diffusion --data digits mnist \
        --json experiments/results/diffusion_classifier.json

The models are those that come with the package (or ``--teacher``, any class-conditional run on the
digits); the images classified are of the test parts. Accuracies with the number of network
evaluations per image, plain and with classes dropped in rounds, between several pairs of noise
levels; beside them logistic regression trained on images that the model was trained on.
"""

import argparse
import functools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.common import metadata
from jaxdiff import load_pretrained
from jaxdiff.app.load import load_model
from jaxdiff.classify.diffusion_classifier import diffusion_classifier
from jaxdiff.data import load
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.data.digits import load_digits
from jaxdiff.files import check_writable, write_text

RANGES = ((0.05, 5.0), (0.2, 2.0))
PLANS = {
    "4 draws of every class": ((4, 10),),
    "16 draws of every class": ((16, 10),),
    "4 draws, then 8 of the best 4, then 28 of the best 2": ((4, 4), (8, 2), (28, 1)),
}
COUNT = {"digits": 360, "mnist": 200}  # images to classify, all digits there are
TAUGHT, AT_ONCE = 5000, 100  # images of logistic regression at most; images in a call
Row = dict[str, Any]


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def run(denoiser: Any, x: jax.Array, low: float, high: float, rounds: Any, index: Any) -> jax.Array:
    """Return the log posteriors of the ten classes."""
    found = diffusion_classifier(
        denoiser, x, jnp.arange(10), low, high, key=jax.random.key(0), rounds=rounds, index=index
    )
    return found.log_posterior


def read(name: str, folder: Path) -> tuple[Dataset, Dataset]:
    """Return the training part and the test part; MNIST is read from a folder."""
    if name == "digits":
        return load_digits("train"), load_digits("test")
    return load(folder / "mnist.npz", split="train"), load(folder / "mnist.npz", split="test")


def guesses(denoiser: Any, images: np.ndarray, low: float, high: float, rounds: Any) -> np.ndarray:
    """Return the likeliest class of each image."""
    found, each = [], min(AT_ONCE, len(images))
    for begin in range(0, len(images), each):
        index = np.arange(begin, begin + each)  # the last part is filled up: one compilation
        part = jnp.asarray(images[np.minimum(index, len(images) - 1)])
        found.append(run(denoiser, part, low, high, rounds, index).argmax(axis=1))
    return np.concatenate(found)[: len(images)]


def measured(name: str, model: Any, images: np.ndarray, labels: np.ndarray) -> Iterator[Row]:
    """Yield a row for each plan and pair of levels."""
    for low, high in RANGES:
        for title, rounds in PLANS.items():
            used = time.process_time()
            right = guesses(model.denoiser, images, low, high, rounds) == labels
            left, nfe = 10, 0
            for draws, keep in rounds:
                nfe, left = nfe + draws * left, keep
            yield {
                "data": name,
                "plan": title,
                "low": low,
                "high": high,
                "nfe": nfe,
                "count": len(right),
                "accuracy": float(right.mean()),
                "half": float(1.96 * np.sqrt(right.mean() * (1 - right.mean()) / len(right))),
                "processor_seconds": time.process_time() - used,
            }


def logistic(train: Dataset, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy of logistic regression trained on images that the model saw."""
    from sklearn.linear_model import LogisticRegression

    some = train.take(np.random.default_rng(0).permutation(len(train))[:TAUGHT])
    model = LogisticRegression(C=0.1, max_iter=2000)
    model.fit(np.asarray(to_float(some.images)).reshape(len(some), -1), some.labels)
    return float(model.score(images.reshape(len(images), -1), labels))


def page(numbers: dict[str, Any]) -> str:
    """Return the Markdown page."""
    lines = [
        "# Classification by a diffusion model\n",
        f"`python -m experiments.classification.diffusion --data {' '.join(numbers['logistic'])} "
        "--json experiments/results/diffusion_classifier.json`\n",
        "Images of the test parts, which the class-conditional models that come with the package "
        "were not trained on. Evaluations are of the network, per image; ± is half of the normal "
        "interval of 95 %.",
    ]
    for name, other in numbers["logistic"].items():
        rows = [r for r in numbers["rows"] if r["data"] == name]
        lines += [
            f"\n## {name}\n",
            f"{rows[0]['count']} images. Logistic regression trained on {other['taught']} of the "
            f"model's training images: {other['accuracy']:.3f}.\n",
            "| levels | draws | evaluations | accuracy |",
            "|---|---|---|---|",
            *(
                f"| {r['low']:g} to {r['high']:g} | {r['plan']} | {r['nfe']} | "
                f"{r['accuracy']:.3f} ± {r['half']:.3f} |"
                for r in rows
            ),
        ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Classify, and write numbers and page after each data set."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--data", nargs="+", choices=list(COUNT), default=["digits"])
    add("--folder", type=Path, default=Path("../shared/data"), help="of mnist.npz")
    add("--teacher", type=Path, metavar="RUN", help="a finished run, for one data set")
    add("--count", type=int, help=f"images to classify at most, by default {COUNT}")
    add("--json", type=Path, metavar="FILE", help="numbers; the page goes beside it")
    options = parser.parse_args(arguments)
    if options.teacher and len(options.data) > 1:
        parser.error("--teacher is of one data set: give one to --data")
    if options.count is not None and options.count < 1:
        parser.error("--count must be at least 1")
    if options.json:
        check_writable(options.json)
    numbers: dict[str, Any] = {"machine": metadata(), "logistic": {}, "rows": []}
    try:  # all of them before anything is classified
        parts = {name: read(name, options.folder) for name in options.data}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for name, (train, test) in parts.items():
        model = load_model(options.teacher) if options.teacher else load_pretrained(name)
        if model.classes != 10 or tuple(model.shape) != test.images.shape[1:]:
            parser.error(f"{options.teacher} is {model}: a run on {name} by class is needed")
        count = options.count or COUNT[name]
        assert test.labels is not None  # both data sets have classes
        images = np.asarray(to_float(test.images[:count]))
        labels = np.asarray(test.labels[:count])
        accuracy = logistic(train, images, labels)
        numbers["logistic"][name] = {"accuracy": accuracy, "taught": min(TAUGHT, len(train))}
        for row in measured(name, model, images, labels):
            numbers["rows"].append(row)
            print(row, flush=True)
            if options.json:
                write_text(options.json, json.dumps(numbers, indent=1) + "\n")
                write_text(options.json.with_suffix(".md"), page(numbers))
    print(page(numbers))


if __name__ == "__main__":
    main()
