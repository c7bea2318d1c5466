"""Recipes of two-time maps that are learnt without forward derivatives: CTM, shortcut models,
inductive moment matching, and the trajectory operator.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import grids, solvers
from jaxdiff.distill.adversarial import Critic
from jaxdiff.distill.inductive_moments import inductive_moments
from jaxdiff.distill.knowledge import stored_pairs
from jaxdiff.distill.shortcut import shortcut
from jaxdiff.distill.stages import Before, Data, Stage
from jaxdiff.distill.trajectory_consistency import trajectory_consistency
from jaxdiff.distill.trajectory_operator import trajectory_operator
from jaxdiff.recipes.goal import Goal, Recipe, one
from jaxdiff.sampling.pairs import Spread, here
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Cond, Key, Params


def _trajectory_consistency(goal: Goal) -> list[Stage]:
    method = trajectory_consistency(
        goal.teacher, goal.student(labels=2), most=8, target=0.99, std=1.6
    )
    return one(method)


def _adversarial(goal: Goal) -> list[Stage]:
    method = trajectory_consistency(
        goal.teacher, goal.student(labels=2), most=8, target=0.99, std=1.6, critic=_critic(goal),
        adversarial=0.1, critic_from=goal.steps // 2,
    )  # fmt: skip
    return one(method)


def _critic(goal: Goal) -> Critic:
    """A linear function of what the teacher's own network makes of a sample, all of it trained."""
    network, params = goal.network(1, False)

    def features(params: Params, x: Array, cond: Cond) -> Array:
        label = jnp.zeros(x.shape[:1], x.dtype)
        last = network(params, x / goal.sigma_data, label, cond, full=True).features[-1]  # type: ignore[union-attr]
        return last.reshape(len(x), -1)

    def init(key: Key) -> Params:
        x = jnp.zeros((1, *goal.shape), jnp.float32)
        width = jax.eval_shape(lambda p: features(p, x, None), params).shape[1]
        head = jax.random.normal(key, (width,), jnp.float32) / width
        return {"network": params, "head": head}

    return Critic(
        lambda params, x, cond: features(params["network"], x, cond) @ params["head"],
        init, optimiser=optax.adam(goal.rate, b1=0.0, b2=0.99),
    )  # fmt: skip


def _shortcut(goal: Goal) -> list[Stage]:
    return one(shortcut(goal.student(labels=2), share=0.5, count=32, target=0.99))


def _inductive_moments(goal: Goal) -> list[Stage]:
    # so small a k puts r at s for most groups: a direct comparison with the data, not inductive,
    # which is what few updates can learn
    return one(inductive_moments(goal.student(labels=2), group=32, k=4.0, ends=0.25))


def _trajectory_operator(goal: Goal) -> list[Stage]:
    from jaxdiff.networks.temporal import temporal

    made = table(solvers.heun, grids.karras(16, goal.low, goal.high))
    network, params = temporal(*goal.network(2, False), goal.shape)
    student = goal.student(labels=2)._replace(network=network, params=params)
    levels = [float(s) for s in np.asarray(made.levels)]
    method = trajectory_operator(student, levels, starts=4, cap=10.0)

    stored = stored_pairs(
        Sampler(goal.teacher, made), 4 * goal.steps, jax.random.key(goal.seed),
        states=range(len(levels)), progress=False,
    )  # fmt: skip

    def half(data: Data, before: Before | None, spread: Spread = here) -> Data:
        """Batches of half the size: each of their samples is decoded four times."""

        def halved(step: int) -> Any:
            return {name: rows[: max(1, len(rows) // 2)] for name, rows in data(step).items()}

        return stored(halved, before, spread)

    return [Stage("distil", lambda before: method, data=half)]


RECIPES = {
    "trajectory_consistency": Recipe(_trajectory_consistency),
    "trajectory_consistency_adversarial": Recipe(_adversarial, follows_flow=False),
    "shortcut": Recipe(_shortcut),
    "inductive_moments": Recipe(
        _inductive_moments,
        follows_flow=False,
        weakness="few updates allow only the limit r = s, which trains little of the later steps",
    ),
    "trajectory_operator": Recipe(_trajectory_operator),
}
