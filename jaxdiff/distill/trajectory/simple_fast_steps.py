"""SFD-v: one student of SFD for several numbers of steps, which it is conditioned on.

Source: Zhou et al., Simple and Fast Distillation of Diffusion Models, arXiv 2409.19681.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff import solvers
from jaxdiff.denoisers import as_partial, conditioned
from jaxdiff.distance import Distance, absolute
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.trajectory.simple_fast import (
    check_roll_out,
    roll_out_loss,
    sfd_tables,
    solver_options,
    steps_label,
    student_grid,
)
from jaxdiff.method import Method
from jaxdiff.sampling.sample import trajectory
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Denoiser, Solver


def sfd_v(
    teacher: Denoiser,
    student: Student,
    *,
    num_steps: Sequence[int] = (3, 4, 5, 6),
    extra: int | Sequence[int] = 3,
    solver: Solver = solvers.dpmpp,
    options: Mapping[str, Any] | None = None,
    analytic: bool = True,
    low: float = 0.006,
    rho: float = 7.0,
    distance: Distance = absolute,
) -> Method:
    """SFD-v (same paper): one student for several numbers of steps, which it is conditioned on.

    Arguments as in :func:`jaxdiff.distill.trajectory.simple_fast.sfd`, but ``num_steps`` are the
    numbers of intervals trained for, and ``extra`` may have one number for each: with few intervals
    the teacher needs more levels inside each, as its trajectory bounds the student's. The student's
    network takes labels (batch, 2), the second being
    :func:`jaxdiff.distill.trajectory.simple_fast.steps_label`. (800 000 trajectories on CIFAR-10.)

    Deviations: the paper draws one number of steps per update; here every update has all of them,
    each on its share of the batch, so that nothing is compiled twice and no control flow surrounds
    a gradient. The sampler conditions the student on the number of intervals nearest to its own
    that was trained for. Otherwise, with its failure modes, as
    :func:`jaxdiff.distill.trajectory.simple_fast.sfd`. Cost: per update one roll-out of the teacher
    for each number of steps on its share of the batch, and as many student calls with gradient as
    that has intervals.

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: of a network that takes labels (batch, 2), the second being
            :func:`jaxdiff.distill.trajectory.simple_fast.steps_label`; starts as the teacher.
        num_steps: numbers of intervals that the student is trained for.
        extra: levels that the teacher has inside each interval, one number or one for each of
            ``num_steps``.
        solver, options: the teacher's; DPM-Solver++ of order 3 by default.
        analytic: the first step is taken in closed form.
        low: the level where trajectories end.
        rho: of the Karras grids of the student's levels.
        distance: per sample.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: as :func:`jaxdiff.distill.trajectory.simple_fast.sfd`; or, at the first batch,
            one that has fewer samples than there are numbers of steps.
    """
    inner = [extra] * len(num_steps) if isinstance(extra, int) else list(extra)
    check_roll_out(num_steps, min(inner, default=-1), analytic)
    if len(inner) != len(num_steps):
        raise ValueError(
            f"{len(num_steps)} numbers of steps have {len(inner)} numbers of extra levels"
        )
    every = {n: m + 1 for n, m in sorted(zip(num_steps, inner, strict=True))}
    counts = list(every)
    fine = {n: student_grid(student, n * every[n], low, rho) for n in counts}
    paths = {n: table(solver, fine[n], **solver_options(solver, options)) for n in counts}

    def share(step: Step, eps: Array, number: int) -> Array:
        n, rows = counts[number], slice(number, None, len(counts))
        cond = jax.tree.map(lambda a: a[rows], step.cond)
        start = student.high * eps[rows]
        states = trajectory(step.context.frozen["teacher"], paths[n], start, cond).states
        targets = jax.lax.stop_gradient(states[:: every[n]])
        D = step.own(student.denoiser(step.params), rows)
        conditioned_student = lambda y, s: D(y, s, extra=steps_label(n))  # noqa: E731
        return roll_out_loss(conditioned_student, targets, fine[n][:: every[n]], distance, analytic)

    def student_loss(step: Step) -> Array:
        if step.x0.shape[0] < len(counts):
            raise ValueError(f"a batch of {step.x0.shape[0]} cannot be shared by {counts} steps")
        eps = jax.random.normal(step.key, step.x0.shape, step.x0.dtype)
        return jnp.concatenate([share(step, eps, i) for i in range(len(counts))])

    tables = sfd_tables(student, low, rho, analytic)
    method = regression(student, student_loss, tables, optimiser=optax.adam(5e-5), teacher=teacher)

    def sampler(state: Any, num_steps: int = 1, ema: str | None = None, **rest: Any) -> Sampler:
        plain = method.sampler(state, num_steps=num_steps, ema=ema, **rest)
        nearest = min(counts, key=lambda n: abs(n - num_steps - int(analytic)))
        D_n = conditioned(as_partial(plain.denoiser), extra=steps_label(nearest))
        return Sampler(D_n, plain.table)

    return method._replace(sampler=sampler)
