"""Recipes of the consistency family."""

from jaxdiff.distill import consistency
from jaxdiff.distill.stages import Stage
from jaxdiff.recipes.goal import Goal, Recipe, one


def _distillation(goal: Goal) -> list[Stage]:
    return one(consistency.consistency_distillation(goal.teacher, goal.student()))


def _training(goal: Goal) -> list[Stage]:
    return one(consistency.consistency_training(goal.student(), steps=goal.steps, last=40))


def _easy(goal: Goal) -> list[Stage]:
    return one(
        consistency.easy_consistency(goal.student(), stage_steps=max(1, goal.steps // 4), q=4.0)
    )


RECIPES = {
    "consistency_distillation": Recipe(_distillation),
    "consistency_training": Recipe(_training),
    "easy_consistency": Recipe(_easy),
}
