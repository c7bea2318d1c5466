"""Parts that all methods of tuning share: the task, the baselines, the descent."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from jaxdiff import grids, solvers
from jaxdiff.arrays import take
from jaxdiff.brief import short
from jaxdiff.distance import Distance, squared
from jaxdiff.method import Method
from jaxdiff.ranges import Below1, Positive
from jaxdiff.sampling.pairs import pair_batches
from jaxdiff.sampling.table import Table, pad
from jaxdiff.training.tune import Data, Scorer, held_out
from jaxdiff.tuning.baselines import SOLVERS, Baseline, baselines, steps_for
from jaxdiff.tuning.learned.family import Family
from jaxdiff.tuning.learned.method import tuning
from jaxdiff.tuning.learned.objective import end_point
from jaxdiff.tuning.learned.steps import Learned
from jaxdiff.typing import Array, Denoiser, Solver

Choice = tuple[Solver, dict[str, Any]]  # a solver with its options
ONE_EACH = [(e.solver, o) for e in solvers.SOLVERS for o in e.baselines if e.evaluations == 1]
DISTANCE = "root of the mean distance to accurate samples"
SCREENED, FINALISTS = 64, 12  # pairs that all baselines are compared on; how many on all pairs


def flat(x: Array) -> Array:
    """Samples as features: their numbers."""
    return x.reshape(x.shape[0], -1)


class Task(NamedTuple):
    """A sampler that is wanted.

    denoiser: the model. nfe: evaluations. pairs, held: stored pairs ("start", "image", perhaps
    "label") to tune on and to choose by. data: (n, *shape) clean samples in random order, with
    their classes ``labels`` if there are any, for what needs them; the last quarter is what kernel
    distances are scored by. low, high: levels. num_updates: of a descent. rate: learning rate of
    levels and shares, four times that of weights. batch: pairs per update. distance: to tune by.
    features: what a kernel distance compares. options: of :func:`jaxdiff.sample` in the objective.
    solver: to start from, with its options; the best by default. nearest: a tuned table of another
    number of evaluations, whose levels may be the start. baselines: what :func:`ranked_baselines`
    gives, if it is known. placing: ``parallel`` and ``devices`` of what is scored.
    """

    __repr__ = short

    denoiser: Denoiser
    nfe: int
    pairs: Mapping[str, np.ndarray]
    held: Mapping[str, np.ndarray]
    data: np.ndarray
    labels: np.ndarray | None = None
    low: float = 0.002
    high: float = 80.0
    num_updates: int = 1500
    rate: float = 0.02
    batch: int = 256
    seed: int = 0
    sigma_data: float = 0.5
    distance: Distance = squared
    features: Callable[[Array], Array] = flat
    options: Mapping[str, Any] = {}
    solver: Choice | None = None
    nearest: Table | Learned | None = None
    baselines: Sequence[Baseline] | None = None
    placing: Mapping[str, Any] = {}


class Descent(NamedTuple):
    """A descent: its method, start, batches and score, and what that score is, in words."""

    __repr__ = short

    method: Method
    start: Table | Learned
    data: Data
    score: Scorer
    scored_by: str = DISTANCE


class Tuner(NamedTuple):
    """A method by name.

    plan: ``plan(task, **choices)``.
    of: the functions it passes other choices on to.
    fixed: keywords of these that it sets itself.
    searches: whether it makes no updates in the training loop.
    data: whether it reads the task's data.
    kernel: whether it tunes for the kernel distance to data, not for one of pairs.
    own_solver: whether it has a solver of its own, so that none may be given.
    fewest: evaluations in which it has something to tune.
    check: ``check(task)`` raises ValueError for what else it cannot do.
    features: the choice that says whether it reads the network's features, as by default.
    """

    plan: Callable[..., Sequence[Table | Learned] | Descent]
    of: tuple[Callable[..., Any], ...] = ()
    fixed: tuple[str, ...] = ()
    searches: bool = False
    data: bool = False
    kernel: bool = False
    own_solver: bool = False
    fewest: int = 1
    check: Callable[[Task], None] = lambda task: None
    features: str | None = None

    @property
    def makes(self) -> Callable[..., Sequence[Table | Learned] | Descent]:
        """Return the function whose keywords are the tuner's choices."""
        return self.plan


def ranked_baselines(task: Task) -> list[Baseline]:
    """Return the baselines of the task's evaluations, best on the training pairs first."""
    choice = SOLVERS if task.solver is None else [task.solver]
    return ranked(task, baselines(task.nfe, low=task.low, high=task.high, choice=choice))


def ranked(task: Task, found: Sequence[Baseline]) -> list[Baseline]:
    """Baselines in the order of their error on the training pairs; those that diverge last."""
    return [found[i] for i in order_of(task, [each.table() for each in found])]


def order_of(task: Task, tables: Sequence[Table]) -> list[int]:
    """Return the tables' numbers in the order of their error: all are compared on a few training
    pairs, the best of them on all. ValueError if none gives finite samples.
    """
    few = take(dict(task.pairs), slice(SCREENED))
    padded = pad(tables)
    order = _ordered(task, few, padded, range(len(tables)))
    return [*_ordered(task, task.pairs, padded, order[:FINALISTS]), *order[FINALISTS:]]


def _ordered(
    task: Task, pairs: Mapping[str, np.ndarray], tables: Sequence[Table], which: Sequence[int]
) -> list[int]:
    score = held_out(task.denoiser, pairs, task.distance, **task.placing)
    scores = {i: score(tables[i]) for i in which}
    if not any(map(math.isfinite, scores.values())):
        raise ValueError("no sampler gives finite samples: does the denoiser give NaN?")
    return sorted(which, key=lambda i: scores[i] if math.isfinite(scores[i]) else math.inf)


def start_of(task: Task, choice: Sequence[Choice] | None = None) -> Baseline:
    """Return what a descent starts from: the best baseline, or the same solvers on the levels of
    the nearest tuned table.

    choice: of solvers; by default the task's own, or all of one evaluation per step.
    """
    if choice is None:
        choice = ONE_EACH if task.solver is None else [task.solver]
        known = task.baselines or ranked_baselines(task)
        found = [next(r for r in known if (r.solver, r.options) in choice)]
    else:
        found = baselines(task.nfe, low=task.low, high=task.high, choice=choice)
    if task.nearest is not None:
        found = [*found, *_warm(task, task.nearest, choice)]
    return found[0] if len(found) == 1 else ranked(task, found)[0]


def _warm(task: Task, nearest: Table | Learned, choice: Sequence[Choice]) -> Iterator[Baseline]:
    known = np.asarray(nearest.levels, np.float64)
    for solver, options in choice:
        try:
            num_steps = steps_for(solver, task.nfe, **options)
        except ValueError:  # so many evaluations it has only with an analytic first step
            continue
        levels = grids.resample(known, num_steps)
        yield Baseline(solver, options, levels, "the nearest tuned table's levels")


def adam(
    task: Task, *, weight_rate: Positive = 0.25, b1: Below1 = 0.9, b2: Below1 = 0.99
) -> optax.GradientTransformation:
    """Adam, its rates going to zero by a cosine.

    weight_rate: rate of weights, in units of the others' rate. b1: of Adam. b2: of Adam.
    """

    def own(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(rate, task.num_updates), b1=b1, b2=b2)

    weights = ("start", "denoised", "noises")
    kind = lambda numbers: {k: "weights" if k in weights else "others" for k in numbers}  # noqa: E731
    return optax.multi_transform(
        {"weights": own(weight_rate * task.rate), "others": own(task.rate)}, kind
    )


def numbered(pairs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pairs with their numbers, which a moving start is found by."""
    return {**pairs, "index": np.arange(len(pairs["start"]), dtype=np.int32)}


def descent(
    task: Task, family: Family, start: Table, *, distance: Distance | None = None, **options: Any
) -> Descent:
    """Return the descent on a family by the task's pairs and distance, or another one to descend
    by.
    """
    options, distance = {"optimiser": adam(task)} | options, distance or task.distance
    method = tuning(
        task.denoiser, family, end_point(distance, **task.options),
        shape=task.pairs["start"].shape[1:], **options,
    )  # fmt: skip
    pairs, size = numbered(task.pairs), pairs_per_update(task)
    data = pair_batches(pairs, size, task.seed, distinct=options.get("ball") is not None)
    score = held_out(task.denoiser, task.held, task.distance, **task.placing)
    return Descent(method, start, data, score)


def pairs_per_update(task: Task) -> int:
    """Return the batch, if there are as many pairs."""
    return min(task.batch, len(task.pairs["start"]))
