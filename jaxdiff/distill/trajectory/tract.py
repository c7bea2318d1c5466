"""TRACT: a student learns to jump over a whole group of a teacher's steps, from itself.

The levels s_0 > ... > s_T of a grid are cut into groups of S steps. For a level s in the group
that ends at e, one step of the teacher leads to the next level s', and the student's own moving
average jumps from there to e:

    z = Phi_teacher(y, s -> s'),     z_e = (e/s') z + (1 - e/s') D_ema(z, s')   (z itself if s' = e)
    E w(s) |D(y, s) - x|^2,          x = (z_e - (e/s) y)/(1 - e/s),

x being the denoised output whose single Euler (DDIM) step from s ends at z_e. At its fixed point
the student's Euler step from any level of a group ends where the teacher's steps end: T steps have
become T/S, in one phase where progressive distillation needs log2(S) of them. A student of one
group that ends at 0 is a consistency model on the grid.

Source: Berthelot et al., arXiv 2303.04248.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import grids, solvers
from jaxdiff.arrays import expand
from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.levels import grid_index
from jaxdiff.distill.parts.primitives import implied, jump, perturb
from jaxdiff.distill.parts.stage import Before, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.teacher import SolverStep, advance
from jaxdiff.method import Method
from jaxdiff.prediction import edm_weight
from jaxdiff.ranges import Below1, in_range
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.steps import euler_step, heun_step
from jaxdiff.typing import Array, Denoiser

Weight = Callable[..., Array]


def tract_target(
    teacher: Callable[[Array, Array], Array],
    own: Callable[[Array, Array], Array],
    y: Array,
    s: Array,
    intermediate: Array,
    end: Array,
    solver_step: SolverStep = heun_step,
) -> Array:
    """Return the denoised output that leads from y at level s to the end of its group: the teacher
    steps to the level ``intermediate``, ``own`` jumps on to ``end``.

    Levels (batch,), s > intermediate >= end >= 0. No gradient.
    """
    z = advance(teacher, y, s, intermediate, solver_step)
    arrived = intermediate == end
    start = jnp.where(arrived, s, intermediate)  # where it has arrived, the jump is not used
    far = jump(z, start, end, own(z, start))
    z = jnp.where(expand(arrived, y).astype(bool), z, far)
    return jax.lax.stop_gradient(implied(y, s, z, end))


@in_range
def tract(
    teacher: Denoiser,
    student: Student,
    *,
    levels: Sequence[float] | np.ndarray | None = None,
    last: int = 1,
    solver_step: SolverStep = heun_step,
    weight: Weight = edm_weight,
    self_ema: Below1 = 0.5,
) -> Method:
    """One phase of TRACT (Berthelot et al., arXiv 2303.04248): the teacher's steps on
    a grid become ``last`` steps of the student.

    The defaults are the paper's EDM variant (40 Heun steps to 1, Adam with learning rate 1e-3,
    batches of 512, no clipping of gradients; samples are taken with an average whose decay is 1e-3
    to the power of one over the updates of a phase). Its VP variant is
    ``levels=grids.of_process(VP(), 1024)``, ``solver_step=euler_step`` (DDIM),
    ``weight=truncated_snr_weight``, Adam with learning rate 2e-4, gradients clipped at norm 1, 96
    million images in two phases 1024 to 32 to 1 (:func:`tract_stages`).

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: starts as the teacher; Adam with learning rate 1e-3 by default.
        levels: the teacher's T + 1 levels, the last one 0; by default a Karras grid of 40 steps
            between the student's levels. Those of the student's steps are every (T/last)-th.
        last: number of groups, and of the student's steps; divides T.
        solver_step: the teacher's solver step.
        weight: ``weight(level, sigma_data)`` of the squared error of the denoised output.
        self_ema: decay of the student's average that makes the targets; 0.5 is the paper's, and
            decisive: with large decays news of a group's end travels slowly, one step of the
            teacher per averaging time.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: levels that do not end in 0, or steps that are no multiple of ``last``.

    Deviations: published code clips the self-teacher's denoised images to [-1, 1] and turns its
    dropout off; here nothing is clipped, for data need not lie there, and targets have the
    student's dropout masks. It puts numbers in place of gradients that are not finite; here
    :func:`jaxdiff.fit` stops at them, or skips the update. Sampling with other numbers of steps
    than ``last``: with one group, multistep consistency sampling on the grid; else Euler steps over
    the grid's nodes, for which the student is not trained.
    Failure mode: errors of the self-teacher add up along a group; long groups need a second phase.
    Cost: per update 1 teacher step (2 calls with Heun's), 1 call of the average and 1 student call
    with gradient: about 2 times score matching.
    """
    knots = grids.karras(40, student.low, student.high) if levels is None else np.asarray(levels)
    check_phase(knots, last)
    num_steps = len(knots) - 1
    group = num_steps // last

    def student_loss(step: Step) -> Array:
        key_level, key_noise = jax.random.split(step.key)
        grid = jnp.asarray(knots, step.x0.dtype)
        index = grid_index(key_level, step.x0, num_steps).astype(jnp.int32)
        s, intermediate, end = grid[index], grid[index + 1], grid[(index // group + 1) * group]
        y = perturb(step.x0, s, jax.random.normal(key_noise, step.x0.shape, step.x0.dtype))
        x = tract_target(step.teacher, step.target, y, s, intermediate, end, solver_step)  # type: ignore[arg-type]
        return weight(s, student.sigma_data) * squared(step.student(y, s), x)

    return regression(
        student,
        student_loss,
        lambda num_steps: tract_table(knots, last, num_steps),
        teacher=teacher,
        optimiser=optax.adam(1e-3),
        target=lambda step: jnp.asarray(self_ema, float),
    )


def tract_table(levels: np.ndarray, last: int, num_steps: int) -> Table:
    """Return the sampler of a student of ``last`` steps, in ``num_steps`` evaluations."""
    if not 1 <= num_steps < len(levels):
        raise ValueError(f"the grid has {len(levels) - 1} steps: no sampler of {num_steps} on it")
    chosen = levels[np.round(np.linspace(0, len(levels) - 1, num_steps + 1)).astype(int)]
    if last == 1 and num_steps > 1:
        return table(solvers.consistency, chosen)
    return table(solvers.euler, chosen)


def check_phase(levels: np.ndarray, last: int) -> None:
    """Raise ValueError for a grid that does not fall into ``last`` groups."""
    if levels.ndim != 1 or len(levels) < 2 or levels[-1] != 0 or not (np.diff(levels) < 0).all():
        raise ValueError("TRACT's levels decrease and end in 0, as those of jaxdiff.grids do")
    if last < 1 or (len(levels) - 1) % last:
        raise ValueError(
            f"{len(levels) - 1} steps do not fall into {last} groups: give a divisor as last"
        )


def tract_stages(
    teacher: Denoiser,
    student: Callable[[Before | None, float], Student],
    levels: Sequence[float] | np.ndarray,
    phases: Sequence[int] = (32, 1),
    *,
    solver_step: SolverStep = heun_step,
    shares: Sequence[float] | None = None,
    **options: object,
) -> list[Stage]:
    """All phases of TRACT: the steps of ``levels`` become ``phases[0]``, these ``phases[1]``, ...

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: ``student(before, share)`` is the student of a phase, which starts as the phase
            before left it; ``share`` is the phase's share of all updates.
        levels: the teacher's grid; the paper's has 1024 steps.
        phases: numbers of steps, each a divisor of the one before.
        solver_step: the first teacher's solver step. A student takes Euler steps when it is the
            teacher.
        shares: of the updates; equal by default, as in the paper.
        options: of :func:`tract`.

    Returns:
        Stages in order, for :func:`jaxdiff.training.fit_stages`.

    Raises:
        ValueError: unless there are as many shares as phases.
    """
    knots = np.asarray(levels)
    counts = [len(knots) - 1, *phases]
    parts = [1.0] * len(phases) if shares is None else list(shares)
    if len(parts) != len(phases):
        raise ValueError(f"{len(phases)} phases have {len(parts)} shares")
    grid_of = [knots[:: counts[0] // count] for count in counts[:-1]]
    for grid, last in zip(grid_of, phases, strict=True):
        check_phase(grid, last)

    def stage(number: int) -> Stage:
        share = parts[number] / sum(parts)

        def method(before: Before | None) -> Method:
            first = before is None
            above = teacher if first else before.sampler(num_steps=counts[number]).denoiser
            return tract(
                above, student(before, share), levels=grid_of[number], last=phases[number],
                solver_step=solver_step if first else euler_step, **options,  # type: ignore[arg-type]
            )  # fmt: skip

        return Stage(f"{counts[number]}-to-{phases[number]}", method, share)

    return [stage(number) for number in range(len(phases))]
