"""Samples beside test digits, by the features of a small classifier.

A flow that leaves the data's range (*outside*: the share of numbers beyond +-0.6, where data end at
+-0.5) may end in a digit on white, whose features are a hundred times as far from the mean as any
digit's: a few of these are the whole of a Frechet distance, and one sample each of precision.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.mnist_ddpm.ends import kept
from jaxdiff.app.evaluator import Evaluator, make_evaluator, measure
from jaxdiff.app.generate import generate
from jaxdiff.app.models import Model
from jaxdiff.app.published import to_pictures
from jaxdiff.data.readers import load
from jaxdiff.sampling.sampler import Sampler

QUALITY = ("Frechet distance", "precision", "recall")
SHOWN = 12  # pictures of each sampler


def outside(samples: np.ndarray) -> float:
    """Return the share of numbers more than a tenth outside of [-0.5, 0.5]."""
    return float(np.mean(np.abs(samples) > 0.6))


def samples(sampler: Sampler, model: Model, count: int) -> np.ndarray:
    """Return samples as they are, of noise that nothing was tuned or trained on."""
    return generate(sampler, count, model.shape, bounds=None, batch=64, seed=2, progress=False)


def pictures(model: Model, made: np.ndarray) -> np.ndarray:
    """Return samples as images in [-1, 1]."""
    return np.clip(to_pictures(model.source, made), -1, 1)


def scored(
    samplers: Mapping[str, tuple[int, Sampler]], model: Model, data: Path, count: int,
    images: int, folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Return scores by sampler, each with its evaluations, and those of other digits.

    Args:
        samplers: by their names in the table, with the evaluations of the network.
        model: whose samples they make.
        data: digits, of which ``images`` train the classifier and as many test ones are the
            reference.
        count: samples.
        images: of each part, at most.
        folder: where scores are kept, a file each.
    """
    found: list[Evaluator] = []

    def evaluator() -> Evaluator:
        if not found:
            train = load(data, limit=images)
            found.append(make_evaluator(train, load(data, split="test", limit=images)))
        return found[0]

    def score(sampler: Sampler) -> dict[str, float]:
        made = samples(sampler, model, count)
        own = measure(evaluator(), pictures(model, made), metrics=list(QUALITY))
        return {name: own[name].value for name in QUALITY} | {"outside": outside(made)}

    def real() -> dict[str, Any]:
        own = evaluator().real_data_scores(count, list(QUALITY))
        mean = {name: own[name].value for name in QUALITY}
        return {"mean": mean, "std": own[QUALITY[0]].std, "of": evaluator().reference_name}

    rows = []
    for number, (name, (nfe, sampler)) in enumerate(samplers.items()):
        row = kept(folder / f"score-{number}.json", lambda s=sampler: score(s))
        rows.append({"sampler": name, "nfe": nfe, **row})
        print(rows[-1], flush=True)
    return {"rows": rows, "real": kept(folder / "real.json", real), "samples": count}
