"""Recipes of the methods that learn from pairs and on grids."""

import jax
import numpy as np

from jaxdiff import solvers
from jaxdiff.distill import classifier_features, guided, knowledge, progressive
from jaxdiff.distill.stages import DataOf, Stage
from jaxdiff.recipes.goal import Goal, Recipe
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.trace import table

_STATES = (0, 5, 10, 15, 20)  # of the teacher's path, what is kept


def accurate(goal: Goal) -> Sampler:
    """The teacher's sampler in twenty evaluations."""
    levels = progressive.cosine_levels(np.arange(20) / 20, goal.low, goal.high)
    return Sampler(goal.teacher, table(solvers.dpmpp, np.append(levels, 0.0), order=3))


def _pairs(goal: Goal) -> DataOf:
    count, key = min(50_000, 8 * goal.steps), jax.random.key(goal.seed)
    return knowledge.stored_pairs(accurate(goal), count, key, states=_STATES, progress=False)


def _knowledge(goal: Goal) -> list[Stage]:
    levels = accurate(goal).table.levels[list(_STATES)]
    method = knowledge.knowledge_distillation(goal.student(), levels=levels)
    return [Stage("distil", lambda before: method, data=_pairs(goal))]


def _paths(goal: Goal) -> list[Stage]:
    levels = accurate(goal).table.levels[list(_STATES)]
    method = knowledge.path_distillation(goal.student(labels=2), levels)
    return [Stage("distil", lambda before: method, data=_pairs(goal))]


def _progressive(goal: Goal, first: int = 8, last: int = 1) -> list[Stage]:
    return progressive.progressive_stages(
        goal.teacher, lambda share: goal.student(share=share), first=first, last=last, substeps=4
    )


def _features(goal: Goal, first: int = 8, begin: int = 8, last: int = 1) -> list[Stage]:
    F = classifier_features.random_features(goal.shape, scale=goal.sigma_data)
    return classifier_features.feature_stages(
        goal.teacher, lambda share: goal.student(share=share), F, first=first, begin=begin,
        last=last, substeps=4,
    )  # fmt: skip


def _guided(goal: Goal, first: int = 8, last: int = 1, high: float = 5.0) -> list[Stage]:
    return guided.guided_stages(
        goal.teacher, lambda share: goal.student(labels=2, share=share), first=first, last=last,
        weights=(1.0, high), substeps=4, guidance_share=1.0,
    )  # fmt: skip


RECIPES = {
    "knowledge_distillation": Recipe(_knowledge),
    "path_distillation": Recipe(_paths),
    "progressive_distillation": Recipe(_progressive),
    "feature_distillation": Recipe(_features),
    "guided_distillation": Recipe(_guided),
}
