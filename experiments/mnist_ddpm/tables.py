"""Tables tuned from the best of all baselines, on noise of their own.

Every solver on every grid of :mod:`jaxdiff.tuning.baselines` is tried on a few pairs, the best of
them on all; from the best a generalised solver is tuned, all weights, levels and conditioning
levels (``gs``, what ``jaxdiff tune`` does by default). Neither sees the noise it is measured on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.mnist_ddpm.ends import START, Pairs, accurate, kept, kept_arrays
from jaxdiff.app.models import Model
from jaxdiff.arrays import take
from jaxdiff.recipes.tuning import Task
from jaxdiff.recipes.tuning.solve import solve
from jaxdiff.recipes.tuning.task import order_of
from jaxdiff.sampling.table import Table, load_table
from jaxdiff.tuning.baselines import Baseline, baselines

FEW, BETTER = 8, 12  # pairs that all baselines are tried on; how many of them on all
FLAT = np.zeros((0, 1))  # no data are read


class Pair(NamedTuple):
    """For so many evaluations: the best baseline, its name, and what was tuned from it."""

    baseline: Table
    name: str
    tuned: Table


def task(model: Model, nfe: int, pairs: Pairs, count: int, **more: Any) -> Task:
    """Return the task of ``nfe`` evaluations: ``count`` pairs to tune on, the rest to choose by."""
    return Task(
        model.denoiser, nfe, take(pairs, slice(count)), take(pairs, slice(count, None)), FLAT,
        low=model.levels[0], high=START, sigma_data=float(pairs["image"].std()),
        options={"unroll": True}, **more,
    )  # fmt: skip


def pairs_of(model: Model, count: int, folder: Path) -> Pairs:
    """Return ``count`` pairs to tune on and as many to choose by, one after the other."""
    return kept_arrays(folder / "pairs.npz", lambda: accurate(model, 2 * count, seed=0))


def best(model: Model, nfe: int, folder: Path, count: int) -> Table:
    """Return the best baseline of so many evaluations."""
    return ranked(task(model, nfe, pairs_of(model, count, folder), count), folder)[0].table()


def ranked(given: Task, folder: Path) -> list[Baseline]:
    """Return all baselines of the task's evaluations, best first."""
    known = baselines(given.nfe, low=given.low, high=given.high)

    def order() -> list[int]:
        tables = [one.table() for one in known]
        few = given._replace(pairs=take(dict(given.pairs), slice(FEW)))
        rough = order_of(few, tables)
        first = order_of(given, [tables[i] for i in rough[:BETTER]])
        return [*(rough[i] for i in first), *rough[BETTER:]]

    return [known[i] for i in kept(folder / f"baselines-{given.nfe}.json", order)]


def tuned(
    model: Model,
    each: Sequence[int],
    folder: Path,
    *,
    count: int,
    updates: int,
    batch: int,
    rate: float,
) -> dict[int, Pair]:
    """Return the tables of ``each`` number of evaluations; what is in the folder is used again."""
    pairs, nearest, found = pairs_of(model, count, folder), None, {}
    for nfe in sorted(each):
        given = task(
            model, nfe, pairs, count, num_updates=updates, batch=batch, rate=rate, nearest=nearest
        )
        known = ranked(given, folder)
        place = folder / f"nfe-{nfe}"
        result = solve(given._replace(baselines=known), "gs", folder=place, progress=False)
        nearest = load_table(place / "table.json")
        found[nfe] = Pair(result.baseline, result.baseline_name, nearest)
        ratio = result.tuned.score / result.baseline_score
        print(f"NFE {nfe}: {ratio:.2f} of {result.baseline_name}, in {result.seconds:.0f} s")
    return found
