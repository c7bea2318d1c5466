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
from jaxdiff.distill.adversarial import Critic, with_critic
from jaxdiff.distill.generator import (
    Levels,
    Weight,
    denoise,
    generator_tables,
    in_time,
    renoise,
)
from jaxdiff.distill.levels import logit_normal_times
from jaxdiff.distill.primitives import drop_labels
from jaxdiff.distill.progressive import cosine_levels
from jaxdiff.distill.student import Step, Student, regression
from jaxdiff.distill.two_players import (
    NO_PENALTY,
    Opponent,
    Penalty,
    Play,
    fooling,
    judging,
    two_players,
)
from jaxdiff.method import Batch, Context, Method, Metrics
from jaxdiff.process import VP
from jaxdiff.typing import Array, Cond, Denoiser, Key

_LEVELS = in_time(cast(Any, VP()))


def amplitude(level: Array) -> Array:
    """(1 + s^2)^(-1/2), alpha(t) of a variance-preserving process."""
    return jax.lax.rsqrt(1.0 + level**2)


def student_noises(student: Student, steps: int) -> list[float]:
    """Levels of ``steps`` evaluations, from the student's highest, even on the cosine schedule."""
    return [float(cosine_levels(i / steps, student.low, student.high)) for i in range(steps)]


def add(
    teacher: Denoiser,
    student: Student,
    critic: Critic,
    *,
    steps: Sequence[float] | None = None,
    distillation: float = 2.5,
    levels: Levels = _LEVELS,
    weight: Weight = amplitude,
    penalty: float = 1e-5,
) -> Method:
    """Adversarial diffusion distillation, ADD (Sauer et al., arXiv 2311.17042).

    Args:
        teacher: ``D(y, level, cond)``, frozen; guided in the paper.
        student: starts as the teacher. Adam at 1e-5 by default.
        critic: of clean samples, its heads on a frozen network's features (DINOv2's in the paper),
            game :data:`jaxdiff.distill.adversarial.HINGE`. Adam at 1e-4, b1 = 0, by default.
        steps: noise levels the student is evaluated at; four, even on the cosine schedule, by
            default, the first its highest.
        distillation: lambda. levels: where the teacher denoises. weight: c(s).
        penalty: factor of R1.

    Sampled in up to as many evaluations as it has levels.
    Deviations: R1 is of the critic's input, in the paper of its heads'; the paper's critic is told
    a text and an image's embedding, which here is what ``critic.logits`` makes of ``cond``.
    Fails: without distillation samples lose the condition; bound to the feature network's size.
    Cost: a student call, a teacher call and the critic's per update of the student, and a student
    call and two of the critic's with gradient for the other.
    """
    noises = student_noises(student, 4) if steps is None else list(steps)

    def each(now: Step) -> Array:
        key_make, key_teach = jax.random.split(now.key)
        x, _, _ = denoise(now.student, noises, now.x0, key_make)
        y, s = renoise(key_teach, jax.lax.stop_gradient(x), levels)
        taught = jax.lax.stop_gradient(now.teacher(y, s))  # type: ignore[misc]
        told = critic.logits(now.context.params["critic"], x, now.cond)
        return critic.game.student(told) + distillation * weight(s) * squared(x, taught)

    def samples(context: Context, batch: Batch, key: Key) -> tuple[Array, Array, Cond]:
        key_label, key_dropout, key_make = jax.random.split(key, 3)
        cond = drop_labels(key_label, batch.get("label"), student.label_drop, student.classes)
        D = student.denoiser(context.params["student"])
        own = lambda y, s: D(y, s, cond, key=key_dropout)  # noqa: E731
        return batch["image"], denoise(own, noises, batch["image"], key_make)[0], cond

    method = regression(
        student, each, generator_tables(noises), optimiser=optax.adam(1e-5), teacher=teacher
    )
    return with_critic(method, critic, samples, optax.adam(1e-4, b1=0.0), penalty)


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Levels:
    """Levels t/(1 - t) of times of rectified flow whose logit is normal."""

    def draw(key: Key, like: Array) -> Array:
        t = logit_normal_times(key, like, mean, std)
        return t / (1.0 - t)

    return draw


_FLOW_LEVELS = logit_normal()


def ladd(
    teacher: Denoiser,
    student: Student,
    opponent: Opponent,
    *,
    steps: Sequence[float] | None = None,
    levels: Levels = _FLOW_LEVELS,
    penalty: Penalty = NO_PENALTY,
    every: int = 1,
) -> Method:
    """Latent adversarial diffusion distillation, LADD (Sauer et al., arXiv 2403.12015).

    Args:
        teacher: frozen, made by :func:`jaxdiff.prediction.denoiser` of a network that shows its
            features.
        student: starts as the teacher. Adam at 1e-5 by default, for itself and the heads.
        opponent: ``Opponent(head=..., trunk="teacher", scores=False)``.
        steps: as in :func:`add`.
        levels: of the noise that the critic sees, logit-normal in rectified flow's time; more of
            it makes the critic look at structure, less at texture.
        penalty: R1 on noisy data, none by default.
        every: updates of the heads for one of the student.

    Data are the teacher's own (guided) samples in the paper: batches of them.
    Deviations: none known.
    Fails: small batches with a hinge lose modes; without other losses there is nothing that brings
    them back.
    Cost: a student call and a teacher call with gradient to its input per update of the student,
    two teacher calls for the other.

    Raises ValueError for an opponent of another kind.
    """
    if opponent.head is None or opponent.trunk != "teacher":
        raise ValueError('LADD needs a head on the teacher: Opponent(head=..., trunk="teacher")')
    noises = student_noises(student, 4) if steps is None else list(steps)

    def each(now: Play) -> Array:
        y, s = renoise(now.key, now.x, levels)
        return fooling(now, opponent, y, s)

    def other(now: Play) -> tuple[Array, Metrics]:
        key_level, key_noise = jax.random.split(now.key)
        eps = jax.random.normal(key_noise, now.x.shape, now.x.dtype)
        return judging(now, opponent, levels(key_level, now.x), eps, penalty)

    return two_players(
        student, opponent, lambda now, key: denoise(now.student, noises, now.x0, key)[0], each,
        other, generator_tables(noises), teacher=teacher,
        optimisers=(optax.adam(1e-5), optax.adam(1e-5)), every=every,
    )  # fmt: skip
