"""Students of the published MNIST model in one and two evaluations, and Frechet distances to digits
by the features of a classifier.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.app.evaluator import Evaluator, measure
from jaxdiff.app.generate import generate
from jaxdiff.app.models import Model
from jaxdiff.app.published import from_pictures, to_pictures
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.epochs import batches
from jaxdiff.data.readers import load
from jaxdiff.denoisers import description
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.training.ema import ramped
from jaxdiff.training.fit_stages import fit_stages
from jaxdiff.typing import Network, Params

QUALITY = "Frechet distance"


def images(path: Path, count: int) -> tuple[Dataset, Dataset]:
    """Return ``count`` images to train on, and as many at most of the test split."""
    return load(path, limit=count), load(path, split="test", limit=count)


def goal(model: Model, high: float, num_updates: int, rate: float, std: float) -> Goal:
    """Return what a recipe starts from: the published network, from level ``high``."""
    made: Any = description(model.denoiser)

    def network(labels: int, log_variance: bool) -> tuple[Network, Params]:
        if labels > 1 or log_variance:
            raise ValueError("the published network takes one label and has no log variance")
        return made["network"], made["params"]

    return Goal(
        model.denoiser, network, model.shape, num_updates, rate, sigma_data=std,
        low=model.levels[0], high=high, ema={"average": ramped(0.998, 0.5)},
    )  # fmt: skip


def distil(
    method: str,
    model: Model,
    data: Dataset,
    high: float,
    num_updates: int,
    folder: Path | None,
    batch: int = 32,
    rate: float = 1e-3,
    steps: Sequence[int] = (1, 2),
) -> dict[int, Sampler]:
    """Return a student's samplers by steps; with a folder, a run in it goes on where it was."""
    made = batches(data, batch, 0, False)

    def native(step: int) -> dict[str, np.ndarray]:
        return {"image": from_pictures(model.source, made(step)["image"])}

    std = float(np.std(np.concatenate([native(n)["image"] for n in range(8)])))
    stages = RECIPES[method].stages(goal(model, high, num_updates, rate, std))
    last, state = fit_stages(
        stages, native, num_updates=num_updates, ema="average", checkpoint=folder, save_every=50
    )
    sampler = functools.partial(last.sampler, state, ema="average")
    return {n: sampler(num_steps=n) for n in steps}


def score(
    evaluator: Evaluator, sampler: Sampler, model: Model, count: int
) -> tuple[float, np.ndarray]:
    """Return the Frechet distance of a sampler's samples, and their pictures."""
    made = generate(sampler, count, model.shape, bounds=model.bounds, batch=64, progress=False)
    shown = to_pictures(model.source, made)
    return measure(evaluator, shown, metrics=[QUALITY])[QUALITY].value, shown
