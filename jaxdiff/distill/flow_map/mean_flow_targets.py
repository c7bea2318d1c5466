"""Targets and losses of mean flows: the field of the data or of a teacher, guided, and its mean."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff.arrays import expand, has_condition, null_condition
from jaxdiff.denoisers import predictor
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tangents import adaptive, along, norm
from jaxdiff.process import Process, RectifiedFlow
from jaxdiff.typing import Array, Key

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


def check_weight(power: float, c: float, default: float) -> None:
    """ValueError for a c that is given to no weight."""
    if not power and c != default:
        raise ValueError(f"c={c} is of the adaptive weight, which power=0 leaves out")


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
