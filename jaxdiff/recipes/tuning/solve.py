"""Tuning a sampler by a method's name: what can be done is checked, done, and compared."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxdiff import grids
from jaxdiff.brief import short
from jaxdiff.recipes.choices import Value, chosen
from jaxdiff.recipes.tuning import TUNERS
from jaxdiff.recipes.tuning.task import (
    DISTANCE,
    ONE_EACH,
    Descent,
    Task,
    order_of,
    ranked_baselines,
)
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.training.tune import Tuned, held_out, tune
from jaxdiff.tuning.learned.steps import Learned
from jaxdiff.typing import Solver

FEWEST = 16  # pairs, of training and held out


class Result(NamedTuple):
    """Outcome of tuning, beside the best baseline.

    baseline, baseline_name, baseline_score: the best on the training pairs, and its held-out score.
    tuned: what the method found. scored_by: what the scores are, in words. seconds: it took, the
    baselines' not counted.
    """

    __repr__ = short

    baseline: Table
    baseline_name: str
    baseline_score: float
    tuned: Tuned
    scored_by: str
    seconds: float

    @property
    def best(self) -> Table | Learned:
        """Return the better of the two on the held-out pairs."""
        return self.tuned.table if self.tuned.score <= self.baseline_score else self.baseline


def solve(
    task: Task,
    method: str,
    *,
    choices: Mapping[str, Value] | None = None,
    folder: Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    every: int = 50,
    **options: Any,
) -> Result:
    """Tune a sampler by a method's name.

    Args:
        task: what is wanted. method: of :data:`jaxdiff.recipes.tuning.TUNERS`.
        choices: what the method lets you choose (:func:`jaxdiff.recipes.choices.listed`), by name.
        folder, about, every, options: of :func:`jaxdiff.training.tune.tune`, for a descent.

    Raises:
        ValueError: for a task that cannot be done, or a choice that the method does not have.
        FloatingPointError: for a loss that is not finite; the best table so far stays in
            ``folder``.
    """
    tuner, metadata = TUNERS[method], {**(metadata or {}), "choices": dict(choices or {}) or None}
    own = chosen(method, tuner, choices or {})
    check(task, method, own)
    known = list(task.baselines or ranked_baselines(task))
    baseline, began = known[0].table(), time.monotonic()
    plan = tuner.plan(task._replace(baselines=known), **own)
    if isinstance(plan, Descent):
        score, scored_by = plan.score, plan.scored_by
        found = tune(
            plan.method, plan.data, score, plan.start, num_updates=task.num_updates, key=task.seed,
            every=every, folder=folder, metadata=metadata, **options,
        )  # fmt: skip
    else:
        score = held_out(task.denoiser, task.held, task.distance, **task.placing)
        scored_by = DISTANCE
        tables = [made for made in plan if isinstance(made, Table)]
        best = tables[order_of(task, tables)[0]] if tables else plan[0]
        value = score(best)
        found = Tuned(best.with_metadata(**metadata, held_out=value), value, value, 0)
    seconds = time.monotonic() - began
    return Result(baseline, known[0].name, score(baseline), found, scored_by, seconds)


def check(task: Task, method: str, choices: Mapping[str, Any] = {}) -> Task:
    """Return the task, if the method can do it with these choices. ValueError saying why not,
    before anything is computed.
    """
    tuner = TUNERS[method]
    if task.nfe < 1:
        raise ValueError(f"a sampler has at least one evaluation, not {task.nfe}")
    for name in ("pairs", "held"):
        if len(getattr(task, name)["start"]) < FEWEST:
            count = len(getattr(task, name)["start"])
            raise ValueError(f"tuning needs at least {FEWEST} {name} of samples; there are {count}")
    if task.num_updates < 1 or task.batch < 2 or not task.rate > 0:
        raise ValueError("updates must be at least 1, batch at least 2 and rate positive")
    if task.solver is not None:
        _check_solver(method, *task.solver)
    tuner.check(task)
    if task.nfe < tuner.fewest:
        raise ValueError(f"{method} has nothing to tune in one evaluation; give two or more")
    if choices.get("fine", math.inf) <= task.nfe:
        raise ValueError(f"fine of {method} must be above the {task.nfe} evaluations requested")
    return task


def _check_solver(method: str, solver: Solver, options: dict[str, Any]) -> None:
    if TUNERS[method].own_solver:
        raise ValueError(f"{method} has a solver of its own; leave out the solver")
    made = table(solver, grids.log_snr(3), **options)
    if made.stochastic or made.nfe != 3:
        known = ", ".join(dict.fromkeys(s.__name__ for s, _ in ONE_EACH))
        raise ValueError(
            f"tuning starts from a deterministic solver of one evaluation per step ({known}, ...), "
            f"not from {made.name}"
        )
