"""Progressive distillation: a student whose one step is two of its teacher's, again and again.

On a grid of N intervals, level(u) at u = i/N with level(0) the highest and the last level 0, the
teacher takes two Euler (DDIM) steps s -> m -> r through the middle of the student's interval, and
the student regresses the denoised output whose single step ends in the same place,

    x = (z - (r/s) y)/(1 - r/s),    E w(s) d( D_theta(y, s), x ),    y = x0 + s eps,

which in the last interval, r = 0, is the teacher's last denoised output. The student becomes the
teacher of the next round, with N/2. The weight max(SNR, 1), SNR = s^-2, is that of the larger of
the errors of x0 and of eps ("truncated SNR"); SNR + 1 is that of v in a variance preserving
process.

Source: Salimans and Ho, arXiv 2202.00512, algorithm 2 and section 4. Parametrisations (x0, v, EDM)
are the student's own (:class:`jaxdiff.distill.parts.student.Student`); eps is none, since it says
nothing at the highest level.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import solvers
from jaxdiff.arrays import expand
from jaxdiff.conditioning import threshold
from jaxdiff.distance import Distance, squared
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.levels import grid_index, karras_level
from jaxdiff.distill.parts.primitives import implied, jump, perturb
from jaxdiff.distill.parts.stage import Before, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import in_steps
from jaxdiff.method import Method
from jaxdiff.prediction import truncated_snr_weight
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Denoiser

Levels = Callable[[Any, float, float], Any]


class TargetPoint(NamedTuple):
    """States (batch, *shape) at levels s (batch,), and the denoised outputs x wanted there."""

    y: Array
    s: Array
    x: Array


def cosine_levels(u: Any, low: float, high: float) -> Any:
    """Level tan of an angle falling linearly from ``high`` at u = 0 to ``low`` at u = 1: time of
    the cosine schedule, in the paper with log-SNR in [-20, 20], levels e^-10 and e^10.
    """
    sin = jnp.sin if isinstance(u, jax.Array) else np.sin
    angle, rest = (math.atan(high), math.atan(low)), (math.atan(1 / high), math.atan(1 / low))
    opposite, adjacent = (sin((1.0 - u) * a + u * b) for a, b in (angle, rest))
    return opposite / adjacent  # the cosine as a sine, for its digits


def karras_levels(u: Any, low: float, high: float) -> Any:
    """Level^(1/7) linear in u, from ``high`` to ``low`` (arXiv 2206.00364, eq. 5), the grid of
    progressive distillation for models of that paper.
    """
    return karras_level(u, 2.0, low, high, 7.0)  # type: ignore[arg-type]


def progressive_target(
    D: Callable[[Array, Array], Array], y: Array, levels: Sequence[Array]
) -> Array:
    """Return the denoised output whose one step from levels[0] to levels[-1] ends where Euler steps
    of D through all levels end; no gradient. Levels (batch,) each; an interval of length 0 is
    skipped.
    """
    z = y
    for s, r in pairwise(levels):
        moves = s > r
        start = jnp.where(moves, s, 1.0)
        z = jnp.where(expand(moves, y) > 0, jump(z, start, r, D(z, start)), z)
    return jax.lax.stop_gradient(implied(y, levels[0], z, levels[-1]))


def progressive_loss(
    D: Callable[[Array, Array], Array],
    point: TargetPoint,
    weight: Array,
    distance: Distance = squared,
) -> Array:
    """Weight d(D(y, s), x) per sample, shape (batch,)."""
    return weight * distance(D(point.y, point.s), point.x)


def target_point(
    step: Step,
    student: Student,
    num_steps: int,
    levels: Levels,
    *,
    substeps: int = 2,
    span: int = 1,
    clip: float | None = None,
    **conditions: Array,
) -> TargetPoint:
    """Noisy data at knots of the grid, and what the frozen teacher's ``substeps`` steps across the
    next ``span`` intervals give for the student there. ``extra`` goes to the teacher (``extra=``).
    """
    key_index, key_noise = jax.random.split(step.key)
    index = grid_index(key_index, step.x0, num_steps)
    knots = [
        jnp.minimum(index + k * span / substeps, float(num_steps)) for k in range(substeps + 1)
    ]
    path = [knot_level(i / num_steps, student, levels) for i in knots]
    y = perturb(step.x0, path[0], jax.random.normal(key_noise, step.x0.shape, step.x0.dtype))

    def D(y: Array, s: Array) -> Array:
        x = step.context.frozen["teacher"](y, s, step.cond, **conditions)
        return x if clip is None else jnp.clip(x, -clip, clip)

    return TargetPoint(y, path[0], progressive_target(D, y, path))


def knot_level(u: Array, student: Student, levels: Levels) -> Array:
    """Return the level at place u of the student's grid; 0 at its end, u = 1."""
    return jnp.where(u < 1.0, levels(u, student.low, student.high), 0.0)


def nested_levels(student: Student, levels: Levels, num_steps: int) -> list[float]:
    """Return the student's grid of ``num_steps`` intervals, its last level 0. Twice the steps are
    the same levels and one more between each two.
    """
    if num_steps < 1:
        raise ValueError(f"a sampler has at least 1 step, not {num_steps}")
    return [
        *(float(levels(i / num_steps, student.low, student.high)) for i in range(num_steps)),
        0.0,
    ]


def euler_tables(student: Student, levels: Levels) -> Callable[..., Table]:
    """``tables(num_steps)``: Euler's method on the student's grid."""
    return lambda num_steps: table(solvers.euler, nested_levels(student, levels, num_steps))


def annealed(num_updates: int, rate: float = 5e-5) -> optax.GradientTransformation:
    """Adam with its rate falling linearly to zero within a round, gradients clipped to norm 1."""
    schedule = optax.linear_schedule(rate, 0.0, num_updates)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def progressive_distillation(
    teacher: Denoiser,
    student: Student,
    *,
    num_steps: int = 512,
    levels: Levels = cosine_levels,
    weight: Callable[..., Array] = truncated_snr_weight,
    distance: Distance = squared,
    substeps: int = 2,
    clip: float | None = None,
    num_updates: int = 50_000,
) -> Method:
    """One round of progressive distillation (Salimans and Ho, arXiv 2202.00512, algorithm 2).

    Args:
        teacher: ``D(y, level, cond)``, which samples well in ``substeps`` times ``num_steps`` Euler
            steps; frozen.
        student: usually starts as the teacher. Its ``low`` and ``high`` end the grid; the paper's
            are e^-10 and e^10. Adam, 5e-5 falling linearly to 0 within the round, by default.
        num_steps: N, of the student.
        levels: ``levels(u, low, high)``, :func:`cosine_levels` (the paper) or
            :func:`karras_levels`.
        weight: ``weight(level, sigma_data)`` of the squared error of x0: truncated SNR, or
            ``snr_plus_one_weight``, ``snr_weight`` of :mod:`jaxdiff.prediction`.
        distance: per sample.
        substeps: the teacher's steps in one of the student's; 2 in the paper.
        clip: bound on the denoised outputs of teacher and sampler, for data within [-clip, clip];
            the paper clips images at 1.
        num_updates: of this round, for the default optimiser, whose rate reaches 0 with the last.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for fewer than one step or two substeps, and for a student that predicts eps,
            which says nothing at the highest level.

    The sampler is Euler's method (DDIM) in ``num_steps`` steps and no others (a round makes the
    student
    forget the levels of the round before: for several numbers of steps keep each round's). No
    average of parameters is kept in the paper, whose rate ends at zero. Each update costs
    ``substeps`` teacher calls: with 2, and a gradient worth two calls, 5/3 of score matching.
    Fails: errors add up over the rounds, and below four steps quality falls quickly. Deviation:
    published code for EDM models ends its grid at the lowest level, here (as in the paper) its last
    step goes to 0.
    """
    if student.prediction == "eps":
        raise ValueError("a progressive student predicts x0, v, flow or edm, not eps")
    if num_steps < 1 or substeps < 2:
        raise ValueError(f"steps must be at least 1 and substeps 2; got {num_steps} and {substeps}")

    def student_loss(step: Step) -> Array:
        point = target_point(step, student, num_steps, levels, substeps=substeps, clip=clip)
        return progressive_loss(step.student, point, weight(point.s, student.sigma_data), distance)

    method = in_steps(
        num_steps,
        regression(
            student, student_loss, euler_tables(student, levels), optimiser=annealed(num_updates),
            teacher=teacher,
        ),
    )  # fmt: skip
    return clipped(method, clip)


def clipped(method: Method, clip: float | None) -> Method:
    """Return the method with a sampler whose denoised outputs are kept within [-clip, clip]."""
    if clip is None:
        return method

    def sampler(state: Any, **options: Any) -> Sampler:
        made = method.sampler(state, **options)
        return made._replace(denoiser=threshold.static(made.denoiser, -clip, clip))

    return method._replace(sampler=sampler)


def halvings(first: int, last: int) -> list[int]:
    """Steps of the rounds: first, first/2, ..., last. ValueError unless first is last times a
    power of two.
    """
    rounds = [first]
    while rounds[-1] > last >= 1 and rounds[-1] % 2 == 0:
        rounds.append(rounds[-1] // 2)
    if rounds[-1] != last:
        raise ValueError(f"halving {first} steps never gives {last}")
    return rounds


def share_of(num_steps: int) -> float:
    """Updates of a round relative to the others': twice as many for two steps and for one."""
    return 2.0 if num_steps <= 2 else 1.0


def progressive_stages(
    teacher: Denoiser,
    student: Student | Callable[[float], Student],
    *,
    first: int = 4096,
    last: int = 1,
    substeps: int = 2,
    num_updates: int = 50_000,
    make: Callable[..., Method] = progressive_distillation,
    **options: Any,
) -> list[Stage]:
    """All rounds of progressive distillation, from ``first`` steps of the student to ``last``; each
    round's student is the next one's teacher (2202.00512, algorithm 2; the paper's CIFAR-10 run
    goes from a teacher of 8192 steps to 1).

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: or ``student(share)``, where ``share`` is the round's part of all updates, for an
            optimiser whose schedule must know it.
        first: steps of the student in the first round.
        last: steps of the last student.
        substeps: of the first round, whose teacher may be accurate in more steps than 2 first; 2
            afterwards.
        num_updates: of a round; twice as many in those of two steps and of one.
        make: of each round's method, called as :func:`progressive_distillation` is.
        options: of ``make``.

    Returns:
        Stages in order, for :func:`jaxdiff.training.fit_stages`.
    """
    rounds = halvings(first, last)
    whole = sum(map(share_of, rounds))

    def stage(num_steps: int) -> Stage:
        own = student(share_of(num_steps) / whole) if callable(student) else student
        length = round(num_updates * share_of(num_steps))

        def method(before: Before | None) -> Method:
            here = {"num_steps": num_steps, "num_updates": length, **options}
            if before is None:
                return make(teacher, own, substeps=substeps, **here)
            learner = own._replace(params=before.params)
            return make(learner.denoiser(before.params), learner, substeps=2, **here)

        return Stage(f"{num_steps}-steps", method, share_of(num_steps))

    return [stage(num_steps) for num_steps in rounds]
