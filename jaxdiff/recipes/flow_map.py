"""Recipes of :mod:`jaxdiff.distill.flow_map`: jumps between any two levels.

Students of mean flows, align your flow and self-distilled maps are conditioned on both levels by a
label that levels off above 5 (:func:`jaxdiff.distill.flow_map.times.saturating`). Their log
levels are N(-2, 2^2), CIFAR-10's, but for align your flow, which has its own intervals.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.distill.flow_map import flow_map
from jaxdiff.distill.flow_map.inductive_moments import inductive_moments
from jaxdiff.distill.flow_map.mean_flow import improved_mean_flow, mean_flow
from jaxdiff.distill.flow_map.shortcut import shortcut
from jaxdiff.distill.flow_map.times import Pairs, logit_normal_pairs, saturating
from jaxdiff.distill.flow_map.trajectory_consistency import trajectory_consistency
from jaxdiff.distill.parts.critic import Critic
from jaxdiff.distill.parts.stage import Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.ranges import Below1, Fraction, NotNegative, Number, Positive
from jaxdiff.recipes.goal import Goal, Recipe, one
from jaxdiff.typing import Array, Cond, Key, Params

UNEQUAL = 0.75  # the share of samples whose two times differ
LOG_LEVEL = (-2.0, 2.0)  # mean and standard deviation of log levels


def _student(goal: Goal) -> Student:
    return goal.student(labels=2)._replace(label=saturating)


def _pairs(later: tuple[float, float], earlier: tuple[float, float], unequal: float) -> Pairs:
    return logit_normal_pairs(later, earlier, unequal=unequal)


def _mean_flow(
    goal: Goal,
    unequal: Fraction = UNEQUAL,
    later: tuple[float, float] = LOG_LEVEL,
    earlier: tuple[float, float] = LOG_LEVEL,
    label_drop: Fraction | None = None,
    **options: Any,
) -> list[Stage]:
    """Logit-normal times.

    unequal: share of the samples whose times t and r differ.
    later, earlier: mean and standard deviation of the logits of t and of r.
    label_drop: share of the samples whose condition is dropped; 0.1 where there is guidance (omega,
        kappa), none elsewhere by default.
    """
    pairs = _pairs(later, earlier, unequal)
    student = _dropping(_student(goal), label_drop, options)
    return one(mean_flow(student, teacher=goal.teacher, pairs=pairs, **options))


def _dropping(student: Student, share: float | None, options: dict[str, Any]) -> Student:
    """Return the student with a share of its conditions dropped: without them guidance is of no
    use.
    """
    guided = (options.get("omega", 1.0), options.get("kappa", 0.0)) != (1.0, 0.0)
    return student._replace(label_drop=(0.1 if guided else None) if share is None else share)


def _mean_flow_of_data(
    goal: Goal,
    unequal: Fraction = UNEQUAL,
    later: tuple[float, float] = LOG_LEVEL,
    earlier: tuple[float, float] = LOG_LEVEL,
    power: NotNegative = 0.0,
    label_drop: Fraction | None = None,
    **options: Any,
) -> list[Stage]:
    """In few dimensions by least squares, so that the minimum is the mean.

    unequal: share of the samples whose times t and r differ.
    later, earlier: mean and standard deviation of the logits of t and of r.
    label_drop: share of the samples whose condition is dropped; 0.1 where there is guidance (omega,
        kappa), none elsewhere by default.
    """
    pairs = _pairs(later, earlier, unequal)
    student = _dropping(_student(goal), label_drop, options)
    return one(mean_flow(student, pairs=pairs, power=power, **options))


def _improved(
    goal: Goal,
    unequal: Fraction = UNEQUAL,
    later: tuple[float, float] = LOG_LEVEL,
    earlier: tuple[float, float] = LOG_LEVEL,
    power: NotNegative = 0.0,
    **options: Any,
) -> list[Stage]:
    """By least squares.

    unequal: share of the samples whose times t and r differ.
    later, earlier: mean and standard deviation of the logits of t and of r.
    """
    pairs = _pairs(later, earlier, unequal)
    return one(improved_mean_flow(_student(goal), pairs=pairs, power=power, **options))


def _align(
    goal: Goal,
    warmup: Fraction = 0.1,
    mean: Number = -0.8,
    std: Positive = 1.0,
    **options: Any,
) -> list[Stage]:
    """Return a student of both times.

    warmup: share of the updates in which the tangent's share grows from 0 to 1.
    mean, std: of the logit of the length t - r of intervals.
    """
    options |= {"warmup_updates": int(goal.num_updates * warmup)}
    pairs = flow_map.interval_pairs(mean, std)
    return one(flow_map.align_your_flow(goal.teacher, _student(goal), pairs=pairs, **options))


def _align_lagrangian(
    goal: Goal,
    warmup: Fraction = 0.1,
    mean: Number = -0.8,
    std: Positive = 1.0,
    **options: Any,
) -> list[Stage]:
    """Return a student of both times.

    warmup: share of the updates in which the tangent's share grows from 0 to 1.
    mean, std: of the logit of the length t - r of intervals.
    """
    return _align(goal, warmup, mean, std, form="lagrangian", **options)


def _self_distilled(residual: flow_map.Residual) -> Callable[..., list[Stage]]:
    def stages(
        goal: Goal,
        unequal: Fraction = 0.5,
        later: tuple[float, float] = LOG_LEVEL,
        earlier: tuple[float, float] = LOG_LEVEL,
        **options: Any,
    ) -> list[Stage]:
        """Logit-normal times.

        unequal: share of the samples whose times t and r differ.
        later, earlier: mean and standard deviation of the logits of t and of r.
        """
        pairs = _pairs(later, earlier, unequal)
        student = _student(goal)
        return one(
            flow_map.self_distilled_flow_map(student, residual=residual, pairs=pairs, **options)
        )

    return stages


def _semigroup(
    goal: Goal,
    unequal: Fraction = 0.5,
    later: tuple[float, float] = LOG_LEVEL,
    earlier: tuple[float, float] = LOG_LEVEL,
    halfway: bool = False,
    **options: Any,
) -> list[Stage]:
    """Logit-normal times.

    unequal: share of the samples whose times t and r differ.
    later, earlier: mean and standard deviation of the logits of t and of r.
    halfway: whether the time between is in the middle, not at random.
    """
    stages = _self_distilled(flow_map.semigroup(halfway))
    return stages(goal, unequal, later, earlier, **options)


def _trajectory_consistency(
    goal: Goal, max_steps: int = 8, target: Below1 = 0.99, std: Positive = 1.6, **options: Any
) -> list[Stage]:
    options |= {"max_steps": max_steps, "target": target, "std": std}
    return one(trajectory_consistency(goal.teacher, goal.student(labels=2), **options))


def _adversarial(
    goal: Goal,
    max_steps: int = 8,
    target: Below1 = 0.99,
    std: Positive = 1.6,
    adversarial: NotNegative = 0.1,
    start: Fraction = 0.5,
    **options: Any,
) -> list[Stage]:
    """With a critic.

    start: the share of the updates after which it joins.
    """
    options |= {"critic": _critic(goal), "critic_from": round(goal.num_updates * start)}
    return _trajectory_consistency(goal, max_steps, target, std, adversarial=adversarial, **options)


def _critic(goal: Goal) -> Critic:
    """Return a linear function of what the teacher's own network makes of a sample, all of it
    trained.
    """
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


def _shortcut(
    goal: Goal, share: float = 0.5, count: int = 32, target: Below1 = 0.99, **options: Any
) -> list[Stage]:
    options |= {"share": share, "count": count, "target": target}
    return one(shortcut(goal.student(labels=2), **options))


def _inductive_moments(
    goal: Goal, group: int = 32, k: Positive = 4.0, ends: Fraction = 0.25, **options: Any
) -> list[Stage]:
    # so small a k puts r at s for most groups: a direct comparison with the data, not inductive,
    # which is what few updates can learn
    options |= {"group": group, "k": k, "ends": ends}
    return one(inductive_moments(goal.student(labels=2), **options))


_ALIGN: dict[str, Any] = {"of": (flow_map.align_your_flow,), "fixed": ("form", "warmup_updates")}
_SELF: dict[str, Any] = {"of": (flow_map.self_distilled_flow_map,)}
_TRAJECTORY: dict[str, Any] = {"of": (trajectory_consistency,)}

RECIPES = {
    "trajectory_consistency": Recipe(
        _trajectory_consistency, **_TRAJECTORY, fixed=("adversarial", "critic_from"), share=0.75
    ),
    "trajectory_consistency_adversarial": Recipe(
        _adversarial, **_TRAJECTORY, fixed=("critic_from",), follows_flow=False, share=0.4
    ),
    "shortcut": Recipe(_shortcut, of=(shortcut,)),
    "inductive_moments": Recipe(
        _inductive_moments,
        of=(inductive_moments,),
        follows_flow=False,
        divides="group",
        weakness="few updates allow only the limit r = s, which trains little of the later steps",
    ),
    "mean_flow": Recipe(_mean_flow, of=(mean_flow,)),
    "mean_flow_of_data": Recipe(_mean_flow_of_data, of=(mean_flow,)),
    "improved_mean_flow": Recipe(_improved, of=(improved_mean_flow,), fixed=("largest",)),
    "align_your_flow": Recipe(_align, **_ALIGN),
    "align_your_flow_lagrangian": Recipe(_align_lagrangian, **_ALIGN),
    "flow_map_lagrangian": Recipe(_self_distilled(flow_map.lagrangian), **_SELF),
    "flow_map_eulerian": Recipe(
        _self_distilled(flow_map.eulerian), **_SELF, share=0.8,
        weakness="unstable, as its paper finds: the gradient passes through one of two derivatives",
    ),
    "flow_map_semigroup": Recipe(_semigroup, **_SELF, share=0.8),
}  # fmt: skip
