"""Score identity distillation: Fisher divergence of samples from data, by identities of denoisers.

With noise of level s the Fisher divergence E w |s_q - s_p|^2 of the student's distribution q from
the data's p changes with the student in two ways: the points move, and so does their score, which
is known at the present student alone. The identity E s_q(y)^T u(y) = -E eps^T u(y)/s, for every u,
makes the second a derivative of points as well (Zhou et al. 2404.04057, eq. 23 and 24):

    L = E w (D_teacher - D_fake)^T [(D_teacher - x) - a (D_teacher - D_fake)],      y = x + s eps.

For constant w the gradient at a = 1/2 is half of the divergence's; a = 1 leaves the part of moving
points out (a half of score implicit matching, :mod:`jaxdiff.distill.score_implicit`), and the
paper's 1.2 turns it round.
Gradients pass through both denoisers to y, with their parameters fixed; w = 1/mean|x - D_teacher|.

With a critic's head on the fake score's features it is SiDA (Zhou et al. 2410.14919).
"""

from typing import Any

import jax.numpy as jnp
import optax

from jaxdiff.distill.generator import (
    Levels,
    generator_tables,
    karras,
    log_normal,
    normaliser,
    renoise,
)
from jaxdiff.distill.student import Student
from jaxdiff.distill.two_players import (
    SCORE,
    Opponent,
    Play,
    fooling,
    generating,
    opposing,
    two_players,
)
from jaxdiff.method import Method
from jaxdiff.typing import Array, Denoiser

_LEVELS = log_normal(-1.2, 1.2)


def identity_loss(teacher: Array, fake: Array, x: Array, alpha: float, weight: Array) -> Array:
    """The loss per sample, (batch,): the mean over its numbers of
    w (D_teacher - D_fake)((D_teacher - x) - a (D_teacher - D_fake)), w (batch,).
    """
    apart = teacher - fake
    product = apart * ((teacher - x) - alpha * apart)
    return weight * jnp.mean(product.reshape(len(x), -1), axis=1)


def sid(
    teacher: Denoiser,
    student: Student,
    *,
    opponent: Opponent = SCORE,
    alpha: float | None = None,
    start: float = 2.5,
    levels: Levels | None = None,
    fake_levels: Levels = _LEVELS,
    scale: float = 100.0,
    adversarial: float = 0.01,
    critic: float = 0.01,
    every: int = 1,
) -> Method:
    """Score identity distillation, SiD (Zhou et al., arXiv 2404.04057); with a critic's head, SiDA
    (arXiv 2410.14919).

    Args:
        teacher: ``D(y, level, cond)``, frozen and differentiable in y.
        student: starts as the teacher. Adam at 1e-5 with betas 0 and 0.999 by default, for itself
            and the opponent.
        opponent: the fake score, by default the student's network as it starts; SiDA's has a head
            that sees the fake score's features.
        alpha: a; 1.2, and 1 with a critic, by default. Above 1.2 training diverges.
        start: the level S of the generator's input, x = D(S z, S).
        levels: of the student's loss; by default a Karras grid without the highest fifth.
            fake_levels: of the opponent's.
        scale: of the student's loss, which matters to Adam's epsilon and to ``adversarial``.
        adversarial, critic: factors of the critic's terms in the two losses.
        every: updates of the opponent for one of the student.

    Sampled in one evaluation. Data are needed for SiDA only.
    Recipe: CIFAR-10, batches of 256, 500 million images in 32-bit floats.
    Deviations: augmentation of the fake score's images is the caller's.
    Fails: a above 1.2; low precision; it takes long. The loss may be negative.
    Cost: per student update the gradient passes through teacher and fake score to their inputs,
    with their activations kept: 5 network calls' worth, and the opponent's step.
    """
    if alpha is None:
        alpha = 1.2 if opponent.head is None else 1.0
    drawn = karras(student.low, student.high, 0.2, 1.0) if levels is None else levels

    def each(now: Play) -> Array:
        y, s = renoise(now.key, now.x, drawn)
        D_teacher, D_fake = now.teacher(y, s), now.fake(y, s)
        values = scale * identity_loss(
            D_teacher, D_fake, now.x, alpha, normaliser(now.x, D_teacher, 1e-5)
        )
        if opponent.head is not None:
            values = values + scale * adversarial * fooling(now, opponent, y, s)
        return values

    def other(now: Play) -> Any:
        return opposing(now, opponent, fake_levels, student.sigma_data, critic)

    adam = optax.adam(1e-5, b1=0.0)
    return two_players(
        student, opponent, generating([start]), each, other, generator_tables([start]),
        teacher=teacher, optimisers=(adam, adam), every=every,
    )  # fmt: skip
