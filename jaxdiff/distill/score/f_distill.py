"""f-distill: the score difference, weighted by how much more likely data are than samples.

An f-divergence of data p from samples q with noise has the gradient (Xu et al. 2502.15681, theorem
1), with r = p(y)/q(y) the ratio that a critic's logit estimates, r = e^l,

    - E h(r) (s_p - s_q)(y) dx/dtheta,            h(r) = f''(r) r^2,

which is DMD2's direction times h:

    reverse KL 1     KL r     Jensen-Shannon r/(1 + r)     softened reverse KL 1/(1 + r)
    squared Hellinger sqrt(r)     Jeffreys 1 + r     Neyman 1/r

h is divided by its mean over the batch, and the ratio, first, by its mean at like noise levels,
since a critic's logits drift with the level: that of the batch, or a running one. A running mean is
a player of its own, its optimiser plain gradient descent: b <- b - rate (b - mean).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.generator import Levels, generator_tables, karras, push, renoise
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import (
    NO_PENALTY,
    FakeScore,
    Observer,
    Penalty,
    discriminator_loss,
    generating,
    generator_loss,
    head_of,
    two_players,
)
from jaxdiff.distill.score.distribution_matching import matching_direction, slow_adam
from jaxdiff.method import Method
from jaxdiff.prediction import edm_weight
from jaxdiff.ranges import Count, Natural, NotNegative, in_range
from jaxdiff.typing import Array, Denoiser, Params

DIVERGENCES = {
    "reverse-kl": lambda r: jnp.ones_like(r),
    "kl": lambda r: r,
    "jensen-shannon": lambda r: r / (1.0 + r),
    "softened-reverse-kl": lambda r: 1.0 / (1.0 + r),
    "hellinger": jnp.sqrt,
    "jeffreys": lambda r: 1.0 + r,
    "neyman": lambda r: 1.0 / r,
}


def ratio(logits: Array, low: float = 0.1, high: float = 20.0) -> Array:
    """Return the likelihood ratio e^l of the mean logit of each sample, (batch,), within limits."""
    mean = jnp.mean(logits.reshape(len(logits), -1), axis=1)
    return jnp.clip(jnp.exp(jnp.clip(mean, -10.0, 10.0)), low, high)


def divergence_weight(name: str, r: Array, least: float = 1e-6) -> Array:
    """h(r) of a divergence, divided by its mean over the batch, (batch,)."""
    h = DIVERGENCES[name](r)
    return h / (jnp.mean(h) + least)


def bin_of(s: Array, low: float, high: float, count: int) -> Array:
    """Return the number of each level's bin, (batch,) integers: equal bins of its logarithm."""
    where = (jnp.log(s) - jnp.log(low)) / (jnp.log(high) - jnp.log(low))
    return jnp.clip(jnp.floor(where * count), 0, count - 1).astype(jnp.int32)


def bin_means(r: Array, index: Array, bins: Array) -> Array:
    """Return the mean ratio of each bin; the old value where there is none."""
    count = jnp.zeros_like(bins).at[index].add(1.0)
    total = jnp.zeros_like(bins).at[index].add(r.astype(bins.dtype))
    return jnp.where(count > 0, total / jnp.maximum(count, 1.0), bins)


@in_range
def f_distill(
    teacher: Denoiser,
    student: Student,
    fake_score: FakeScore,
    *,
    divergence: str = "jensen-shannon",
    student_levels: tuple[float, ...] | None = None,
    levels: Levels | None = None,
    adversarial: NotNegative = 3e-3,
    critic: NotNegative = 1e-2,
    bins: Natural = 10,
    rate: float = 1.0,
    limits: tuple[float, float] = (0.1, 20.0),
    penalty: Penalty = NO_PENALTY,
    every: Count = 5,
) -> Method:
    """f-distill (Xu et al., arXiv 2502.15681, algorithm 1). With "reverse-kl" the direction is that
    of :func:`jaxdiff.distill.score.distribution_matching.dmd2`.

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: starts as the teacher.
        fake_score: with a head, whose logits are the ratio.
        divergence: one of :data:`DIVERGENCES`. Those whose h grows with r cover modes ("kl",
            "jeffreys"), those whose h falls seek them.
        student_levels: noise levels the student is evaluated at, the first its highest; by default
            its highest alone.
        levels: of all noise, the direction's, the fake score's and what the critic sees: a Karras
            grid without 0.2 % at each end, as in published code (FastGen).
        adversarial: factor of the student's adversarial term.
        critic: factor of the discriminator's term in the fake score's loss.
        bins: number of the means of the ratio, by level; 0 leave them out.
        rate: of those means; 1 takes those of the batch itself, as published code does on CIFAR-10
            (0.5 on ImageNet 64).
        limits: that the ratio is kept in.
        penalty: R1 on noisy data; none by default.
        every: updates of the fake score for one of the student.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for another divergence, a fake score without a head, a rate outside (0, 1], and
            what has no effect: a rate without bins, bins and limits of "reverse-kl".

    Recipe: CIFAR-10 with labels "kl", ImageNet 64 "jensen-shannon"; DMD2's optimisers and factors
    (published code for CIFAR-10: 1e-4, no warm-up, 1e-3 for the student's term, an optimiser of its
    own for a head on the frozen teacher's features, and a fake score's loss without a weight).
    Deviations: bins are equal in the level's logarithm (in the level itself, as published, one bin
    has two thirds of a Karras grid). Running means see the batch of their own update, not the
    student's.
    Fails: early on the critic's ratio says little: start from DMD2, or with narrow limits.
    Cost: that of DMD2; with running means, and a critic's call.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"no divergence {divergence!r}; there are {', '.join(DIVERGENCES)}")
    head_of(fake_score, "f-distill")
    _check_means(divergence, bins, rate, limits)
    noises = (student.high,) if student_levels is None else student_levels
    drawn = karras(student.low, student.high, 0.002, 0.998) if levels is None else levels
    ends = (student.low, student.high)

    def weight(step: Step, y: Array, s: Array) -> Array:
        r = ratio(jax.lax.stop_gradient(step.logits(y, s)), *limits)
        if bins:
            index = bin_of(s, *ends, bins)
            running = step.context.params["ratio"] if rate < 1 else None
            means = bin_means(r, index, jnp.ones(bins, r.dtype)) if running is None else running
            r = r / (means[index].astype(r.dtype) + 1e-6)
        return divergence_weight(divergence, r)

    def student_loss(step: Step) -> Array:
        y, s = renoise(step.key, step.x, drawn)
        values = push(step.x, matching_direction(step, y, s, weight(step, y, s))[0])
        return values + adversarial * generator_loss(step, fake_score, y, s)

    def critic_loss(step: Step) -> Any:
        key_made, key_real = jax.random.split(step.key)
        y, s = renoise(key_made, step.x, drawn)
        error = edm_weight(s, student.sigma_data) * squared(step.fake(y, s), step.x)
        real = renoise(key_real, step.x0, drawn)
        discriminator, metrics = discriminator_loss(step, fake_score, real, (y, s), penalty)
        return error + critic * discriminator, metrics

    def drift(step: Step, means: Params) -> Array:
        y, s = renoise(step.key, step.x, drawn)
        seen = bin_means(ratio(step.logits(y, s), *limits), bin_of(s, *ends, bins), means)
        return 0.5 * jnp.sum(jnp.square(means - jax.lax.stop_gradient(seen)))

    running = Observer(jnp.ones(bins, jnp.float32), drift, optax.sgd(rate), every)
    return two_players(
        student, fake_score, generating(noises), student_loss, critic_loss,
        generator_tables(noises), teacher=teacher, optimisers=(slow_adam(every), slow_adam()),
        every=every, observers={"ratio": running} if bins and rate < 1 else {},
    )  # fmt: skip


def _check_means(divergence: str, bins: int, rate: float, limits: tuple[float, float]) -> None:
    if not 0 < rate <= 1:
        raise ValueError(f"rate= is in (0, 1], 1 for the means of each batch; got {rate}")
    if not bins and rate != 1:
        raise ValueError(f"rate={rate} is of the means of bins, and there are none")
    if divergence == "reverse-kl" and (bins, rate, limits) != (10, 1.0, (0.1, 20.0)):
        raise ValueError('"reverse-kl" has weight 1, whatever the ratio, its bins and limits')
