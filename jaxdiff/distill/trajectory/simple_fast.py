"""Simple and fast distillation: the student follows the teacher's trajectory on the few levels it
will be sampled at.

From one noise y_0 at the highest level the teacher's solver runs over a fine grid, M levels in each
interval of the student's grid s_0 > ... > s_N, and the student takes Euler steps over the coarse
one. Each of its steps is compared with the teacher's state, and then held fixed for the next:

    y_{n+1} = Euler(D_theta, sg y_n, s_n -> s_{n+1}),     L = sum_n d(y_{n+1}, y^teacher_{n+1}).

So the student is trained on the very states that it meets when sampling, and corrects its own
errors. No data are needed. With the number of steps as a further label, one student serves several.

Source: Zhou et al., arXiv 2409.19681.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import grids, solvers
from jaxdiff.distance import Distance, absolute
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.stage import Before, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import in_steps
from jaxdiff.method import Method
from jaxdiff.sampling.sample import trajectory
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.steps import unit_first
from jaxdiff.typing import Array, Denoiser, Solver


def roll_out_loss(
    D: Callable[[Array, Array], Array],
    targets: Array,
    levels: Sequence[float] | np.ndarray,
    distance: Distance = absolute,
    analytic: bool = False,
    last: Distance | None = None,
) -> Array:
    """Sum over the steps of the student's distance to the teacher's states, (batch,).

    Args:
        targets: (N + 1, batch, *shape), the start and the teacher's state at every level.
        levels: (N + 1,), decreasing.
        analytic: take the first step in closed form (:func:`jaxdiff.solvers.steps.unit_first`),
            which costs nothing and teaches nothing.
        last: added to the distance in the last step.
    """
    y, total = targets[0], jnp.zeros(targets.shape[1], targets.dtype)
    for n, (s, r) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        s, r = float(s), float(r)
        free = analytic and n == 0
        x = unit_first(y, s) if free else D(y, jnp.full(y.shape[0], s, y.dtype))
        y = (r / s) * y + (1.0 - r / s) * x
        if not free:
            total = total + distance(y, targets[n + 1])
        if last is not None and n == len(levels) - 2:
            total = total + last(y, targets[n + 1])
        y = jax.lax.stop_gradient(y)
    return total


def steps_label(num_steps: int) -> float:
    """Return the condition for a number of steps: log2(steps)/4."""
    return float(np.log2(num_steps)) / 4.0


def student_grid(student: Student, num_steps: int, low: float, rho: float = 7.0) -> np.ndarray:
    """Return the student's levels: a Karras grid from its highest level to ``low``, both
    included.
    """
    return grids.karras(num_steps, low, student.high, rho=rho, zero=False)


def sfd(
    teacher: Denoiser,
    student: Student,
    *,
    num_steps: int = 3,
    extra: int = 3,
    solver: Solver = solvers.dpmpp,
    options: Mapping[str, Any] | None = None,
    analytic: bool = True,
    low: float = 0.006,
    rho: float = 7.0,
    distance: Distance = absolute,
    last: Distance | None = None,
    analytic_teacher: bool = False,
) -> Method:
    """Simple and fast distillation, SFD (Zhou et al., arXiv 2409.19681).

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: starts as the teacher; Adam with learning rate 5e-5 by default, in published code a
            tenth of it in the second half of the training. (200 000 trajectories in batches of 128
            on CIFAR-10.)
        num_steps: intervals N of the student's grid. With the analytic first step that is N - 1
            evaluations: the paper's 2-evaluation student has 3.
        extra: M, levels that the teacher has inside each interval.
        solver, options: the teacher's; DPM-Solver++ of order 3 by default.
        analytic: the first step is taken in closed form.
        low: the level where trajectories end, 0.006 in the paper.
        rho: of the Karras grid of the student's levels.
        distance: per sample, L1 in the paper.
        last: a distance that is added in the last step, LPIPS in the paper's second stage.
        analytic_teacher: the teacher, too, takes its first step in closed form.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: fewer steps than 1, or 2 with the analytic first step.

    The sampler's ``num_steps`` counts evaluations; its own number is the one trained for.
    Deviations: the paper updates the parameters after each step of a roll-out, here the steps'
    gradients are added up and make one update. The batch's data are used for their shape and
    labels only.
    Failure mode: bounded by the teacher's solver at N (M + 1) steps; other numbers of steps than
    the trained one are much worse (:func:`jaxdiff.distill.trajectory.simple_fast_steps.sfd_v`); one
    evaluation needs a second stage (:func:`sfd_stages`).
    Cost: per update N (M + 1) teacher calls and N student calls with gradient, the analytic step
    free: about 6 times score matching by default.
    """
    check_roll_out([num_steps], extra, analytic)
    fine = student_grid(student, num_steps * (extra + 1), low, rho)
    first = unit_first if analytic_teacher else None
    path = table(solver, fine, first=first, **solver_options(solver, options))

    def student_loss(step: Step) -> Array:
        eps = jax.random.normal(step.key, step.x0.shape, step.x0.dtype)
        T = step.context.frozen["teacher"]
        states = trajectory(T, path, student.high * eps, step.cond).states[:: extra + 1]
        targets = jax.lax.stop_gradient(states)
        return roll_out_loss(step.student, targets, fine[:: extra + 1], distance, analytic, last)

    method = regression(
        student, student_loss, sfd_tables(student, low, rho, analytic), optimiser=optax.adam(5e-5),
        teacher=teacher,
    )  # fmt: skip
    return in_steps(num_steps - int(analytic), method)


def sfd_tables(student: Student, low: float, rho: float, analytic: bool) -> Callable[[int], Table]:
    """``tables(num_steps)``: Euler on the student's grid in ``num_steps`` evaluations."""

    def tables(num_steps: int) -> Table:
        if num_steps < 1:
            raise ValueError(f"a sampler has at least 1 evaluation, not {num_steps}")
        levels = student_grid(student, num_steps + int(analytic), low, rho)
        return table(solvers.euler, levels, first=unit_first if analytic else None)

    return tables


def sfd_stages(
    teacher: Denoiser,
    student: Callable[[Before | None, float], Student],
    *,
    num_steps: Sequence[int] = (6, 2),
    shares: Sequence[float] = (0.1, 0.9),
    analytic: bool = True,
    last: Distance | None = None,
    **options: Any,
) -> list[Stage]:
    """SFD, then SFD of that student with fewer steps: the paper's way to one evaluation:
    6 intervals become 2, of which the analytic first step is one.

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: ``student(before, share)`` is the student of a stage, which starts as the one
            before left it. The second one's learning rate is 5e-4 in the paper (its first one's
            5e-5), for 2 million trajectories.
        num_steps: intervals of each stage, each a divisor of the one before.
        shares: of the updates.
        analytic: the first step is taken in closed form, in all stages.
        last: distance added in the last step of all stages but the first (LPIPS in the paper).
        options: of :func:`sfd`, for the first stage but for ``low``, ``rho`` and ``distance``,
            which all share.

    Returns:
        Stages in order, for :func:`jaxdiff.training.fit_stages`.

    Raises:
        ValueError: unless each number of intervals divides the one before, with a share each.
    """
    if len(num_steps) != len(shares) or any(
        a % b for a, b in zip(num_steps[:-1], num_steps[1:], strict=True)
    ):
        raise ValueError(
            f"each of the steps {list(num_steps)} must divide the one before; one share each"
        )
    common = {k: v for k, v in options.items() if k in ("low", "rho", "distance")}

    def stage(number: int) -> Stage:
        share = shares[number] / sum(shares)

        def method(before: Before | None) -> Method:
            own = student(before, share)
            if before is None:
                return sfd(teacher, own, num_steps=num_steps[0], analytic=analytic, **options)
            above = before.sampler(num_steps=num_steps[number - 1] - int(analytic)).denoiser
            return sfd(
                above,
                own,
                num_steps=num_steps[number],
                extra=num_steps[number - 1] // num_steps[number] - 1,
                solver=solvers.euler,
                analytic=analytic,
                analytic_teacher=analytic,
                last=last,
                **common,
            )

        return Stage(f"{num_steps[number]}-steps", method, share)

    return [stage(number) for number in range(len(num_steps))]


def check_roll_out(num_steps: Sequence[int], extra: int, analytic: bool) -> None:
    """Raise ValueError for numbers of steps that leave the student nothing to do."""
    least = 2 if analytic else 1
    if not num_steps or min(num_steps) < least or extra < 0:
        raise ValueError(
            f"SFD needs at least {least} steps{' (the first is analytic)' if analytic else ''} and "
            f"extra >= 0; got steps {list(num_steps)} and extra {extra}"
        )


def solver_options(solver: Solver, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options of the teacher's solver; order 3 for DPM-Solver++ unless given."""
    if options is None:
        return {"order": 3} if solver is solvers.dpmpp else {}
    return dict(options)
