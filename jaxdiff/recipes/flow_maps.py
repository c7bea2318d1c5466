"""Recipes of mean flows, align your flow and self-distilled flow maps.

All students are told both levels by a label that levels off above 5
(:func:`jaxdiff.distill.mean_flow.saturating`). Log levels are N(-2, 2^2), CIFAR-10's, but for align
your flow, which has its own intervals.
"""

from jaxdiff.distill import flow_map
from jaxdiff.distill.mean_flow import improved_mean_flow, logit_normal_pairs, mean_flow, saturating
from jaxdiff.distill.stages import Stage
from jaxdiff.distill.student import Student
from jaxdiff.recipes.goal import Goal, Recipe, one

_PAIRS = logit_normal_pairs(apart=0.75)


def _student(goal: Goal) -> Student:
    return goal.student(labels=2)._replace(label=saturating)


def _mean_flow(goal: Goal) -> list[Stage]:
    return one(mean_flow(_student(goal), teacher=goal.teacher, pairs=_PAIRS))


def _mean_flow_of_data(goal: Goal) -> list[Stage]:
    # few dimensions: least squares, so that the minimum is the mean
    return one(mean_flow(_student(goal), pairs=_PAIRS, power=0.0))


def _improved(goal: Goal) -> list[Stage]:
    return one(improved_mean_flow(_student(goal), pairs=_PAIRS, power=0.0))


def _align(goal: Goal, form: str) -> list[Stage]:
    steps = goal.steps // 10
    return one(
        flow_map.align_your_flow(goal.teacher, _student(goal), form=form, warmup_steps=steps)
    )


def _self_distilled(goal: Goal, residual: flow_map.Residual) -> list[Stage]:
    pairs = logit_normal_pairs(apart=0.5)
    return one(flow_map.self_distilled_flow_map(_student(goal), residual=residual, pairs=pairs))


RECIPES = {
    "mean_flow": Recipe(_mean_flow),
    "mean_flow_of_data": Recipe(_mean_flow_of_data),
    "improved_mean_flow": Recipe(_improved),
    "align_your_flow": Recipe(lambda goal: _align(goal, "eulerian")),
    "align_your_flow_lagrangian": Recipe(lambda goal: _align(goal, "lagrangian")),
    "flow_map_lagrangian": Recipe(lambda goal: _self_distilled(goal, flow_map.lagrangian)),
    "flow_map_eulerian": Recipe(
        lambda goal: _self_distilled(goal, flow_map.eulerian),
        weakness="unstable, as its paper finds: the gradient passes through one of two derivatives",
    ),
    "flow_map_semigroup": Recipe(lambda goal: _self_distilled(goal, flow_map.semigroup())),
}
