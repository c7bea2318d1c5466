"""Score identity distillation: Fisher divergence of samples from data, by identities of denoisers.

With noise of level s the Fisher divergence E w |s_q - s_p|^2 of the student's distribution q from
the data's p changes with the student in two ways: the points move, and so does their score, which
is known at the present student alone. The identity E s_q(y)^T u(y) = -E eps^T u(y)/s, for every u,
makes the second a derivative of points as well (Zhou et al. 2404.04057, eq. 23 and 24):

    L = E w (D_teacher - D_fake)^T [(D_teacher - x) - a (D_teacher - D_fake)],      y = x + s eps.

For constant w the gradient at a = 1/2 is half of the divergence's; a = 1 leaves the part of moving
points out (a half of score implicit matching, :mod:`jaxdiff.distill.score.score_implicit`), and the
paper's 1.2 turns it round.
Gradients pass through both denoisers to y, with their parameters fixed; w = 1/mean|x - D_teacher|.
Losses of a sample are sums over its numbers, not means, which matters to Adam's epsilon and to
clipping.

With a critic's head on the fake score's features it is SiDA (Zhou et al. 2410.14919): with d
numbers in a sample and g(s) = s^-2 + sigma_data^-2,

    student    1/2 scale L + 1/2 adversarial d w softplus(-l(y, s))
    fake score g(s) |D_fake(y) - x|^2 + critic g(s) [softplus(l(y)) + softplus(-l(y_real))],

the logits l bounded for the student, and softplus averaged over the batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.generator import (
    Levels,
    generator_tables,
    karras,
    log_normal,
    normaliser,
    renoise,
)
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import (
    NO_PENALTY,
    SCORE,
    FakeScore,
    denoising,
    discriminator_loss,
    generating,
    head_of,
    refuse_head,
    same_noise,
    two_players,
)
from jaxdiff.method import Method
from jaxdiff.prediction import edm_weight
from jaxdiff.ranges import Count, Natural, NotNegative, Number, Positive, in_range
from jaxdiff.typing import Array, Denoiser

_LEVELS = log_normal(-1.2, 1.2)


def identity_loss(teacher: Array, fake: Array, x: Array, alpha: float, weight: Array) -> Array:
    """Return the loss per sample, (batch,): the sum over its numbers of
    w (D_teacher - D_fake)((D_teacher - x) - a (D_teacher - D_fake)), w (batch,).
    """
    apart = teacher - fake
    product = apart * ((teacher - x) - alpha * apart)
    return weight * jnp.sum(product.reshape(len(x), -1), axis=1)


@in_range
def sid(
    teacher: Denoiser,
    student: Student,
    *,
    fake_score: FakeScore = SCORE,
    alpha: Number = 1.2,
    start: Positive = 2.5,
    levels: Levels | None = None,
    fake_levels: Levels = _LEVELS,
    scale: Positive = 100.0,
    every: Count = 1,
) -> Method:
    """Score identity distillation, SiD (Zhou et al., arXiv 2404.04057).

    Args:
        teacher: ``D(y, level, cond)``, frozen and differentiable in y.
        student: starts as the teacher. Adam at 1e-5 with betas 0 and 0.999 by default, for itself
            and the fake score.
        fake_score: the fake score, by default the student's network as it starts.
        alpha: a. Above 1.2 training diverges.
        start: the level S of the generator's input, x = D(S z, S).
        levels: of the student's loss; by default a Karras grid without the highest fifth.
        fake_levels: of the fake score's loss.
        scale: of the student's loss, a sum over the numbers of a sample.
        every: updates of the fake score for one of the student.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a fake score with a head (:func:`sida` has one).

    Sampled in one evaluation. Data are not needed.
    Recipe: CIFAR-10, batches of 256, 500 million images in 32-bit floats.
    Deviations: augmentation of the fake score's images is the caller's; a gradient that is not
    finite makes no step, where the published code puts numbers in its place.
    Fails: a above 1.2; low precision; it takes long. The loss may be negative.
    Cost: per student update the gradient passes through teacher and fake score to their inputs,
    with their activations kept: 5 network calls' worth, and the fake score's step.
    """
    refuse_head(fake_score, "SiD", ": use sida")
    drawn = _drawn(student, levels)

    def student_loss(step: Step) -> Array:
        return scale * _identity(step, *renoise(step.key, step.x, drawn), alpha)[0]

    def critic_loss(step: Step) -> Array:
        return step.x[0].size * denoising(step, fake_levels, student.sigma_data)

    return two_players(
        student, fake_score, generating([start]), student_loss, critic_loss,
        generator_tables([start]), teacher=teacher, optimisers=(_adam(), _adam()), every=every,
    )  # fmt: skip


@in_range
def sida(
    teacher: Denoiser,
    student: Student,
    fake_score: FakeScore,
    *,
    alpha: Number = 1.0,
    start: Positive = 2.5,
    levels: Levels | None = None,
    fake_levels: Levels = _LEVELS,
    scale: Positive = 100.0,
    adversarial: NotNegative = 0.01,
    critic: NotNegative = 0.5,
    bound: Positive = 10.0,
    student_from: Natural = 391,
    critic_from: Natural = 782,
    every: Count = 1,
) -> Method:
    """Adversarial score identity distillation, SiDA (Zhou et al., arXiv 2410.14919).

    Args:
        teacher: ``D(y, level, cond)``, frozen and differentiable in y.
        student: starts as the teacher. Adam at 1e-5 with betas 0 and 0.999 by default.
        fake_score: the fake score with a head that sees its features, in the paper the mean over
            channels of those of the encoder. Adam as in :func:`sid`, its gradients' numbers clipped
            at 1.
        alpha: a, as in :func:`sid`.
        start: the level S of the generator's input, x = D(S z, S).
        levels: of the student's loss; by default a Karras grid without the highest fifth.
        fake_levels: of the fake score's loss.
        scale, adversarial, critic: of the losses in the module's text.
        bound: of the absolute logits that enter the student's loss.
        student_from: number of updates, of the fake score alone, before the student moves.
        critic_from: and before the critic's term enters; until then its loss is that of
            :func:`sid`. By default 100,000 and 200,000 images in batches of 256.
        every: updates of the fake score for one of the student.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a fake score without a head, and for a bound with adversarial = 0.

    Data are needed, for the critic. Sampled in one evaluation.
    Recipe: CIFAR-10, batches of 256, 300 million images. Deviations, failures and cost: as
    :func:`sid`, and two calls of the fake score's trunk.
    """
    if adversarial == 0 and bound != 10.0:
        raise ValueError("bound= is of the adversarial loss, which adversarial=0 leaves out")
    head = head_of(fake_score, "SiDA")
    drawn = _drawn(student, levels)

    def student_loss(step: Step) -> Array:
        y, s = renoise(step.key, step.x, drawn)
        values, weight = _identity(step, y, s, alpha)
        value = head.game.student(jnp.clip(step.logits(y, s), -bound, bound))
        generator = adversarial * step.x[0].size * weight * value
        joined = step.context.step >= critic_from
        return jnp.where(joined, 0.5 * scale * values + 0.5 * generator, scale * values)

    def critic_loss(step: Step) -> Any:
        key_level, key_noise = jax.random.split(step.key)
        s = fake_levels(key_level, step.x)
        real, made = same_noise(step, s, jax.random.normal(key_noise, step.x.shape, step.x.dtype))
        error = step.x[0].size * squared(step.fake(*made), step.x)
        discriminator, metrics = discriminator_loss(step, fake_score, real, made, NO_PENALTY)
        return edm_weight(s, student.sigma_data) * (error + critic * discriminator), metrics

    clipped = optax.chain(optax.clip(1.0), _adam())
    return two_players(
        student, fake_score, generating([start]), student_loss, critic_loss,
        generator_tables([start]), teacher=teacher, optimisers=(_adam(), clipped), every=every,
        student_from=student_from,
    )  # fmt: skip


def _identity(step: Step, y: Array, s: Array, alpha: float) -> tuple[Array, Array]:
    """Return the loss per sample and its weight 1/mean|x - D_teacher|, at most 1e5."""
    D = step.teacher(y, s)
    weight = jnp.minimum(normaliser(step.x, D, 0.0), 1e5)
    return identity_loss(D, step.fake(y, s), step.x, alpha, weight), weight


def _drawn(student: Student, levels: Levels | None) -> Levels:
    return karras(student.low, student.high, 0.2, 1.0) if levels is None else levels


def _adam() -> optax.GradientTransformation:
    return optax.adam(1e-5, b1=0.0)
