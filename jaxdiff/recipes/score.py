"""Recipes of :mod:`jaxdiff.distill.score`: generators moved by the difference of two scores."""

from typing import Any

from jaxdiff.distill.parts.generator import Weight, karras, log_normal
from jaxdiff.distill.parts.stage import Stage
from jaxdiff.distill.score.diff_instruct import diff_instruct
from jaxdiff.distill.score.moment_matching import moment_matching
from jaxdiff.distill.score.score_identity import sid, sida
from jaxdiff.distill.score.score_implicit import huber_slope, sim
from jaxdiff.distill.score.swift_brush import swiftbrush
from jaxdiff.prediction import uniform_weight
from jaxdiff.ranges import (
    Below1,
    Count,
    Fraction,
    Natural,
    NotNegative,
    Number,
    Positive,
    PositiveBelow1,
)
from jaxdiff.recipes import matching, parts
from jaxdiff.recipes.goal import Goal, one
from jaxdiff.recipes.parts import FEW, START, generator, matching_recipe


def _diff_instruct(
    goal: Goal,
    start: Positive = START,
    mean: Number = -1.2,
    std: Positive = 1.2,
    fake_mean: Number = -1.2,
    fake_std: Positive = 1.2,
    weight: Weight = uniform_weight,
    every: Count = 1,
    reward: NotNegative = 0.0,
) -> list[Stage]:
    """mean, std: of the logarithm of the levels of the student's noise.
    fake_mean, fake_std: and of the fake score's.
    reward: factor of the log-probability that a small classifier, trained on the teacher's data,
        gives to the class requested; above 0 it is Diff-Instruct++ (arXiv 2410.18881).
    """
    student, fake = parts.summed(goal, every)
    method = diff_instruct(
        goal.teacher, student, fake_score=fake, start=start,
        levels=log_normal(mean, std), fake_levels=log_normal(fake_mean, fake_std),
        weight=weight, every=every, **parts.reward_of(goal, reward),
    )  # fmt: skip
    return one(method)


def _low_rank(
    goal: Goal,
    rank: Count = 16,
    start: Positive = START,
    mean: Number = -1.2,
    std: Positive = 1.2,
    fake_mean: Number = -1.2,
    fake_std: Positive = 1.2,
    weight: Weight = uniform_weight,
    every: Count = 1,
) -> list[Stage]:
    """Its fake score is the teacher with adapters.

    rank: of the adapters.
    mean, std: of the logarithm of the levels of the student's noise.
    fake_mean, fake_std: and of the fake score's.
    """
    student, fake = parts.summed(goal, every)
    model = goal.student()._replace(optimiser=None)
    method = diff_instruct(
        goal.teacher, student, fake_score=fake._replace(model=model, rank=int(rank)),
        start=start, levels=log_normal(mean, std),
        fake_levels=log_normal(fake_mean, fake_std), weight=weight, every=every,
    )  # fmt: skip
    return one(method)


def _sid(
    goal: Goal,
    alpha: Number = 1.0,
    start: Positive = START,
    first: Below1 = 0.2,
    fake_mean: Number = -1.2,
    fake_std: Positive = 1.2,
    scale: Positive = 1.0,
    every: Count = 1,
) -> list[Stage]:
    """first: share of the grid of levels, of the highest, that is left out.
    fake_mean, fake_std: of the logarithm of the levels of the fake score's noise.
    """
    student, fake = parts.summed(goal, every, scale)
    method = sid(
        goal.teacher, student, fake_score=fake, alpha=alpha, start=start,
        levels=karras(goal.low, goal.high, first),
        fake_levels=log_normal(fake_mean, fake_std), scale=scale, every=every,
    )  # fmt: skip
    return one(method)


def _sida(
    goal: Goal,
    alpha: Number = 1.0,
    start: Positive = START,
    first: Below1 = 0.2,
    fake_mean: Number = -1.2,
    fake_std: Positive = 1.2,
    scale: Positive = 1.0,
    adversarial: NotNegative = 1e-4,
    critic: NotNegative = 0.01,
    bound: Positive = 10.0,
    student_from: Natural = 0,
    critic_from: Natural | None = None,
    every: Count = 1,
) -> list[Stage]:
    """Return SiDA, whose critic joins after a twentieth of the updates, by the paper's factor
    0.01 to a scale of 100. By its factor of a half, made for sums over 3072 numbers, the critic's
    own loss would drown a fake score of few.

    first: share of the grid of levels, of the highest, that is left out.
    fake_mean, fake_std: of the logarithm of the levels of the fake score's noise.
    """
    student, fake = parts.summed(goal, every, scale)
    fake = fake._replace(head=parts.critic_head(goal))
    method = sida(
        goal.teacher, student, fake, alpha=alpha, start=start,
        levels=karras(goal.low, goal.high, first),
        fake_levels=log_normal(fake_mean, fake_std), scale=scale, adversarial=adversarial,
        critic=critic, bound=bound, student_from=student_from,
        critic_from=goal.num_updates // 20 if critic_from is None else critic_from, every=every,
    )  # fmt: skip
    return one(method)


def _sim(
    goal: Goal,
    c: Positive = 0.03,
    start: Positive = START,
    mean: Number = -1.2,
    std: Positive = 1.2,
    fake_mean: Number = -1.2,
    fake_std: Positive = 1.2,
    weight: Weight = uniform_weight,
    every: Count = 1,
    reward: NotNegative = 0.0,
) -> list[Stage]:
    """c: of the pseudo-Huber distance.
    mean, std: of the logarithm of the levels of the student's noise.
    fake_mean, fake_std: and of the fake score's.
    reward: factor of the log-probability that a small classifier, trained on the teacher's data,
        gives to the class requested; above 0 it is Diff-Instruct* (arXiv 2410.20898).
    """
    method = sim(
        goal.teacher, generator(goal, every), fake_score=parts.fake_score(goal),
        slope=huber_slope(c), start=start, levels=log_normal(mean, std),
        fake_levels=log_normal(fake_mean, fake_std), weight=weight,
        every=every, **parts.reward_of(goal, reward),
    )  # fmt: skip
    return one(method)


def _moments(
    goal: Goal, num_steps: Count = 4, weight: Weight = uniform_weight, every: Count = 2
) -> list[Stage]:
    """Its loss is that of x: by the paper's weight the errors of two networks at low noise, large
    next to their signal, would drown the rest.
    """
    method = moment_matching(
        goal.teacher, generator(goal, every, goal.high), fake_score=parts.fake_score(goal),
        num_steps=int(num_steps), weight=weight, every=every,
    )  # fmt: skip
    return one(method)


def _swiftbrush(
    goal: Goal,
    rank: Count = 16,
    start: Positive = START,
    first: PositiveBelow1 = 0.02,
    last: Fraction = 0.98,
    every: Count = 1,
    **options: Any,
) -> list[Stage]:
    """Its fake score, the teacher with adapters, learns at four times the student's rate.

    first, last: the levels of the student's noise are uniform between these shares of a VP
        process's time.
    """
    fake = goal.student()._replace(optimiser=parts.adam(goal, 2.0))
    options |= {"rank": rank, "start": start, "every": every, "levels": parts.vp_time(first, last)}
    return one(swiftbrush(goal.teacher, generator(goal, every), fake, **options))


RECIPES = {
    "diff_instruct": matching_recipe(_diff_instruct, diff_instruct, share=0.6, weakness=FEW),
    "diff_instruct_low_rank": matching_recipe(_low_rank, diff_instruct, share=0.6, weakness=FEW),
    "swiftbrush": matching_recipe(_swiftbrush, swiftbrush, weakness=FEW),
    **matching.RECIPES,
    "sid": matching_recipe(_sid, sid, share=0.6),
    "sida": matching_recipe(_sida, sida, sid, share=0.4),
    "sim": matching_recipe(_sim, sim, share=0.6),
    "moment_matching": matching_recipe(
        _moments, moment_matching, share=0.6, fewest=4, weakness=FEW
    ),
}
