r"""Classification of digits by the errors of a conditional diffusion model.

    python -m experiments.classification.diffusion --teacher runs/digits-methods/teacher \
        --json experiments/results/diffusion_classifier.json

The teacher is that of `python -m experiments.digits`, or any class-conditional run on the digits;
the digits classified were set aside from its training. Accuracies with the number of network
evaluations per digit, plain and with classes dropped in rounds, between several pairs of noise
levels; beside them logistic regression trained on the teacher's digits.
"""

import argparse
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.common import metadata
from jaxdiff.app.load import load_model
from jaxdiff.classify.diffusion_classifier import diffusion_classifier
from jaxdiff.data.digits import load_digits
from jaxdiff.files import check_writable, write_text

RANGES = ((0.05, 5.0), (0.2, 2.0))
PLANS = {
    "4 draws of every class": ((4, 10),),
    "16 draws of every class": ((16, 10),),
    "4 draws, then 8 of the best 4, then 28 of the best 2": ((4, 4), (8, 2), (28, 1)),
}
Row = dict[str, Any]


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def run(denoiser: Any, x: jax.Array, low: float, high: float, rounds: Any) -> jax.Array:
    """Return the log posteriors of the ten classes."""
    found = diffusion_classifier(
        denoiser, x, jnp.arange(10), low, high, key=jax.random.key(0), rounds=rounds
    )
    return found.log_posterior


def measured(model: Any, images: np.ndarray, labels: np.ndarray) -> list[Row]:
    """Return a row for each plan and pair of levels."""
    rows = []
    for low, high in RANGES:
        for title, rounds in PLANS.items():
            used = time.process_time()
            found = run(model.denoiser, jnp.asarray(images), low, high, rounds)
            log_posterior = np.asarray(found)
            left, nfe = 10, 0
            for draws, keep in rounds:
                nfe, left = nfe + draws * left, keep
            right = log_posterior.argmax(axis=1) == labels
            rows.append(
                {
                    "plan": title,
                    "low": low,
                    "high": high,
                    "nfe": nfe,
                    "accuracy": float(right.mean()),
                    "half": float(1.96 * np.sqrt(right.mean() * (1 - right.mean()) / len(right))),
                    "processor_seconds": time.process_time() - used,
                }
            )
            print(rows[-1], flush=True)
    return rows


def logistic(images: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy of logistic regression trained on the digits that the teacher saw."""
    from sklearn.linear_model import LogisticRegression

    train = load_digits("train")
    model = LogisticRegression(C=0.1, max_iter=2000)
    model.fit(np.asarray(train.images).reshape(len(train), -1), train.labels)
    return float(model.score(images.reshape(len(images), -1), labels))


def page(rows: list[Row], count: int, other: float) -> str:
    """Return the Markdown page."""
    lines = [
        "# Classification by a diffusion model\n",
        "`python -m experiments.classification.diffusion --teacher DIR --json "
        "experiments/results/diffusion_classifier.json`\n",
        f"{count} digits that the class-conditional teacher was not trained on. Evaluations are of "
        "the network, per digit; ± is half of the normal interval of 95 %. Logistic regression on "
        f"the digits that the teacher was trained on: {other:.3f}.\n",
        "| levels | draws | evaluations | accuracy |",
        "|---|---|---|---|",
        *(
            f"| {r['low']:g} to {r['high']:g} | {r['plan']} | {r['nfe']} | {r['accuracy']:.3f} ± "
            f"{r['half']:.3f} |"
            for r in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Classify, and write numbers and page."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--teacher", type=Path, required=True, metavar="RUN", help="a finished run")
    parser.add_argument("--count", type=int, default=360, help="digits to classify (360, all)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="numbers; the page goes beside it"
    )
    options = parser.parse_args(arguments)
    if options.json:
        check_writable(options.json)
    model = load_model(options.teacher)
    if model.classes != 10 or model.shape != (8, 8, 1):
        parser.error(
            f"{options.teacher} is {model}: a class-conditional run on the digits is needed"
        )
    test = load_digits("test")
    images = np.asarray(test.images)[: options.count]
    labels = np.asarray(test.labels)[: options.count]
    other = logistic(images, labels)
    rows = measured(model, images, labels)
    text = page(rows, len(images), other)
    if options.json:
        numbers = {"machine": metadata(), "teacher": model.metadata.get("updates"),
                   "count": len(images), "logistic": other, "rows": rows}  # fmt: skip
        write_text(options.json, json.dumps(numbers, indent=1) + "\n")
        write_text(options.json.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
