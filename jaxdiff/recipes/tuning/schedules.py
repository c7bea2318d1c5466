"""Schedules by search: GITS, Align Your Steps, the evidence lower bound, optimised time steps."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.arrays import take
from jaxdiff.grids.dynamic import best_grids
from jaxdiff.grids.lists import from_list
from jaxdiff.ranges import (
    Count,
    Positive,
)
from jaxdiff.recipes.tuning.task import ONE_EACH, Task, Tuner
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.tuning.baselines import LOWS, Baseline
from jaxdiff.tuning.learned.path import follow
from jaxdiff.tuning.search.align import align_costs
from jaxdiff.tuning.search.elbo import elbo_costs
from jaxdiff.tuning.search.gits import Measure, jump_costs
from jaxdiff.tuning.search.optimised_steps import optimised_steps

DISCOUNTS = (0.9, 1.0, 1.05, 1.1, 1.15, 1.2)


def gits(
    task: Task,
    *,
    fine: Count = 60,
    samples: Count = 256,
    teacher_order: Literal[1, 2, 3, 4] = 4,
    measure: Measure = "dev",
    discounts: tuple[Positive, ...] = DISCOUNTS,
) -> list[Table]:
    """GITS (arXiv 2405.11326): the teacher's levels, every discount, every solver.

    The paper has the discount 1.15 (1.2 for Stable Diffusion) and grids that end at the lowest
    level; these end in 0. It puts an analytic first step into the grid that is found
    (:func:`jaxdiff.tuning.search.gits.insert_analytic`), where here the grid of one more step
    begins with
    one: that is one search for all solvers.

    fine: steps of the teacher's grid, out of which levels are taken. samples: trajectories, of the
    training pairs' starts. teacher_order: of the teacher, iPNDM. measure: of how far a jump ends
    from the teacher. discounts: all that are tried.
    """
    levels = grids.karras(fine, task.low, task.high)
    starts, cond = take((task.pairs["start"], task.pairs.get("label")), slice(samples))
    path = follow(task.denoiser, table(solvers.ipndm, levels, order=teacher_order), starts, cond)
    costs = jump_costs(path, measure, zero=True)
    budgets = [task.nfe, task.nfe + 1]  # the longer ones for an analytic first step
    found = [g for discount in discounts for g in best_grids(costs, levels, budgets, discount)]
    return _on(task, found)


def ays(task: Task, **options: Any) -> list[Table]:
    """Align Your Steps (arXiv 2404.14507): the bound's best grid, every solver."""
    return _on(task, searched(task, align_costs, **options))


def elbo(task: Task, **options: Any) -> list[Table]:
    """Return the best evidence lower bound (arXiv 2106.03802), every solver."""
    return _on(task, searched(task, elbo_costs, **options))


def searched(
    task: Task,
    costs: Callable[..., np.ndarray],
    *,
    fine: Count = 100,
    samples: Count = 256,
    lows: tuple[Positive, ...] = LOWS,
) -> list[np.ndarray]:
    """Grids that end in 0: the best of one step less, from the lowest level or a higher one.

    fine: steps of the grid out of which levels are taken. samples: data, noised to every level of
    it. lows: multiples of the lowest level, to end at before 0.
    """
    data, cond = take((task.data, task.labels), slice(samples))
    data = jnp.asarray(data)
    found = []
    for factor in lows:
        levels = grids.log_snr(fine, task.low * factor, task.high, zero=False)
        own = costs(task.denoiser, data, levels, jax.random.key(task.seed), cond)
        budgets = [n for n in (task.nfe - 1, task.nfe) if n > 0]
        found += [np.append(g, 0.0) for g in best_grids(own, levels, budgets)]
    return found if task.nfe > 1 else [np.array([task.high, 0.0]), *found]


def dmn(
    task: Task,
    *,
    order: Literal[1, 2, 3] = 3,
    corrector: bool = False,
    lows: tuple[Positive, ...] = LOWS,
    **options: Any,
) -> list[Table]:
    """Optimised time steps (arXiv 2402.17376), no evaluation of the network, every solver.

    order: of UniPC, whose weights make the bound. corrector: whether it has one. lows: multiples of
    the lowest level, to end at before 0.
    """
    solver = {"order": order, "variant": "vary", "corrector": corrector}
    starts = [
        grids.log_snr(num_steps, task.low * factor, task.high)
        for num_steps in (task.nfe, task.nfe + 1)
        for factor in lows
    ]
    moved = [
        optimised_steps(s, solvers.unipc, **solver, **options).grid if len(s) > 3 else s
        for s in starts
    ]
    return _on(task, moved)


def _on(task: Task, found: Sequence[np.ndarray]) -> list[Table]:
    """Return every solver on every grid, with an analytic first step where there is a step to
    spare.
    """
    choice = ONE_EACH if task.solver is None else [task.solver]
    known = [
        Baseline(solver, options, from_list(g), "", len(g) - 1 > task.nfe)
        for g in found
        for solver, options in choice
    ]
    return [made for made in (r.table() for r in known) if made.nfe == task.nfe]


TUNERS: dict[str, Tuner] = {
    "gits": Tuner(gits, searches=True),
    "ays": Tuner(ays, (searched,), searches=True, data=True),
    "elbo": Tuner(elbo, (searched,), searches=True, data=True),
    "dmn": Tuner(dmn, (optimised_steps,), searches=True),
}
