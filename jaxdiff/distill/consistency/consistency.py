"""Consistency models: one network that maps every point of a trajectory to its end.

f(y, s) is trained to agree with itself at two levels t > r of one trajectory,

    E w(t, r) d( f_theta(y_t, t), sg f_target(y_r, r) ),

with f(y, s) = c_skip y + c_out F and f(y, s_min) = y exactly. The members of the family differ in
how the pair is made:

    distillation   r, t neighbours on a grid; y_r is one solver step of a teacher from y_t
    training       the same, with y_r = x0 + r eps and the same eps: no teacher
    easy tuning    t log-normal, r = t (1 - q^-(k+1) n(t)) drawing nearer to t in stages k; starts
                   from a diffusion model, with which it coincides at r = 0

Without a teacher the targets scatter, and what is learned is what the distance makes of them: their
mean if it is quadratic over their spread, a median if it is the norm. Only the mean is the flow; in
many dimensions the two agree, in few a small c of the pseudo-Huber distance costs accuracy.

Sources: Song et al. 2303.01469 (CD, CT), Geng et al. 2406.14548 (ECT). Both branches use one
dropout key. Improved and continuous-time members have modules of their own.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import solvers
from jaxdiff.distance import Distance, pseudo_huber, squared
from jaxdiff.distill.consistency.schedules import (
    Weight,
    ct_decay,
    ct_scales,
    ect_level,
    inverse_gap,
)
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.levels import grid_index, karras_level, log_normal_levels
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.teacher import SolverStep, advance
from jaxdiff.method import Decay, Method
from jaxdiff.ranges import Below1, Count, NotNegative, Number, Positive, Several, in_range
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.steps import euler_step, heun_step
from jaxdiff.typing import Array, Denoiser


class Pair(NamedTuple):
    """Two points of one trajectory: (batch, *shape) states at levels t > r, each (batch,)."""

    y_t: Array
    t: Array
    y_r: Array
    r: Array


def consistency_loss(
    f: Callable[[Array, Array], Array],
    target: Callable[[Array, Array], Array],
    pair: Pair,
    distance: Distance,
    weight: Array,
) -> Array:
    """Weight d(f(y_t, t), sg target(y_r, r)) per sample, shape (batch,)."""
    return weight * distance(f(pair.y_t, pair.t), jax.lax.stop_gradient(target(pair.y_r, pair.r)))


def consistency_tables(
    student: Student, intermediate: tuple[float, ...], sigma_min: float = 0.0
) -> Callable[..., Table]:
    """``tables(num_steps, levels=None)``: multistep consistency sampling at these levels."""

    def tables(num_steps: int, levels: list[float] | None = None) -> Table:
        levels = student_levels(num_steps, student.high, intermediate) if levels is None else levels
        return table(solvers.consistency, levels, smallest=sigma_min)

    return tables


def student_levels(num_steps: int, high: float, intermediate: tuple[float, ...]) -> list[float]:
    """Return levels of a sampler in ``num_steps`` evaluations: the highest, then the method's
    intermediate ones, then 0.

    With more steps than known intermediate levels, they are spread log-uniformly between the ends
    of those known.
    """
    if num_steps < 1:
        raise ValueError(f"a sampler has at least 1 step, not {num_steps}")
    known = list(intermediate[: num_steps - 1])
    if len(known) < num_steps - 1:
        known = [
            float(s) for s in np.geomspace(high, min(intermediate, default=0.1), num_steps)[1:]
        ]
    return [high, *known, 0.0]


@in_range
def easy_consistency(
    student: Student,
    *,
    teacher: Denoiser | None = None,
    stage_updates: Count = 25_000,
    q: Positive = 2.0,
    k: Number = 8.0,
    b: Number = 1.0,
    c: NotNegative = 0.0,
    mean: Number = -1.1,
    std: Positive = 2.0,
    least_gap: Positive = 1e-4,
    weight: Weight = inverse_gap,
    solver_step: SolverStep = euler_step,
    intermediate: tuple[float, ...] = (0.821,),
) -> Method:
    """Easy consistency tuning (Geng et al., arXiv 2406.14548): fine-tune a diffusion model into a
    consistency model. Deviations: r stops nearing t at ``least_gap``, before rounding ends it; the
    student is sampled as it was trained, the identity at level 0, where published code samples with
    that at level 0.003.

    Cost: two network calls per update, one of them with gradient; with a teacher one more. Failure
    modes: with c = 0 the gradient does not shrink with the error, so training settles only as the
    learning rate falls; and in few dimensions a median is learned (see the module): a larger c
    cures both. The unsquared norm is made safe where student and target agree.

    Args:
        student: starts as the teacher; RAdam with learning rate 1e-4 by default (the paper's
            CIFAR-10 run: batch 128, dropout 0.2).
        teacher: None, as in the paper, or a denoiser whose step makes y_r from y_t: distillation by
            the same mapping, whose targets do not scatter.
        stage_updates: after each so many steps the stage grows by one and r moves nearer to t by
            the factor q. (The published CIFAR-10 run: 250 ticks of 12,800 images at batch 128; its
            one-hour recipe stays in the first stage.)
        q, k, b: of the mapping r(t), see :func:`jaxdiff.distill.consistency.schedules.ect_level`.
            The paper's one-hour recipe has q = 256 throughout.
        c: of the pseudo-Huber distance; 0 is the paper's unsquared norm.
        mean, std: of log t.
        least_gap: the smallest of the gaps q^-(stage+1).
        weight: of the levels t > r; see also
            :func:`jaxdiff.distill.consistency.schedules.inverse_root_gap`,
            :func:`jaxdiff.distill.consistency.schedules.inverse_level` and
            :func:`jaxdiff.distill.consistency.schedules.inverse_output`.
        solver_step: the teacher's solver step.
        intermediate: the level of two-step sampling (0.821 for CIFAR-10).

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a solver step without a teacher, and for b with k = 0.
    """
    if teacher is None and solver_step is not euler_step:
        raise ValueError("solver_step= is the teacher's, and there is no teacher")
    if k == 0 and b != 1.0:
        raise ValueError("b= is the slope of what k=0 leaves out: give one of them")
    distance = pseudo_huber(c)

    def student_loss(step: Step) -> Array:
        key_level, key_noise = jax.random.split(step.key)
        t = log_normal_levels(key_level, step.x0, mean, std)
        r = ect_level(t, step.context.step // stage_updates, q, k, b, least_gap)
        eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
        pair = easy_pair(step.teacher, step.x0, t, r, eps, solver_step)
        return consistency_loss(step.student, step.target, pair, distance, weight(t, r))

    tables = consistency_tables(student, intermediate)
    return regression(student, student_loss, tables, optimiser=optax.radam(1e-4), teacher=teacher)


def easy_pair(
    teacher: Callable[[Array, Array], Array] | None,
    x0: Array,
    t: Array,
    r: Array,
    eps: Array,
    solver_step: SolverStep = euler_step,
) -> Pair:
    """Y_t = x0 + t eps, and y_r = x0 + r eps, or a teacher's step from y_t to r."""
    y_t = perturb(x0, t, eps)
    y_r = perturb(x0, r, eps) if teacher is None else advance(teacher, y_t, t, r, solver_step)
    return Pair(y_t, t, y_r, r)


@in_range
def consistency_distillation(
    teacher: Denoiser,
    student: Student,
    *,
    scales: Several = 18,
    solver_step: SolverStep = heun_step,
    distance: Distance = squared,
    target: Decay | None = None,
    rho: Positive = 7.0,
    intermediate: tuple[float, ...] = (0.821,),
) -> Method:
    """Consistency distillation (Song et al., arXiv 2303.01469, algorithm 2).

    Recipe: CIFAR-10, 18 levels, batch 512, 800k updates, average 0.9999. Cost: two network calls
    per update, one of them with gradient, and two of the teacher (Heun). Failure modes: few levels
    leave the error of the teacher's steps, many make it slow; more than two steps of sampling gain
    little. Deviation: the distance is l2 unless given.

    Args:
        teacher: ``D(y, level, cond)``; with parameters, as a ``jax.tree_util.Partial``. It is
            frozen.
        student: usually starts as the teacher; its levels ``low`` and ``high`` end the grid. RAdam
            with learning rate 4e-4 by default.
        scales: number of levels on the Karras grid.
        solver_step: the teacher's solver step, Heun's by default.
        distance: per sample; the paper uses LPIPS, which needs a feature network, l2 or l1.
        target: decay of the target network; None, as in the released CIFAR-10 run, is the student
            itself.
        rho: of the Karras grid of levels.
        intermediate: levels of sampling in more than one step.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.
    """

    def student_loss(step: Step) -> Array:
        key_level, key_noise = jax.random.split(step.key)
        t, r = _neighbours(key_level, step.x0, scales, student, rho)
        y_t = perturb(step.x0, t, jax.random.normal(key_noise, step.x0.shape, step.x0.dtype))
        pair = Pair(y_t, t, advance(step.teacher, y_t, t, r, solver_step), r)  # type: ignore[arg-type]
        return consistency_loss(step.student, step.target, pair, distance, jnp.ones_like(t))

    return regression(
        student, student_loss, consistency_tables(student, intermediate, student.low),
        optimiser=optax.radam(4e-4), teacher=teacher, target=target, sigma_min=student.low,
    )  # fmt: skip


@in_range
def consistency_training(
    student: Student,
    *,
    num_updates: int,
    first: Count = 2,
    last: Count = 150,
    decay: Below1 = 0.9,
    distance: Distance = squared,
    rho: Positive = 7.0,
    intermediate: tuple[float, ...] = (0.821,),
) -> Method:
    """Consistency training (Song et al., arXiv 2303.01469, algorithm 3): a consistency model
    without a teacher.

    Recipe: CIFAR-10, batch 512, 800k updates. Cost: two network calls per update, one of them with
    gradient. Failure modes: coarse levels bias it, and a slow target network stops it, so that mu0
    and the schedule must fit the length of training; :func:`easy_consistency` and
    :mod:`jaxdiff.distill.consistency.improved` need less care. Deviation: the distance is l2 unless
    given.

    Args:
        student: RAdam with learning rate 4e-4 by default.
        num_updates: length K of the training, which the schedules N(k) and mu(k) refer to. The
            target network is the student's average with decay mu(k), one of its own beside those of
            ``student.ema`` (the paper samples with 0.9999).
        first, last: s0 and s1, the number of levels at the start and at the end.
        decay: mu0, the target network's decay at the start.
        distance: per sample; the paper uses LPIPS, which needs a feature network, l2 or l1.
        rho: of the Karras grid of levels.
        intermediate: levels of sampling in more than one step.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.
    """

    def student_loss(step: Step) -> Array:
        key_level, key_noise = jax.random.split(step.key)
        scales = ct_scales(step.context.step, num_updates, first, last)
        t, r = _neighbours(key_level, step.x0, scales, student, rho)
        eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
        pair = Pair(perturb(step.x0, t, eps), t, perturb(step.x0, r, eps), r)
        return consistency_loss(step.student, step.target, pair, distance, jnp.ones_like(t))

    return regression(
        student, student_loss, consistency_tables(student, intermediate, student.low),
        optimiser=optax.radam(4e-4), target=ct_decay(num_updates, decay, first, last),
        sigma_min=student.low,
    )  # fmt: skip


def _neighbours(
    key: Array, x0: Array, scales: Array | int, student: Student, rho: float
) -> tuple[Array, Array]:
    """Neighbouring levels t > r on the Karras grid of ``scales`` levels, one uniform pair per
    sample.
    """
    scales = jnp.asarray(scales).astype(x0.dtype)
    index = grid_index(key, x0, scales - 1.0)
    ends = (student.low, student.high, rho)
    return karras_level(index, scales, *ends), karras_level(index + 1.0, scales, *ends)
