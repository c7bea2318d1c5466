"""Diff-Instruct: a generator moved by the difference of two scores.

The integral over noise levels of the divergence KL(q_s | p_s) of samples from data, w its weight,
has the gradient (Luo et al. 2305.18455, theorem 3.1)

    E w(s) (s_q - s_p)(y) dx/dtheta,      y = x + s eps,  x = g(z),

and with D = y + s^2 score, q's being the fake score's: E (w/s^2) (D_fake - D_teacher) dx/dtheta. No
gradient passes through either denoiser. Losses of a sample are sums over its numbers, not means. A
reward R(x, c) that is to be high adds -a R(x, c) (Diff-Instruct++, 2410.18881, where
classifier-free guidance of the teacher is shown to be such a reward too). With a fake score that is
a low-rank change of the teacher it is near to SwiftBrush
(:mod:`jaxdiff.distill.score.swift_brush`).
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxdiff.arrays import expand
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.generator import (
    Levels,
    Weight,
    generator_tables,
    log_normal,
    push,
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
from jaxdiff.method import Method, Metrics
from jaxdiff.prediction import uniform_weight
from jaxdiff.ranges import Count, Positive, in_range
from jaxdiff.typing import Array, Cond, Denoiser

Reward = Callable[[Array, Cond], Array]  # of samples and labels: (batch,)

_LEVELS = log_normal(-1.2, 1.2)


def score_difference(
    teacher: Callable[[Array, Array], Array],
    fake: Callable[[Array, Array], Array],
    y: Array,
    s: Array,
    weight: Array,
) -> Array:
    """Weight (D_fake - D_teacher)(y, s), the direction that samples are moved against; no gradient.

    With weight s^-2 it is the gradient of KL(q_s | p_s) in the sample.
    """
    return jax.lax.stop_gradient(expand(weight, y) * (fake(y, s) - teacher(y, s)))


def check_reward(reward: Reward | None, factor: float) -> None:
    """ValueError for a factor of no reward."""
    if reward is None and factor != 1.0:
        raise ValueError(f"reward_factor={factor} is of a reward, and there is none: give reward=")


def rewarded(values: Array, step: Step, reward: Reward | None, factor: float) -> Any:
    """Losses per sample less the samples' rewards, and the mean reward as a metric."""
    if reward is None:
        return values
    found = reward(step.x, step.cond)
    metrics: Metrics = {"reward": found.mean()}
    return values - factor * found, metrics


@in_range
def diff_instruct(
    teacher: Denoiser,
    student: Student,
    *,
    fake_score: FakeScore = SCORE,
    start: Positive = 1.0,
    levels: Levels = _LEVELS,
    fake_levels: Levels = _LEVELS,
    weight: Weight = uniform_weight,
    every: Count = 1,
    reward: Reward | None = None,
    reward_factor: float = 1.0,
) -> Method:
    """Diff-Instruct (Luo et al., arXiv 2305.18455); with ``reward``, Diff-Instruct++ (2410.18881).

    Args:
        teacher: ``D(y, level, cond)``, frozen; a guided one for a sharper student.
        student: starts as the teacher. Adam at 1e-5 with betas 0 and 0.999 by default, for itself
            and the fake score.
        fake_score: the fake score, by default the student's network as it starts.
        start: the level S of the generator's input, x = D(S z, S).
        levels, fake_levels: what the student's and the fake score's noise levels are drawn from.
        weight: of the difference of denoisers, 1 in the paper's code; s^-2 makes the gradient that
            of the divergence itself.
        every: updates of the fake score for one of the student.
        reward, reward_factor: ``reward(x, cond) -> (batch,)``, differentiable, and its factor a.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a fake score with a head, or a factor without a reward.

    Batches' data are used for their shape and labels only. Sampled in one evaluation.
    Recipe: CIFAR-10, batches of 128, ln s ~ N(-1.2, 1.2^2) for both, one update each in turn.
    Deviations: augmentation labels are not passed; teacher and fake score have no dropout where the
    student moves, in published code both, with the same masks.
    Fails: it seeks modes: of separate ones it may lose some or shift their weights, the more the
    fake score lags; late training is slow.
    Cost: per update of each player one generator call, one of fake score and teacher forward for
    the student, one of the fake score with gradient for the other: 2.3 times score matching, and
    the teacher's call.
    """
    refuse_head(fake_score, "Diff-Instruct")
    check_reward(reward, reward_factor)

    def student_loss(step: Step) -> Any:
        y, s = renoise(step.key, step.x, levels)
        difference = score_difference(step.teacher, step.fake, y, s, weight(s))
        values = step.x[0].size * push(step.x, difference)
        return rewarded(values, step, reward, reward_factor)

    def critic_loss(step: Step) -> Array:
        return step.x[0].size * denoising(step, fake_levels, student.sigma_data)

    adam = optax.adam(1e-5, b1=0.0)
    return two_players(
        student, fake_score, generating([start]), student_loss, critic_loss,
        generator_tables([start]), teacher=teacher, optimisers=(adam, adam), every=every,
    )  # fmt: skip
