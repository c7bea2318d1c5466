"""What is trained, and how a method is made of a loss per sample.

A method of distillation differs from another in one formula. Everything around it is here: the
student's network becomes a denoiser, labels are dropped, dropout masks are shared by all calls of a
step, a target network is the student itself or its moving average, the teacher is frozen and
travels as an argument.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff import grids, solvers
from jaxdiff.distill.primitives import drop_labels
from jaxdiff.method import Batch, Context, Decay, Method, Metrics, Player
from jaxdiff.prediction import as_partial, denoiser
from jaxdiff.process import EDM, Number, Process
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Cond, Denoiser, Key, Network, Params

_KARRAS = EDM()


class Student(NamedTuple):
    """What a method trains.

    network: ``network(params, x, label, cond, key=...)``.
    params: where it starts, usually the teacher's parameters; or ``init(key) -> params``.
    prediction, process, sigma_data, label: how the network is made a denoiser
        (:func:`jaxdiff.prediction.denoiser`).
    low, high: the lowest noise level that is told from none, and the level that sampling starts
        from.
    classes: number of classes, if the data have labels; the class of this number means no label.
    label_drop: fraction of labels replaced by it.
    optimiser: None for the method's own.
    ema: moving averages to keep, by name (:mod:`jaxdiff.training.ema`).
    """

    network: Network
    params: Params | Callable[[Key], Params]
    prediction: str = "edm"
    process: Process = _KARRAS
    sigma_data: Number = 0.5
    label: Callable[[Array], Array] | None = None
    low: float = 0.002
    high: float = 80.0
    classes: int | None = None
    label_drop: float = 0.0
    optimiser: optax.GradientTransformation | None = None
    ema: Mapping[str, Decay] = {}

    def denoiser(self, params: Params, sigma_min: float = 0.0) -> jax.tree_util.Partial:
        """Return the student's denoiser; with ``sigma_min`` it is the identity at that level."""
        return denoiser(
            self.network, params, prediction=self.prediction, process=self.process,
            sigma_data=self.sigma_data, sigma_min=sigma_min, label=self.label,
        )  # fmt: skip


class Step(NamedTuple):
    """What a loss is made of in one step of training.

    student: the student as ``D(y, level, target=..., extra=..., full=...)``, condition and dropout
        masks bound; gradients flow through it.
    target: the same with the target network's parameters, which get no gradient.
    teacher: the frozen teacher, ``D(y, level)``; None without.
    x0: the batch's data (batch, *shape). cond: their labels, some dropped; or None.
    batch: the batch itself. context: see :class:`jaxdiff.method.Context`. key: for this step's
        draws. params: the student's parameters.
    own: ``own(denoiser)`` binds condition and masks to another denoiser; with ``rows=``, a slice,
    those of a part of the batch.
    """

    student: Callable[..., Any]
    target: Callable[..., Any]
    teacher: Callable[..., Array] | None
    x0: Array
    cond: Cond
    batch: Batch
    context: Context
    key: Key
    params: Params
    own: Callable[..., Callable[..., Any]]


Each = Callable[[Step], Array | tuple[Array, Metrics]]


def regression(
    student: Student,
    each: Each,
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
        each: ``each(step) -> (batch,)`` numbers, or these and metrics.
        tables: ``tables(steps, **options)`` is the table that the student samples with.
        optimiser: unless the student brings its own.
        teacher: ``D(y, level, cond)``, frozen; with parameters, as a ``jax.tree_util.Partial``.
        target: decay of the target network; None if it is the student itself, held fixed.
        sigma_min: the level at which the student is the identity (:meth:`Student.denoiser`).
        frozen: further trees for ``step.context.frozen``, which has the teacher as "teacher".
    """

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        key_label, key_dropout, key = jax.random.split(key, 3)
        cond = drop_labels(key_label, batch.get("label"), student.label_drop, student.classes)

        def own(D: Any, rows: slice = slice(None)) -> Callable[..., Any]:
            told = jax.tree.map(lambda a: a[rows], cond)
            return lambda y, s, **options: D(y, s, told, key=key_dropout, **options)

        slow = params if target is None else context.ema["student"]["target"]
        fixed = jax.tree.map(jax.lax.stop_gradient, slow)
        T = context.frozen.get("teacher")
        step = Step(
            student=own(student.denoiser(params, sigma_min)),
            target=own(student.denoiser(fixed, sigma_min)),
            teacher=None if T is None else lambda y, s: T(y, s, cond),
            x0=batch["image"], cond=cond, batch=batch, context=context, key=key,
            params=params, own=own,
        )  # fmt: skip
        answer = each(step)
        values, metrics = answer if isinstance(answer, tuple) else (answer, {})
        value = jnp.mean(values)
        return value, {"loss": value, **metrics}

    def sampler(state: Any, steps: int = 1, ema: str | None = None, **options: Any) -> Sampler:
        return Sampler(trained(student, state, ema, sigma_min), tables(steps, **options))

    if target is not None and "target" in student.ema:
        raise ValueError('"target" is the name of the target network\'s average; choose another')
    averages = dict(student.ema) | ({} if target is None else {"target": target})
    params = student.params
    held = dict(frozen or {}) | ({} if teacher is None else {"teacher": as_partial(teacher)})
    return Method(
        init=lambda key: {"student": params(key) if callable(params) else params},
        players={"student": Player(loss, student.optimiser or optimiser, ema=averages)},
        sampler=sampler,
        frozen=held,
    )


def flow_levels(student: Student, steps: int, last: float = 0.0) -> list[float]:
    """The student's levels from its highest to ``last``, in equal steps of rectified-flow time."""
    even = grids.flow(steps, start=student.high / (1.0 + student.high))
    return [student.high, *even[1:-1].tolist(), last]


def jump_table(levels: Sequence[float], gamma: float = 0.0) -> Table:
    """Jumps of a flow map from level to level, with ``gamma`` noise added after each
    (:func:`jaxdiff.solvers.gamma_sampling`).
    """
    if gamma:
        return table(solvers.gamma_sampling, levels, gamma=gamma)
    return table(solvers.jump, levels)


def in_steps(number: int, method: Method) -> Method:
    """The method with a sampler for ``number`` steps only: its student has seen the levels of that
    grid alone, and with others is worse than with its own. ValueError for others.
    """

    def sampler(state: Any, steps: int = number, **options: Any) -> Sampler:
        if steps != number:
            raise ValueError(f"this student samples in {number} steps, not {steps}")
        return method.sampler(state, steps=steps, **options)

    return method._replace(sampler=sampler)


def trained(
    student: Student, state: Any, ema: str | None = None, sigma_min: float = 0.0
) -> jax.tree_util.Partial:
    """Return the denoiser of a trained student: its parameters, or the average named ``ema``."""
    params = state.params["student"] if ema is None else state.ema["student"][ema]
    return student.denoiser(params, sigma_min)
