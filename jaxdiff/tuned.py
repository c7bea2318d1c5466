"""Tuned samplers: what is behind ``jaxdiff tune`` and the tables of ``experiments.tuning``."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import config as configs
from jaxdiff import runs, solvers
from jaxdiff.data.dataset import to_float
from jaxdiff.distance import Distance, of_features, pseudo_huber, squared
from jaxdiff.grids import karras
from jaxdiff.recipes.tuners import TUNERS, Descent, Task, check, handmade
from jaxdiff.sampling.pairs import make_pairs
from jaxdiff.sampling.sample import Sampler, start_noise
from jaxdiff.sampling.table import Table, pad
from jaxdiff.sampling.trace import table
from jaxdiff.training.tune import FILE, Tuned, held_out
from jaxdiff.training.tune import tune as descend
from jaxdiff.tuning.flatten import flatten

HUBER = 0.03  # of the pseudo-Huber distance, per number


class Result(NamedTuple):
    """What tuning gave, beside the best usual sampler.

    usual, usual_name, usual_score: the best hand-made table on the training pairs, and its held-out
    score. tuned: what the method found. seconds: it took, the hand-made ones' not counted.
    """

    usual: Table
    usual_name: str
    usual_score: float
    tuned: Tuned
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
        folder, about, every, options: of :func:`jaxdiff.training.tune.tune`.

    Raises:
        ValueError: for a task that cannot be done. FloatingPointError: for a loss that is not
            finite; the best table so far stays in ``folder``.
    """
    usual = handmade(check(task))[0]
    began = time.monotonic()
    plan = TUNERS[method](task)
    if isinstance(plan, Descent):
        judge = plan.judge
        found = descend(
            plan.method, plan.data, judge, plan.start, steps=task.updates, key=task.seed,
            every=every, folder=folder, about=about, **options,
        )  # fmt: skip
    else:
        judge = held_out(task.denoiser, task.held, task.distance)
        inner = held_out(task.denoiser, task.pairs, task.distance)
        scores = [inner(made) for made in pad(plan)]
        chosen = plan[int(np.nanargmin(scores))]
        score = judge(chosen)
        found = Tuned(chosen.described(**(about or {}), held_out=score), score, score, 0)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            found.table.save(folder / FILE)
    seconds = time.monotonic() - began
    return Result(usual.table(), usual.name, judge(usual.table()), found, seconds)


def tune(config: configs.Tune, progress: bool = True) -> str:
    """Tune samplers of a run or of an exact problem; write them and return what there is to say.

    Raises ValueError for choices that do not go together.
    """
    from jaxdiff.report.terminal import format_table

    if (config.run is None) == (config.problem is None):
        raise ValueError("tune either a run (--run DIR) or an exact problem (--problem mixture-2d)")
    make, source = _of_run(config, progress) if config.run else _of_problem(config)
    rows, nearest, lines = [], None, []
    for nfe in sorted(set(config.nfe)):
        folder = Path(config.out) / f"nfe-{nfe}"
        about = source | {
            "method": config.method, "nfe": nfe, "guidance": config.guidance,
            "distance": config.distance, "pairs": config.pairs, "seed": config.seed,
        }  # fmt: skip
        result = solve(
            make(nfe)._replace(nearest=nearest), config.method, folder=folder, about=about,
            progress=progress, patience=config.patience, parallel=config.parallel,
        )  # fmt: skip
        nearest = result.tuned.table
        write(result, folder, about)
        scores = (result.usual_score, result.tuned.score)
        rows.append([nfe, result.usual_name, *scores, f"{result.seconds:.0f} s"])
        if result.best is result.usual:
            lines.append(f"NFE {nfe}: nothing better found; the table is the usual sampler's")
    (Path(config.out) / "tune.json").write_text(json.dumps(configs.to_dict(config), indent=1))
    head = ["NFE", "best usual sampler", "its distance", f"{config.method}'s", "in"]
    last = f"{config.out}/nfe-{rows[-1][0]}/{FILE}"
    lines += [
        "distances: to the accurate solver's samples, root mean square, on held-out noise",
        f"tables: {config.out}/nfe-N/{FILE}, and table.png beside each",
    ]
    if config.run:
        lines.append(f"next: jaxdiff sample --run {config.run} --table {last}")
    return "\n".join([format_table(head, rows), *lines])


def write(result: Result, folder: Path, about: Mapping[str, Any]) -> None:
    """Write the better table with all there is to know of it, and the figure of both."""
    from jaxdiff.report.samplers import levels_and_weights

    known, better = dict(result.tuned.table.about), result.best is not result.usual
    known |= {"usual": result.usual_name, "usual_held_out": result.usual_score, "tuned": better}
    known |= {} if better else {"held_out": result.usual_score}
    result.best.described(**{**about, **known}).save(folder / FILE)
    flats = {"usual": flatten(result.usual), str(about["method"]): flatten(result.tuned.table)}
    figure = levels_and_weights({k: (f.nodes, f.denoised) for k, f in flats.items()})
    figure.savefig(folder / "table.png", dpi=130)


def _task(config: configs.Tune, **known: Any) -> Any:
    """``make(nfe)`` of a configuration."""
    chosen = None
    if config.solver is not None:
        order = {} if config.order is None else {"order": config.order}
        chosen = (runs.SOLVERS[config.solver], order)

    def make(nfe: int) -> Task:
        return Task(
            nfe=nfe, low=config.low, high=config.high, updates=config.updates, rate=config.rate,
            batch=config.batch, seed=config.seed, solver=chosen, **known,
        )  # fmt: skip

    return make


def _of_problem(config: configs.Tune) -> tuple[Any, dict[str, Any]]:
    from experiments.gym.problems import make_problem

    if config.guidance is not None or config.distance == "features":
        raise ValueError("an exact problem has neither guidance nor a classifier's features")
    problem = make_problem(str(config.problem), seed=config.seed)
    key = jax.random.key(config.seed)

    def pairs(number: int) -> dict[str, np.ndarray]:
        own = jax.random.fold_in(key, number)
        start = config.high * start_noise(own, config.pairs, (problem.dimension,))
        return {"start": np.asarray(start), "image": np.asarray(problem.flow(start))}

    data = np.asarray(problem.samples(jax.random.fold_in(key, 2), 8192))
    make = _task(
        config, denoiser=problem.model.denoiser, pairs=pairs(0), held=pairs(1), data=data,
        distance=_distance(config), options={"remat": config.remat},
    )  # fmt: skip
    return make, {"source": problem.name, "model": problem.name}


def _of_run(config: configs.Tune, progress: bool) -> tuple[Any, dict[str, Any]]:
    model = runs.load_model(str(config.run))
    if model.student:
        raise ValueError(
            f"{config.run} is a student, which has a sampler of its own; tune its teacher"
        )
    D = (
        model.denoiser
        if config.guidance is None
        else runs.guided(model, model.denoiser, config.guidance)
    )
    images = runs.read_data(configs.Data(**model.about["data"]), progress)
    teacher = Sampler(
        D, table(solvers.unipc, karras(config.teacher_steps, config.low, config.high), order=3)
    )
    both = make_pairs(
        teacher, 2 * config.pairs, model.shape, jax.random.key(config.seed),
        labels=runs.class_labels(2 * config.pairs, model.classes), progress=progress,
    )  # fmt: skip
    # On CPU gradients of convolutions are slow in a loop, and remat saves nothing outside of one.
    unroll = jax.default_backend() == "cpu" and not config.remat
    labels = None if images.labels is None or not model.classes else np.asarray(images.labels)
    make = _task(
        config, denoiser=D, data=to_float(images.images), labels=labels,
        pairs={k: v[0::2] for k, v in both.items()}, held={k: v[1::2] for k, v in both.items()},
        distance=_distance(config, images), sigma_data=model.about["sigma_data"],
        options={"remat": config.remat, "unroll": True if unroll else 1},
    )  # fmt: skip
    return make, {"source": str(config.run), "model": runs.fingerprint(model.params)}


def _distance(config: configs.Tune, images: Any = None) -> Distance:
    if config.distance == "squared":
        return squared
    if config.distance == "huber":
        return lambda a, b: pseudo_huber(HUBER * float(np.sqrt(a[0].size)))(a, b)
    from jaxdiff.metrics.features import classifier_features

    if images.labels is None:
        raise ValueError("the distance of features needs a run with classes; use squared or huber")
    classifier, _ = classifier_features(to_float(images.images), images.labels, config.seed)
    return of_features(lambda x: jnp.asarray(classifier.features(x)))
