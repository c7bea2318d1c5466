"""Distribution matching distillation: score differences, normalised, and what keeps them honest.

The student's samples x = g(z) are moved against

    w (D_fake - D_teacher)(y, s),     w = 1/mean|x - D_teacher|,      y = x + s eps,

Diff-Instruct's direction with every sample's size made alike (Yin et al. 2311.18828, eq. 7 and 8).
DMD adds a distance to the ends of the teacher's own trajectories; DMD2 (Yin et al. 2405.14867) puts
in its place a critic on noisy features, several updates of the fake score per update of the
student, and, for several evaluations, training on the student's own inputs
(:func:`jaxdiff.distill.generator.generate`):

    student    w (D_fake - D_teacher) dx/dtheta + a softplus(-l(y, s))
    fake       (s^-2 + sigma_data^-2) |D_fake(y) - x|^2 + b [softplus(l(y)) + softplus(-l(y_real))]

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
from jaxdiff.distill.diff_instruct import Reward, rewarded, score_difference
from jaxdiff.distill.generator import (
    Levels,
    generate,
    generator_tables,
    karras,
    normaliser,
    push,
    renoise,
)
from jaxdiff.distill.student import Student
from jaxdiff.distill.two_players import (
    NO_PENALTY,
    SCORE,
    Opponent,
    Penalty,
    Play,
    denoising,
    fooling,
    generating,
    opposing,
    two_players,
)
from jaxdiff.method import Method
from jaxdiff.typing import Array, Denoiser, Key


def matching_direction(
    now: Play, y: Array, s: Array, factor: Array | float = 1.0
) -> tuple[Array, Array]:
    """The direction w (D_fake - D_teacher)(y, s) times a factor per sample, and the teacher's
    denoised output; no gradient.
    """
    x = jax.lax.stop_gradient(now.teacher(y, s))
    weight = normaliser(now.x, x) * factor
    return score_difference(lambda y, s: x, now.fake, y, s, weight), x


def dmd(
    teacher: Denoiser,
    student: Student,
    *,
    opponent: Opponent = SCORE,
    regression: float = 0.25,
    distance: Distance = squared,
    levels: Levels | None = None,
    fake_levels: Levels | None = None,
    every: int = 1,
) -> Method:
    """Distribution matching distillation, DMD (Yin et al., arXiv 2311.18828, algorithm 1).

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: starts as the teacher; its input is noise at its highest level. AdamW at 2e-6 by
            default, for itself and the fake score (the paper: 5e-5 on CIFAR-10).
        opponent: the fake score, by default the student's network as it starts.
        regression: factor of the distance to pairs; 0 leaves it out, and pairs with it. With it
            batches hold stored pairs: "start", "image" and their labels, as
            :func:`jaxdiff.sampling.pairs.make_pairs` makes them.
        distance: of samples and pairs per sample; LPIPS in the paper
            (:func:`jaxdiff.distance.of_features`).
        levels, fake_levels: what noise levels are drawn from: a Karras grid without 2 % at each
            end.

    Deviation: no LPIPS.
    Fails: without pairs it loses modes, and diverges where the fake score lags behind; with them it
    inherits the pairs' quality.
    Cost: Diff-Instruct and a further generator call; and the pairs, a teacher's solve each.
    """
    top = student.high
    levels, fake_levels = _middle(student, levels), _middle(student, fake_levels)

    def each(now: Play) -> Any:
        direction, _ = matching_direction(now, *renoise(now.key, now.x, levels))
        values = push(now.x, direction)
        if not regression:
            return values
        start = _pair(now)
        x = now.student(start, jnp.full(len(start), top, start.dtype))
        error = distance(x, now.x0)
        return values + regression * error, {"regression": jnp.mean(error)}

    return two_players(
        student, opponent, generating([top]), each,
        lambda now: denoising(now, fake_levels, student.sigma_data), generator_tables([top]),
        teacher=teacher, optimisers=(slow_adam(), slow_adam()), every=every,
    )  # fmt: skip


def dmd2(
    teacher: Denoiser,
    student: Student,
    *,
    opponent: Opponent = SCORE,
    steps: tuple[float, ...] | None = None,
    apart: bool = False,
    levels: Levels | None = None,
    adversarial: float = 3e-3,
    critic: float = 1e-2,
    penalty: Penalty = NO_PENALTY,
    every: int = 5,
    reward: Reward | None = None,
    reward_factor: float = 1.0,
) -> Method:
    """Improved distribution matching distillation, DMD2 (Yin et al., arXiv 2405.14867).

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: starts as the teacher. AdamW at 2e-6 by default, for itself and the opponent.
        opponent: the fake score, by default the student's network as it starts, with a head that
            sees its features (the paper) or, with ``trunk="teacher"``, the teacher's (published
            code of others). Without a head it is DMD without pairs, on two time scales.
        steps: noise levels that the student is evaluated at, decreasing; by default its highest,
            for one evaluation. With more, the inputs of the later ones are its own samples.
        apart: of several evaluations, tell the opponent by a second label which one made a sample.
            In the paper it is not told, so that the samples of all evaluations together have the
            data's distribution, and those of each by itself need not.
        levels: what noise levels are drawn from: a Karras grid without 2 % at each end.
        adversarial, critic: factors a and b of the critic's terms.
        penalty: R1 on noisy data, none by default.
        every: updates of fake score and critic for one of the student.
        reward, reward_factor: as in :func:`jaxdiff.distill.diff_instruct.diff_instruct`.

    The critic sees data and samples with the same noise.
    Recipe: ImageNet 64, AdamW at 2e-6, batches of 280; CIFAR-10 (others' code) 1e-4 and 2048.
    Deviations: samples of all the student's evaluations share a batch, drawn per sample.
    Fails: modes are lost where the fake score lags (raise ``every``), and where the critic wins
    (lower ``adversarial``).
    Cost: a student's update is one generator call (for n evaluations n - 1 more, without
    gradient), fake score, teacher, and a trunk with gradient to its input; an opponent's one
    denoising and two trunk calls; there are ``every`` of these to one of those.
    """
    noises = (student.high,) if steps is None else steps
    levels = _middle(student, levels)

    def make(now: Play, key: Key) -> tuple[Array, Array]:
        return generate(now.student, noises, now.x0, key)

    def told(now: Play) -> Play:
        x, at = now.x
        label = {"extra": jnp.log(at)[:, None] / 4.0} if apart else {}
        fake, logits = (functools.partial(f, **label) for f in (now.fake, now.logits))
        return now._replace(x=x, fake=fake, logits=logits)

    def each(now: Play) -> Any:
        now = told(now)
        y, s = renoise(now.key, now.x, levels)
        values = push(now.x, matching_direction(now, y, s)[0])
        if opponent.head is not None:
            values = values + adversarial * fooling(now, opponent, y, s)
        return rewarded(values, now, reward, reward_factor)

    def other(now: Play) -> Any:
        return opposing(told(now), opponent, levels, student.sigma_data, critic, penalty)

    return two_players(
        student, opponent, make, each, other, generator_tables(noises),
        teacher=teacher, optimisers=(slow_adam(), slow_adam()), every=every,
    )  # fmt: skip


def decoupled_dmd(
    teacher: Denoiser,
    student: Student,
    *,
    weight: float = 4.5,
    opponent: Opponent = SCORE,
    steps: tuple[float, ...] | None = None,
    levels: Levels | None = None,
    engine_levels: Levels | None = None,
    every: int = 5,
) -> Method:
    """Decoupled DMD (Liu et al., arXiv 2511.22677): guidance and matching with noise of their own.

    Args:
        teacher: the plain conditional ``D(y, level, cond)``, which answers ``cond=None`` with the
            unconditional posterior mean; frozen.
        weight: W of classifier-free guidance, 1 being none; (W - 1)(D_c - D_u) is what drives the
            student, the score difference what keeps it in bounds.
        levels: of matching. engine_levels: of guidance; by default as ``levels``, which is DMD with
            a guided teacher. (The paper keeps them above the level that the student is at.)
        student, opponent, steps, every: as in :func:`dmd2`, without a critic.

    Deviations: none known; the paper's text-to-image scale is not tried here. Fails: as
    :func:`dmd2`; too large a weight saturates. Cost: as :func:`dmd2` with two teacher calls more.
    """
    noises = (student.high,) if steps is None else steps
    levels = _middle(student, levels)
    engine = engine_levels or levels

    def each(now: Play) -> Any:
        key_match, key_engine = jax.random.split(now.key)
        direction, x = matching_direction(now, *renoise(key_match, now.x, levels))
        y, s = renoise(key_engine, now.x, engine)
        T = now.context.frozen["teacher"]
        plain = lambda y, s: T(y, s, None)  # noqa: E731
        size = normaliser(now.x, x) * (weight - 1.0)
        return push(now.x, direction + score_difference(now.teacher, plain, y, s, size))

    return two_players(
        student, opponent, generating(noises), each,
        lambda now: denoising(now, levels, student.sigma_data), generator_tables(noises),
        teacher=teacher, optimisers=(slow_adam(), slow_adam()), every=every,
    )  # fmt: skip


def _middle(student: Student, levels: Levels | None) -> Levels:
    return karras(student.low, student.high, 0.02, 0.98) if levels is None else levels


def slow_adam() -> optax.GradientTransformation:
    """The papers' optimiser of networks that are good already."""
    return optax.adamw(2e-6, weight_decay=0.01)


def _pair(now: Play) -> Array:
    if "start" not in now.batch:
        raise ValueError(
            'DMD needs pairs: batches with "start" and "image" (jaxdiff.distill.make_pairs), or '
            "regression=0"
        )
    return now.batch["start"]
