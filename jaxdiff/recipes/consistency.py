"""Recipes of :mod:`jaxdiff.distill.consistency`: the same output all along a trajectory.

Without a teacher the targets of the small problems here scatter as widely as the data, so c of the
pseudo-Huber distance is large enough for means, not medians, to be learned. For the same reason
sct goes without its learned weight, which would favour the levels where tangents scatter least.
"""

from typing import Any

from jaxdiff.distance import pseudo_huber
from jaxdiff.distill.consistency import consistency
from jaxdiff.distill.consistency.continuous import (
    continuous_distillation,
    continuous_training,
    scd,
    sct,
)
from jaxdiff.distill.consistency.improved import improved_consistency
from jaxdiff.distill.consistency.latent import latent_consistency
from jaxdiff.distill.consistency.multistep import multistep_consistency
from jaxdiff.distill.consistency.truncated import truncated_consistency, truncated_stages
from jaxdiff.distill.parts.stage import Before, Stage
from jaxdiff.method import Method
from jaxdiff.ranges import Below1, Count, Fraction, NotNegative, Number, Positive, PositiveBelow1
from jaxdiff.recipes.goal import Goal, Recipe, one
from jaxdiff.training.ema import constant
from jaxdiff.typing import Denoiser

WIDE = 1.0
MEAN, STD = 0.0, 2.0  # of log levels; narrower, few updates never reach the noise end


def _distillation(goal: Goal, target: Below1 | None = None, **options: Any) -> list[Stage]:
    options |= {"target": None if target is None else constant(target)}
    return one(consistency.consistency_distillation(goal.teacher, goal.student(), **options))


def _training(goal: Goal, last: Count = 160, decay: Below1 = 0.01, **options: Any) -> list[Stage]:
    numbers: dict[str, Any] = {"num_updates": goal.num_updates, "last": last, "decay": decay}
    return one(consistency.consistency_training(goal.student(), **numbers, **options))


def _improved(goal: Goal, last: Count = 160, c: NotNegative = WIDE, **options: Any) -> list[Stage]:
    student = goal.student()
    return one(
        improved_consistency(student, num_updates=goal.num_updates, last=last, c=c, **options)
    )


def _easy(
    goal: Goal, stages: Count = 4, q: Positive = 4.0, c: NotNegative = 0.06, **options: Any
) -> list[Stage]:
    """Return a pseudo-Huber distance, and stages that share the updates equally.

    stages: number of stages, of equal length.
    """
    options |= {"stage_updates": max(1, goal.num_updates // stages), "q": q, "c": c}
    return one(consistency.easy_consistency(goal.student(), **options))


def _easy_distillation(
    goal: Goal, stages: Count = 4, q: Positive = 4.0, c: NotNegative = WIDE, **options: Any
) -> list[Stage]:
    """Return the same by the teacher's steps.

    stages: number of stages, of equal length.
    """
    return _easy(goal, stages, q, c, teacher=goal.teacher, **options)


def _scd(
    goal: Goal, mean: Number = MEAN, std: Positive = STD, warmup: Fraction = 0.25, **options: Any
) -> list[Stage]:
    """Its student has a learned weight.

    warmup: share of the updates in which the tangent's share grows from 0 to 1.
    """
    student = goal.student(log_variance=options.get("learned_weight", True))
    options |= {"mean": mean, "std": std, "warmup_updates": round(goal.num_updates * warmup)}
    return one(scd(goal.teacher, student, **options))


def _sct(
    goal: Goal,
    mean: Number = MEAN,
    std: Positive = STD,
    warmup: Fraction = 0.25,
    c: NotNegative = WIDE,
    prior_weight: bool = False,
    learned_weight: bool = False,
    **options: Any,
) -> list[Stage]:
    """Without weights.

    warmup: share of the updates in which the tangent's share grows from 0 to 1.
    """
    student = goal.student(log_variance=learned_weight)
    options |= {
        "mean": mean,
        "std": std,
        "warmup_updates": round(goal.num_updates * warmup),
        "c": c,
    }
    return one(sct(student, prior_weight=prior_weight, learned_weight=learned_weight, **options))


def _continuous_distillation(goal: Goal, **options: Any) -> list[Stage]:
    return one(continuous_distillation(goal.teacher, goal.student(), **options))


def _continuous_training(goal: Goal, **options: Any) -> list[Stage]:
    return one(continuous_training(goal.student(), **options))


def _truncated(
    goal: Goal,
    stages: Count = 4,
    q: Positive = 4.0,
    c: NotNegative = WIDE,
    gap: Positive = 1 / 128,
    share: PositiveBelow1 = 0.5,
    **options: Any,
) -> list[Stage]:
    """Return an easy consistency model, then the truncated one.

    stages, q: of the first model (:func:`jaxdiff.distill.easy_consistency`).
    c: of the pseudo-Huber distance of both.
    share: of the updates that the first model gets.
    """
    easy = {"stage_updates": max(1, round(goal.num_updates * share) // stages), "q": q, "c": c}
    return truncated_stages(
        lambda before: goal.student(before=before, share=share if before is None else 1 - share),
        easy=easy, share=(1 - share) / share, c=c, gap=gap, **options,
    )  # fmt: skip


def _latent(
    goal: Goal,
    guidance_range: tuple[float, float] = (1.0, 3.0),
    c: NotNegative = 1e-3,
    target: Below1 | None = 0.95,
    **options: Any,
) -> list[Stage]:
    """Its network is conditioned on the weight of guidance, too.

    c: of the pseudo-Huber distance.
    target: decay of the target network; None for the student itself.
    """
    options |= {"guidance_range": guidance_range, "distance": pseudo_huber(c)}
    options |= {"target": None if target is None else constant(target)}
    return one(latent_consistency(goal.teacher, goal.student(labels=2), **options))


def _multistep(
    goal: Goal,
    segments: tuple[int, ...] = (4, 2, 1),
    first: Count = 16,
    last: Count = 128,
    **options: Any,
) -> list[Stage]:
    """One stage after the other.

    segments: of each stage, which starts as the one before left it.
    """
    return _multistep_stages(goal, goal.teacher, segments, first, last, options)


def _multistep_training(
    goal: Goal,
    segments: tuple[int, ...] = (4, 2, 1),
    first: Count = 16,
    last: Count = 128,
    **options: Any,
) -> list[Stage]:
    """One stage after the other.

    segments: of each stage, which starts as the one before left it.
    """
    return _multistep_stages(goal, None, segments, first, last, options)


def _multistep_stages(
    goal: Goal,
    teacher: Denoiser | None,
    segments: tuple[int, ...],
    first: int,
    last: int,
    options: dict[str, Any],
) -> list[Stage]:
    count = len(segments)
    numbers: dict[str, Any] = {
        "num_updates": goal.num_updates // count,
        "first": first,
        "last": last,
    } | options

    def stage(number: int) -> Stage:
        def method(before: Before | None) -> Method:
            student = goal.student(before=before, share=1 / count)
            return multistep_consistency(teacher, student, segments=number, **numbers)

        return Stage(f"{number}-segments", method)

    return [stage(number) for number in segments]


_SCATTER = (
    "without a teacher the targets scatter as widely as the data, and few updates average them"
)
_EASY: dict[str, Any] = {"of": (consistency.easy_consistency,)}
_CONTINUOUS: dict[str, Any] = {"of": (scd,), "fixed": ("warmup_updates",)}
_UNIFORM: dict[str, Any] = {"of": (continuous_distillation,)}
_MULTISTEP: dict[str, Any] = {"of": (multistep_consistency,)}
_SEGMENTS = ("num_updates", "segments")  # set for each stage

RECIPES = {
    "consistency_distillation": Recipe(
        _distillation, of=(consistency.consistency_distillation,)
    ),
    "consistency_training": Recipe(_training, of=(consistency.consistency_training,)),
    "improved_consistency": Recipe(_improved, of=(improved_consistency,)),
    "easy_consistency": Recipe(_easy, **_EASY, fixed=("stage_updates", "solver_step")),
    "easy_consistency_distillation": Recipe(_easy_distillation, **_EASY, fixed=("stage_updates",)),
    "scd": Recipe(_scd, **_CONTINUOUS),
    "sct": Recipe(_sct, **_CONTINUOUS, weakness=_SCATTER),
    "continuous_distillation": Recipe(_continuous_distillation, **_UNIFORM),
    "continuous_training": Recipe(
        _continuous_training, **_UNIFORM, fixed=("held",),
        weakness=_SCATTER + ", here unnormalised and at every level",
    ),
    "truncated_consistency": Recipe(_truncated, of=(truncated_consistency,)),
    "latent_consistency": Recipe(_latent, of=(latent_consistency,)),
    "multistep_consistency": Recipe(_multistep, **_MULTISTEP, fixed=_SEGMENTS),
    "multistep_consistency_training": Recipe(
        _multistep_training, **_MULTISTEP, fixed=(*_SEGMENTS, "solver_step"), weakness=_SCATTER
    ),
}  # fmt: skip
