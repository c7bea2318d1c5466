"""f-distill: the score difference, weighted by how much more likely data are than samples.

An f-divergence of data p from samples q with noise has the gradient (Xu et al. 2502.15681, theorem
1), with r = p(y)/q(y) the ratio that a critic's logit estimates, r = e^l,

    - E h(r) (s_p - s_q)(y) dx/dtheta,            h(r) = f''(r) r^2,

which is DMD2's direction times h:

    reverse KL 1     KL r     Jensen-Shannon r/(1 + r)     softened reverse KL 1/(1 + r)
    squared Hellinger sqrt(r)     Jeffreys 1 + r     Neyman 1/r

h is divided by its mean over the batch, and the ratio, first, by its running mean at like noise
levels, since a critic's logits drift with the level. That running mean is a player of its own, its
optimiser plain gradient descent: b <- b - rate (b - mean).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.distill.distribution_matching import matching_direction, slow_adam
from jaxdiff.distill.generator import Levels, generator_tables, karras, push, renoise
from jaxdiff.distill.student import Student
from jaxdiff.distill.two_players import (
    NO_PENALTY,
    Observer,
    Opponent,
    Penalty,
    Play,
    fooling,
    generating,
    opposing,
    two_players,
)
from jaxdiff.method import Method
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
    """The likelihood ratio e^l of the mean logit of each sample, (batch,), within limits."""
    mean = jnp.mean(logits.reshape(len(logits), -1), axis=1)
    return jnp.clip(jnp.exp(jnp.clip(mean, -10.0, 10.0)), low, high)


def divergence_weight(name: str, r: Array, least: float = 1e-6) -> Array:
    """h(r) of a divergence, divided by its mean over the batch, (batch,)."""
    h = DIVERGENCES[name](r)
    return h / (jnp.mean(h) + least)


def bin_of(s: Array, low: float, high: float, count: int) -> Array:
    """The number of each level's bin, (batch,) integers: equal bins of its logarithm."""
    where = (jnp.log(s) - jnp.log(low)) / (jnp.log(high) - jnp.log(low))
    return jnp.clip(jnp.floor(where * count), 0, count - 1).astype(jnp.int32)


def bin_means(r: Array, index: Array, bins: Array) -> Array:
    """The mean ratio of each bin; the old value where there is none."""
    count = jnp.zeros_like(bins).at[index].add(1.0)
    total = jnp.zeros_like(bins).at[index].add(r.astype(bins.dtype))
    return jnp.where(count > 0, total / jnp.maximum(count, 1.0), bins)


def f_distill(
    teacher: Denoiser,
    student: Student,
    opponent: Opponent,
    *,
    divergence: str = "jensen-shannon",
    steps: tuple[float, ...] | None = None,
    levels: Levels | None = None,
    adversarial: float = 3e-3,
    critic: float = 1e-2,
    bins: int = 10,
    rate: float = 0.1,
    limits: tuple[float, float] = (0.1, 20.0),
    penalty: Penalty = NO_PENALTY,
    every: int = 5,
) -> Method:
    """f-distill (Xu et al., arXiv 2502.15681, algorithm 1).

    Args:
        divergence: one of :data:`DIVERGENCES`. Those whose h grows with r cover modes ("kl",
            "jeffreys"), those whose h falls seek them.
        opponent: with a head, whose logits are the ratio.
        bins, rate: of the running means of the ratio; 0 bins leave them out.
        limits: that the ratio is kept in.
        Others as in :func:`jaxdiff.distill.distribution_matching.dmd2`, which it is with
        "reverse-kl".

    Recipe: CIFAR-10 with labels "kl", ImageNet 64 "jensen-shannon"; DMD2's optimisers and factors.
    Deviations: bins are equal in the level's logarithm. The running means see the batch of their
    own update, not the student's.
    Fails: early on the critic's ratio says little: start from DMD2, or with narrow limits.
    Cost: that of DMD2, and a critic's call.

    Raises ValueError for another divergence, or an opponent without a head.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"no divergence {divergence!r}; there are {', '.join(DIVERGENCES)}")
    if opponent.head is None:
        raise ValueError("f-distill weighs by a critic's ratio: give the opponent a head")
    noises = (student.high,) if steps is None else steps
    drawn = karras(student.low, student.high, 0.02, 0.98) if levels is None else levels
    ends = (student.low, student.high)

    def weight(now: Play, y: Array, s: Array) -> Array:
        r = ratio(jax.lax.stop_gradient(now.logits(y, s)), *limits)
        if bins:
            means = now.context.params["ratio"]
            r = r / (means[bin_of(s, *ends, bins)].astype(r.dtype) + 1e-6)
        return divergence_weight(divergence, r)

    def each(now: Play) -> Array:
        y, s = renoise(now.key, now.x, drawn)
        values = push(now.x, matching_direction(now, y, s, weight(now, y, s))[0])
        return values + adversarial * fooling(now, opponent, y, s)

    def other(now: Play) -> Any:
        return opposing(now, opponent, drawn, student.sigma_data, critic, penalty)

    def drift(now: Play, means: Params) -> Array:
        y, s = renoise(now.key, now.x, drawn)
        seen = bin_means(ratio(now.logits(y, s), *limits), bin_of(s, *ends, bins), means)
        return 0.5 * jnp.sum(jnp.square(means - jax.lax.stop_gradient(seen)))

    running = Observer(jnp.ones(bins, jnp.float32), drift, optax.sgd(rate), every)
    return two_players(
        student, opponent, generating(noises), each, other, generator_tables(noises),
        teacher=teacher, optimisers=(slow_adam(), slow_adam()), every=every,
        observers={"ratio": running} if bins else {},
    )  # fmt: skip
