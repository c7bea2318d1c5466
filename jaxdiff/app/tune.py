"""Tuned samplers: what is behind ``jaxdiff tune`` and the tables of ``experiments.tuning``."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import solvers
from jaxdiff.app import config as configs
from jaxdiff.app import folder as folders
from jaxdiff.app import options
from jaxdiff.app import samplers as choosing
from jaxdiff.app.conditions import check_class_condition
from jaxdiff.app.data import check_classes, class_labels, data_of
from jaxdiff.app.data_conditions import conditions_of, of_data, rows_in_turn
from jaxdiff.app.load import load_model
from jaxdiff.app.models import LEVELS, Model
from jaxdiff.app.options import placed
from jaxdiff.app.published import from_pictures
from jaxdiff.app.sample import saved
from jaxdiff.arrays import take
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.distance import Distance, of_features, pseudo_huber, squared
from jaxdiff.files import check_writable, read_json, write_text
from jaxdiff.grids import karras
from jaxdiff.noise import start_noise
from jaxdiff.recipes.choices import chosen
from jaxdiff.recipes.tuning import TUNERS, Task
from jaxdiff.recipes.tuning.solve import Result, check, solve
from jaxdiff.sampling.pairs import make_pairs
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.training import hosts
from jaxdiff.training.checkpoint import fingerprint
from jaxdiff.training.devices import over_batch
from jaxdiff.training.tune import FILE
from jaxdiff.tuning.learned.flatten import flatten
from jaxdiff.typing import Array

HUBER = 0.03  # of the pseudo-Huber distance, per number
EARLY = 4  # of the updates: the share after which the best is expected
RATE, WHOLE = 0.02, 32  # of batches of so many trajectories and more


def tune(config: configs.Tune, progress: bool = True) -> str:
    """Tune samplers of a run or of an exact problem; write them and return what there is to say.

    Raises ValueError for choices that do not go together, before anything is computed, and for a
    folder of samplers of another model, of other data or with other settings.
    """
    options.check(config)
    _check(config)
    model = load_model(config.run, config.checkpoint, progress) if config.run else None
    config = _with_levels(config, model)
    if model is not None:
        if model.tokenizer is None:
            check_class_condition(model, "tune")
    if model is not None and model.student:
        raise ValueError(f"{config.run} is a student, which has its own sampler; tune its teacher")
    for nfe in config.nfe:
        own = chosen(config.method, TUNERS[config.method], config.choices)
        check(_blank(config)._replace(nfe=nfe), config.method, own)
    problem = None if config.problem is None else _of_problem(config)
    check_writable(Path(config.out) / "tune.json")
    data = None if model is None else _images(config, model, progress)
    with folders.held(config.out):
        _begin(config, _known(config, model, data))
        made, source = problem or _of_run(config, model, data, progress)
        return _tuned(config, made, source, progress)


def _tuned(config: configs.Tune, made: Task, source: dict[str, Any], progress: bool) -> str:
    """Tune samplers one after the other, as :func:`tune` does."""
    from jaxdiff.report.terminal import format_table

    rows, nearest, lines = [], None, []
    for nfe in sorted(set(config.nfe)):
        folder = Path(config.out) / f"nfe-{nfe}"
        metadata = source | {"nfe": nfe, "settings": _settings(config)}
        metadata |= {"guidance": config.guidance, "method": config.method}
        metadata |= {"choices": config.choices or None}
        metadata |= {} if nearest is None else {"nearest": int(nearest.nfe)}
        result = solve(
            made._replace(nfe=nfe, nearest=nearest), config.method, choices=config.choices,
            folder=folder / "run",
            metadata=metadata, progress=progress, patience=config.patience, **placed(config),
        )  # fmt: skip
        nearest = result.tuned.table
        if hosts.is_main_process():
            write(result, folder, metadata)
        scores = (result.baseline_score, result.tuned.score)
        rows.append([nfe, result.baseline_name, *scores, f"{result.seconds:.0f} s"])
        if result.best is result.baseline:
            lines.append(f"NFE {nfe}: nothing better found; the table is the baseline's")
        lines += _hint(config, nfe, result)
    head = ["NFE", "best baseline", "its score", f"{config.method}'s", "in"]
    last = f"{config.out}/nfe-{rows[-1][0]}/{FILE}"
    lines += [
        f"score, on held-out noise: {result.scored_by} ({config.distance})",
        f"tables: {config.out}/nfe-N/{FILE}, and table.png beside each",
    ]
    if config.run:
        lines.append(f"next: jaxdiff sample --run {config.run} --table {last}")
    return "\n".join([format_table(head, rows), *lines])


def _hint(config: configs.Tune, nfe: int, result: Result) -> list[str]:
    """Return advice where a descent was at its best early, and none otherwise."""
    step = result.tuned.step
    if TUNERS[config.method].searches or not 0 < step <= config.updates // EARLY:
        return []
    return [
        f"NFE {nfe}: best after update {step} of {config.updates}: a lower --rate than "
        f"{config.rate:g}, or a larger --batch, may do better"
    ]


def write(result: Result, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write the better table with all there is to know of it; then the figure of both, without
    which the table is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcome: dict[str, Any] = {
        "baseline": result.baseline_name,
        "baseline_held_out": result.baseline_score,
    }
    if result.best is result.baseline:
        outcome |= {"tuned": False, "held_out": result.baseline_score, "score": result.scored_by}
        best = result.baseline.with_metadata(**metadata, **outcome)
    else:
        best = result.tuned.table.with_metadata(
            **metadata, **outcome, tuned=True, score=result.scored_by
        )
    best.save(folder / FILE)
    shown = {"baseline": result.baseline, str(metadata["method"]): result.tuned.table}
    saved(lambda: _figure(shown), folder / "table.png", dpi=130)


def _figure(shown: Mapping[str, Any]) -> Any:
    """Return the levels and weights of tables, by name."""
    from jaxdiff.report.samplers import levels_and_weights

    flats = {k: flatten(made) for k, made in shown.items() if isinstance(made, Table)}
    return levels_and_weights({k: (f.nodes, f.denoised) for k, f in flats.items()})


def _check(config: configs.Tune) -> None:
    if (config.run is None) == (config.problem is None):
        raise ValueError("tune either a run (--run DIR) or an exact problem (--problem mixture-2d)")
    if config.order is not None and config.solver is None:
        raise ValueError("an order goes with a solver: give --solver, too")
    if TUNERS[config.method].kernel and config.distance == "huber":
        raise ValueError(
            f"{config.method} tunes for the kernel distance to data, of numbers or of features"
        )
    if config.problem and (config.guidance is not None or config.distance == "features"):
        raise ValueError("an exact problem has neither guidance nor a classifier's features")
    if config.problem:
        known = "an exact problem has its own solution"
        options.refuse(config, known, "checkpoint", "data", "teacher_steps")
    if TUNERS[config.method].searches:
        why = f"{config.method} searches, and makes no updates of the training loop"
        options.refuse(config, why, "updates", "rate", "batch", "patience", "remat")
    _check_features(config)
    if config.solver is not None:
        choosing.check_order(choosing.SOLVERS[config.solver], config.order)


def _check_features(config: configs.Tune) -> None:
    tuner = TUNERS[config.method]
    own = chosen(config.method, tuner, config.choices)
    without = config.problem is not None or config.guidance is not None
    if tuner.features is not None and own.get(tuner.features, True) and without:
        raise ValueError(
            f"{config.method} reads its network's features, which an exact problem and a guided "
            f"model do not have: --choices {tuner.features} false predicts from the levels alone"
        )


def _begin(config: configs.Tune, known: dict[str, Any]) -> None:
    """Keep the settings in the folder; refuse a folder that was begun with others."""
    path, own = Path(config.out) / "tune.json", _settings(config) | known
    if path.exists():
        there = read_json(path)
        if not isinstance(there, dict):
            raise ValueError(f"{path} is damaged: it should hold the settings of jaxdiff tune")
        for name in ("run", "checkpoint"):  # known by the parameters, where these were kept
            (own if "model" in there else there).pop(name, None)
        other = [k for k in own if there.get(k) != own[k]]
        if other:
            listed = "; ".join(f"{k}: {there.get(k)!r} there, {own[k]!r} here" for k in other)
            raise ValueError(f"{config.out} was tuned otherwise ({listed}). Give another folder.")
    hosts.wait_for_all("configuration read")
    if hosts.is_main_process():
        write_text(path, json.dumps(_settings(config) | known, indent=1))


def _known(config: configs.Tune, model: Model | None, data: Dataset | None) -> dict[str, Any]:
    """Return the choices, and what a run's parameters and data are known again by, wherever they
    lie.
    """
    known: dict[str, Any] = {"choices": config.choices or None}
    known |= {} if model is None else {"model": fingerprint(model.params)}
    return known | ({} if data is None else {"images": data.fingerprint()})


def _with_levels(config: configs.Tune, model: Model | None) -> configs.Tune:
    """Return a configuration with the model's own levels where none are given, and the rate that
    goes with the batch: on digits and an exact mixture 0.005 is right for 8, and 0.02 too high.
    """
    low, high = LEVELS if model is None else model.levels
    rate = config.rate or RATE * min(1.0, config.batch / WHOLE)
    return dataclasses.replace(config, low=config.low or low, high=config.high or high, rate=rate)


def _levels(config: configs.Tune) -> tuple[float, float]:
    """Return the levels of a configuration that :func:`_with_levels` made."""
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


def _images(config: configs.Tune, model: Model, progress: bool) -> Dataset | None:
    """Return the data of a run, if they are needed."""
    if not _needs_data(config) and not of_data(model):
        options.refuse(config, f"{config.method} reads no data here", "data")
        return None
    data = data_of(model, config.data, progress)
    if model.classes and data.labels is not None:
        check_classes(data, model)
    return data


def _settings(config: configs.Tune) -> dict[str, Any]:
    free = ("out", "nfe", "parallel", "devices", "data", "choices")
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in free}


def _blank(config: configs.Tune, **known: Any) -> Task:
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


def _of_problem(config: configs.Tune) -> tuple[Task, dict[str, Any]]:
    from jaxdiff.app.problems import make_problem

    problem, key = make_problem(str(config.problem)), jax.random.key(config.seed)

    def pairs(number: int) -> dict[str, np.ndarray]:
        own = jax.random.fold_in(key, number)
        start = _levels(config)[1] * start_noise(own, config.pairs, (problem.dimension,))
        return {"start": np.asarray(start), "image": np.asarray(problem.flow(start))}

    data = np.asarray(problem.samples(jax.random.fold_in(key, 2), 8192))
    made = _blank(
        config, denoiser=problem.model.denoiser, pairs=pairs(0), held=pairs(1), data=data,
        distance=_distance(config, None), options={"remat": config.remat},
    )  # fmt: skip
    return made, {"source": problem.name, "model": problem.name}


def _of_run(
    config: configs.Tune, model: Any, images: Dataset | None, progress: bool
) -> tuple[Task, dict[str, Any]]:
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
    made = _blank(
        config, denoiser=D, data=data, labels=labels, pairs=halves[0], held=halves[1],
        distance=_distance(config, classifier), sigma_data=model.metadata["sigma_data"],
        options={"remat": config.remat, "unroll": True if unroll else 1},
    )  # fmt: skip
    made = made if classifier is None else made._replace(features=classifier)
    return made, {"source": str(config.run), "model": fingerprint(model.params)}


def halves_of(count: int) -> tuple[slice, slice]:
    """Return the first ``count`` rows, to tune on, and the next, to choose by: labels that repeat
    0, 1, ..., are of every class in both.
    """
    return slice(count), slice(count, 2 * count)


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
