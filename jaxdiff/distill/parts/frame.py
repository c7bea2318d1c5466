"""The frame of a loss: what one step of training binds, and a method made of a loss per sample.

A method of distillation differs from another in one formula. Everything around it is here: the
student's network becomes a denoiser, conditions are dropped, dropout masks are shared by all calls
of a step, a target network is the student itself or its moving average, the teacher is frozen and
travels as an argument.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.denoisers import as_partial
from jaxdiff.distill.parts.student import Student, check_teacher, trained
from jaxdiff.method import Batch, Context, Decay, Method, Metrics, Player, is_init
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Denoiser, Key, Params

Values = Array | tuple[Array, Metrics]  # a loss per sample (batch,), or a scalar; with metrics


class Step(NamedTuple):
    """One step of training, as losses see it.

    student: the student as ``D(y, level, target=..., extra=..., full=...)``, condition and dropout
        masks bound; gradients flow through it in its own loss.
    teacher: the frozen teacher, ``D(y, level, ...)``; None without.
    x0: the batch's data (batch, *shape), None without. cond: their conditions, some dropped; or
        None.
    batch: the batch itself. context: see :class:`jaxdiff.method.Context`. key: for this step's
        draws. params: the student's parameters.
    own: ``own(denoiser)`` binds condition and masks to another denoiser; with ``rows=``, a slice,
        those of a part of the batch.
    target: of :func:`regression`, the student with the target network's parameters, which get no
        gradient.
    x: of :func:`jaxdiff.distill.parts.two_players.two_players`, what the student made. fake: the
        fake score as a denoiser. logits: ``logits(y, level, **options)`` of its head, options of
        the denoiser that shows its features.
    """

    student: Callable[..., Any]
    teacher: Any
    x0: Any
    cond: Cond
    batch: Batch
    context: Context
    key: Key
    params: Params
    own: Callable[..., Callable[..., Any]]
    target: Any = None
    x: Any = None
    fake: Any = None
    logits: Any = None


StudentLoss = Callable[[Step], Values]


def bind(student: Student, batch: Batch, key_label: Key, key_dropout: Key) -> tuple[Cond, Any]:
    """Return the batch's conditions, some dropped, and ``own(D, rows=slice(None))``, a denoiser
    with them and the step's dropout masks bound.

    All losses of a method that are to see the same conditions dropped give it the same keys.
    """
    cond = student.condition(key_label, batch)

    def own(D: Any, rows: slice = slice(None)) -> Callable[..., Any]:
        bound = jax.tree.map(lambda a: a[rows], cond)
        return lambda y, s, **options: D(y, s, bound, key=key_dropout, **options)

    return cond, own


def given(D: Any, cond: Cond) -> Callable[..., Any]:
    """Return a denoiser with the conditions bound, without dropout."""
    return lambda y, s, **options: D(y, s, cond, **options)


def bind_teacher(context: Context, cond: Cond) -> Any:
    """Return the frozen teacher with the conditions bound; None without one."""
    T = context.frozen.get("teacher")
    return None if T is None else given(T, cond)


def regression(
    student: Student,
    student_loss: StudentLoss,
    tables: Callable[..., Table],
    *,
    optimiser: optax.GradientTransformation,
    teacher: Denoiser | None = None,
    target: Decay | None = None,
    sigma_min: float = 0.0,
    frozen: Mapping[str, Any] | None = None,
) -> Method:
    """Make the method of one player that minimises the mean of a loss per sample.

    Args:
        student_loss: ``student_loss(step) -> (batch,)`` numbers, or these and metrics.
        tables: ``tables(num_steps, **options)`` is the table that the student samples with.
        optimiser: unless the student brings its own.
        teacher: ``D(y, level, cond)``, frozen; with parameters, as a ``jax.tree_util.Partial``.
        target: decay of the target network; None if it is the student itself, held fixed.
        sigma_min: the level at which the student is the identity
            (:meth:`jaxdiff.distill.parts.student.Student.denoiser`).
        frozen: further trees for ``step.context.frozen``, which has the teacher as "teacher".
    """

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        key_label, key_dropout, key = jax.random.split(key, 3)
        cond, own = bind(student, batch, key_label, key_dropout)
        slow = params if target is None else context.ema["student"]["target"]
        fixed = jax.tree.map(jax.lax.stop_gradient, slow)
        step = Step(
            student=own(student.denoiser(params, sigma_min)),
            target=own(student.denoiser(fixed, sigma_min)),
            teacher=bind_teacher(context, cond), x0=batch["image"], cond=cond, batch=batch,
            context=context, key=key, params=params, own=own,
        )  # fmt: skip
        return mean_loss(student_loss(step))

    check_teacher(teacher, student)
    if target is not None and "target" in student.ema:
        raise ValueError('"target" is the name of the target network\'s average; choose another')
    averages = dict(student.ema) | ({} if target is None else {"target": target})
    return Method(
        init=lambda key: {"student": drawn(student.params, key)},
        players={"student": Player(loss, student.optimiser or optimiser, ema=averages)},
        sampler=sampler_of(student, tables, sigma_min),
        frozen=with_teacher(frozen, teacher),
        check=student.check,
    )


def mean_loss(values: Values) -> tuple[Array, Metrics]:
    """Return a player's loss of a loss per sample: its mean, which is a metric too."""
    values, metrics = values if isinstance(values, tuple) else (values, {})
    value = jnp.mean(values)
    return value, {"loss": value, **metrics}


def drawn(params: Params | Callable[[Key], Params], key: Key) -> Params:
    """Parameters as they start: those given, or what a function of a key draws."""
    return params(key) if is_init(params) else params  # type: ignore[operator]


def with_teacher(frozen: Mapping[str, Any] | None, teacher: Denoiser | None) -> dict[str, Any]:
    """Return a method's frozen trees, the teacher among them as "teacher"."""
    return dict(frozen or {}) | ({} if teacher is None else {"teacher": as_partial(teacher)})


def sampler_of(
    student: Student, tables: Callable[..., Table], sigma_min: float = 0.0
) -> Callable[..., Sampler]:
    """``sampler(state, num_steps=1, ema=None, **options)`` of a method: the trained student in
    ``tables(num_steps, **options)``.
    """

    def sampler(state: Any, num_steps: int = 1, ema: str | None = None, **options: Any) -> Sampler:
        return Sampler(trained(student, state, ema, sigma_min), tables(num_steps, **options))

    return sampler
