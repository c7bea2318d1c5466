"""Multistep consistency models: a consistency model within each of a few segments.

The levels from the highest to 0 are divided into segments. Within the one that ends at level e, a
point y_t goes to a lower level r by a teacher's step (or, without a teacher, by the noise it was
made with), from there to e by the student's own step, and the student is to reach that point in one
step from t:

    z = jump(y_r, r -> e, sg D(y_r, r)),     target = implied(y_t, t, z, e),
    E w(t) |D(y_t, t) - target|^2.

One segment is a consistency model, as many segments as steps the teacher itself; progressive
distillation and TRACT have the same target. The student is sampled by Euler's method (DDIM) on the
ends of the segments, and by nothing else.

The grid has N intervals per segment, uniform in level^(1/rho); N grows during training. The
teacher's step is adjusted DDIM (:mod:`jaxdiff.solvers.adjusted_ddim`). The paper's time and
segments are uniform in its own cosine-like schedule.

Source: Heek, Hoogeboom and Salimans, arXiv 2403.06807, algorithm 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import grids, solvers
from jaxdiff.arrays import expand
from jaxdiff.distance import Distance, squared
from jaxdiff.distill.consistency.consistency import easy_pair
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.levels import grid_index, karras_level
from jaxdiff.distill.parts.primitives import implied, jump
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import in_steps
from jaxdiff.distill.parts.teacher import SolverStep
from jaxdiff.method import Method
from jaxdiff.prediction import edm_weight
from jaxdiff.ranges import Positive, in_range
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.adjusted_ddim import adjusted_ddim_step
from jaxdiff.typing import Array, Denoiser, Key


class Triple(NamedTuple):
    """Levels t > r >= end, (batch,) each: two neighbours of the grid, and their segment's end."""

    t: Array
    r: Array
    end: Array


def intervals(step: Array, num_updates: int, first: int, last: int) -> Array:
    """Intervals of the whole grid at update ``step``, from ``first`` to ``last`` exponentially
    within ``num_updates`` (2403.06807: 64, 1280 and 100,000).
    """
    done = jnp.minimum(step.astype(float) / max(1, num_updates), 1.0)
    return jnp.round(first * jnp.exp(done * np.log(last / first).item()))


def segment_levels(
    key: Key, x0: Array, segments: int, each: Array | int, low: float, high: float, rho: float
) -> Triple:
    """Return one triple per sample of ``x0`` on a grid of ``segments`` times ``each`` intervals,
    all alike likely. ``each`` may be traced. The last level is 0 instead of ``low``.
    """
    count = jnp.asarray(each).astype(x0.dtype)
    index = grid_index(key, x0, segments * count)
    last = segments * count

    def level(i: Array) -> Array:
        s = karras_level(i, last + 1.0, low, high, rho)
        return jnp.where(i >= last, 0.0, s)

    ends = (jnp.floor(index / count) + 1.0) * count
    return Triple(level(index), level(index + 1.0), level(ends))


def segment_target(
    f: Callable[[Array, Array], Array], y_t: Array, y_r: Array, levels: Triple
) -> Array:
    """Return the denoised output whose step from y_t ends where ``f`` takes y_r; no gradient."""
    t, r, end = levels
    inside = r > end
    safe = jnp.where(inside, r, t)  # any level that can be divided by: where r = end, y_r is there
    reached = jump(y_r, safe, end, f(y_r, safe))
    z = jnp.where(expand(inside, y_t).astype(bool), reached, y_r)
    return jax.lax.stop_gradient(implied(y_t, t, z, end))


@in_range
def multistep_consistency(
    teacher: Denoiser | None,
    student: Student,
    *,
    segments: int = 8,
    num_updates: int = 100_000,
    first: int = 64,
    last: int = 1280,
    solver_step: SolverStep = adjusted_ddim_step,
    distance: Distance = squared,
    weight: Callable[..., Array] = edm_weight,
    rho: Positive = 7.0,
) -> Method:
    """Multistep consistency distillation, or training without a teacher (Heek et al., arXiv
    2403.06807, algorithm 1).

    Cost: two network calls per update, one of them with gradient, and one of the teacher. Failure
    modes: near a segment's end the target is a difference divided by a small number, so its errors
    are large there; the number of steps is fixed by the training. Deviations: those of the module:
    a Karras grid in place of the cosine schedule's time, the weight of data of any scale.
    Recipe: the grid of all segments grows from 64 to 1280 intervals within 100,000 updates.

    Args:
        teacher: ``D(y, level, cond)``, frozen; None for consistency training, whose targets
            scatter.
        student: starts as the teacher; Adam at 1e-4 by default.
        segments: of the trajectory; also the evaluations that the student samples in.
        num_updates: updates within which the grid is refined.
        first, last: its intervals at the start and in the end, in all segments together.
        solver_step: the teacher's solver step.
        distance: per sample.
        weight: ``weight(level, sigma_data)``; the default is for data of standard deviation
            sigma_data what SNR + 1, the weight of v, is for data of standard deviation 1.
        rho: of the grid.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for numbers that do not increase, and for a solver step without a teacher.
    """
    if not 1 <= segments <= first <= last:
        raise ValueError(
            f"1 <= segments <= first <= last is needed, not {segments}, {first} and {last}"
        )
    if teacher is None and solver_step is not adjusted_ddim_step:
        raise ValueError("solver_step= is the teacher's, and there is no teacher")

    def student_loss(step: Step) -> Array:
        key_level, key_noise = jax.random.split(step.key)
        count = jnp.round(intervals(step.context.step, num_updates, first, last) / segments)
        ends = (student.low, student.high, rho)
        levels = segment_levels(key_level, step.x0, segments, count, *ends)
        eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
        pair = easy_pair(step.teacher, step.x0, levels.t, levels.r, eps, solver_step)
        target = segment_target(step.target, pair.y_t, pair.y_r, levels)
        error = distance(step.student(pair.y_t, levels.t), target)
        return weight(levels.t, student.sigma_data) * error

    def tables(num_steps: int) -> Table:
        ends = grids.karras(num_steps, student.low, student.high, rho=rho, zero=False)
        return table(solvers.euler, [*np.asarray(ends)[:-1].tolist(), 0.0])

    method = regression(student, student_loss, tables, optimiser=optax.adam(1e-4), teacher=teacher)

    return in_steps(segments, method)
