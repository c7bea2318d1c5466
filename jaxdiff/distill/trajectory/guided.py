"""Distillation of guided models: one network for all guidance weights, then few steps of it.

Stage 1 matches the guided teacher with one network that is conditioned on the weight w,

    E_{w, s} weight(s) | D_theta(y, s, c; w) - D_u - w (D_c - D_u) |^2,    w ~ U[w_low, w_high],

D_c = D(y, s, c) and D_u = D(y, s, no class). Stage 2 is progressive distillation of that network
with w drawn anew for each sample and given to teacher and student alike. Weights are those of
:func:`jaxdiff.conditioning.guidance.classifier_free`, 1 the plain conditional model: the paper's
own is w - 1, its range [0, 4] is [1, 5] here. The network's further label is w's place in the
range, 0 to 1.

The student samples by Euler steps, or with noise: a step over two intervals, then noise back up by
one. For that the last round learns steps of two intervals from the N-step student before it.

Source: Meng et al., arXiv 2210.03142, sections 3.1 to 3.3.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff import solvers
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.denoisers import conditioned
from jaxdiff.distance import Distance, squared
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.guidance_weights import check_guidance_weight, with_range
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import in_steps
from jaxdiff.distill.trajectory.progressive import (
    Levels,
    TargetPoint,
    annealed,
    cosine_levels,
    nested_levels,
    progressive_loss,
    target_point,
)
from jaxdiff.method import Method
from jaxdiff.prediction import truncated_snr_weight
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, root
from jaxdiff.solvers.steps import euler_step
from jaxdiff.typing import Array, Denoiser, Key

Range = tuple[float, float]


def guidance_condition(weight: Any, guidance_range: Range) -> Any:
    """Return the condition for a guidance weight: its place in the range, 0 to 1."""
    low, high = guidance_range
    return (weight - low) / (high - low)


def draw_weights(key: Key, x0: Array, guidance_range: Range) -> Array:
    """Return one guidance weight per sample of ``x0``, uniform in the range."""
    low, high = guidance_range
    return low + (high - low) * jax.random.uniform(key, x0.shape[:1], x0.dtype)


def double_steps(D: D, y: State, levels: Sequence[Scalar], noise: Noise) -> Iterator[State]:
    """Step over two intervals of the grid, then noise up by one (2210.03142, section 3.3). One
    evaluation per interval, one draw for each but the last, which ends in 0.
    """
    for i, (s, r) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        beyond = levels[min(i + 2, len(levels) - 1)]
        y = euler_step(D, y, s, beyond)
        if i + 2 < len(levels):
            y = y + root((r - beyond) * (r + beyond)) * noise()
        yield y


def guidance_distillation(
    teacher: Denoiser,
    student: Student,
    *,
    guidance_range: Range = (1.0, 5.0),
    levels: Levels = cosine_levels,
    weight: Callable[..., Array] = truncated_snr_weight,
    distance: Distance = squared,
    num_steps: int = 256,
    num_updates: int = 50_000,
) -> Method:
    """Stage 1: a guided model in one network (Meng et al., arXiv 2210.03142, section 3.1, algorithm
    1).

    Args:
        teacher: conditional ``D(y, level, cond)`` that answers ``cond=None`` with the unconditional
            posterior mean; frozen. Without labels in the batch, guidance changes nothing.
        student: of a network that takes one label more (the guidance weight).
        guidance_range: the range of guidance weights, 1 the plain conditional model.
        levels: training levels are ``levels(u, low, high)``, u uniform in (0, 1).
        weight: ``weight(level, sigma_data)`` of the squared error of x0.
        distance: per sample.
        num_steps: of Euler's method, the sampler's default.
        num_updates: for the default optimiser.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: unless the range rises.

    The sampler's option ``guidance`` is the guidance weight (the first of the range by default),
    one network call per evaluation instead of two. Recipe: w in [0, 4] (here 1 to 5), optimiser and
    batches of progressive distillation. Cost: two teacher calls per update. Fails outside the range
    of weights. Deviation: the weight enters as its place in the range, by the network's own
    embedding.
    """
    _check(guidance_range)

    def student_loss(step: Step) -> Array:
        key_weight, key_level, key_noise = jax.random.split(step.key, 3)
        w = draw_weights(key_weight, step.x0, guidance_range)
        u = jax.random.uniform(key_level, step.x0.shape[:1], step.x0.dtype)
        s = levels(u, student.low, student.high)
        y = perturb(step.x0, s, jax.random.normal(key_noise, step.x0.shape, step.x0.dtype))
        guided = classifier_free(step.context.frozen["teacher"], w, student.null)(y, s, step.cond)
        point = TargetPoint(y, s, jax.lax.stop_gradient(guided))
        return progressive_loss(
            _with_guidance(step, guidance_condition(w, guidance_range)),
            point,
            weight(s, student.sigma_data),
            distance,
        )

    return _weighted(student, student_loss, levels, num_updates, teacher, guidance_range, num_steps)


def guided_progressive_distillation(
    teacher: Denoiser,
    student: Student,
    *,
    guidance_range: Range = (1.0, 5.0),
    num_steps: int = 4,
    stochastic: bool = False,
    levels: Levels = cosine_levels,
    weight: Callable[..., Array] = truncated_snr_weight,
    distance: Distance = squared,
    substeps: int = 2,
    num_updates: int = 50_000,
) -> Method:
    """Stage 2: one round of progressive distillation that keeps the guidance weight as an input
    (2210.03142, section 3.2, algorithm 2).

    Args:
        teacher: ``D(y, level, cond, extra=...)``, which is conditioned on the weight as the student
            is: the student of stage 1, or of the round before. Frozen.
        student: of a network that takes one label more, the guidance weight; starts as the teacher.
        guidance_range: the range of guidance weights, 1 the plain conditional model.
        num_steps: N, of the student.
        stochastic: learn steps over two intervals of the N-step grid (from the last levels, to 0),
            from a teacher that steps over one, and sample with noise by :func:`double_steps`
            (section 3.3, algorithm 4).
        levels: ``levels(u, low, high)``, the grid of the round.
        weight: ``weight(level, sigma_data)`` of the squared error of x0.
        distance: per sample.
        substeps: the teacher's steps in one of the student's; 2 in the paper.
        num_updates: of this round, for the default optimiser, whose rate reaches 0 with the last.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: unless the range of weights rises.

    The sampler, in ``num_steps`` steps and no others, has the option ``guidance``. Recipe: that of
    progressive distillation. Cost and failures are
    those of progressive distillation; deviations those of stage 1.
    """
    _check(guidance_range)
    span = 2 if stochastic else 1

    def student_loss(step: Step) -> Array:
        key_weight, key = jax.random.split(step.key)
        extra = guidance_condition(
            draw_weights(key_weight, step.x0, guidance_range), guidance_range
        )
        point = target_point(
            step._replace(key=key),
            student,
            num_steps,
            levels,
            substeps=substeps,
            span=span,
            extra=extra,
        )
        return progressive_loss(
            _with_guidance(step, extra), point, weight(point.s, student.sigma_data), distance
        )

    method = _weighted(
        student, student_loss, levels, num_updates, teacher, guidance_range, num_steps, stochastic
    )
    return in_steps(num_steps, method)


def _with_guidance(step: Step, extra: Array) -> Callable[[Array, Array], Array]:
    return lambda y, s: step.student(y, s, extra=extra)


def _weighted(
    student: Student,
    student_loss: Callable[[Step], Array],
    levels: Levels,
    num_updates: int,
    teacher: Denoiser,
    guidance_range: Range,
    num_steps: int,
    stochastic: bool = False,
) -> Method:
    """Return the method whose sampler is conditioned on a guidance weight."""
    solver = double_steps if stochastic else solvers.euler
    method = regression(
        student,
        student_loss,
        lambda num_steps: table(solver, nested_levels(student, levels, num_steps)),
        optimiser=annealed(num_updates),
        teacher=teacher,
    )

    def sampler(
        state: Any,
        num_steps: int = num_steps,
        ema: str | None = None,
        guidance: float = guidance_range[0],
    ) -> Sampler:
        check_guidance_weight(guidance, *guidance_range)
        made = method.sampler(state, num_steps=num_steps, ema=ema)
        extra = jnp.asarray(guidance_condition(guidance, guidance_range), jnp.float32)
        return made._replace(denoiser=conditioned(made.denoiser, extra=extra))

    return method._replace(sampler=with_range(sampler, *guidance_range))


def _check(guidance_range: Range) -> None:
    if not guidance_range[0] < guidance_range[1]:
        raise ValueError(f"guidance_range is (low, high) with low < high; got {guidance_range}")
