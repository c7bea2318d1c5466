"""Parts that recipes share: accurate samples of teachers; a generator, its fake score and critic.

Generators start from level 2.5, where a diffusion model's output still varies with its input; at
the highest it is the mean of the data. Both players learn without momentum.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import optax

from jaxdiff import solvers
from jaxdiff.distill.parts.critic import Head
from jaxdiff.distill.parts.generator import Levels, in_time, karras
from jaxdiff.distill.parts.stage import Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import FakeScore
from jaxdiff.distill.trajectory.progressive import cosine_levels
from jaxdiff.process import VP
from jaxdiff.recipes.goal import Goal, Recipe
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table

START = 2.5
FEW = "few updates: a narrow axis's width or a mode's weight, distinguished last, is still off"


def adam(
    goal: Goal, rate: float, every: int = 1, clip: float = 10.0
) -> optax.GradientTransformation:
    """Of a player that is updated in one of ``every`` steps."""
    updates = max(1, goal.num_updates // every)
    schedule = optax.cosine_decay_schedule(rate * goal.rate, updates, alpha=0.02)
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(schedule, b1=0.0, b2=0.99))


def generator(goal: Goal, every: int = 1, high: float = START, rate: float = 0.5) -> Student:
    """Return the student, updated in one of ``every`` steps from the level ``high``."""
    return goal.student()._replace(high=high, optimiser=adam(goal, rate, every))


def fake_score_with_head(goal: Goal) -> FakeScore:
    """Return a fake score with a critic's head, which learns at twice the student's rate."""
    return FakeScore(optimiser=adam(goal, 1.0), head=critic_head(goal))


def reward_of(goal: Goal, factor: float) -> dict[str, Any]:
    """Return the reward of a recipe, as its method takes it. ValueError if there is none to be
    had.
    """
    if not factor:
        return {}
    if goal.reward is None:
        raise ValueError("a reward needs a classifier, which needs data with classes: reward 0")
    return {"reward": goal.reward(), "reward_factor": factor}


def critic_head(goal: Goal) -> Head:
    """Return a critic's head on the features of the teacher's network."""
    from jaxdiff.networks.heads import feature_head

    return Head(*feature_head(*goal.network(1, False), goal.shape, num_classes=goal.classes or 0))


def matching_recipe(
    stages: Callable[..., list[Stage]],
    *of: Callable[..., Any],
    share: float = 1.0,
    fewest: int = 1,
    weakness: str = "",
) -> Recipe:
    """Return a recipe of a method that matches distributions, not trajectories."""
    return Recipe(stages, of=of, follows_flow=False, share=share, fewest=fewest, weakness=weakness)


def accurate(goal: Goal) -> Sampler:
    """Return the teacher's sampler in twenty evaluations."""
    levels = cosine_levels(np.arange(20) / 20, goal.low, goal.high)
    return Sampler(goal.teacher, table(solvers.dpmpp, np.append(levels, 0.0), order=3))


def fake_score(goal: Goal) -> FakeScore:
    """Return a fake score, which learns at four times the student's rate."""
    return FakeScore(optimiser=adam(goal, 2.0))


def summed(goal: Goal, every: int, scale: float = 1.0) -> tuple[Student, FakeScore]:
    """Players whose losses are sums over the numbers of a sample, and so are their clips."""
    clip = 10.0 * math.prod(goal.shape)
    student = generator(goal)._replace(optimiser=adam(goal, 0.5, every, clip * scale))
    return student, FakeScore(optimiser=adam(goal, 2.0, clip=clip))


def middle(goal: Goal, high: float, ends: float) -> Levels:
    """Return a Karras grid without a share of it at each end."""
    return karras(goal.low, high, ends, 1.0 - ends)


def vp_time(first: float, last: float) -> Levels:
    """Return levels uniform in a VP process's time between two shares of it. ValueError for no
    interval.
    """
    if first >= last:
        raise ValueError(f"levels from {first:g} of the time end later, not at {last:g}")
    return in_time(cast(Any, VP()), first, last)
