"""Recipes of distribution matching: students against a fake score, a critic, or both.

Generators start from level 2.5, where a diffusion model's output still varies with its input; at
the highest it is the mean of the data. The opponents learn faster than the student, without
momentum.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff import solvers
from jaxdiff.distill import distribution_matching as matching
from jaxdiff.distill.adversarial import HINGE, Critic, Head
from jaxdiff.distill.adversarial_distillation import add, ladd
from jaxdiff.distill.denoising_gan import ddgan, ufogen
from jaxdiff.distill.diff_instruct import diff_instruct
from jaxdiff.distill.f_distill import f_distill
from jaxdiff.distill.generator import karras
from jaxdiff.distill.knowledge import stored_pairs
from jaxdiff.distill.moment_matching import moment_matching
from jaxdiff.distill.score_identity import sid
from jaxdiff.distill.score_implicit import sim
from jaxdiff.distill.stages import Stage
from jaxdiff.distill.student import Student
from jaxdiff.distill.truncated_diffusion import truncated_diffusion
from jaxdiff.distill.two_players import Opponent, Penalty
from jaxdiff.networks.critic import pair_critic
from jaxdiff.networks.heads import feature_head
from jaxdiff.prediction import uniform_weight
from jaxdiff.recipes.goal import Goal, Recipe, one
from jaxdiff.recipes.grids import accurate
from jaxdiff.typing import Array, Cond, Key, Params

START = 2.5
STEPS = (START, 0.8)  # of students in two evaluations
LEVELS = (START, 1.2, 0.6, 0.3)  # of those against a critic, in up to four


def _optimiser(goal: Goal, rate: float, every: int = 1) -> optax.GradientTransformation:
    """Of a player that is updated in one of ``every`` steps."""
    updates = max(1, goal.steps // every)
    schedule = optax.cosine_decay_schedule(rate * goal.rate, updates, alpha=0.02)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule, b1=0.0, b2=0.99))


def _student(goal: Goal, every: int = 1, high: float = START, rate: float = 0.5) -> Student:
    return goal.student()._replace(high=high, optimiser=_optimiser(goal, rate, every))


def _fake(goal: Goal) -> Opponent:
    """A fake score, which learns at four times the student's rate."""
    return Opponent(optimiser=_optimiser(goal, 2.0))


def _critic(goal: Goal) -> Opponent:
    """One with a critic's head."""
    return Opponent(optimiser=_optimiser(goal, 1.0), head=_head(goal))


def _head(goal: Goal) -> Head:
    return Head(*feature_head(*goal.network(1, False), goal.shape, num_classes=goal.classes or 0))


def _diff_instruct(goal: Goal) -> list[Stage]:
    return one(diff_instruct(goal.teacher, _student(goal), opponent=_fake(goal), start=START))


def _low_rank(goal: Goal, rank: int = 16) -> list[Stage]:
    network, params = goal.network(1, False)
    fake = goal.student()._replace(network=network, params=params, optimiser=_optimiser(goal, 2.0))
    opponent = Opponent(fake, rank=rank)
    return one(diff_instruct(goal.teacher, _student(goal), opponent=opponent, start=START))


def _dmd(goal: Goal) -> list[Stage]:
    """From the highest level, where its pairs start."""
    count, key = min(50_000, 8 * goal.steps), jax.random.key(goal.seed)
    pairs = stored_pairs(accurate(goal), count, key, progress=False)
    method = matching.dmd(goal.teacher, _student(goal, high=goal.high), opponent=_fake(goal))
    return [Stage("distil", lambda before: method, data=pairs)]


def _dmd2(goal: Goal, steps: int = 1, every: int = 2) -> list[Stage]:
    """In two evaluations the fake score is told which one made a sample."""
    opponent, steps = _critic(goal), int(steps)
    if steps > 1:
        network, params = goal.network(2, False)
        told = goal.student()._replace(network=network, params=params, optimiser=None)
        opponent = opponent._replace(model=told)
    return one(
        matching.dmd2(
            goal.teacher, _student(goal, every), opponent=opponent, steps=STEPS[:steps],
            apart=steps > 1, every=every,
        )
    )  # fmt: skip


def _decoupled(goal: Goal, weight: float = 1.5, every: int = 2) -> list[Stage]:
    return one(
        matching.decoupled_dmd(
            goal.teacher, _student(goal, every), weight=weight, opponent=_fake(goal), every=every
        )
    )


def _f_distill(goal: Goal, every: int = 2) -> list[Stage]:
    return one(f_distill(goal.teacher, _student(goal, every), _critic(goal), every=every))


def _sid(goal: Goal, alpha: float = 1.0, every: int = 1) -> list[Stage]:
    return _identity(goal, _fake(goal), alpha, every)


def _sida(goal: Goal, alpha: float = 1.0, every: int = 1) -> list[Stage]:
    return _identity(goal, _critic(goal), alpha, every)


def _identity(goal: Goal, opponent: Opponent, alpha: float, every: int) -> list[Stage]:
    return one(
        sid(
            goal.teacher, _student(goal, every), opponent=opponent, alpha=alpha, start=START,
            levels=karras(goal.low, goal.high, 0.2), scale=1.0, every=every,
        )
    )  # fmt: skip


def _sim(goal: Goal, every: int = 1) -> list[Stage]:
    student = _student(goal, every)
    return one(sim(goal.teacher, student, opponent=_fake(goal), start=START, every=every))


def _moments(goal: Goal, steps: int = 4, every: int = 2) -> list[Stage]:
    """Its loss is that of x: by the paper's weight the errors of two networks at low noise, large
    next to what they tell, would drown the rest.
    """
    return one(
        moment_matching(
            goal.teacher, _student(goal, every, goal.high), opponent=_fake(goal), steps=int(steps),
            weight=uniform_weight, every=every,
        )
    )  # fmt: skip


def _add(goal: Goal, steps: int = 1) -> list[Stage]:
    """Its critic looks through the pretrained network, at a low level of noise."""
    network, params = goal.network(1, False)
    head = _head(goal)

    def logits(own: Params, x: Array, cond: Cond) -> Array:
        label = jnp.full(x.shape[:1], jnp.log(0.1) / 4, x.dtype)
        answer: Any = network(own["trunk"], x / goal.sigma_data, label, cond, full=True)
        return head.logits(own["head"], answer.features, cond)

    def init(key: Key) -> Params:
        assert callable(head.params)
        return {"trunk": params, "head": head.params(key)}

    critic = Critic(logits, init, game=HINGE, optimiser=_optimiser(goal, 0.5))
    return one(add(goal.teacher, _student(goal), critic, steps=LEVELS[: int(steps)]))


def _ladd(goal: Goal, steps: int = 1) -> list[Stage]:
    """Its critic looks through the frozen pretrained network."""
    network, params = goal.network(1, False)
    teacher = goal.student()._replace(network=network).denoiser(params)
    opponent = Opponent(
        head=_head(goal), trunk="teacher", scores=False, optimiser=_optimiser(goal, 2.0)
    )
    return one(
        ladd(
            teacher, _student(goal, rate=0.2), opponent, steps=LEVELS[: int(steps)],
            penalty=Penalty(0.02, 0.1),
        )
    )  # fmt: skip


def _ufogen(goal: Goal) -> list[Stage]:
    return one(
        ufogen(
            _student(goal, rate=0.2), _critic(goal), levels=(*LEVELS, 0.0),
            reconstruction=0.01,
        )
    )  # fmt: skip


def _ddgan(goal: Goal, latent: int = 4) -> list[Stage]:
    """With a perceptron for a critic."""
    latent = int(latent)
    network, params = goal.network(1 + latent, False)
    student = _student(goal, high=goal.high, rate=0.2)._replace(network=network, params=params)
    logits, init = pair_critic(
        goal.shape, sigma_data=goal.sigma_data, num_classes=goal.classes or 0
    )
    critic = Critic(logits, init, optimiser=_optimiser(goal, 0.5))
    return one(ddgan(student, critic, latent=latent))


def _truncated(goal: Goal, cut: float = 0.3) -> list[Stage]:
    """From the cut, where few steps are left, it goes on by DPM-Solver++."""
    return one(
        truncated_diffusion(
            _student(goal, high=goal.high, rate=0.2), _critic(goal), cut=cut,
            solver=solvers.dpmpp, options={"order": 2},
        )
    )  # fmt: skip


def _recipe(stages: Callable[..., list[Stage]], weakness: str = "") -> Recipe:
    """A recipe of a method that matches distributions, not trajectories."""
    return Recipe(stages, follows_flow=False, weakness=weakness)


FEW = "few updates: a narrow axis's width or a mode's weight, told apart last, is still off"

RECIPES = {
    "diff_instruct": _recipe(_diff_instruct, FEW),
    "diff_instruct_low_rank": _recipe(_low_rank, FEW),
    "dmd": _recipe(_dmd, FEW),
    "dmd2": _recipe(_dmd2, FEW),
    "dmd2_two_steps": _recipe(lambda goal: _dmd2(goal, steps=2), FEW),
    "decoupled_dmd": _recipe(_decoupled, FEW),
    "f_distill": _recipe(_f_distill, FEW),
    "sid": _recipe(_sid),
    "sida": _recipe(_sida),
    "sim": _recipe(_sim),
    "moment_matching": _recipe(_moments, FEW),
    "add": _recipe(_add, "the teacher's term pulls each sample to a mean"),
    "ladd": _recipe(_ladd, FEW),
    "ufogen": _recipe(_ufogen, FEW),
    "ddgan": _recipe(_ddgan, FEW),
    "truncated_diffusion": _recipe(_truncated, FEW),
}
