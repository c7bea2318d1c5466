"""Frechet distances of samples to test digits, by the features of a small classifier."""

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

QUALITY = "Frechet distance"
SHOWN = 12  # pictures of each sampler


def pictures(sampler: Sampler, model: Model, count: int) -> np.ndarray:
    """Return samples as images in [-1, 1], of noise that nothing was tuned or trained on."""
    made = generate(
        sampler, count, model.shape, bounds=model.bounds, batch=64, seed=2, progress=False
    )
    return to_pictures(model.source, made)


def scored(
    samplers: Mapping[str, tuple[int, Sampler]], model: Model, data: Path, count: int,
    images: int, folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Return Frechet distances by sampler, each with its evaluations, and those of other digits.

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

    def score(sampler: Sampler) -> float:
        return measure(evaluator(), pictures(sampler, model, count), metrics=[QUALITY])[
            QUALITY
        ].value

    def real() -> dict[str, Any]:
        own = evaluator().real_data_scores(count, [QUALITY])[QUALITY]
        return {"mean": own.value, "std": own.std, "of": evaluator().reference_name}

    rows = []
    for number, (name, (nfe, sampler)) in enumerate(samplers.items()):
        value = kept(folder / f"score-{number}.json", lambda s=sampler: score(s))
        rows.append({"sampler": name, "nfe": nfe, "distance": value})
        print(f"{name}, NFE {nfe}: {value:.4g}", flush=True)
    return {"rows": rows, "real": kept(folder / "real.json", real), "samples": count}
