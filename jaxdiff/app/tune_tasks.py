"""What there is to tune: the task of an exact problem, and of a run, with its pairs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import solvers
from jaxdiff.app import config as configs
from jaxdiff.app import options
from jaxdiff.app import samplers as choosing
from jaxdiff.app.data import check_classes, class_labels, data_of
from jaxdiff.app.data_conditions import conditions_of, of_data, rows_in_turn
from jaxdiff.app.models import LEVELS, Model
from jaxdiff.app.options import placed
from jaxdiff.app.published import from_pictures
from jaxdiff.arrays import take
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.distance import Distance, of_features, pseudo_huber, squared
from jaxdiff.grids import karras
from jaxdiff.noise import start_noise
from jaxdiff.recipes.tuning import TUNERS, Task
from jaxdiff.sampling.pairs import make_pairs
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training.checkpoint import fingerprint
from jaxdiff.training.devices import over_batch
from jaxdiff.typing import Array

HUBER = 0.03  # of the pseudo-Huber distance, per number
RATE, WHOLE = 0.02, 32  # of batches of so many trajectories and more


def with_levels(config: configs.Tune, model: Model | None) -> configs.Tune:
    """Return a configuration with the model's own levels where none are given, and the rate that
    goes with the batch: on digits and an exact mixture 0.005 is right for 8, and 0.02 too high.
    """
    low, high = LEVELS if model is None else model.levels
    rate = config.rate or RATE * min(1.0, config.batch / WHOLE)
    return dataclasses.replace(config, low=config.low or low, high=config.high or high, rate=rate)


def blank(config: configs.Tune, **known: Any) -> Task:
    """Return the task of a configuration, but for what is ``known`` of its model."""
    chosen = None
    if config.solver is not None:
        order = {} if config.order is None else {"order": config.order}
        chosen = (choosing.SOLVERS[config.solver], order)
    low, high = _levels(config)
    none = {"start": np.zeros((config.pairs, 1))}
    model = {"denoiser": lambda y, s: y, "pairs": none, "held": none, "data": none["start"]} | known
    return Task(
        nfe=1, low=low, high=high, num_updates=config.updates, rate=config.rate or RATE,
        batch=config.batch, seed=config.seed, solver=chosen, placing=placed(config), **model,
    )  # fmt: skip


def of_problem(config: configs.Tune) -> tuple[Task, dict[str, Any]]:
    """Return the task of an exact problem, and what its tables say of where they come from."""
    from jaxdiff.app.problems import make_problem

    problem, key = make_problem(str(config.problem)), jax.random.key(config.seed)

    def pairs(number: int) -> dict[str, np.ndarray]:
        own = jax.random.fold_in(key, number)
        start = _levels(config)[1] * start_noise(own, config.pairs, (problem.dimension,))
        return {"start": np.asarray(start), "image": np.asarray(problem.flow(start))}

    data = np.asarray(problem.samples(jax.random.fold_in(key, 2), 8192))
    made = blank(
        config, denoiser=problem.model.denoiser, pairs=pairs(0), held=pairs(1), data=data,
        distance=_distance(config, None), options={"remat": config.remat},
    )  # fmt: skip
    return made, {"source": problem.name, "model": problem.name}


def of_run(
    config: configs.Tune, model: Any, images: Dataset | None, progress: bool
) -> tuple[Task, dict[str, Any]]:
    """Return the task of a run, its pairs made by the teacher, and what its tables say of it."""
    D = model.denoiser
    D = D if config.guidance is None else choosing.guided(model, D, config.guidance)
    levels = karras(config.teacher_steps, *_levels(config))
    teacher = Sampler(D, table(solvers.unipc, levels, order=3))
    both = make_pairs(
        teacher, 2 * config.pairs, model.shape, jax.random.key(config.seed),
        labels=_conditions(config, model, images), progress=progress,
        spread=functools.partial(over_batch, **placed(config)),
    )  # fmt: skip
    halves = [take(both, rows) for rows in halves_of(config.pairs)]
    # On CPU gradients of convolutions are slow in a loop, and remat saves nothing outside of one.
    unroll = jax.default_backend() == "cpu" and not config.remat
    data, labels = np.zeros((0, *model.shape), np.float32), None
    if images is not None and _needs_data(config):
        order = np.random.default_rng(config.seed).permutation(len(images))
        data = from_pictures(model.source, to_float(images.images[order]))
        if of_data(model):
            labels = conditions_of(model, images, order, config.seed)
        elif model.classes and images.labels is not None:
            labels = images.labels[order]
    classifier = _features(config, images) if config.distance == "features" else None
    made = blank(
        config, denoiser=D, data=data, labels=labels, pairs=halves[0], held=halves[1],
        distance=_distance(config, classifier), sigma_data=model.metadata["sigma_data"],
        options={"remat": config.remat, "unroll": True if unroll else 1},
    )  # fmt: skip
    made = made if classifier is None else made._replace(features=classifier)
    return made, {"source": str(config.run), "model": fingerprint(model.params)}


def images_of(config: configs.Tune, model: Model, progress: bool) -> Dataset | None:
    """Return the data of a run, if they are needed."""
    if not _needs_data(config) and not of_data(model):
        options.refuse(config, f"{config.method} reads no data here", "data")
        return None
    data = data_of(model, config.data, progress)
    if model.classes and data.labels is not None:
        check_classes(data, model)
    return data


def halves_of(count: int) -> tuple[slice, slice]:
    """Return the first ``count`` rows, to tune on, and the next, to choose by: labels that repeat
    0, 1, ..., are of every class in both.
    """
    return slice(count), slice(count, 2 * count)


def _levels(config: configs.Tune) -> tuple[float, float]:
    """Return the levels of a configuration that :func:`with_levels` made."""
    return config.low or LEVELS[0], config.high or LEVELS[1]


def _needs_data(config: configs.Tune) -> bool:
    return TUNERS[config.method].data or config.distance == "features"


def _conditions(config: configs.Tune, model: Model, images: Dataset | None) -> Any:
    """Return what the pairs are of: classes in turn, or conditions of the run's data."""
    count = 2 * config.pairs
    if not of_data(model):
        return class_labels(count, model.classes)
    assert images is not None
    return conditions_of(model, images, rows_in_turn(images, count, config.seed), config.seed)


def _features(config: configs.Tune, images: Any) -> Callable[[Array], Array]:
    from jaxdiff.metrics.features import classifier_features

    if images.labels is None:
        raise ValueError("the distance of features needs a run with classes; use squared or huber")
    classifier, _ = classifier_features(to_float(images.images), images.labels, config.seed)
    return lambda x: jnp.asarray(classifier.features(x))


def _distance(config: configs.Tune, features: Callable[[Array], Array] | None) -> Distance:
    if features is not None:
        return of_features(features)
    return squared if config.distance == "squared" else _huber


def _huber(a: Array, b: Array) -> Array:
    """Pseudo-Huber, its bend at a root mean square of HUBER."""
    return pseudo_huber(HUBER * float(np.sqrt(a[0].size)))(a, b)
