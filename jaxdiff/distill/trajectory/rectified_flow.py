"""Rectified flow: straight lines between noise and data, and reflow, which makes a flow straight.

With x_t = (1 - t) x0 + t eps the field u(x, t) of a rectified flow minimises

    E |u(x_t, t) - (eps - x0)|^2.

Where x0 and eps are independent this is flow matching, and its flow is that of the diffusion model
(1-rectified flow). Where they are the two ends of a flow's trajectories the lines cross less than
the trajectories bend, and the new flow is straighter: k-rectified flow is trained on the ends of
the (k-1)-th. A flow of straight lines is sampled exactly by one Euler step, u(eps, 1) = eps - x0,
and fitting that at t = 1 alone is its distillation.

In the frame y = x/(1 - t), s = t/(1 - t), whose states start from y = S eps at a finite level S, a
pair of ends (start, image) is joined by y_s = image + s (start - image)/S, that is by x_t with
eps = (start - image)/S: at level S the student sees the very start it will be sampled from.

Sources: Liu, Gong and Liu, arXiv 2209.03003 (flow, reflow, distillation); Lee, Lin and Fanti,
arXiv 2405.20320 (2-rectified flow++); Wu et al., arXiv 2212.01747 (point clouds:
:func:`jaxdiff.distance.chamfer` as the distance).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import solvers
from jaxdiff.arrays import expand
from jaxdiff.denoisers import predictor
from jaxdiff.distance import Distance, squared
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import flow_levels, in_steps
from jaxdiff.method import Method
from jaxdiff.process import RectifiedFlow
from jaxdiff.sampling.sampler import Sampler, sample_any
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Key

Field = Callable[[Array, Array], Array]
Times = Callable[[Key, Array], Array]


def flow_loss(
    u: Field,
    x0: Array,
    eps: Array,
    t: Array,
    distance: Distance = squared,
    perceptual: Distance | None = None,
) -> Array:
    """Return the distance of u(x_t, t) to eps - x0 per sample, (batch,), with t in (0, 1]; and, if
    given, the ``perceptual`` distance of the implied data x_t - t u to x0.
    """
    x = expand(1.0 - t, x0) * x0 + expand(t, x0) * eps
    predicted = u(x, t)
    value = distance(predicted, eps - x0)
    if perceptual is None:
        return value
    return value + perceptual(x - expand(t, x) * predicted, x0)


def uniform_times(key: Key, like: Array) -> Array:
    """Return one time in (0, 1) per sample, uniformly."""
    return jax.random.uniform(key, like.shape[:1], like.dtype, minval=1e-5)


def u_shaped_times(key: Key, like: Array, a: float = 4.0) -> Array:
    """Return one time in (0, 1) per sample, of density proportional to e^(a t) + e^(a (1 - t)):
    most at both ends, where reflow is hardest (2405.20320, with a = 4).
    """
    key_side, key_time = jax.random.split(key)
    v = uniform_times(key_time, like)
    t = jnp.log1p(v * np.expm1(a).item()) / a  # the quantile of e^(a t)
    return jnp.where(jax.random.bernoulli(key_side, 0.5, t.shape), t, 1.0 - t)


def rectified_flow(
    student: Student,
    *,
    times: Times = uniform_times,
    distance: Distance = squared,
) -> Method:
    """1-rectified flow: flow matching on data (Liu et al., arXiv 2209.03003).

    Args:
        student: any whose network :func:`jaxdiff.denoisers.predictor` can read as "flow", those of
            EDM's preconditioning among them. Adam with learning rate 2e-4, warmed up over 5000
            updates, and gradients clipped at norm 1 by default; the paper averages with 0.999999.
        times: ``times(key, like)`` draws t in (0, 1), which is stretched to end at the student's
            highest level.
        distance: of the fields, per sample.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Failure mode: none of its own; its flow is as curved as a diffusion model's, so that it needs
    many evaluations: it is where reflow starts. Cost: that of score matching. Deviation: time ends
    at the student's highest level instead of 1.
    """

    def student_loss(step: Step) -> Array:
        eps = jax.random.normal(jax.random.fold_in(step.key, 1), step.x0.shape, step.x0.dtype)
        t = _times(step.key, step.x0, times, student)
        return flow_loss(_field(student, step), step.x0, eps, t, distance)

    return regression(student, student_loss, flow_tables(student), optimiser=_adam())


def reflow(
    student: Student,
    *,
    teacher: Sampler | None = None,
    times: Times = uniform_times,
    distance: Distance = squared,
    perceptual: Distance | None = None,
) -> Method:
    """Reflow: a rectified flow of the two ends of another flow's trajectories (Liu et al., arXiv
    2209.03003).

    Args:
        student: as in :func:`rectified_flow`, usually starting as the other flow's network. (The
            paper averages with 0.9999.)
        teacher: None for stored pairs, batches with "start" and "image" as made by
            :func:`jaxdiff.sampling.pairs.make_pairs`; or the sampler that makes pairs in every
            update, whose highest level is the student's.
        times, distance, perceptual: 2-rectified flow++ (2405.20320) has :func:`u_shaped_times`,
            ``pseudo_huber(0.00054 * size**0.5)`` and LPIPS of the implied data, and starts from an
            EDM network; the balance of the two distances is the caller's.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: a teacher that draws noise or starts at another level; at the first batch, one
            without pairs.

    Deviations: pairs are joined in the frame of the finite highest level (see the module).
    Failure mode: bounded by the pairs' quality (the paper: adaptive RK45 at 1e-5, a million pairs
    and more); the sampler of many steps gets worse with each round.
    Cost: that of score matching, and the pairs: at least as many teacher solves as the training is
    to see different samples.
    """
    check_teacher(teacher, student)

    def student_loss(step: Step) -> Array:
        key_pair, key_time = jax.random.split(step.key)
        start, image = ends(step, teacher, student, key_pair)
        eps = (start - image) / student.high
        t = _times(key_time, image, times, student)
        return flow_loss(_field(student, step), image, eps, t, distance, perceptual)

    frozen = None if teacher is None else teacher.denoiser
    return regression(
        student, student_loss, flow_tables(student), optimiser=_adam(), teacher=frozen
    )


def reflow_distillation(
    student: Student,
    *,
    teacher: Sampler | None = None,
    distance: Distance = squared,
) -> Method:
    """Distillation of a rectified flow: its one Euler step from noise becomes its end (Liu et al.,
    arXiv 2209.03003): E d(D(start, S), image).

    Args:
        student: starts as the flow.
        teacher: as in :func:`reflow`: pairs of the flow that is distilled.
        distance: per sample; the paper has LPIPS for the 1-rectified flow and L2 for the others.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: as :func:`reflow`.

    Failure mode: with L2, blur where neighbouring noises lead to different data; the straighter
    the flow, the less. The student knows the highest level only and samples in one step. Cost:
    that of score matching, and the pairs. Deviation: the distance is L2 unless given.
    """
    check_teacher(teacher, student)

    def student_loss(step: Step) -> Array:
        start, image = ends(step, teacher, student, step.key)
        return distance(
            step.student(start, jnp.full(start.shape[0], student.high, start.dtype)), image
        )

    frozen = None if teacher is None else teacher.denoiser
    method = regression(
        student, student_loss, flow_tables(student), optimiser=_adam(), teacher=frozen
    )
    return in_steps(1, method)


def flow_tables(student: Student) -> Callable[[int], Table]:
    """``tables(num_steps)``: Euler steps, even in the time of rectified flow, from the student's
    highest level to 0.
    """
    return lambda num_steps: table(solvers.euler, flow_levels(student, num_steps))


def ends(step: Step, teacher: Sampler | None, student: Student, key: Key) -> tuple[Array, Array]:
    """Return the two ends (start, image) of trajectories: the batch's own, or made now."""
    if teacher is None:
        if "start" not in step.batch:
            raise ValueError(
                'reflow needs pairs: batches with "start" and "image", or teacher=, a sampler'
            )
        return step.batch["start"], step.batch["image"]
    start = student.high * jax.random.normal(key, step.x0.shape, step.x0.dtype)
    image = sample_any(step.context.frozen["teacher"], teacher.table, start, step.cond)
    return start, jax.lax.stop_gradient(image)


def check_teacher(teacher: Sampler | None, student: Student) -> None:
    """Raise ValueError for a sampler whose two ends are no pair for the student."""
    if teacher is None:
        return
    if teacher.table.stochastic:
        raise ValueError("pairs need a deterministic sampler; this one draws noise")
    top = float(teacher.table.levels[0])
    if abs(top - student.high) > 1e-6 * student.high:
        raise ValueError(f"the teacher starts at level {top}, the student at {student.high}")


def _field(student: Student, step: Step) -> Field:
    process: Any = RectifiedFlow()
    return step.own(predictor(student.denoiser(step.params), process, "flow"))


def _times(key: Key, like: Array, times: Times, student: Student) -> Array:
    return times(key, like) * (student.high / (1.0 + student.high))


def _adam() -> optax.GradientTransformation:
    rate = optax.linear_schedule(0.0, 2e-4, 5000)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
