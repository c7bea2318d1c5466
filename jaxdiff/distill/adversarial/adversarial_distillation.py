"""Adversarial diffusion distillation: a student of few levels against a critic with good eyes.

The student denoises data from one of a few noise levels, the highest of which is that of sampling,
in one evaluation, x = D(y, t).

ADD (Sauer et al. 2311.17042): a critic on the features of a frozen image network sees x itself, and
the teacher denoises x with noise anew,

    adversarial(x) + lambda E c(s) |x - sg D_teacher(x + s eps, s)|^2,     c = (1 + s^2)^(-1/2).

LADD (Sauer et al. 2403.12015): a critic on the frozen teacher's own features sees x and data with
noise, in latent space, and there is no other loss; data are the teacher's samples.
"""

from collections.abc import Sequence
from typing import Any, cast

import jax
import optax

from jaxdiff.distance import squared
from jaxdiff.distill.parts.critic import HINGE, Critic, with_critic
from jaxdiff.distill.parts.frame import Step, given, regression
from jaxdiff.distill.parts.generator import (
    Levels,
    Weight,
    denoise,
    generator_tables,
    in_time,
    renoise,
)
from jaxdiff.distill.parts.levels import logit_normal_times
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import (
    NO_PENALTY,
    FakeScore,
    Penalty,
    discriminator_loss,
    generator_loss,
    same_noise,
    two_players,
)
from jaxdiff.distill.trajectory.progressive import cosine_levels
from jaxdiff.method import Batch, Context, Method, Metrics
from jaxdiff.process import VP
from jaxdiff.ranges import Count, NotNegative, in_range
from jaxdiff.typing import Array, Cond, Denoiser, Key

_LEVELS = in_time(cast(Any, VP()))


def amplitude(level: Array) -> Array:
    """(1 + s^2)^(-1/2), alpha(t) of a variance-preserving process."""
    return jax.lax.rsqrt(1.0 + level**2)


def student_noises(student: Student, num_steps: int) -> list[float]:
    """Return the ``num_steps`` levels of evaluation, from the student's highest, cosine
    schedule.
    """
    return [
        float(cosine_levels(i / num_steps, student.low, student.high)) for i in range(num_steps)
    ]


@in_range
def add(
    teacher: Denoiser,
    student: Student,
    critic: Critic,
    *,
    student_levels: Sequence[float] | None = None,
    distillation: NotNegative = 2.5,
    levels: Levels = _LEVELS,
    weight: Weight = amplitude,
    penalty: NotNegative = 1e-5,
) -> Method:
    """Adversarial diffusion distillation, ADD (Sauer et al., arXiv 2311.17042).

    Args:
        teacher: ``D(y, level, cond)``, frozen; guided in the paper.
        student: starts as the teacher. Adam at 1e-5 by default.
        critic: of clean samples, its heads on a frozen network's features (DINOv2's in the paper),
            game :data:`jaxdiff.distill.parts.critic.HINGE` and Adam at 1e-4, b1 = 0, by default.
        student_levels: noise levels the student is evaluated at; four, even on the cosine schedule,
            by default, the first its highest.
        distillation: lambda.
        levels: where the teacher denoises.
        weight: c(s).
        penalty: factor of R1.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for ``levels`` or ``weight`` where ``distillation`` is 0.

    Sampled in up to as many evaluations as it has levels.
    No code of the training is published.
    Deviations: R1 is of the critic's input, in the paper of its heads'; the paper's critic is
    conditioned on a text and an image's embedding, which here is what ``critic.logits`` makes of
    ``cond``. Fails: without distillation samples lose the condition; bound to the feature network's
    size. Cost: a student call, a teacher call and the critic's per update of the student, and a
    student call and two of the critic's with gradient for the other.
    """
    if not distillation and (levels is not _LEVELS or weight is not amplitude):
        raise ValueError("levels= and weight= are of the teacher's term, whose factor is 0")
    noises = student_noises(student, 4) if student_levels is None else list(student_levels)

    def student_loss(step: Step) -> Array:
        key_make, key_teach = jax.random.split(step.key)
        x, _, _ = denoise(step.student, noises, step.x0, key_make)
        y, s = renoise(key_teach, jax.lax.stop_gradient(x), levels)
        taught = jax.lax.stop_gradient(step.teacher(y, s))  # type: ignore[misc]
        logits = critic.logits(step.context.params["critic"], x, step.cond)
        game = critic.game or HINGE
        return game.student(logits) + distillation * weight(s) * squared(x, taught)

    def samples(context: Context, batch: Batch, key: Key) -> tuple[Array, Array, Cond]:
        key_label, _, key_make = jax.random.split(key, 3)
        cond = student.condition(key_label, batch)
        D = given(student.denoiser(context.params["student"]), cond)
        return batch["image"], denoise(D, noises, batch["image"], key_make)[0], cond

    method = regression(
        student, student_loss, generator_tables(noises), optimiser=optax.adam(1e-5), teacher=teacher
    )
    return with_critic(method, critic, samples, optax.adam(1e-4, b1=0.0), penalty)


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Levels:
    """Return levels t/(1 - t) of times of rectified flow whose logit is normal."""

    def draw(key: Key, like: Array) -> Array:
        t = logit_normal_times(key, like, mean, std)
        return t / (1.0 - t)

    return draw


_FLOW_LEVELS = logit_normal()


@in_range
def ladd(
    teacher: Denoiser,
    student: Student,
    fake_score: FakeScore,
    *,
    student_levels: Sequence[float] | None = None,
    levels: Levels = _FLOW_LEVELS,
    penalty: Penalty = NO_PENALTY,
    every: Count = 1,
) -> Method:
    """Latent adversarial diffusion distillation, LADD (Sauer et al., arXiv 2403.12015).

    Args:
        teacher: frozen, made by :func:`jaxdiff.denoisers.denoiser` of a network that shows its
            features.
        student: starts as the teacher. Adam at 1e-5 by default, for itself and the heads.
        fake_score: ``FakeScore(head=..., trunk="teacher", scores=False)``.
        student_levels: as in :func:`add`.
        levels: of the noise that the critic sees, logit-normal in rectified flow's time; more of it
            makes the critic look at structure, less at texture.
        penalty: R1 on noisy data, none by default.
        every: updates of the heads for one of the student.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a fake score of another kind.

    Data are the teacher's own (guided) samples in the paper: batches of them.
    Deviations: the student's levels are even on the cosine schedule, which any process has, and
    drawn equally often; the paper's are the times 1, 3/4, 1/2 and 1/4 of its rectified flow, with
    weights that change during training. Data and samples have the same noise before the critic.
    No code of the authors is published; of others', FastGen gives each its own, and updates the
    student in every fifth step and the heads in the others; here both move in every step, or the
    heads ``every`` times.
    Fails: small batches with a hinge lose modes; without other losses there is nothing that brings
    them back.
    Cost: a student call and a teacher call with gradient to its input per update of the student,
    two teacher calls for the other.
    """
    if fake_score.head is None or fake_score.trunk != "teacher":
        raise ValueError('LADD needs a head on the teacher: FakeScore(head=..., trunk="teacher")')
    if fake_score.scores:
        raise ValueError("LADD has a discriminator alone: give FakeScore(..., scores=False)")
    noises = student_noises(student, 4) if student_levels is None else list(student_levels)

    def student_loss(step: Step) -> Array:
        y, s = renoise(step.key, step.x, levels)
        return generator_loss(step, fake_score, y, s)

    def critic_loss(step: Step) -> tuple[Array, Metrics]:
        key_level, key_noise = jax.random.split(step.key)
        eps = jax.random.normal(key_noise, step.x.shape, step.x.dtype)
        return discriminator_loss(
            step, fake_score, *same_noise(step, levels(key_level, step.x), eps), penalty
        )

    return two_players(
        student, fake_score, lambda step, key: denoise(step.student, noises, step.x0, key)[0],
        student_loss, critic_loss, generator_tables(noises), teacher=teacher,
        optimisers=(optax.adam(1e-5), optax.adam(1e-5)), every=every,
    )  # fmt: skip
