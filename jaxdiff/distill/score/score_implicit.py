"""Score implicit matching: any distance of two scores, with a gradient that needs no tricks.

A divergence E w d(s_q - s_p), its noisy points y drawn from the student's distribution q but held
fixed, has, where the fake score is right, the gradient of (Luo et al. 2410.16794, theorem 3.1)

    - E w d'(u)^T [s_fake(y) - grad log q(y | x)],     u = s_fake - s_teacher,  y = x + s eps,

in which x = g(z) and y carry gradients, the denoisers' parameters none. grad log q(y | x) being
(x - y)/s^2, the bracket is (D_fake - x)/s^2. The tempting E w d(u) with a frozen fake score is not
it: that moves the points and forgets that their score moves. Here scores are replaced by denoisers,
s^2 u = D_fake - D_teacher, and

    L = - E w d'(D_fake - D_teacher)^T (D_fake - x).

The distance is the pseudo-Huber one, d' = u/sqrt(|u|^2 + c^2), which makes w needless; or |u|^2,
d' = 2 u, twice score identity distillation with a = 1.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jaxdiff.arrays import expand
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.generator import (
    Levels,
    Weight,
    generator_tables,
    log_normal,
    renoise,
)
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import (
    SCORE,
    FakeScore,
    denoising,
    generating,
    refuse_head,
    two_players,
)
from jaxdiff.distill.score.diff_instruct import Reward, check_reward, rewarded
from jaxdiff.method import Method
from jaxdiff.prediction import uniform_weight
from jaxdiff.ranges import Count, Positive, in_range
from jaxdiff.typing import Array, Denoiser

Slope = Callable[[Array], Array]  # the derivative d' of a distance in its argument

_LEVELS = log_normal(-1.2, 1.2)


def huber_slope(c: float) -> Slope:
    """u/sqrt(|u|^2 + c^2) per sample."""

    def slope(u: Array) -> Array:
        total = jnp.sum(jnp.square(u.reshape(len(u), -1)), axis=1)
        return u / expand(jnp.sqrt(total + c * c), u)

    return slope


def squared_slope(u: Array) -> Array:
    """2 u, of |u|^2."""
    return 2.0 * u


def implicit_loss(teacher: Array, fake: Array, x: Array, slope: Slope, weight: Array) -> Array:
    """-w d'(D_fake - D_teacher)^T (D_fake - x) per sample, (batch,)."""
    product = slope(fake - teacher) * (fake - x)
    return -weight * jnp.sum(product.reshape(len(x), -1), axis=1)


@in_range
def sim(
    teacher: Denoiser,
    student: Student,
    *,
    fake_score: FakeScore = SCORE,
    slope: Slope | None = None,
    start: Positive = 2.5,
    levels: Levels = _LEVELS,
    fake_levels: Levels = _LEVELS,
    weight: Weight = uniform_weight,
    every: Count = 1,
    reward: Reward | None = None,
    reward_factor: float = 1.0,
) -> Method:
    """Score implicit matching, SIM (Luo et al., arXiv 2410.16794); with ``reward``, Diff-Instruct*
    (2410.20898).

    Args:
        teacher: ``D(y, level, cond)``, frozen and differentiable in y.
        student: starts as the teacher. Adam at 1e-5 with betas 0 and 0.999 by default, for itself
            and the fake score.
        fake_score: the fake score, by default the student's network as it starts.
        slope: d', a function of (batch, *shape); pseudo-Huber's with c = 0.03 by default.
        start: the level S of the generator's input, x = D(S z, S).
        levels, fake_levels: what noise levels are drawn from.
        weight: of levels.
        every: updates of the fake score for one of the student.
        reward, reward_factor: as in :func:`jaxdiff.distill.score.diff_instruct.diff_instruct`.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a fake score with a head, or a factor without a reward.

    Sampled in one evaluation; data are not needed.
    Deviations: distances are of denoisers, not of scores (a factor s^-2 inside d). No code of the
    training is published; the fake score's loss is a mean over a sample's numbers, S, levels and
    optimiser are those of the method that the paper builds on
    (:func:`jaxdiff.distill.score.score_identity.sid`), c is the 0.00054 sqrt(d) of 2310.14189 for
    images of 32x32x3.
    Fails: as :func:`jaxdiff.distill.score.score_identity.sid`, whose cost it has.
    """
    refuse_head(fake_score, "SIM")
    check_reward(reward, reward_factor)
    chosen = huber_slope(0.03) if slope is None else slope

    def student_loss(step: Step) -> Any:
        y, s = renoise(step.key, step.x, levels)
        values = implicit_loss(step.teacher(y, s), step.fake(y, s), step.x, chosen, weight(s))
        return rewarded(values, step, reward, reward_factor)

    adam = optax.adam(1e-5, b1=0.0)
    return two_players(
        student, fake_score, generating([start]), student_loss,
        lambda step: denoising(step, fake_levels, student.sigma_data), generator_tables([start]),
        teacher=teacher, optimisers=(adam, adam), every=every,
    )  # fmt: skip
