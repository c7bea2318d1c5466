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

from jaxdiff.distill.diff_instruct import Reward, rewarded
from jaxdiff.distill.generator import (
    Levels,
    Weight,
    generator_tables,
    log_normal,
    renoise,
)
from jaxdiff.distill.student import Student
from jaxdiff.distill.two_players import SCORE, Opponent, Play, denoising, generating, two_players
from jaxdiff.method import Method
from jaxdiff.prediction import expand, uniform_weight
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


def sim(
    teacher: Denoiser,
    student: Student,
    *,
    opponent: Opponent = SCORE,
    slope: Slope | None = None,
    start: float = 2.5,
    levels: Levels = _LEVELS,
    fake_levels: Levels = _LEVELS,
    weight: Weight = uniform_weight,
    every: int = 1,
    reward: Reward | None = None,
    reward_factor: float = 1.0,
) -> Method:
    """Score implicit matching, SIM (Luo et al., arXiv 2410.16794); with ``reward``, Diff-Instruct*
    (2410.20898).

    Args:
        teacher: ``D(y, level, cond)``, frozen and differentiable in y.
        student: starts as the teacher. Adam at 1e-5 with betas 0 and 0.999 by default, for itself
            and the fake score.
        opponent: the fake score, by default the student's network as it starts.
        slope: d', a function of (batch, *shape); pseudo-Huber's with c = 0.03 by default.
        start: the level S of the generator's input, x = D(S z, S).
        levels, fake_levels: what noise levels are drawn from. weight: of levels.
        every: updates of the fake score for one of the student.
        reward, reward_factor: as in :func:`jaxdiff.distill.diff_instruct.diff_instruct`.

    Sampled in one evaluation; data are not needed.
    Deviations: distances are of denoisers, not of scores (a factor s^-2 inside d).
    Fails: as :func:`jaxdiff.distill.score_identity.sid`, whose cost it has.
    """
    chosen = huber_slope(0.03) if slope is None else slope

    def each(now: Play) -> Any:
        y, s = renoise(now.key, now.x, levels)
        values = implicit_loss(now.teacher(y, s), now.fake(y, s), now.x, chosen, weight(s))
        return rewarded(values, now, reward, reward_factor)

    adam = optax.adam(1e-5, b1=0.0)
    return two_players(
        student, opponent, generating([start]), each,
        lambda now: denoising(now, fake_levels, student.sigma_data), generator_tables([start]),
        teacher=teacher, optimisers=(adam, adam), every=every,
    )  # fmt: skip
