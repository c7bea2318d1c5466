"""Tuned samplers: what is behind ``jaxdiff tune`` and the tables of ``experiments.tuning``."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import config as configs
from jaxdiff import runs, solvers
from jaxdiff.data.dataset import to_float
from jaxdiff.distance import Distance, of_features, pseudo_huber, squared
from jaxdiff.files import read_json, write_text
from jaxdiff.grids import karras
from jaxdiff.recipes.tuners import DISTANCE, TUNERS, Descent, Task, check, handmade, order_of
from jaxdiff.sampling.pairs import make_pairs
from jaxdiff.sampling.sample import Sampler, start_noise
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.training import hosts
from jaxdiff.training.checkpoint import fingerprint
from jaxdiff.training.devices import over_batch
from jaxdiff.training.tune import FILE, Tuned, held_out
from jaxdiff.training.tune import tune as descend
from jaxdiff.tuning.flatten import flatten
from jaxdiff.typing import Array

HUBER = 0.03  # of the pseudo-Huber distance, per number


class Result(NamedTuple):
    """What tuning gave, beside the best usual sampler.

    usual, usual_name, usual_score: the best hand-made table on the training pairs, and its held-out
    score. tuned: what the method found. score: what the scores are, in words. seconds: it took, the
    hand-made ones' not counted.
    """

    usual: Table
    usual_name: str
    usual_score: float
    tuned: Tuned
    score: str
    seconds: float

    @property
    def best(self) -> Table:
        """The better of the two on the held-out pairs."""
        return self.tuned.table if self.tuned.score <= self.usual_score else self.usual


def solve(
    task: Task,
    method: str,
    *,
    folder: Path | None = None,
    about: Mapping[str, Any] | None = None,
    every: int = 50,
    **options: Any,
) -> Result:
    """Tune a sampler by a method's name.

    Args:
        task: what is wanted. method: of :data:`jaxdiff.recipes.tuners.TUNERS`.
        folder, about, every, options: of :func:`jaxdiff.training.tune.tune`, for a descent.

    Raises:
        ValueError: for a task that cannot be done. FloatingPointError: for a loss that is not
            finite; the best table so far stays in ``folder``.
    """
    known = handmade(check(task, method))
    usual, began = known[0].table(), time.monotonic()
    plan = TUNERS[method](task._replace(usual=known))
    if isinstance(plan, Descent):
        judge, score = plan.judge, plan.score
        found = descend(
            plan.method, plan.data, judge, plan.start, steps=task.updates, key=task.seed,
            every=every, folder=folder, about=about, **options,
        )  # fmt: skip
    else:
        judge = held_out(task.denoiser, task.held, task.distance, **task.placing)
        score = DISTANCE
        chosen = plan[order_of(task, plan)[0]]
        value = judge(chosen)
        found = Tuned(chosen.described(**(about or {}), held_out=value), value, value, 0)
    seconds = time.monotonic() - began
    return Result(usual, known[0].name, judge(usual), found, score, seconds)


def tune(config: configs.Tune, progress: bool = True) -> str:
    """Tune samplers of a run or of an exact problem; write them and return what there is to say.

    Raises ValueError for choices that do not go together, before anything is computed.
    """
    from jaxdiff.report.terminal import format_table

    _check(config)
    model = runs.load_model(config.run) if config.run else None
    if model is not None and model.student:
        raise ValueError(f"{config.run} is a student, which has its own sampler; tune its teacher")
    for nfe in config.nfe:
        check(_blank(config)._replace(nfe=nfe), config.method)
    made, source = _of_problem(config) if model is None else _of_run(config, model, progress)
    _begin(config)
    rows, nearest, lines = [], None, []
    for nfe in sorted(set(config.nfe)):
        folder = Path(config.out) / f"nfe-{nfe}"
        about = source | {"nfe": nfe, "settings": _settings(config)}
        about |= {"guidance": config.guidance, "method": config.method}
        about |= {} if nearest is None else {"nearest": int(nearest.nfe)}
        result = solve(
            made._replace(nfe=nfe, nearest=nearest), config.method, folder=folder / "run",
            about=about, progress=progress, patience=config.patience, **runs.placed(config),
        )  # fmt: skip
        nearest = result.tuned.table
        if hosts.speaks():
            write(result, folder, about)
        scores = (result.usual_score, result.tuned.score)
        rows.append([nfe, result.usual_name, *scores, f"{result.seconds:.0f} s"])
        if result.best is result.usual:
            lines.append(f"NFE {nfe}: nothing better found; the table is the usual sampler's")
    head = ["NFE", "best usual sampler", "its score", f"{config.method}'s", "in"]
    last = f"{config.out}/nfe-{rows[-1][0]}/{FILE}"
    lines += [
        f"score, on held-out noise: {result.score} ({config.distance})",
        f"tables: {config.out}/nfe-N/{FILE}, and table.png beside each",
    ]
    if config.run:
        lines.append(f"next: jaxdiff sample --run {config.run} --table {last}")
    return "\n".join([format_table(head, rows), *lines])


def write(result: Result, folder: Path, about: Mapping[str, Any]) -> None:
    """Write the better table with all there is to know of it, and the figure of both."""
    from jaxdiff.report.samplers import levels_and_weights

    folder.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = {"usual": result.usual_name, "usual_held_out": result.usual_score}
    if result.best is result.usual:
        said |= {"tuned": False, "held_out": result.usual_score, "score": result.score}
        best = result.usual.described(**about, **said)
    else:
        best = result.tuned.table.described(**about, **said, tuned=True, score=result.score)
    best.save(folder / FILE)
    flats = {"usual": flatten(result.usual), str(about["method"]): flatten(result.tuned.table)}
    figure = levels_and_weights({k: (f.nodes, f.denoised) for k, f in flats.items()})
    figure.savefig(folder / "table.png", dpi=130)


def _check(config: configs.Tune) -> None:
    if (config.run is None) == (config.problem is None):
        raise ValueError("tune either a run (--run DIR) or an exact problem (--problem mixture-2d)")
    if config.order is not None and config.solver is None:
        raise ValueError("an order goes with a solver: give --solver, too")
    if config.method == "ggdm" and config.distance == "huber":
        raise ValueError("ggdm tunes for the kernel distance to data, of numbers or of features")
    if config.problem and (config.guidance is not None or config.distance == "features"):
        raise ValueError("an exact problem has neither guidance nor a classifier's features")


def _begin(config: configs.Tune) -> None:
    """Keep the configuration in the folder; refuse a folder that was begun with another."""
    path, own = Path(config.out) / "tune.json", _settings(config)
    if path.exists():
        known = read_json(path)
        if not isinstance(known, dict):
            raise ValueError(f"{path} is damaged: it should hold the settings of jaxdiff tune")
        other = [k for k in own if known.get(k) != own[k]]
        if other:
            listed = "; ".join(f"{k}: {known.get(k)!r} there, {own[k]!r} here" for k in other)
            raise ValueError(f"{config.out} was tuned otherwise ({listed}). Give another folder.")
    hosts.wait_for_all("configuration read")
    if hosts.speaks():
        write_text(path, json.dumps(own, indent=1))


def _settings(config: configs.Tune) -> dict[str, Any]:
    free = ("out", "nfe", "parallel", "devices")
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in free}


def _blank(config: configs.Tune, **known: Any) -> Task:
    """The task of a configuration, but for what is ``known`` of its model."""
    chosen = None
    if config.solver is not None:
        order = {} if config.order is None else {"order": config.order}
        chosen = (runs.SOLVERS[config.solver], order)
    none = {"start": np.zeros((config.pairs, 1))}
    model = {"denoiser": lambda y, s: y, "pairs": none, "held": none, "data": none["start"]} | known
    return Task(
        nfe=1, low=config.low, high=config.high, updates=config.updates, rate=config.rate,
        batch=config.batch, seed=config.seed, solver=chosen, placing=runs.placed(config), **model,
    )  # fmt: skip


def _of_problem(config: configs.Tune) -> tuple[Task, dict[str, Any]]:
    from experiments.gym.problems import make_problem

    problem, key = make_problem(str(config.problem)), jax.random.key(config.seed)

    def pairs(number: int) -> dict[str, np.ndarray]:
        own = jax.random.fold_in(key, number)
        start = config.high * start_noise(own, config.pairs, (problem.dimension,))
        return {"start": np.asarray(start), "image": np.asarray(problem.flow(start))}

    data = np.asarray(problem.samples(jax.random.fold_in(key, 2), 8192))
    made = _blank(
        config, denoiser=problem.model.denoiser, pairs=pairs(0), held=pairs(1), data=data,
        distance=_distance(config, None), options={"remat": config.remat},
    )  # fmt: skip
    return made, {"source": problem.name, "model": problem.name}


def _of_run(config: configs.Tune, model: runs.Model, progress: bool) -> tuple[Task, dict[str, Any]]:
    D = model.denoiser
    D = D if config.guidance is None else runs.guided(model, D, config.guidance)
    needed = config.method in ("ays", "elbo", "ggdm") or config.distance == "features"
    images = runs.read_data(configs.Data(**model.about["data"]), progress) if needed else None
    levels = karras(config.teacher_steps, config.low, config.high)
    teacher = Sampler(D, table(solvers.unipc, levels, order=3))
    both = make_pairs(
        teacher, 2 * config.pairs, model.shape, jax.random.key(config.seed),
        labels=runs.class_labels(2 * config.pairs, model.classes), progress=progress,
        spread=functools.partial(over_batch, **runs.placed(config)),
    )  # fmt: skip
    halves = [{k: v[rows] for k, v in both.items()} for rows in halves_of(config.pairs)]
    # On CPU gradients of convolutions are slow in a loop, and remat saves nothing outside of one.
    unroll = jax.default_backend() == "cpu" and not config.remat
    data, labels = np.zeros((0, *model.shape), np.float32), None
    if images is not None:
        order = np.random.default_rng(config.seed).permutation(len(images))
        data = to_float(images.images[order])
        labels = images.labels[order] if model.classes and images.labels is not None else None
    classifier = _features(config, images) if config.distance == "features" else None
    made = _blank(
        config, denoiser=D, data=data, labels=labels, pairs=halves[0], held=halves[1],
        distance=_distance(config, classifier), sigma_data=model.about["sigma_data"],
        options={"remat": config.remat, "unroll": True if unroll else 1},
    )  # fmt: skip
    made = made if classifier is None else made._replace(features=classifier)
    return made, {"source": str(config.run), "model": fingerprint(model.params)}


def halves_of(count: int) -> tuple[slice, slice]:
    """The first ``count`` rows, to tune on, and the next, to choose by: labels that repeat 0, 1,
    ..., are of every class in both.
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
