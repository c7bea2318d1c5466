"""BOOT: a student that predicts every point of a trajectory from its noise, learnt without data.

A trajectory that starts from the noise eps at the highest level S is y(s) = x(s) + s eps, where the
*signal* x(s) holds what is not noise and is data in the end. With lambda = -log s it satisfies

    dx/dlambda = D(x + s eps, s) - x,        x(S) = D(S eps, S),

whose Euler step from level t to r is x_r = x_t + (1 - r/t)(D(x_t + t eps, t) - x_t): a DDIM step of
y, with r eps taken off. The student f(eps, s) learns each point of it from the point before,

    L = |f(eps, r) - sg[step(f(eps, t) + t eps, t -> r) - r eps]|^2 / delta^2
        + beta |f(eps, S) - D(S eps, S)|^2,

r being the level a time delta after t, or less after S. Here f(eps, s) is the denoiser of a network
that is conditioned on two levels, D_theta(S eps, S, target=s), so that a jump from S to s,
(s/S) y + (1 - s/S) f, is the state there up to a part s/S of the signal.

Source: Gu et al., arXiv 2306.05544.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff import solvers
from jaxdiff.arrays import expand
from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import in_steps
from jaxdiff.distill.parts.teacher import SolverStep, advance
from jaxdiff.method import Method
from jaxdiff.process import Process, TrigFlow, level, time
from jaxdiff.ranges import NotNegative, in_range
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.steps import euler_step
from jaxdiff.typing import Array, Denoiser

Signal = Callable[[Array, Array], Array]


def signal_step(
    D: Callable[[Array, Array], Array],
    signal: Array,
    eps: Array,
    t: Array,
    r: Array,
    solver_step: SolverStep = euler_step,
) -> Array:
    """Return the signal at level r of the trajectory that has ``signal`` at level t, by one step of
    any solver; no gradient. Levels (batch,).
    """
    return advance(D, perturb(signal, t, eps), t, r, solver_step) - expand(r, eps) * eps


def bootstrap_loss(
    f: Signal,
    target: Signal,
    D: Callable[[Array, Array], Array],
    eps: Array,
    t: Array,
    r: Array,
    solver_step: SolverStep = euler_step,
) -> Array:
    """|f(eps, r) - sg step(target(eps, t))|^2 per sample, without the factor 1/delta^2."""
    before = jax.lax.stop_gradient(target(eps, t))
    return squared(f(eps, r), signal_step(D, before, eps, t, r, solver_step))


def boundary_loss(f: Signal, D: Callable[[Array, Array], Array], eps: Array, high: float) -> Array:
    """|f(eps, S) - D(S eps, S)|^2 per sample."""
    top = jnp.full(eps.shape[0], high, eps.dtype)
    return squared(f(eps, top), jax.lax.stop_gradient(D(high * eps, top)))


@in_range
def boot(
    teacher: Denoiser,
    student: Student,
    *,
    delta: float = 0.04,
    beta: NotNegative = 1.0,
    solver_step: SolverStep = euler_step,
    process: Process | None = None,
) -> Method:
    """BOOT (Gu et al., arXiv 2306.05544).

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: of a network with labels (batch, 2); starts as the teacher. Adam with learning rate
            1e-4 by default.
        delta: a step, as a part of the range of times; 0.04 in the paper.
        beta: weight of the boundary term.
        solver_step: the teacher's solver step: Euler's (the paper's DDIM), or Heun's, whose targets
            are of second order for a second call of the teacher.
        process: whose time is divided evenly; by default TrigFlow, the cosine schedule of data of
            the student's sigma_data.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: a delta that is not in (0, 1).

    Deviations: the student is conditioned on the levels of start and target (the paper's is
    conditioned on the target only); beta, the learning rate and the even spread of times are
    choices made here. The batch's data are used for their shape and labels only. The first step may
    be shorter than delta, so that
    every level is learnt: the paper's even start from the top skips those within delta of it, which
    are few in its time but many in the logarithm of the level that networks here are conditioned
    on.
    Failure mode: errors travel from noise to data and grow on the way, so that details are the last
    to be learnt. The student starts from noise and only there: more than one evaluation (jumps on
    through levels it was not trained at) is offered by the sampler and is of no use.
    Cost: per update 2 teacher calls (one more with Heun's step), 1 call of the student without and
    2 with gradient: about 3 times score matching.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta is a part of the range of times, in (0, 1); not {delta}")
    clock: Any = TrigFlow(student.sigma_data) if process is None else process

    def student_loss(step: Step) -> Array:
        key_time, key_noise = jax.random.split(step.key)
        eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
        low, high = time(clock, jnp.asarray([student.low, student.high], eps.dtype))
        share = jax.random.uniform(key_time, eps.shape[:1], eps.dtype, maxval=1.0 - 1e-3)
        after = low + (high - low) * share
        start = jnp.minimum(after + delta * (high - low), high)
        t, r = level(clock, start), level(clock, after)
        f, target = (_signal(D, student.high) for D in (step.student, step.target))
        value = bootstrap_loss(f, target, step.teacher, eps, t, r, solver_step) / delta**2  # type: ignore[arg-type]
        return value + beta * boundary_loss(f, step.teacher, eps, student.high)  # type: ignore[arg-type]

    made = table(solvers.jump, [student.high, student.low])
    method = regression(
        student, student_loss, lambda num_steps: made, optimiser=optax.adam(1e-4), teacher=teacher
    )
    return in_steps(1, method)


def _signal(D: Callable[..., Array], high: float) -> Signal:
    """Return the student as a function of noise and the level it is to predict."""
    return lambda eps, s: D(high * eps, jnp.full(eps.shape[0], high, eps.dtype), target=s)
