"""Recipes of :mod:`jaxdiff.distill.trajectory`: pairs, grids and paths of the teacher."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.distance import Distance, squared
from jaxdiff.distill.parts.stage import Before, Data, DataOf, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.teacher import SolverStep
from jaxdiff.distill.trajectory import (
    bootstrap,
    classifier_features,
    guided,
    guided_rounds,
    knowledge,
    piecewise_flow,
    progressive,
    simple_fast,
    simple_fast_steps,
)
from jaxdiff.distill.trajectory.rectified_flow import rectified_flow, reflow
from jaxdiff.distill.trajectory.reflow_rounds import reflow_stages
from jaxdiff.distill.trajectory.tract import tract, tract_stages
from jaxdiff.distill.trajectory.trajectory_operator import trajectory_operator
from jaxdiff.prediction import edm_weight
from jaxdiff.ranges import Count, Fraction, Positive
from jaxdiff.recipes.goal import Goal, Recipe, one
from jaxdiff.recipes.parts import accurate
from jaxdiff.sampling.pairs import Spread, here
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.steps import heun_step

_STATES = (0, 5, 10, 15, 20)  # of the teacher's path, what is kept


def _pairs(goal: Goal) -> DataOf:
    count, key = min(50_000, 8 * goal.num_updates), jax.random.key(goal.seed)
    return knowledge.stored_pairs(accurate(goal), count, key, states=_STATES, progress=False)


def _knowledge(goal: Goal, **options: Any) -> list[Stage]:
    levels = accurate(goal).table.levels[list(_STATES)]
    method = knowledge.knowledge_distillation(goal.student(), levels=levels, **options)
    return [Stage("distil", lambda before: method, data=_pairs(goal))]


def _paths(goal: Goal, **options: Any) -> list[Stage]:
    levels = accurate(goal).table.levels[list(_STATES)]
    method = knowledge.path_distillation(goal.student(labels=2), levels, **options)
    return [Stage("distil", lambda before: method, data=_pairs(goal))]


def _progressive(
    goal: Goal, first: int = 8, last: int = 1, substeps: int = 4, **options: Any
) -> list[Stage]:
    """Rounds of halving.

    first, last: the student's steps in the first and in the last round.
    """
    return progressive.progressive_stages(
        goal.teacher, lambda share: goal.student(share=share), first=first, last=last,
        substeps=substeps, **options,
    )  # fmt: skip


def _features(
    goal: Goal,
    first: int = 8,
    begin: Count = 8,
    last: int = 1,
    substeps: int = 4,
    clip: float | None = None,
    **options: Any,
) -> list[Stage]:
    """Rounds of halving, features of an untrained network.

    first, last: the student's steps in the first and in the last round.
    begin: fewer steps than these are learned by features.
    """
    F = classifier_features.random_features(goal.shape, scale=goal.sigma_data)
    all_rounds = {"levels": options.pop("levels")} if "levels" in options else {}
    return classifier_features.feature_stages(
        goal.teacher, lambda share: goal.student(share=share), F, first=first, begin=begin,
        last=last, substeps=substeps, clip=clip, features_only=options, **all_rounds,
    )  # fmt: skip


def _guided(
    goal: Goal,
    first: int = 8,
    last: int = 1,
    high: float = 5.0,
    substeps: Count = 4,
    guidance_share: Positive = 1.0,
    **options: Any,
) -> list[Stage]:
    """Guidance, then rounds of halving.

    first, last: the student's steps in the first and in the last round.
    high: the largest guidance weight.
    guidance_share: updates of the first stage, in units of those of a round.
    """
    return guided_rounds.guided_stages(
        goal.teacher, lambda share: goal.student(labels=2, share=share), first=first, last=last,
        guidance_range=(1.0, high), substeps=substeps, guidance_share=guidance_share, **options,
    )  # fmt: skip


def _staged(goal: Goal, **options: Any) -> Callable[[Before | None, float], Student]:
    return lambda before, share: goal.student(before=before, share=share, **options)


def _tract(
    goal: Goal, num_steps: int = 32, phases: tuple[int, ...] = (8, 1), **options: Any
) -> list[Stage]:
    """Return the teacher's steps become fewer, phase by phase.

    num_steps: the teacher's steps on a Karras grid.
    phases: the student's steps after each phase, each a divisor of the number before.
    """
    levels = grids.karras(num_steps, goal.low, goal.high)
    return tract_stages(goal.teacher, _staged(goal), levels, phases, **options)


def _sfd(
    goal: Goal,
    num_steps: tuple[int, ...] = (4, 1),
    shares: tuple[float, ...] = (0.3, 0.7),
    extra: int = 5,
    analytic: bool = False,
    **options: Any,
) -> list[Stage]:
    """One stage after the other.

    num_steps: the student's steps in each stage.
    shares: of the updates that each stage gets.
    """
    options = {"extra": extra, "analytic": analytic, "low": goal.low} | options
    return simple_fast.sfd_stages(
        goal.teacher, _staged(goal), num_steps=num_steps, shares=shares, **options
    )


def _sfd_v(
    goal: Goal,
    num_steps: tuple[int, ...] = (1, 2, 4),
    extra: tuple[int, ...] = (23, 11, 5),
    analytic: bool = False,
    **options: Any,
) -> list[Stage]:
    options = {
        "num_steps": num_steps,
        "extra": extra,
        "analytic": analytic,
        "low": goal.low,
    } | options
    return one(simple_fast_steps.sfd_v(goal.teacher, goal.student(labels=2), **options))


def _boot(goal: Goal, solver_step: SolverStep = heun_step, **options: Any) -> list[Stage]:
    return one(
        bootstrap.boot(goal.teacher, goal.student(labels=2), solver_step=solver_step, **options)
    )


def _rectified_flow(goal: Goal, **options: Any) -> list[Stage]:
    return one(rectified_flow(goal.student(), **options))


def _reflow(
    goal: Goal,
    pairs: int | None = None,
    num_steps: int = 18,
    rounds: int = 1,
    distance: Distance = squared,
    **options: Any,
) -> list[Stage]:
    """Pairs, then straight lines between them.

    pairs: of noise and sample, made once for each round; 64 for each update by default.
    num_steps: of Heun's method that make a pair of the teacher.
    rounds: of reflow before the distillation into one step.
    distance: of the distillation; that of the rounds before is squared.
    """
    maker = Sampler(goal.teacher, table(solvers.heun, grids.karras(num_steps, goal.low, goal.high)))
    count = min(64 * goal.num_updates, 100_000) if pairs is None else pairs
    options |= {"pairs": count, "rounds": rounds, "seed": goal.seed, "distance": distance}
    return reflow_stages(maker, _staged(goal), **options)


def _perflow(
    goal: Goal,
    windows: tuple[int, ...] = (4, 1),
    solves: int = 4,
    solver_step: SolverStep = heun_step,
    weight: piecewise_flow.Weight = edm_weight,
    at_start: Fraction = 0.3,
    **options: Any,
) -> list[Stage]:
    """One stage after the other.

    windows: of each stage, each number a divisor of the one before.
    """
    options |= {"solves": solves, "solver_step": solver_step}
    options |= {"weight": weight, "at_start": at_start}
    return piecewise_flow.perflow_stages(goal.teacher, _staged(goal), windows=windows, **options)


def _trajectory_operator(
    goal: Goal, starts: int = 4, cap: Positive = 10.0, **options: Any
) -> list[Stage]:
    from jaxdiff.networks.temporal import temporal

    made = table(solvers.heun, grids.karras(16, goal.low, goal.high))
    network, params = temporal(*goal.network(2, False), goal.shape)
    student = goal.student(labels=2)._replace(network=network, params=params)
    levels = [float(s) for s in np.asarray(made.levels)]
    method = trajectory_operator(student, levels, starts=starts, cap=cap, **options)

    stored = knowledge.stored_pairs(
        Sampler(goal.teacher, made), 4 * goal.num_updates, jax.random.key(goal.seed),
        states=range(len(levels)), progress=False,
    )  # fmt: skip

    def half(data: Data, before: Before | None, spread: Spread = here) -> Data:
        """Batches of half the size: each of their samples is decoded four times."""

        def halved(step: int) -> Any:
            return {name: rows[: max(1, len(rows) // 2)] for name, rows in data(step).items()}

        return stored(halved, before, spread)

    return [Stage("distil", lambda before: method, data=half)]


_ROUNDS = ("num_steps", "num_updates")  # set for each round

RECIPES = {
    "knowledge_distillation": Recipe(
        _knowledge, of=(knowledge.knowledge_distillation,), fixed=("levels",)
    ),
    "path_distillation": Recipe(_paths, of=(knowledge.path_distillation,)),
    "progressive_distillation": Recipe(
        _progressive, of=(progressive.progressive_distillation,), fixed=_ROUNDS
    ),
    "feature_distillation": Recipe(
        _features,
        of=(classifier_features.feature_distillation,),
        fixed=(*_ROUNDS, "beta", "gamma"),  # of a classifier of the data's classes
    ),
    "guided_distillation": Recipe(
        _guided, of=(guided.guided_progressive_distillation,), fixed=(*_ROUNDS, "guidance_range")
    ),
    "tract": Recipe(_tract, of=(tract,), fixed=("levels", "last")),
    "sfd": Recipe(_sfd, of=(simple_fast.sfd,), fixed=("num_steps", "low"), share=0.75),
    "sfd_v": Recipe(_sfd_v, of=(simple_fast_steps.sfd_v,), fixed=("low",), share=0.85),
    "boot": Recipe(_boot, of=(bootstrap.boot,)),
    "rectified_flow": Recipe(
        _rectified_flow, of=(rectified_flow,),
        weakness="where reflow starts, no distillation: its flow is as curved as the teacher's",
    ),
    "reflow": Recipe(_reflow, of=(reflow,)),
    "perflow": Recipe(_perflow, of=(piecewise_flow.perflow,), fixed=("windows",)),
    "trajectory_operator": Recipe(
        _trajectory_operator, of=(trajectory_operator,), share=0.7, between_blocks=True
    ),
}  # fmt: skip
