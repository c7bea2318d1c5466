r"""Distributions of noise levels in training, each with the density of the level's logarithm.

A distribution with density p(u) of u = log level, and a weight w(level) of the squared error of x0,
train by E_p[w |D - x0|^2]. Only the product w p matters to what is learnt, and no choice of it to
the minimiser, E[x0 | y]; the distribution says how noisy the gradient is (arXiv 2303.00848).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.distill.parts.levels import log_normal_levels, logit_normal_times
from jaxdiff.process import Process, max_level, rates
from jaxdiff.process import level as level_at
from jaxdiff.process import time as time_of
from jaxdiff.typing import Array, AtTimes, Key

LEAST = 1e-4  # the lowest level drawn: of data of standard deviation 1 it shows nothing more


class LevelDistribution(NamedTuple):
    """A distribution of levels: ``draw(key, x0)``, one per sample of x0, shape (batch,); and
    ``density(level)``, the density of log level, of the level's shape.
    """

    draw: Callable[[Key, Array], Array]
    density: Callable[[AtTimes], AtTimes]


def log_normal(mean: float = -1.2, std: float = 1.2) -> LevelDistribution:
    """Return the distribution with log level ~ N(mean, std^2).

    Source: Karras et al. 2206.00364, table 1. Raises ValueError for a std that is not positive.
    """
    _check_std(std)
    return LevelDistribution(
        lambda key, x0: log_normal_levels(key, x0, mean, std),
        lambda level: _normal_density(jnp.log(level), mean, std),
    )


def uniform_times(process: Process) -> LevelDistribution:
    """Return the distribution with times uniform between 0 and the process's last.

    That of DDPM (2006.11239) in continuous time, and of rectified flow (2209.03003). Levels are
    kept between 1e-4 and the process's last (1000 where it has none), where the density is not
    given.
    """

    def draw(key: Key, x0: Array) -> Array:
        u = jax.random.uniform(key, x0.shape[:1], x0.dtype)
        return _levels(process, u)

    return LevelDistribution(draw, lambda level: jnp.abs(_slope(process, level)))


def logit_normal_process_times(
    process: Process, mean: float = 0.0, std: float = 1.0
) -> LevelDistribution:
    """Return the distribution with logit(t/t_max) ~ N(mean, std^2).

    In rectified flow's time t = s/(1 + s) the logit is log s, so that it is :func:`log_normal` with
    this mean and std. Levels are kept between the ends of :func:`uniform_times`.
    Source: Esser et al. 2403.03206, section 3.1 (0 and 1, their recommendation, are the defaults).
    Raises ValueError for a std that is not positive.
    """
    _check_std(std)

    def density(level: AtTimes) -> AtTimes:
        u = time_of(process, level) / process.t_max
        logit = jnp.log(u) - jnp.log1p(-u)
        return _normal_density(logit, mean, std) / (u * (1 - u)) * jnp.abs(_slope(process, level))

    return LevelDistribution(
        lambda key, x0: _levels(process, logit_normal_times(key, x0, mean, std)), density
    )


def _levels(process: Process, u: Array) -> Array:
    """Return the levels at fractions of the process's time, kept finite and positive."""
    levels = level_at(process, u * process.t_max)
    return jnp.clip(levels, LEAST, max_level(process).astype(u.dtype))


def _slope(process: Process, level: AtTimes) -> AtTimes:
    """Return d(t/t_max)/d log level at a level: 1/(sigma'/sigma - alpha'/alpha) in units of
    t_max.
    """
    t = time_of(process, level)
    alpha_rate, sigma_rate = rates(process, t)
    rise = sigma_rate / process.sigma(t) - alpha_rate / process.alpha(t)
    return 1 / (rise * process.t_max)


def _normal_density(x: AtTimes, mean: float, std: float) -> AtTimes:
    return jnp.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def _check_std(std: float) -> None:
    if not 0 < std < math.inf:
        raise ValueError(f"the standard deviation of a distribution is positive; got {std}")
