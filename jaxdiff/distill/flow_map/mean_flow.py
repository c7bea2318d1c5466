"""Mean flow: a network that knows the average of the flow's field between two times.

In the time t of the rectified flow, x_t = (1 - t) x0 + t eps, with the field
v(x, t) = E[eps - x0 | x_t = x] = (x - D)/t and its exact map G(x, t -> r), the average

    u(x, t, r) = (x - G(x, t -> r))/(t - r),      u(x, t, t) = v(x, t),

is the one function with (the mean flow identity)

    u = v - (t - r) du/dt,      du/dt = (d u/dx) v + d u/dt,   r held fixed,

one forward derivative along (v, 1, 0). Training regresses u onto sg[v - (t - r) du/dt]. Equally,
it requires dG/dt = v - u - (t - r) du/dt = 0: that the jump does not depend on where on its
trajectory it starts, which is the continuous consistency model of two times.

The field is unknown. The paper has eps - x0 in place of v, twice; its mean is right, its noise
goes through the derivative. The improved mean flow puts the network's own u(x, t, t) into the
derivative, so that V = u + (t - r) sg(du/dt) is regressed onto eps - x0 as in flow matching; a
teacher's field has no noise at all.

A level s is the time t = s/(1 + s); a jump in t is a jump between levels with the denoised output
g = x - t u. So students are the ``D(y, s, target=r)`` of the whole library, and a network trained
by EDM's preconditioning is read as a field without any division.

Sources: Geng et al. 2505.13447 (mean flow), Geng et al. 2512.02012 (improved).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.distill.flow_map.mean_flow_targets import (
    adaptive_loss,
    check_weight,
    draw_guidance,
    guided_target,
    held,
    mean_field,
    mean_flow_target,
    normalised_loss,
    teacher_field,
)
from jaxdiff.distill.flow_map.times import (
    CIFAR_PAIRS,
    IMAGENET_PAIRS,
    Pairs,
    flow_map_tables,
    noisy,
)
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.guidance_weights import check_guidance_weight
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tangents import warmup
from jaxdiff.method import Method
from jaxdiff.ranges import Natural, NotNegative, in_range
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Array, Cond, Denoiser


def _with_guidance(
    D: Any, numbers: Array, y: Array, level: Array, cond: Cond = None, **options: Any
) -> Array:
    extra = jnp.broadcast_to(numbers.astype(y.dtype), (y.shape[0], numbers.shape[-1]))
    return D(y, level, cond, extra=extra, **options)


@in_range
def mean_flow(
    student: Student,
    *,
    teacher: Denoiser | None = None,
    pairs: Pairs = CIFAR_PAIRS,
    power: NotNegative = 0.75,
    c: NotNegative = 1e-3,
    normalise: bool = False,
    warmup_updates: Natural = 0,
    omega: float = 1.0,
    kappa: float = 0.0,
) -> Method:
    """Mean flow (Geng et al., arXiv 2505.13447, algorithm 1), with or without a teacher.

    Args:
        student: its network takes two labels. Adam with learning rate 6e-4 after a warm-up
            of 10,000 updates by default. The derivative magnifies the label's slope at late times;
            ``label=saturating`` keeps it small (:func:`jaxdiff.distill.flow_map.times.saturating`).
        teacher: its field in place of eps - x0: distillation, and nothing in the target is noisy.
        pairs: of times, by default those of the first published CIFAR-10 run.
        power, c: of the adaptive weight; power 0 is plain least squares.
        normalise: weigh by |residual| instead of its square
            (:func:`jaxdiff.distill.flow_map.mean_flow_targets.normalised_loss`).
        warmup_updates: in which the derivative's share grows from 0 to 1.
        omega, kappa: guidance of weight omega/(1 - kappa), baked in
            (:func:`jaxdiff.distill.flow_map.mean_flow_targets.guided_field`).

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for guidance of a student without a null condition that it learns, and for a c
            where power is 0.

    Recipe: CIFAR-10, batch 1024, 800k updates, dropout 0.2, FID 2.92 at 1 evaluation.
    Deviations: the network is conditioned on both times, not t and t - r; no augmentation; each
    sample draws whether its times differ, as in the published code for CIFAR-10, where that for
    ImageNet fixes the share in a batch; fields that guide have the step's dropout masks, there
    none. Times end at those of the student's levels, t = 0.988 and r = 0.002 by default, since what
    most networks are conditioned on grows without bound towards 1 and 0; the paper's [0, 1] is a
    student given t itself, with ``prediction="flow", process=RectifiedFlow(), low=0.0, high=1e6``.
    Fails: the derivative's noise at late times; and in few dimensions, with power > 0 and no
    teacher, the minimum is not the mean, because the weight depends on the noise: take power 0
    there. Cost: one network call with a derivative, 1.4 times score matching; a teacher or guidance
    add their calls.
    """
    check_weight(power, c, 1e-3)
    guided = omega != 1.0 or kappa != 0.0
    if guided:
        _check_guidance(student, kappa)

    def student_loss(step: Step) -> Array:
        x, t, r, field, _ = noisy(student, pairs, step)
        if step.teacher is not None:
            field = teacher_field(step.teacher)(x, t)
        if guided:
            field = guided_target(student, step, x, t, field, omega, kappa)
        share = warmup(step.context.step, warmup_updates).astype(x.dtype)
        value, target = mean_flow_target(mean_field(student, step), x, t, r, field, share=share)
        loss = normalised_loss if normalise else adaptive_loss
        return loss(value, target, power, c)

    tables = flow_map_tables(student)
    return regression(
        student, student_loss, tables, optimiser=warmed(6e-4, 10_000), teacher=teacher
    )


@in_range
def improved_mean_flow(
    student: Student,
    *,
    teacher: Denoiser | None = None,
    pairs: Pairs = IMAGENET_PAIRS,
    power: NotNegative = 1.0,
    c: NotNegative = 1e-2,
    largest: float | None = None,
) -> Method:
    """Improved mean flow (Geng et al., arXiv 2512.02012): a regression of V = u + (t - r) sg(du/dt)
    onto eps - x0, the derivative taken along the network's own field u(x, t, t).

    Args:
        student: its network takes two labels, five with guidance. Adam with learning rate 1e-4 and
            betas 0.9 and 0.95, after 12,500 updates of a linear warm-up (10 epochs in batches of
            1024), by default.
        teacher, pairs, power, c: as of :func:`mean_flow`.
        largest: of the guidance weights. With it the network is conditioned on a weight and the
            interval of times it applies in
            (:func:`jaxdiff.distill.flow_map.mean_flow_targets.draw_guidance`), and ``sampler(...,
            guidance=1.0, interval=(0.0, 1.0))`` chooses them.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: as :func:`mean_flow`.

    Recipe: ImageNet 256 latents, FID 1.72 at 1 evaluation. Deviations: the own field is u(x, t, t),
    the paper's variant without a head of its own; where t = r the interval of guidance is drawn as
    elsewhere, in published code it is the whole. Failure: as mean flow's, less of it, for no
    conditional noise passes through the derivative. Cost: one more network call than mean flow, 1.7
    times score matching; guidance adds two.
    """
    check_weight(power, c, 1e-2)
    if largest is not None:
        _check_guidance(student, 1.0 - 1.0 / largest)

    def student_loss(step: Step) -> Array:
        x, t, r, field, key = noisy(student, pairs, step)
        if step.teacher is not None:
            field = teacher_field(step.teacher)(x, t)
        condition = None
        if largest is not None:
            condition, kappa = draw_guidance(key, t, largest)
            field = guided_target(student, step, x, t, field, 1.0, kappa, condition)
        tangent = mean_field(student, held(step), condition)(x, t, t)
        u = mean_field(student, step, condition)
        return adaptive_loss(*mean_flow_target(u, x, t, r, field, tangent), power, c)

    tables = flow_map_tables(student)
    adam = warmed(1e-4, 12_500, b2=0.95)
    method = regression(student, student_loss, tables, optimiser=adam, teacher=teacher)

    def sampler(
        state: Any,
        guidance: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        **options: Any,
    ) -> Sampler:
        assert largest is not None
        check_guidance_weight(guidance, 1.0, largest)
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(f"an interval of times is within [0, 1]; got {interval}")
        plain = method.sampler(state, **options)
        numbers = jnp.asarray([1.0 - 1.0 / guidance, *interval], jnp.float32)
        D = jax.tree_util.Partial(_with_guidance, plain.denoiser, numbers)
        return plain._replace(denoiser=D)

    return method if largest is None else method._replace(sampler=sampler)


def warmed(rate: float, num_updates: int, b2: float = 0.999) -> optax.GradientTransformation:
    """Return Adam whose learning rate grows from 0 to ``rate`` within so many updates."""
    return optax.adam(optax.linear_schedule(0.0, rate, num_updates), b2=b2)


def _check_guidance(student: Student, kappa: float) -> None:
    if student.no_condition is None or not student.label_drop:
        raise ValueError(
            "guidance needs a student with classes=, the number of the null class (or null= of "
            "another condition), and label_drop= above 0, without which it is never learnt"
        )
    if not 0.0 <= kappa < 1.0:
        raise ValueError(f"kappa must be in [0, 1), not {kappa}: the weight is omega/(1 - kappa)")
