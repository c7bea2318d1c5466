"""Truncated consistency models: a second stage that only learns the noisy part of the trajectory.

A consistency model trained on all levels (first stage, f_1, frozen) is right at low levels, and
spends its capacity there. The second stage learns f on t >= t' alone: it agrees with itself above
t', and hands over to f_1 below,

    E_{t > t'} w d( f(y_t, t), sg g(y_r, r) ) + w_b E_{t = t'} w d( f(y_t, t), f_1(y_r, r) ),
    g = f_1 where r < t', else f.

The boundary samples at t = t' keep f from any other self-consistent solution, a constant for one.
The levels t are Student-t in their logarithm, within [t', highest]: heavy tails reach the noise
end.

Pairs (t, r) are those of easy consistency tuning with a fixed relative gap. Source: Lee et al.,
arXiv 2410.14895.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from jaxdiff.arrays import expand
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import pseudo_huber
from jaxdiff.distill.consistency.consistency import (
    consistency_loss,
    consistency_tables,
    easy_consistency,
    easy_pair,
)
from jaxdiff.distill.consistency.schedules import Weight, inverse_gap, mapped_level
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.stage import Before, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.method import Method
from jaxdiff.ranges import NotNegative, Number, Positive, in_range
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Array, Cond, Denoiser, Key


def student_t_levels(
    key: Key, x0: Array, df: float, mean: float, scale: float, low: float, high: float
) -> Array:
    """Return levels in [low, high], one per sample of ``x0``, their logarithm mean + scale T with T
    Student-t of ``df`` degrees of freedom, truncated.

    With T = sqrt(df) sinh v the density of v is that of cosh(v)^-df, smooth and nearly flat for
    small df; its integral is inverted by a table of 1024 pieces.
    """
    start, end = np.arcsinh((np.log([low, high]) - mean) / (scale * df**0.5))
    v = np.linspace(start, end, 1025)
    density = np.cosh(v) ** -df
    share = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    u = jax.random.uniform(key, x0.shape[:1], x0.dtype)
    tables = [jnp.asarray(a, x0.dtype) for a in (share / share[-1], v)]
    log_level = mean + scale * df**0.5 * jnp.sinh(jnp.interp(u, *tables))
    return jnp.clip(jnp.exp(log_level), low, high)


def handed_over(
    f: Callable[[Array, Array], Array], first: Callable[[Array, Array], Array], border: float
) -> Callable[[Array, Array], Array]:
    """Return the function that is ``first`` at levels below ``border``, and f from there on. Levels
    (batch,).
    """
    return lambda y, s: jnp.where(expand(s, y) < border, first(y, s), f(y, s))


@in_range
def truncated_consistency(
    first_stage: Denoiser,
    student: Student,
    *,
    border: Positive = 1.0,
    boundary: Positive = 0.25,
    boundary_weight: NotNegative = 0.1,
    df: Positive = 0.01,
    mean: Number = 0.0,
    scale: Positive = 0.2,
    gap: Positive = 1e-3,
    k: Number = 8.0,
    b: Number = 1.0,
    c: NotNegative = 1e-8,
    weight: Weight = inverse_gap,
    teacher: Denoiser | None = None,
    intermediate: tuple[float, ...] = (),
) -> Method:
    """Return the second stage of truncated consistency models (Lee et al., arXiv 2410.14895).

    Cost: three network calls per update, one of them with gradient. Failure modes: t' too low
    leaves little to gain, too high leaves the student too little to stand on; what the first stage
    gets wrong above t' is forgotten, below it stays. The student is trained at levels from t' up
    alone, and its sampler evaluates it there, and at lower levels of ``intermediate`` the first
    stage in its place. Deviations: the gap is fixed, not shrunk in stages; r may be 0, where
    published code keeps it above 1e-6. Recipe: CIFAR-10, batches of 1024, dropout 0.2.

    Args:
        first_stage: the consistency model of the first stage, frozen: a denoiser of a network,
            which gets the dropout masks of the student's calls, or any ``D(y, level, cond)``.
        student: starts as the first stage; RAdam at 5e-5 by default, batches of 1024 in the paper.
        border: t', in levels.
        boundary: fraction of the batch at t'.
        boundary_weight: w_b.
        df, mean, scale: of the logarithm of the levels, :func:`student_t_levels`.
        gap, k, b: r = t (1 - gap (1 + k sigmoid(-b t))).
        c: of the pseudo-Huber distance; see :mod:`jaxdiff.distill.consistency.consistency` on small
            values.
        weight: of t > r.
        teacher: None, as in the paper, or a denoiser that makes y_r.
        intermediate: levels of sampling, by default t' itself; published code has 0.821.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.
    """
    if not (student.low < border < student.high and 0 < boundary < 1):
        raise ValueError(
            f"a border within ({student.low}, {student.high}) and a boundary fraction within (0, 1)"
            f" are needed, not {border} and {boundary}"
        )
    intermediate = intermediate or (border,)
    distance = pseudo_huber(c)

    def student_loss(step: Step) -> Array:
        key_level, key_edge, key_noise = jax.random.split(step.key, 3)
        edge = jax.random.bernoulli(key_edge, boundary, step.x0.shape[:1])
        inner = student_t_levels(key_level, step.x0, df, mean, scale, border, student.high)
        t = jnp.where(edge, border, inner)
        r = mapped_level(t, gap, k, b)
        eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
        pair = easy_pair(step.teacher, step.x0, t, r, eps)
        target = handed_over(step.target, step.own(step.context.frozen["first"]), border)
        share = jnp.where(edge, boundary_weight / boundary, 1.0 / (1.0 - boundary))
        factor = share.astype(t.dtype) * weight(t, r)
        return consistency_loss(step.student, target, pair, distance, factor)

    method = regression(
        student,
        student_loss,
        consistency_tables(student, intermediate),
        optimiser=optax.radam(5e-5),
        teacher=teacher,
        frozen={"first": as_partial(first_stage)},
    )
    return method if min(intermediate) >= border else _with_first(method, first_stage, border)


def _with_first(method: Method, first: Denoiser, border: float) -> Method:
    """Return the method with a sampler that calls ``first`` below the border."""

    def sampler(state: Any, **options: Any) -> Sampler:
        made = method.sampler(state, **options)
        D = Partial(_handed_over, made.denoiser, as_partial(first), border)
        return made._replace(denoiser=D)

    return method._replace(sampler=sampler)


def _handed_over(
    f: Any, first: Any, border: float, y: Array, s: Array, cond: Cond = None
) -> Array:  # fmt: skip
    level = jnp.broadcast_to(jnp.asarray(s, y.dtype), y.shape[:1])
    own = handed_over(lambda y, s: f(y, s, cond), lambda y, s: first(y, s, cond), border)
    return own(y, level)


def truncated_stages(
    student: Callable[[Before | None], Student],
    *,
    share: float = 1.0,
    easy: dict[str, Any] | None = None,
    **options: Any,
) -> list[Stage]:
    """Both stages: easy consistency tuning, then the truncated training of ``share`` as many
    updates.

    Args:
        student: ``student(before)``, which starts as ``before`` left it.
        share: updates of the second stage, in those of the first.
        easy: options of the first stage
            (:func:`jaxdiff.distill.consistency.consistency.easy_consistency`).
        options: of :func:`truncated_consistency`.

    Returns:
        Stages in order, for :func:`jaxdiff.training.fit_stages`.
    """

    def second(before: Before | None) -> Method:
        assert before is not None
        return truncated_consistency(before.sampler().denoiser, student(before), **options)

    first = Stage("consistency", lambda before: easy_consistency(student(before), **(easy or {})))
    return [first, Stage("truncated", second, share)]
