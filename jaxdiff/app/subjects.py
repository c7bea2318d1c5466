"""Subjects of ``jaxdiff analyse``: a model, its students, and null models of its data."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import analysis, grids, solvers
from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app.conditions import check_class_condition, say_alone
from jaxdiff.app.data import (
    class_index,
    class_labels,
    data_of,
    own_data,
    read_data,
    same_classes,
)
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.models import LEVELS, Model
from jaxdiff.app.options import refuse
from jaxdiff.app.problems import make_problem
from jaxdiff.app.published import from_pictures, is_published
from jaxdiff.app.references import OTHER, class_names, in_classes
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.data.labels import NoSplit
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table

DRAWN = 2048  # samples that stand for data where none are known
FLOOR = 1e-8  # of the mean variance: below the lowest levels squared
LARGEST = 8192  # numbers of a sample whose covariance is decomposed
MOST_AXES = 2e7  # numbers in the axes of a mixture by classes


class Subject(NamedTuple):
    """A denoiser of states (batch, *shape), and the conditions of ``count`` samples."""

    denoiser: Any
    cond: Any = None


class Data(NamedTuple):
    """Data of null models: values (n, *shape) as the model's samples are, labels (n,) or
    None, held-out values or None, and what they are, in words.
    """

    values: np.ndarray
    labels: np.ndarray | None
    held_out: np.ndarray | None
    shown: str


def loaded(config: configs.Analyse, progress: bool) -> tuple[Model, dict[str, Model]]:
    """Return the model to analyse and students by name: a student that is given as the model
    stands beside its teacher.

    Raises ValueError unless there is one of ``run`` and ``problem``, for a problem with options of
    runs, for a student that is none and for one of samples of another shape.
    """
    if (config.run is None) == (config.problem is None):
        raise ValueError("give --run, a model, or --problem, an exact one: one of the two")
    if config.problem is not None:
        why = "a --problem has none of these"
        refuse(config, why, "students", "label", "checkpoint", "guidance", "data")
        return exact_model(config.problem, config.seed), {}
    run, named = str(config.run), list(config.students)
    model = load_model(run, config.checkpoint, progress)
    if model.student:
        named, known = [run, *named], config_file.load(run)
        assert isinstance(known, configs.Distill)
        model = load_model(known.teacher, known.checkpoint, progress)
    check_class_condition(model, "analyse")
    if model.shown and named:
        raise ValueError(
            f"{named[0]} is a student of a network that is shown an array beside x, without which "
            f"{run} is analysed and a student has not learnt to sample"
        )
    say_alone(model, run, progress)
    if not guidable(model):
        refuse(config, "this model cannot be guided", "guidance")
    students = {}
    for path in named:
        one = load_model(path)
        if not one.student:
            raise ValueError(f"{path} is no student: --students compares students with --run")
        if one.shape != model.shape:
            raise ValueError(f"the student {path} makes {one.shape}, the model {model.shape}")
        if not same_classes(one, model):
            raise ValueError(f"the student {path} has other classes than the model")
        students[f"student by {one.metadata['method']}, {path}"] = one
    return model, students


def exact_model(name: str, seed: int) -> Model:
    """Return an exact problem as a model."""
    problem = make_problem(name, seed=seed)
    metadata = {"kind": "teacher", "data": None, "class_names": (), "arrays": True}
    return Model(problem.model.denoiser, {}, (problem.dimension,), 0, False, metadata)


def guidable(model: Model) -> bool:
    """Return whether a model has classes and an answer without one."""
    return bool(model.classes) and getattr(model.module, "null_class", True)


def label_of(model: Model, config: configs.Analyse) -> int | None:
    """Return the class to analyse. ValueError for one that the model does not have."""
    if config.label is None:
        return None
    if not model.classes:
        raise ValueError("this model has no classes: leave --label out")
    return class_index(config.label, model.metadata["class_names"])


def condition(model: Model, label: int | None, count: int) -> np.ndarray | None:
    """Return the model's condition: one class, none, or, of a network without a class for none,
    all in turn.
    """
    if label is None and (not model.classes or guidable(model)):
        return None
    made = class_labels(count, model.classes, label, model.metadata["class_names"])
    return None if made is None else made.astype(np.int32)


def data_for(model: Model, config: configs.Analyse, progress: bool) -> Data:
    """Return the data that null models are made of: the model's own, those that are given, or
    samples.

    Raises ValueError for data of another shape, or a class without data.
    """
    label = label_of(model, config)
    if config.problem is not None:
        problem = make_problem(config.problem, seed=config.seed)
        keys = [jax.random.fold_in(jax.random.key(config.seed), n) for n in range(2)]
        values, held = (np.asarray(problem.samples(key, DRAWN)) for key in keys)
        return Data(values, None, held, f"{DRAWN} exact samples of {problem.name}")
    if own_data(model) is None and config.data.path is None:
        refuse(config, "without --data.path the data are the model's own samples", "data")
        values = _samples(model, config, label, progress)
        return Data(
            values, None, None, f"{DRAWN} samples of the model itself, whose data are unknown"
        )
    whole = data_of(model, config.data, progress)
    names = class_names(model, whole)
    whole = in_classes(whole, names)
    known = own_data(model) or configs.Data()
    other = _other(configs.of_run(known, config.data) or known, progress)
    values, labels = _values(model, whole, label)
    held = None if other is None else _values(model, in_classes(other, names), label)[0]
    return Data(values, labels, held, f"{len(values)} of {whole.name}")


def _values(model: Model, data: Dataset, label: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return data as the model's samples are, of one class if there is a label."""
    rows = slice(None)
    if label is not None:
        if data.labels is None or not (data.labels == label).any():
            raise ValueError(f"{data.name} has nothing of class {label}")
        rows = data.labels == label
    values = from_pictures(model.source, to_float(data.images[rows]))
    if values.shape[1:] != model.shape:
        raise ValueError(f"{data.name} is of {values.shape[1:]}, the model's samples {model.shape}")
    return values, None if data.labels is None else data.labels[rows]


def _other(data: configs.Data, progress: bool) -> Dataset | None:
    """Return the part of the data that is not used; None if there is none."""
    try:
        return read_data(dataclasses.replace(data, split=OTHER[data.split], limit=None), progress)
    except NoSplit:
        return None


def _samples(
    model: Model, config: configs.Analyse, label: int | None, progress: bool
) -> np.ndarray:
    """Return samples of the model, by 20 steps of DPM-Solver++."""
    made = table(solvers.dpmpp, grids.karras(20, *levels_of(model, config)))
    labels = condition(model, label, DRAWN)
    return generate(
        Sampler(model.denoiser, made), DRAWN, model.shape, labels, seed=config.seed + 1,
        progress=progress, bounds=model.bounds,
    )  # fmt: skip


def levels_of(model: Model, config: configs.Analyse) -> tuple[float, float]:
    """Return the lowest level above 0 and the one that trajectories start from."""
    low, high = LEVELS if config.problem is not None else model.levels
    return config.low or low, config.high or high


def place_of(config: configs.Analyse) -> str:
    """Return where the report goes by default."""
    if config.out is not None:
        return config.out
    if config.run is None or is_published(config.run):
        return "analysis.html"
    return f"{config.run}/analysis.html"


def noise_for(config: configs.Analyse, shape: tuple[int, ...]) -> jax.Array:
    """Return the standard normal noise that all models start from."""
    from jaxdiff.noise import start_noise

    return start_noise(jax.random.key(config.seed), config.count, shape, jnp.float32)


def subjects_of(model: Model, data: Data, label: int | None, count: int) -> dict[str, Subject]:
    """Return the model and null models of its data, on states of the model's shape.

    A mixture by classes is among them where the data have several, of few enough numbers.

    Raises ValueError for samples of more numbers than a covariance can be decomposed of.
    """
    values, size = data.values, data.values[0].size
    if size > LARGEST:
        raise ValueError(
            f"the Gaussian of samples of {size} numbers needs their covariance decomposed, which "
            f"is done up to {LARGEST}: analyse a model of smaller samples"
        )
    cond = condition(model, label, count)
    nulls: dict[str, Any] = {
        "Gaussian": analysis.gaussian_of(values, floor=FLOOR),
        "isotropic Gaussian": analysis.isotropic_of(values),
    }
    made = {"model": Subject(model.denoiser, cond)}
    classes = _classes(data) if label is None else 0
    if data.labels is not None and classes and classes * size**2 <= MOST_AXES:
        nulls["Gaussian by class"] = analysis.mixture_of_classes(
            values, data.labels, conditional=cond is not None, floor=FLOOR
        )
    nulls["finite data set"] = analysis.finite_data_set(values)
    for name, null in nulls.items():
        given = cond if name == "Gaussian by class" else None
        made[name] = Subject(analysis.as_denoiser(_single(null)), given)
    return made


def _classes(data: Data) -> int:
    """Return the number of classes, 0 unless there are several, each of several data."""
    if data.labels is None:
        return 0
    counts = np.bincount(data.labels)
    return len(counts) if len(counts) > 1 and counts.min() > 1 else 0


def _single(model: Any) -> Any:
    """Return a model with its arrays in single precision, in which networks are."""
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), model)
