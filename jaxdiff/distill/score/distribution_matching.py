"""Distribution matching distillation: score differences, normalised, and what keeps them honest.

The student's samples x = g(z) are moved against

    w (D_fake - D_teacher)(y, s),     w = 1/mean|x - D_teacher|,      y = x + s eps,

Diff-Instruct's direction with every sample's size made alike (Yin et al. 2311.18828, eq. 7 and 8).
DMD adds a distance to the ends of the teacher's own trajectories; DMD2 (Yin et al. 2405.14867) puts
in its place a critic on noisy features, several updates of the fake score per update of the
student, and, for several evaluations, training on the student's own inputs
(:func:`jaxdiff.distill.parts.generator.generate`):

    student    w (D_fake - D_teacher) dx/dtheta + a softplus(-l(y', s'))
    fake       (s^-2 + sigma_data^-2) |D_fake(y) - x|^2
               + b [softplus(l(y', s')) + softplus(-l(y_real, s''))],

every term with noise and levels of its own: of the whole grid, but for the direction, which leaves
2 % out at each end.

With a guided teacher D_u + W (D_c - D_u) the direction has two parts that want noise of their own
(decoupled DMD, Liu et al. 2511.22677):

    w (D_fake - D_c)(y, s)  +  w (1 - W) (D_c - D_u)(y', s'),

matching the distribution, at all levels s, and augmentation by guidance, at levels s' where it
helps.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.distance import Distance, squared
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.generator import (
    Levels,
    generate,
    generator_tables,
    karras,
    normaliser,
    push,
    renoise,
)
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import (
    NO_PENALTY,
    SCORE,
    FakeScore,
    Penalty,
    denoising,
    discriminator_loss,
    generating,
    generator_loss,
    head_of,
    refuse_head,
    two_players,
)
from jaxdiff.distill.score.diff_instruct import Reward, check_reward, rewarded, score_difference
from jaxdiff.method import Method
from jaxdiff.ranges import Count, NotNegative, in_range
from jaxdiff.typing import Array, Denoiser, Key


def matching_direction(
    step: Step, y: Array, s: Array, factor: Array | float = 1.0
) -> tuple[Array, Array]:
    """Return the direction w (D_fake - D_teacher)(y, s) times a factor per sample, and the
    teacher's denoised output; no gradient.
    """
    x = jax.lax.stop_gradient(step.teacher(y, s))
    weight = normaliser(step.x, x) * factor
    return score_difference(lambda y, s: x, step.fake, y, s, weight), x


@in_range
def dmd(
    teacher: Denoiser,
    student: Student,
    *,
    fake_score: FakeScore = SCORE,
    student_levels: tuple[float, ...] | None = None,
    regression: NotNegative = 0.25,
    distance: Distance = squared,
    levels: Levels | None = None,
    fake_levels: Levels | None = None,
    every: Count = 1,
) -> Method:
    """Distribution matching distillation, DMD (Yin et al., arXiv 2311.18828, algorithm 1).

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: starts as the teacher; its input is noise at its highest level. AdamW at 2e-6 by
            default (:func:`slow_adam`), for itself and the fake score (the paper: 5e-5 on
            CIFAR-10).
        fake_score: the fake score, by default the student's network as it starts.
        student_levels: as in :func:`dmd2`; the paper's is one.
        regression: factor of the distance to pairs; 0 leaves it out, and pairs with it, and more
            updates of the fake score (``every``) take its place: what DMD2 starts from. With it
            batches hold stored pairs: "start", "image" and their labels, as
            :func:`jaxdiff.sampling.pairs.make_pairs` makes them.
        distance: of samples and pairs per sample; LPIPS in the paper
            (:func:`jaxdiff.distance.of_features`).
        levels: what noise levels are drawn from: a Karras grid without 2 % at each end.
        fake_levels: of the fake score; the whole of that grid.
        every: updates of the fake score for one of the student.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a fake score with a head, or a distance without ``regression``.

    Deviation: no LPIPS, which needs a feature network.
    Fails: without pairs it loses modes, and diverges where the fake score lags behind; with them it
    inherits the pairs' quality.
    Cost: Diff-Instruct and a further generator call; and the pairs, a teacher's solve each.
    """
    refuse_head(fake_score, "DMD", ": use dmd2")
    if not regression and distance is not squared:
        raise ValueError("distance= is of samples and pairs, which regression=0 leaves out")
    noises = (student.high,) if student_levels is None else student_levels
    levels, grid = middle_levels(student, levels), whole_grid(student, fake_levels)

    def student_loss(step: Step) -> Any:
        direction, _ = matching_direction(step, *renoise(step.key, step.x, levels))
        values = push(step.x, direction)
        if not regression:
            return values
        start = _pair(step)
        x = step.student(start, jnp.full(len(start), noises[0], start.dtype))
        error = distance(x, step.x0)
        return values + regression * error, {"regression": jnp.mean(error)}

    return two_players(
        student, fake_score, generating(noises), student_loss,
        lambda step: denoising(step, grid, student.sigma_data), generator_tables(noises),
        teacher=teacher, optimisers=(slow_adam(every), slow_adam()), every=every,
    )  # fmt: skip


@in_range
def dmd2(
    teacher: Denoiser,
    student: Student,
    fake_score: FakeScore,
    *,
    student_levels: tuple[float, ...] | None = None,
    label_evaluations: bool = False,
    levels: Levels | None = None,
    fake_levels: Levels | None = None,
    adversarial: NotNegative = 3e-3,
    critic: NotNegative = 1e-2,
    penalty: Penalty = NO_PENALTY,
    every: Count = 5,
    reward: Reward | None = None,
    reward_factor: float = 1.0,
) -> Method:
    """Improved distribution matching distillation, DMD2 (Yin et al., arXiv 2405.14867).

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: starts as the teacher. AdamW at 2e-6 by default (:func:`slow_adam`), for itself and
            the fake score.
        fake_score: the fake score, the student's network as it starts unless it brings a model,
            with a head that sees its features (the paper) or, with ``trunk="teacher"``, the
            teacher's (published code of others). Without a critic on two time scales, it is
            ``dmd(regression=0, every=5)``.
        student_levels: noise levels that the student is evaluated at, decreasing; by default its
            highest, for one evaluation. With more, the inputs of the later ones are its own
            samples.
        label_evaluations: condition the fake score on which of several evaluations, by a second
            label, made a sample. The paper does not, so that the samples of all evaluations
            together have the data's distribution, and those of each by itself need not.
        levels: of the direction's noise: a Karras grid without 2 % at each end.
        fake_levels: of the fake score's, and of all that the critic sees; the whole of that grid.
        adversarial, critic: factors a and b of the critic's terms.
        penalty: R1 on noisy data, none by default.
        every: updates of fake score and critic for one of the student.
        reward, reward_factor: as in :func:`jaxdiff.distill.score.diff_instruct.diff_instruct`.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a fake score without a head, ``label_evaluations`` with one evaluation, or a
            factor without a reward.

    Recipe: ImageNet 64, AdamW at 2e-6, batches of 280; CIFAR-10 (others' code) 1e-4 and 2048.
    Deviations: samples of all the student's evaluations share a batch, drawn per sample. They have
    the conditions of the batch's data, in published code classes drawn uniformly. The fake score
    moves first, on samples of its own.
    Fails: modes are lost where the fake score lags (raise ``every``), and where the critic wins
    (lower ``adversarial``).
    Cost: a student's update is one generator call (for n evaluations n - 1 more, without
    gradient), fake score, teacher, and a trunk with gradient to its input; a fake score's one
    denoising and two trunk calls; there are ``every`` of these to one of those.
    """
    head_of(fake_score, "DMD2", "; without a critic it is dmd(regression=0, every=5)")
    check_reward(reward, reward_factor)
    noises = (student.high,) if student_levels is None else student_levels
    if label_evaluations and len(noises) < 2:
        raise ValueError(
            "label_evaluations= labels several evaluations, and there is one: give student_levels="
        )
    levels, grid = middle_levels(student, levels), whole_grid(student, fake_levels)

    def make(step: Step, key: Key) -> tuple[Array, Array]:
        return generate(step.student, noises, step.x0, key)

    def labelled(step: Step) -> Step:
        x, at = step.x
        label = {"extra": jnp.log(at)[:, None] / 4.0} if label_evaluations else {}
        fake, logits = (functools.partial(f, **label) for f in (step.fake, step.logits))
        return step._replace(x=x, fake=fake, logits=logits)

    def student_loss(step: Step) -> Any:
        step = labelled(step)
        key_match, key_generator = jax.random.split(step.key)
        direction, _ = matching_direction(step, *renoise(key_match, step.x, levels))
        generator = generator_loss(step, fake_score, *renoise(key_generator, step.x, grid))
        return rewarded(
            push(step.x, direction) + adversarial * generator, step, reward, reward_factor
        )

    def critic_loss(step: Step) -> Any:
        step = labelled(step)
        key_fake, key_real, key_made = jax.random.split(step.key, 3)
        values = denoising(step._replace(key=key_fake), grid, student.sigma_data)
        real, made = renoise(key_real, step.x0, grid), renoise(key_made, step.x, grid)
        discriminator, metrics = discriminator_loss(step, fake_score, real, made, penalty)
        return values + critic * discriminator, metrics

    return two_players(
        student, fake_score, make, student_loss, critic_loss, generator_tables(noises),
        teacher=teacher, optimisers=(slow_adam(every), slow_adam()), every=every,
    )  # fmt: skip


def middle_levels(student: Student, levels: Levels | None) -> Levels:
    """Return the distribution of the direction's levels, without both ends of the grid unless
    given.
    """
    return karras(student.low, student.high, 0.02, 0.98) if levels is None else levels


def whole_grid(student: Student, levels: Levels | None) -> Levels:
    """Return the distribution of the fake score's levels, the whole grid by default."""
    return karras(student.low, student.high) if levels is None else levels


def slow_adam(every: int = 1) -> optax.GradientTransformation:
    """Return the papers' optimiser of networks that are good already: AdamW at 2e-6 after 500 steps
    of a linear warm-up from 0, ``every`` of which are one update; gradients clipped at norm 10.
    """
    rate = optax.linear_schedule(0.0, 2e-6, 500 // every)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(rate, weight_decay=0.01))


def _pair(step: Step) -> Array:
    if "start" not in step.batch:
        raise ValueError(
            'DMD needs pairs: batches with "start" and "image" (jaxdiff.distill.make_pairs), or '
            "regression=0"
        )
    return step.batch["start"]
