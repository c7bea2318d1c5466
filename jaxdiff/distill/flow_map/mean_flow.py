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

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import expand, has_condition, null_condition
from jaxdiff.denoisers import predictor
from jaxdiff.distill.flow_map.times import (
    CIFAR_PAIRS,
    IMAGENET_PAIRS,
    Pairs,
    flow_map_tables,
    noisy,
)
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tangents import adaptive, along, norm, warmup
from jaxdiff.method import Method
from jaxdiff.process import Process, RectifiedFlow
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Array, Cond, Denoiser, Key

Field: TypeAlias = Callable[[Array, Array], Array]
"""v(x, t): states (batch, *shape), times (batch,)."""
MeanField: TypeAlias = Callable[[Array, Array, Array], Array]
"""u(x, t, r), its value the average from t down to r."""

_FLOW: Process = RectifiedFlow()  # type: ignore[assignment]


def mean_flow_target(
    u: MeanField,
    x: Array,
    t: Array,
    r: Array,
    field: Array,
    tangent: Array | None = None,
    share: Array | float = 1.0,
) -> tuple[Array, Array]:
    """u(x, t, r), and sg[field - share (t - r) du/dt] that it should be (2505.13447, eq. 10 and
    11).

    tangent: dx/dt in the derivative, the field itself if None. share: of the derivative, in
    warm-up. Their difference is dG/dt if share is 1.
    """
    along_flow = field if tangent is None else tangent
    value, rate = along(u, (x, t, r), (along_flow, jnp.ones_like(t), jnp.zeros_like(r)))
    return value, jax.lax.stop_gradient(field - expand(share * (t - r), x) * rate)


def adaptive_loss(value: Array, target: Array, power: float, c: float) -> Array:
    """Return the error e = |value - target|^2 times sg(e + c)^-power, per sample (2505.13447, eq.
    22).
    """
    error = jnp.sum(jnp.square((value - target).reshape(value.shape[0], -1)), axis=1)
    return adaptive(error, power, c)


def normalised_loss(
    value: Array, target: Array, power: float = 1.0, c: float = 0.1, per_number: bool = False
) -> Array:
    """|value - sg[value + g]|^2 with g = d/(|d| + c)^power, d = target - value, per sample.

    The gradient of :func:`adaptive_loss` with another weight: with power 1 no sample pulls with
    more than unit force (2410.11081, section 4.1). ``per_number`` takes d/sqrt(numbers of a
    sample) for d.
    """
    d = target - value
    d = jax.lax.stop_gradient(d / float(d[0].size) ** 0.5 if per_number else d)
    g = d * expand((norm(d) + c) ** -power, d)
    return adaptive_loss(value, jax.lax.stop_gradient(value) + g, 0.0, 0.0)


def guided_field(
    field: Array, own: Array, null: Array, omega: Array | float, kappa: Array | float
) -> Array:
    """Return the field of guidance weight omega/(1 - kappa) as a training target (2505.13447, eq.
    21).

        omega field + kappa own + (1 - omega - kappa) null,

    own, null: u(x, t, t) of the student with and without the condition, which learns to be guided.
    """
    omega, kappa = expand(omega, field), expand(kappa, field)
    return omega * field + kappa * own + (1.0 - omega - kappa) * null


def teacher_field(D: Callable[[Array, Array], Array]) -> Field:
    """Return the field (x - D)/t of a denoiser D(y, level); times in (0, 1)."""

    def field(x: Array, t: Array) -> Array:
        denoised = D(x / expand(1.0 - t, x), t / (1.0 - t))
        return jax.lax.stop_gradient((x - denoised) / expand(t, x))

    return field


def mean_field(student: Student, step: Step, extra: Array | None = None) -> MeanField:
    """Return the student as u(x, t, r); condition, dropout masks and further labels bound."""
    u = step.own(predictor(student.denoiser(step.params), _FLOW, "flow"))
    return lambda x, t, r: u(x, t, target=r, extra=extra)


def held(step: Step) -> Step:
    """Return the step with its parameters fixed."""
    return step._replace(params=jax.tree.map(jax.lax.stop_gradient, step.params))


def unconditional(student: Student, step: Step) -> Step:
    """Return the step with the null condition in place of its own."""
    null = null_condition(step.cond, student.no_condition)

    def own(D: Any) -> Callable[..., Any]:
        return step.own(lambda y, s, cond, **options: D(y, s, null, **options))

    return step._replace(own=own)


def guided_target(
    student: Student,
    step: Step,
    x: Array,
    t: Array,
    field: Array,
    omega: Array | float,
    kappa: Array | float,
    extra: Array | None = None,
) -> Array:
    """Return the guided field where a sample has a label, the plain one where it was dropped."""
    if step.cond is None:
        raise ValueError('guidance needs labels: the batch has no "label"')
    own = mean_field(student, held(step), extra)(x, t, t)
    null = mean_field(student, held(unconditional(student, step)), extra)(x, t, t)
    labelled = expand(has_condition(step.cond, student.no_condition).astype(x.dtype), x) > 0
    return jnp.where(labelled, guided_field(field, own, null, omega, kappa), field)


def draw_guidance(key: Key, t: Array, largest: float) -> tuple[Array, Array]:
    """Random guidance of each sample (2512.02012): the extra conditions, (1 - 1/w, a, b),
    and kappa, which is 1 - 1/w at times within (a, b), else 0. log w is uniform up to ``largest``.
    """
    w, a, b = jax.random.uniform(key, (3, *t.shape), t.dtype)
    kappa = 1.0 - largest**-w
    a, b = 0.5 * a, 0.5 + 0.5 * b
    return jnp.stack([kappa, a, b], axis=1), jnp.where((a <= t) & (t <= b), kappa, 0.0)


def _with_guidance(
    D: Any, numbers: Array, y: Array, level: Array, cond: Cond = None, **options: Any
) -> Array:
    extra = jnp.broadcast_to(numbers.astype(y.dtype), (y.shape[0], numbers.shape[-1]))
    return D(y, level, cond, extra=extra, **options)


def mean_flow(
    student: Student,
    *,
    teacher: Denoiser | None = None,
    pairs: Pairs = CIFAR_PAIRS,
    power: float = 0.75,
    c: float = 1e-3,
    normalise: bool = False,
    warmup_updates: int = 0,
    omega: float = 1.0,
    kappa: float = 0.0,
) -> Method:
    """Mean flow (Geng et al., arXiv 2505.13447, algorithm 1), with or without a teacher.

    Args:
        student: its network takes two labels. Adam with learning rate 6e-4 by default. The
            derivative magnifies the label's slope at late times; ``label=saturating`` keeps it
            small (:func:`jaxdiff.distill.flow_map.times.saturating`).
        teacher: its field in place of eps - x0: distillation, and nothing in the target is noisy.
        pairs: of times, by default those of the first published CIFAR-10 run.
        power, c: of the adaptive weight; power 0 is plain least squares.
        normalise: weigh by |residual| instead of its square (:func:`normalised_loss`).
        warmup_updates: in which the derivative's share grows from 0 to 1.
        omega, kappa: guidance of weight omega/(1 - kappa), baked in (:func:`guided_field`).

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Recipe: CIFAR-10, batch 1024, 800k updates, dropout 0.2, FID 2.92 at 1 evaluation.
    Deviations: the network is conditioned on both times, not t and t - r; no augmentation; each
    sample draws whether its times differ, where published code fixes the share in a batch. Times
    end at those of the student's levels, t = 0.988 and r = 0.002 by default, since what most
    networks are conditioned on grows without bound towards 1 and 0; the paper's [0, 1] is a
    student given t itself, with ``prediction="flow", process=RectifiedFlow(), low=0.0, high=1e6``.
    Fails: the derivative's noise at late times; and in few dimensions, with power > 0 and no
    teacher, the minimum is not the mean, because the weight depends on the noise: take power 0
    there. Cost: one network call with a derivative, 1.4 times score matching; a teacher or guidance
    add their calls.
    """
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
    return regression(student, student_loss, tables, optimiser=optax.adam(6e-4), teacher=teacher)


def improved_mean_flow(
    student: Student,
    *,
    teacher: Denoiser | None = None,
    pairs: Pairs = IMAGENET_PAIRS,
    power: float = 1.0,
    c: float = 1e-2,
    largest: float | None = None,
) -> Method:
    """Improved mean flow (Geng et al., arXiv 2512.02012): a regression of V = u + (t - r) sg(du/dt)
    onto eps - x0, the derivative taken along the network's own field u(x, t, t).

    Args:
        student: its network takes two labels, five with guidance. Adam with learning rate 1e-4 by
            default.
        teacher, pairs, power, c: as of :func:`mean_flow`.
        largest: of the guidance weights. With it the network is conditioned on a weight and the
            interval of times it applies in (:func:`draw_guidance`), and ``sampler(...,
            guidance=1.0, interval=(0.0, 1.0))`` chooses them.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Recipe: ImageNet 256 latents, FID 1.72 at 1 evaluation. Deviations: the own field is u(x, t, t),
    the paper's variant without a head of its own. Failure: as mean flow's, less of it, for no
    conditional noise passes through the derivative. Cost: one more network call than mean flow,
    1.7 times score matching; guidance adds two.
    """
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
    method = regression(student, student_loss, tables, optimiser=optax.adam(1e-4), teacher=teacher)

    def sampler(
        state: Any,
        guidance: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        **options: Any,
    ) -> Sampler:
        if guidance < 1:
            raise ValueError(
                f"the network knows guidance weights from 1 to {largest}, not {guidance}"
            )
        plain = method.sampler(state, **options)
        numbers = jnp.asarray([1.0 - 1.0 / guidance, *interval], jnp.float32)
        D = jax.tree_util.Partial(_with_guidance, plain.denoiser, numbers)
        return plain._replace(denoiser=D)

    return method if largest is None else method._replace(sampler=sampler)


def _check_guidance(student: Student, kappa: float) -> None:
    if student.no_condition is None or not student.label_drop:
        raise ValueError(
            "guidance needs a student with classes=, the number of the null class (or null= of "
            "another condition), and label_drop= above 0, without which it is never learnt"
        )
    if not 0.0 <= kappa < 1.0:
        raise ValueError(f"kappa must be in [0, 1), not {kappa}: the weight is omega/(1 - kappa)")
