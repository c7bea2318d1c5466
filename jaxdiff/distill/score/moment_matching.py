"""Moment matching distillation: a few ancestral steps whose conditional means are the teacher's.

The student's one prediction x = D(y_t, t) from noisy data is followed by a step of ancestral
sampling to a lower level, y_s ~ q(y_s | y_t, x), as its k-step sampler would. If it samples well,
E[x | y_s] under that joint distribution is the teacher's D(y_s, s) (Salimans et al.
2406.04103, algorithm 2); an auxiliary denoiser learns E[x | y_s]:

    student     w(s) x^T sg[D_aux(y_s, s) - D_teacher(y_s, s)]
    auxiliary   w(s) (|x - D_aux(y_s)|^2 + |D_teacher(y_s) - D_aux(y_s)|^2)

In the frame y = x0 + s eps the step is y_s = x + (s/t)^2 (y_t - x) + (s/t) sqrt(t^2 - s^2) z.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff import solvers
from jaxdiff.arrays import expand
from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.generator import Weight, push
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import SCORE, FakeScore, refuse_head, two_players
from jaxdiff.distill.score.diff_instruct import score_difference
from jaxdiff.distill.trajectory.progressive import cosine_levels
from jaxdiff.method import Method
from jaxdiff.prediction import truncated_snr_weight
from jaxdiff.ranges import Count, in_range
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Denoiser, Key


class Stepped(NamedTuple):
    """A prediction x (batch, *shape), and the state y (batch, *shape) at level s (batch,) that an
    ancestral step takes it to.
    """

    x: Array
    y: Array
    s: Array


def ancestral_step(y: Array, t: Array, s: Array, x: Array, z: Array) -> Array:
    """Return a draw of q(y_s | y_t, x), levels t > s (batch,), z standard normal."""
    mean = x + expand((s / t) ** 2, y) * (y - x)
    return mean + expand(s / t * jnp.sqrt((t - s) * (t + s)), y) * z


@in_range
def moment_matching(
    teacher: Denoiser,
    student: Student,
    *,
    fake_score: FakeScore = SCORE,
    num_steps: int = 8,
    weight: Weight = truncated_snr_weight,
    every: Count = 1,
) -> Method:
    """Moment matching distillation (Salimans et al., arXiv 2406.04103, algorithm 2, alternating).

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: starts as the teacher. Adam at 3e-5 by default, for itself and the auxiliary
            denoiser.
        fake_score: the auxiliary denoiser, by default the student's network as it starts.
        num_steps: k, of the ancestral sampler that is trained for. Time runs evenly on the cosine
            schedule from data, 0, to noise, 1: s is uniform and t = min(s + u/k, 1), u uniform, so
            that one in 2 k samples starts from noise, as sampling does.
        weight: w of the level s, of squared errors of x.
        every: updates of the auxiliary denoiser for one of the student.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for fewer steps than 1, or a fake score with a head.

    Sampled by ancestral steps, as many as trained for.
    Deviations: none known in the algorithm; no code is published. Both players move in every step,
    which the paper's do in turns. The law of s and w are the teacher's in the paper.
    Fails: with one step, where it is much worse than methods made for that: use 4 to 8.
    Cost: Diff-Instruct's with another teacher call.
    """
    refuse_head(fake_score, "moment matching")
    if num_steps < 1:
        raise ValueError(f"the student takes at least 1 step, not {num_steps}")

    def level(u: Array) -> Array:
        return cosine_levels(u, student.low, student.high)  # u = 0 is the highest

    def make(step: Step, key: Key) -> Stepped:
        keys = jax.random.split(key, 4)
        x0 = step.x0
        u = jax.random.uniform(keys[0], x0.shape[:1], x0.dtype)
        gap = jax.random.uniform(keys[1], x0.shape[:1], x0.dtype) / num_steps
        s, t = level(u), level(jnp.maximum(u - gap, 0.0))
        y = perturb(x0, t, jax.random.normal(keys[2], x0.shape, x0.dtype))
        x = step.student(y, t)
        z = jax.random.normal(keys[3], x0.shape, x0.dtype)
        return Stepped(x, jax.lax.stop_gradient(ancestral_step(y, t, s, x, z)), s)

    def student_loss(step: Step) -> Array:
        x, y, s = step.x
        return push(x, score_difference(step.teacher, step.fake, y, s, weight(s)))

    def critic_loss(step: Step) -> Array:
        x, y, s = step.x
        D = step.fake(y, s)
        target = jax.lax.stop_gradient(step.teacher(y, s))
        return weight(s) * (squared(D, x) + squared(D, target))

    def tables(number: int = num_steps) -> Table:
        if number != num_steps:
            raise ValueError(f"this student samples in {num_steps} steps, not {number}")
        knots = [
            float(cosine_levels(i / num_steps, student.low, student.high)) for i in range(num_steps)
        ]
        return table(solvers.ddim, [*knots, 0.0], eta=1.0)

    adam = optax.adam(3e-5)
    return two_players(
        student,
        fake_score,
        make,
        student_loss,
        critic_loss,
        tables,
        teacher=teacher,
        optimisers=(adam, adam),
        every=every,
    )
