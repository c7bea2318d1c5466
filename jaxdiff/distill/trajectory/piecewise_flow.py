"""Piecewise rectified flow (PeRFlow): reflow within windows of time, from noised data.

Times are divided into windows. A datum is noised to the level a that a window starts from, the
teacher solves its flow to the window's end b, and the student learns the straight line from one to
the other:

    y_a = x0 + a eps,   y_b = Phi_teacher(y_a, a -> b),   y_s = y_a + (s - a)(y_b - y_a)/(b - a)
    E w(s) |D(y_s, s) - x|^2,    x = (y_b - (b/a) y_a)/(1 - b/a).

x is the denoised output whose Euler (DDIM) step from a ends at y_b, and is the same all along the
line. Windows are short, so that the teacher's solve is cheap and trains on data, not on pairs made
from noise. One Euler step per window samples such a student.

Lines that are straight in the time and state of any process are straight in y and its level s,
and conversely: x_t = (1 - u) x_a + u x_b has alpha and sigma interpolated likewise. So the paper's
parametrisation by the noise of a DDIM step ("DDIM-consistent") is this one; here the network is
conditioned on the level that the point on the line really has.

Source: Yan et al., arXiv 2405.07510.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import solvers
from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.levels import grid_index
from jaxdiff.distill.parts.primitives import implied, jump, perturb
from jaxdiff.distill.parts.stage import Before, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.teacher import SolverStep, rollout
from jaxdiff.method import Method
from jaxdiff.prediction import snr_weight
from jaxdiff.process import EDM, Process, RectifiedFlow, level, time
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.steps import euler_step
from jaxdiff.typing import Array, Denoiser

Weight = Callable[..., Array]


def window_loss(
    D: Callable[[Array, Array], Array],
    y_a: Array,
    a: Array,
    y_b: Array,
    b: Array,
    s: Array,
    weight: Array,
) -> Array:
    """Weight |D(y_s, s) - x|^2 per sample, (batch,), at the point of level s, a >= s >= b, of the
    line from y_a at level a to y_b at level b.
    """
    x = jax.lax.stop_gradient(implied(y_a, a, y_b, b))
    return weight * squared(D(jump(y_a, a, s, x), s), x)


def window_times(student: Student, windows: int, process: Process) -> tuple[float, float]:
    """First and last time, those of the student's lowest and highest level."""
    if windows < 1:
        raise ValueError(f"there is at least 1 window, not {windows}")
    ends = np.asarray(time(process, jnp.asarray([student.low, student.high], float)))
    return float(ends[0]), float(ends[1])


def perflow(
    teacher: Denoiser,
    student: Student,
    *,
    windows: int = 4,
    solves: int = 8,
    solver_step: SolverStep = euler_step,
    process: Process | None = None,
    weight: Weight = snr_weight,
    at_start: float = 0.0,
) -> Method:
    """PeRFlow (Yan et al., arXiv 2405.07510).

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: starts as the teacher; AdamW with learning rate 8e-5, weight decay 0.01 and
            gradients clipped at norm 1 by default, as in the published script for Stable Diffusion
            1.5 (batches of 32). Its lowest and highest level end the last and the first window.
        windows: number of windows, even in the time of ``process``; 4 in the paper.
        solves: the teacher's steps in a window, 8 in the paper (32 DDIM steps in all).
        solver_step: the teacher's solver step, Euler's (DDIM).
        process: whose time is divided; by default the student's own, as in the paper, or the
            rectified flow's where that is the level itself (EDM's), of which even windows would all
            lie at high noise.
        weight: ``weight(level, sigma_data)`` of the squared error of the denoised output; level^-2,
            the paper's, makes it that of the noise.
        at_start: fraction of the samples taken at the very start of their window, where the student
            is sampled; 0 is the published method, more is this library's.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for no window, no solve, or a fraction outside [0, 1].

    Deviations: the level that the network is conditioned on, see the module; times are continuous,
    where the published ones are multiples of 1/1000, and the place on a window's line is even in
    the time of ``process`` by the level it has, where the published line is even in time itself.
    Failure mode: at a window's edge the exact student is discontinuous in the level, and what a
    smooth network says there, where it is sampled, is a mean of both sides (``at_start`` counters
    it). Fewer steps than windows are not trained for: :func:`perflow_stages` merges windows.
    Cost: per update ``solves`` teacher calls (twice with Heun's step) and 1 student call with
    gradient: about 4 times score matching.
    """
    own = RectifiedFlow() if isinstance(student.process, EDM) else student.process
    clock: Any = own if process is None else process
    first, last = window_times(student, windows, clock)
    if solves < 1 or not 0 <= at_start <= 1:
        raise ValueError(f"needs solves >= 1 and 0 <= at_start <= 1; got {solves}, {at_start}")
    width = (last - first) / windows

    def student_loss(step: Step) -> Array:
        keys = jax.random.split(step.key, 4)
        batch, dtype = step.x0.shape[:1], step.x0.dtype
        start = last - width * grid_index(keys[0], step.x0, windows)
        knots = jnp.linspace(0.0, width, solves + 1, dtype=dtype)
        times = jnp.maximum(start.reshape(1, -1) - knots.reshape(-1, 1), first)
        levels = level(clock, times)
        y_a = perturb(step.x0, levels[0], jax.random.normal(keys[1], step.x0.shape, dtype))
        y_b = rollout(step.teacher, y_a, levels, solver_step)[-1]  # type: ignore[arg-type]
        inside = level(clock, start - width * jax.random.uniform(keys[2], batch, dtype))
        s = jnp.where(jax.random.bernoulli(keys[3], at_start, batch), levels[0], inside)
        s = jnp.clip(s, levels[-1], levels[0])
        w = weight(s, student.sigma_data)
        return window_loss(step.student, y_a, levels[0], y_b, levels[-1], s, w)

    return regression(
        student, student_loss, lambda num_steps: window_table(student, num_steps, windows, clock),
        optimiser=optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(8e-5, weight_decay=0.01)
        ),
        teacher=teacher,
    )  # fmt: skip


def window_table(student: Student, num_steps: int, windows: int, process: Process) -> Table:
    """Euler steps in ``num_steps`` evaluations: spread over the windows, even in time within each,
    the first windows having one more if they do not divide; or, if fewer than windows, even in
    time.
    """
    if num_steps < 1:
        raise ValueError(f"a sampler has at least 1 step, not {num_steps}")
    first, last = window_times(student, windows, process)
    windows = min(windows, num_steps)
    edges = np.linspace(last, first, windows + 1)
    counts = [num_steps // windows + (i < num_steps % windows) for i in range(windows)]
    parts = [np.linspace(edges[i], edges[i + 1], counts[i] + 1)[:-1] for i in range(windows)]
    levels = np.asarray(level(process, jnp.asarray(np.concatenate(parts), float)), np.float64)
    return table(solvers.euler, [student.high, *levels[1:], 0.0])


def perflow_stages(
    teacher: Denoiser,
    student: Callable[[Before | None, float], Student],
    *,
    windows: Sequence[int] = (4, 1),
    shares: Sequence[float] | None = None,
    **options: Any,
) -> list[Stage]:
    """PeRFlow, then PeRFlow of that student in fewer windows, one Euler step per old window.

    Merging windows is this library's, for fewer evaluations than windows. ``student(before,
    share)`` is the student of a stage, which starts as the stage before left it; each number of
    windows divides the one before; shares of the updates, equal by default; options of
    :func:`perflow`, ``solves`` and ``solver_step`` being the first teacher's.

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: ``student(before, share)``, the student of a stage, which starts as the stage
            before left it.
        windows: numbers of windows, each a divisor of the one before.
        shares: of the updates; equal by default.
        options: of :func:`perflow`; ``solves`` and ``solver_step`` are the first teacher's.

    Returns:
        Stages in order, for :func:`jaxdiff.training.fit_stages`.

    Raises:
        ValueError: unless each number of windows divides the one before, with a share each.
    """
    parts = [1.0] * len(windows) if shares is None else list(shares)
    if len(parts) != len(windows) or any(
        a % b for a, b in zip(windows[:-1], windows[1:], strict=True)
    ):
        raise ValueError(
            f"each of {list(windows)} windows must divide the one before; a share each"
        )
    later = {k: v for k, v in options.items() if k not in ("solves", "solver_step")}

    def stage(number: int) -> Stage:
        share = parts[number] / sum(parts)

        def method(before: Before | None) -> Method:
            own = student(before, share)
            if before is None:
                return perflow(teacher, own, windows=windows[0], **options)
            above = before.sampler(num_steps=windows[number - 1]).denoiser
            merged = windows[number - 1] // windows[number]
            return perflow(above, own, windows=windows[number], solves=merged, **later)

        return Stage(f"{windows[number]}-windows", method, share)

    return [stage(number) for number in range(len(windows))]
