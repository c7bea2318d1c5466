"""Recipes of the consistency family.

Without a teacher the targets of the small problems here scatter as widely as the data, so c of the
pseudo-Huber distance is large enough for means, not medians, to be learned. For the same reason
sct goes without its learned weight, which would favour the levels where tangents scatter least.
"""

from jaxdiff.distill import consistency
from jaxdiff.distill.continuous_consistency import (
    continuous_distillation,
    continuous_training,
    scd,
    sct,
)
from jaxdiff.distill.improved_consistency import improved_consistency
from jaxdiff.distill.latent_consistency import latent_consistency
from jaxdiff.distill.multistep_consistency import multistep_consistency
from jaxdiff.distill.stages import Before, Stage
from jaxdiff.distill.truncated_consistency import truncated_stages
from jaxdiff.method import Method
from jaxdiff.recipes.goal import Goal, Recipe, one

WIDE = 1.0
MEAN, STD = 0.0, 2.0  # of log levels; narrower, few updates never reach the noise end


def _distillation(goal: Goal, scales: int = 18) -> list[Stage]:
    method = consistency.consistency_distillation(goal.teacher, goal.student(), scales=scales)
    return one(method)


def _training(goal: Goal) -> list[Stage]:
    student = goal.student()
    return one(consistency.consistency_training(student, steps=goal.steps, last=160, decay=0.01))


def _improved(goal: Goal) -> list[Stage]:
    student = goal.student()
    return one(improved_consistency(student, steps=goal.steps, last=160, c=WIDE))


def _easy(goal: Goal, stages: int = 4, q: float = 4.0, c: float = 0.06) -> list[Stage]:
    stage_steps = max(1, goal.steps // stages)
    return one(consistency.easy_consistency(goal.student(), stage_steps=stage_steps, q=q, c=c))


def _easy_distillation(goal: Goal) -> list[Stage]:
    return one(
        consistency.easy_consistency(
            goal.student(), teacher=goal.teacher, stage_steps=max(1, goal.steps // 4), q=4.0,
            c=WIDE,
        )
    )  # fmt: skip


def _scd(goal: Goal) -> list[Stage]:
    student = goal.student(log_variance=True)
    return one(scd(goal.teacher, student, warm_steps=goal.steps // 4, mean=MEAN, std=STD))


def _sct(goal: Goal) -> list[Stage]:
    return one(
        sct(
            goal.student(), warm_steps=goal.steps // 4, c=WIDE, mean=MEAN, std=STD,
            prior_weight=False, learned_weight=False,
        )
    )  # fmt: skip


def _continuous_distillation(goal: Goal) -> list[Stage]:
    return one(continuous_distillation(goal.teacher, goal.student()))


def _continuous_training(goal: Goal) -> list[Stage]:
    return one(continuous_training(goal.student()))


def _truncated(goal: Goal) -> list[Stage]:
    easy = {"stage_steps": max(1, goal.steps // 8), "q": 4.0, "c": WIDE}
    return truncated_stages(
        lambda before: goal.student(before=before, share=0.5), easy=easy, c=WIDE, gap=1 / 128
    )


def _latent(goal: Goal) -> list[Stage]:
    student = goal.student(labels=2)
    return one(latent_consistency(goal.teacher, student, weights=(1.0, 3.0)))


def _multistep(goal: Goal, teacher: bool = True) -> list[Stage]:
    """Four segments, then two, then one."""
    given = goal.teacher if teacher else None

    def stage(segments: int) -> Stage:
        def method(before: Before | None) -> Method:
            student = goal.student(before=before, share=1 / 3)
            return multistep_consistency(
                given, student, segments=segments, steps=goal.steps // 3, first=16, last=128
            )

        return Stage(f"{segments}-segments", method)

    return [stage(segments) for segments in (4, 2, 1)]


_SCATTER = (
    "without a teacher the targets scatter as widely as the data, and few updates average them"
)

RECIPES = {
    "consistency_distillation": Recipe(_distillation),
    "consistency_training": Recipe(_training),
    "improved_consistency": Recipe(_improved),
    "easy_consistency": Recipe(_easy),
    "easy_consistency_distillation": Recipe(_easy_distillation),
    "scd": Recipe(_scd),
    "sct": Recipe(_sct, weakness=_SCATTER),
    "continuous_distillation": Recipe(_continuous_distillation),
    "continuous_training": Recipe(
        _continuous_training, weakness=_SCATTER + ", here unnormalised and at every level"
    ),
    "truncated_consistency": Recipe(_truncated),
    "latent_consistency": Recipe(_latent),
    "multistep_consistency": Recipe(_multistep),
    "multistep_consistency_training": Recipe(
        lambda goal: _multistep(goal, teacher=False), weakness=_SCATTER
    ),
}
