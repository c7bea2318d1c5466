"""Recipes of grids, roll-outs and paths: TRACT, SFD, BOOT, reflow, PeRFlow."""

from collections.abc import Callable
from typing import Any

from jaxdiff import grids, solvers
from jaxdiff.distill import bootstrap, piecewise_flow, simple_fast
from jaxdiff.distill.rectified_flow import rectified_flow, reflow_stages
from jaxdiff.distill.stages import Before, Stage
from jaxdiff.distill.student import Student
from jaxdiff.distill.tract import tract_stages
from jaxdiff.prediction import edm_weight
from jaxdiff.recipes.goal import Goal, Recipe, one
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.singlestep import heun_step


def _staged(goal: Goal, **options: Any) -> Callable[[Before | None, float], Student]:
    return lambda before, share: goal.student(before=before, share=share, **options)


def _tract(goal: Goal) -> list[Stage]:
    levels = grids.karras(32, goal.low, goal.high)
    return tract_stages(goal.teacher, _staged(goal), levels, (8, 1))


def _sfd(goal: Goal) -> list[Stage]:
    options = {"extra": 5, "analytic": False, "low": goal.low}
    return simple_fast.sfd_stages(
        goal.teacher, _staged(goal), steps=(4, 1), shares=(0.3, 0.7), **options
    )


def _sfd_v(goal: Goal) -> list[Stage]:
    student = goal.student(labels=2)
    method = simple_fast.sfd_v(
        goal.teacher, student, steps=(1, 2, 4), extra=(23, 11, 5), analytic=False, low=goal.low
    )
    return one(method)


def _boot(goal: Goal) -> list[Stage]:
    return one(bootstrap.boot(goal.teacher, goal.student(labels=2), step=heun_step))


def _rectified_flow(goal: Goal) -> list[Stage]:
    return one(rectified_flow(goal.student()))


def _reflow(goal: Goal) -> list[Stage]:
    maker = Sampler(goal.teacher, table(solvers.heun, grids.karras(18, goal.low, goal.high)))
    pairs = min(64 * goal.steps, 100_000)
    return reflow_stages(maker, _staged(goal), pairs=pairs, seed=goal.seed)


def _perflow(goal: Goal) -> list[Stage]:
    options = {"solves": 4, "step": heun_step, "weight": edm_weight, "at_start": 0.3}
    return piecewise_flow.perflow_stages(goal.teacher, _staged(goal), windows=(4, 1), **options)


RECIPES = {
    "tract": Recipe(_tract),
    "sfd": Recipe(_sfd),
    "sfd_v": Recipe(_sfd_v),
    "boot": Recipe(_boot),
    "rectified_flow": Recipe(
        _rectified_flow,
        weakness="where reflow starts, no distillation: its flow is as curved as the teacher's",
    ),
    "reflow": Recipe(_reflow),
    "perflow": Recipe(_perflow),
}
