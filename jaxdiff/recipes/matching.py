"""Recipes of distribution matching, part of those of scores: DMD and what came of it."""

import jax

from jaxdiff.distance import Distance, squared
from jaxdiff.distill.parts.generator import karras
from jaxdiff.distill.parts.stage import Stage
from jaxdiff.distill.parts.two_players import Penalty
from jaxdiff.distill.score import distribution_matching as matching
from jaxdiff.distill.score.decoupled_matching import decoupled_dmd
from jaxdiff.distill.score.f_distill import f_distill
from jaxdiff.distill.trajectory.knowledge import stored_pairs
from jaxdiff.ranges import Below1, Count, Fraction, Natural, NotNegative, Number, Positive
from jaxdiff.recipes import parts
from jaxdiff.recipes.goal import Goal, Recipe, one
from jaxdiff.recipes.parts import FEW, START, generator, matching_recipe

SECOND = 0.8  # the level of the second of two evaluations


def _dmd(
    goal: Goal,
    regression: NotNegative = 0.25,
    distance: Distance = squared,
    ends: Below1 = 0.02,
    every: Count = 1,
    pairs: int | None = None,
) -> list[Stage]:
    """From the highest level, where its pairs start.

    ends: shares of the grid of levels that the direction leaves out.
    pairs: their number; 8 times the updates, at most 50,000, by default.
    """
    if not regression and pairs is not None:
        raise ValueError(f"pairs={pairs} are for the regression, whose factor is 0")
    count = min(50_000, 8 * goal.num_updates) if pairs is None else pairs
    stored = stored_pairs(parts.accurate(goal), count, jax.random.key(goal.seed), progress=False)
    method = matching.dmd(
        goal.teacher, generator(goal, every, goal.high), fake_score=parts.fake_score(goal),
        regression=regression, distance=distance, levels=parts.middle(goal, goal.high, ends),
        every=every,
    )  # fmt: skip
    return [Stage("distil", lambda before: method, data=stored if regression else None)]


def _dmd2(
    goal: Goal,
    num_steps: Count = 1,
    start: Positive = START,
    every: Count = 2,
    adversarial: NotNegative = 3e-3,
    critic: NotNegative = 1e-2,
    penalty: NotNegative = 0.0,
    ends: Below1 = 0.02,
    reward: NotNegative = 0.0,
) -> list[Stage]:
    """In two evaluations the fake score is conditioned on which one made a sample.

    num_steps: number of evaluations, 1 or 2; the second is at level 0.8.
    start: the level of the student's input.
    penalty: factor of R1.
    ends: shares of the grid of levels that the direction leaves out.
    reward: factor of the log-probability that a small classifier, trained on the teacher's data,
        gives to the class requested.
    """
    fake, num_steps = parts.fake_score_with_head(goal), int(num_steps)
    if num_steps > 1:
        fake = fake._replace(model=goal.student(labels=2)._replace(optimiser=None))
    method = matching.dmd2(
        goal.teacher,
        generator(goal, every, start),
        fake,
        student_levels=(start, SECOND)[:num_steps],
        label_evaluations=num_steps > 1,
        levels=parts.middle(goal, start, ends),
        adversarial=adversarial,
        critic=critic,
        penalty=Penalty(penalty),
        every=every,
        **parts.reward_of(goal, reward),
    )
    return one(method)


def _two_steps(
    goal: Goal,
    start: Positive = START,
    every: Count = 2,
    adversarial: NotNegative = 3e-3,
    critic: NotNegative = 1e-2,
    penalty: NotNegative = 0.0,
    ends: Below1 = 0.02,
    reward: NotNegative = 0.0,
) -> list[Stage]:
    """start: the level of the student's first input; the second's is 0.8.
    penalty: factor of R1.
    ends: shares of the grid of levels that the direction leaves out.
    reward: factor of the log-probability that a small classifier, trained on the teacher's data,
        gives to the class requested.
    """
    return _dmd2(goal, 2, start, every, adversarial, critic, penalty, ends, reward)


def _decoupled(
    goal: Goal,
    guidance: Number = 1.5,
    start: Positive = START,
    ends: Below1 = 0.02,
    engine_first: Below1 | None = None,
    engine_last: Fraction | None = None,
    every: Count = 2,
) -> list[Stage]:
    """start: the level of the student's input.
    ends: shares of the grid of levels that are left out.
    engine_first, engine_last: fractions of that grid, 0 its highest level, between which the
        guidance's noise is drawn; without ``ends`` of it, as the other noise, by default.
    """
    engine = None
    if engine_first is not None or engine_last is not None:
        first = ends if engine_first is None else engine_first
        last = 1.0 - ends if engine_last is None else engine_last
        if first >= last:
            raise ValueError(f"engine_first={first} is to be less than engine_last={last}")
        engine = karras(goal.low, start, first, last)
    method = decoupled_dmd(
        goal.teacher, generator(goal, every, start), guidance=guidance,
        fake_score=parts.fake_score(goal),
        levels=parts.middle(goal, start, ends), engine_levels=engine, every=every,
    )  # fmt: skip
    return one(method)


def _f_distill(
    goal: Goal,
    divergence: str = "jensen-shannon",
    start: Positive = START,
    every: Count = 2,
    adversarial: NotNegative = 3e-3,
    critic: NotNegative = 1e-2,
    bins: Natural = 10,
    rate: float = 1.0,
    min_ratio: Positive = 0.1,
    max_ratio: Positive = 20.0,
    penalty: NotNegative = 0.0,
    ends: Below1 = 0.02,
) -> list[Stage]:
    """start: the level of the student's input.
    min_ratio, max_ratio: limits of the density ratio.
    penalty: factor of R1.
    ends: shares of the grid of levels that are left out.
    """
    method = f_distill(
        goal.teacher, generator(goal, every, start), parts.fake_score_with_head(goal),
        divergence=divergence, levels=parts.middle(goal, start, ends), adversarial=adversarial,
        critic=critic, bins=int(bins), rate=rate, limits=(min_ratio, max_ratio),
        penalty=Penalty(penalty), every=every,
    )  # fmt: skip
    return one(method)


RECIPES: dict[str, Recipe] = {
    "dmd": matching_recipe(_dmd, matching.dmd, share=0.5, weakness=FEW),
    "dmd2": matching_recipe(_dmd2, matching.dmd2, share=0.4, weakness=FEW),
    "dmd2_two_steps": matching_recipe(_two_steps, matching.dmd2, share=0.4, weakness=FEW),
    "decoupled_dmd": matching_recipe(_decoupled, decoupled_dmd, share=0.6, weakness=FEW),
    "f_distill": matching_recipe(_f_distill, f_distill, matching.dmd2, share=0.4, weakness=FEW),
}
