"""Improved consistency training: a consistency model from data alone, without a moving target.

The loss of consistency training (:mod:`jaxdiff.distill.consistency.consistency`) with y_t = x0 + t
eps and y_r = x0 + r eps of one eps, and four changes,

    d(a, b) = sqrt(|a - b|^2 + c^2) - c,  c = 0.00054 sqrt(d)     section 3.3
    weight 1/(t - r)                                              section 3.1
    p(i) ~ erf((log t_i+1 - m)/(sqrt(2) v)) - erf((log t_i - m)/(sqrt(2) v))     section 3.5
    N(k) = min(s0 2^floor(k/K'), s1) + 1,  K' = floor(K/(log2 floor(s1/s0) + 1))     section 3.4

and the target network is the student itself, held fixed: with a moving average the loss of
continuous-time training has the wrong minimum (section 3.2).

The discretised log-normal p(i) is the law of the interval in which a log-normal level falls, so it
is drawn so: no table, and the number of levels may be traced.

Source: Song and Dhariwal, arXiv 2310.14189.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.distance import pseudo_huber
from jaxdiff.distill.consistency.consistency import Pair, consistency_loss, consistency_tables
from jaxdiff.distill.consistency.schedules import inverse_gap
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.levels import karras_level
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.method import Method
from jaxdiff.ranges import Count, NotNegative, Number, Positive, in_range
from jaxdiff.typing import Array, Key


def improved_scales(step: Array, num_updates: int, first: int = 10, last: int = 1280) -> Array:
    """N(k), the number of levels at update ``step``, which may be traced: ``first`` + 1 at the
    start, doubling at equal intervals to ``last`` + 1.
    """
    length = max(1, int(num_updates // (np.log2(last // first) + 1)))
    doublings = jnp.minimum(step // length, 62).astype(float)
    return jnp.minimum(first * 2.0**doublings, float(last)) + 1.0


def log_normal_neighbours(
    key: Key, x0: Array, scales: Array, mean: float, std: float, low: float, high: float, rho: float
) -> tuple[Array, Array]:
    """Neighbouring levels t > r of the Karras grid of ``scales`` levels, per sample of ``x0``; the
    interval is the one in which a level falls whose logarithm is N(mean, std^2) within [low, high].
    """
    start, end = (float((np.log(s) - mean) / std) for s in (low, high))
    z = jax.random.truncated_normal(key, start, end, x0.shape[:1], x0.dtype)
    inner = jnp.exp((mean + std * z) / rho)
    intervals = jnp.asarray(scales).astype(x0.dtype) - 1.0
    u = (inner - high ** (1 / rho)) / (low ** (1 / rho) - high ** (1 / rho))
    index = jnp.clip(jnp.floor(u * intervals), 0.0, intervals - 1.0)
    grid = (intervals + 1.0, low, high, rho)
    return karras_level(index, *grid), karras_level(index + 1.0, *grid)


@in_range
def improved_consistency(
    student: Student,
    *,
    num_updates: int,
    first: Count = 10,
    last: Count = 1280,
    mean: Number = -1.1,
    std: Positive = 2.0,
    c: NotNegative | None = None,
    rho: Positive = 7.0,
    intermediate: tuple[float, ...] = (0.821,),
) -> Method:
    """Improved consistency training (Song and Dhariwal, arXiv 2310.14189), no teacher.

    Cost: two network calls per update, one of them with gradient; as score matching and a third.
    Failure modes: needs large batches and long training, and one dropout mask for both calls (as
    here). In few dimensions the default c makes the distance nearly the norm, whose minimiser is a
    median of the targets where their mean is wanted: take c well above their spread there.
    Deviation: levels are drawn within the grid's ends, where the paper's weights of the outermost
    intervals leave out the tails beyond; the same law.

    Args:
        student: the paper starts it anew, with RAdam at 1e-4, dropout 0.3, batches of 1024 and an
            average with decay 0.99993; a start from a diffusion model saves most of the training.
        num_updates: length K of the training, which N(k) refers to (400,000 for CIFAR-10).
        first, last: s0 and s1, the number of intervals at the start and at the end.
        mean, std: of the logarithm of the levels.
        c: of the pseudo-Huber distance; by default 0.00054 times the root of the dimension.
        rho: of the grid.
        intermediate: levels of sampling.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.
    """
    if not 1 <= first <= last:
        raise ValueError(f"the number of levels grows: 1 <= first <= last, not {first} and {last}")

    def student_loss(step: Step) -> Array:
        key_level, key_noise = jax.random.split(step.key)
        scales = improved_scales(step.context.step, num_updates, first, last)
        ends = (student.low, student.high, rho)
        t, r = log_normal_neighbours(key_level, step.x0, scales, mean, std, *ends)
        eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
        pair = Pair(perturb(step.x0, t, eps), t, perturb(step.x0, r, eps), r)
        distance = pseudo_huber(0.00054 * step.x0[0].size ** 0.5 if c is None else c)
        return consistency_loss(step.student, step.target, pair, distance, inverse_gap(t, r))

    tables = consistency_tables(student, intermediate, student.low)
    return regression(
        student, student_loss, tables, optimiser=optax.radam(1e-4), sigma_min=student.low
    )  # fmt: skip
