r"""Twisted diffusion sampling: sequential Monte Carlo whose error falls with its particles.

The twist p~_s(u | y) = p(u | x0 = D(y, s)) guides the ancestral step, and what is wrong with it is
put right by weights. From level s to r, with b^2 = r^2 (s^2 - r^2)/s^2,

    m(D) = D + r^2/s^2 (y - D),    y_r ~ N(m(D + s^2 grad log p~_s), b^2)
    w = p~_r(u | y_r) N(y_r; m(D), b^2) / (p~_s(u | y) N(y_r; m(D + s^2 grad log p~_s), b^2))

(TDS, Wu et al., arXiv 2306.17775, algorithm 1.) A last step to level 0 has no noise to weigh: it is
the denoised state, whose twist is that of its state.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial

from jaxdiff.arrays import check, check_any_rows, per_sample, take
from jaxdiff.conditioning.operators.measurement import Measurement, checked, linear_of
from jaxdiff.conditioning.posterior.energy import as_function, each
from jaxdiff.conditioning.posterior.particles import (
    UNIFORM,
    Particles,
    checked_levels,
    choice,
    normalised,
)
from jaxdiff.conditioning.posterior.parts import dot, pulled
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import draw, sample_keys
from jaxdiff.typing import Array, Cond, Denoiser, Key, PerSample


class Twisted(NamedTuple):
    """Particles at a level: states, denoised states, grad_y log p~, log p~ and log weights."""

    states: Array
    denoised: Array
    slope: Array
    log_twist: Array
    log_weights: Array


def tds(
    denoiser: Denoiser,
    log_likelihood: Callable[[Array, Array], PerSample],
    levels: Sequence[float],
    start: Array,
    key: Key,
    cond: Cond = None,
    *,
    threshold: float = 0.5,
) -> Particles:
    """Sample one posterior with particles (arXiv 2306.17775).

    Args:
        denoiser: ``D(y, level, cond)``.
        log_likelihood: ``f(x0, level) -> (particles,)``, the twist: log p(u | x0 = D), which a
            level may widen, and at the lowest level is the likelihood. A measurement's:
            ``lambda x0, level: seen.log_likelihood(x0)``, or :func:`gaussian_twist`.
        levels: the grid, decreasing, its last level 0 or above.
        start: the particles (particles, *shape) at ``levels[0]``, of one sample; ``jax.vmap`` over
            starts, keys and measurements is for several.
        key: typed key.
        cond: of every particle: its leaves have a row for each, or are numbers. A row goes with
            its particle, so that conditions that differ are weighed, too: p(x, c | u).
        threshold: particles are resampled where they are worth less than this share of their
            number; 1 is always, 0 never.

    Returns:
        The particles, their weights, what they were worth at every step, and their conditions.

    Raises:
        ValueError: for levels or a threshold that are none, and numbers per particle held by the
            denoiser or the likelihood, which would stay where they are when particles move.
        TypeError: for a start that is not floating, or a key that is not typed.
    """
    grid = checked_levels("tds", levels, threshold, start, key)
    cond = per_sample(cond, start.shape[0])
    D, f = as_partial(denoiser), as_function(log_likelihood, "a likelihood")
    knots = jnp.asarray(grid, start.dtype)
    first = lambda D, rows: twisted(D, f, rows[1], rows[0], knots[0])  # noqa: E731
    check_any_rows(first, D, (start, cond), "tds")
    return _tds(D, f, knots, start, key, cond, threshold, grid[-1] == 0)


def gaussian_twist(measurement: Measurement, data_std: float | Array = 1.0) -> Partial:
    r"""Return a measurement's twist with the spread that PiGDM takes p(x0 | y) to have.

        log N(u; A x0, noise^2 I + v A A^T),    v = d^2 s^2/(d^2 + s^2).

    The likelihood itself, the paper's choice, is too narrow where p(x0 | y) is wide: particles then
    leave modes early that they should not, and many more are needed.

    Args:
        measurement: of a linear operator with a decomposition, with one noise.
        data_std: d, standard deviation of the data.

    Raises:
        ValueError: for several observations or noises, or a noise or data_std that is not positive.
        TypeError: for what is no measurement of a linear operator.
    """
    _ = linear_of(checked(measurement, "gaussian_twist", noisy=True), "gaussian_twist").svd
    check("data_std must be positive", lambda d: (d > 0).all(), data_std)
    if measurement.noise.ndim or measurement.observation.ndim != len(measurement.operator.measured):
        raise ValueError(
            "gaussian_twist takes one observation and one noise, of all particles; jax.vmap over "
            "measurements is for several"
        )
    return Partial(_gaussian_twist, measurement, data_std)


def _gaussian_twist(measurement: Measurement, data_std: Any, x0: Array, level: Array) -> Array:
    basis = linear_of(measurement).svd
    d2, s2 = jnp.asarray(data_std, x0.dtype) ** 2, jnp.asarray(level, x0.dtype) ** 2
    spread = measurement.noise.astype(x0.dtype) ** 2 + d2 * s2 / (d2 + s2) * basis.values(x0) ** 2
    apart = basis.observed(measurement.residual(x0))
    return -0.5 * jnp.sum(apart**2 / spread + jnp.log(spread), axis=1)


def _tds(
    D: Partial, f: Partial, grid: Array, start: Array, key: Key, cond: Cond, threshold: Any,
    ends_at_0: bool,
) -> Particles:  # fmt: skip
    count = len(grid) - 1 - bool(ends_at_0)
    first = twisted(D, f, cond, start, grid[0])
    first = first._replace(log_weights=first.log_twist)
    steps = (grid[:count], grid[1 : count + 1], jnp.arange(count))
    step = functools.partial(_step, D, f, threshold, key, sample_keys(key, start, None))
    (last, own), effective = _steps(step, (first, cond), steps)
    states = last.denoised if ends_at_0 else last.states
    return Particles(states, normalised(last.log_weights), effective, own)


@jax.jit
def _step(
    D: Partial, f: Partial, threshold: Any, key: Key, keys: Key, carry: tuple[Twisted, Cond],
    at: tuple[Array, Array, Array],
) -> tuple[tuple[Twisted, Cond], Array]:  # fmt: skip
    """Return particles and their conditions at the next level, and what they were worth before."""
    (now, own), (s, r, i) = carry, at
    shape, dtype = now.states.shape[1:], now.states.dtype
    u = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, UNIFORM), i), (), dtype)
    chosen, log_weights, effective = choice(now.log_weights, threshold, u)
    kept, own = take((now, own), chosen)
    kept = kept._replace(log_weights=log_weights)
    return (moved(D, f, own, kept, s, r, draw(keys, i, 0, shape, dtype)), own), effective


def _steps(step: Any, first: Any, given: tuple[Array, ...]) -> tuple[Any, Array]:
    """:func:`jax.lax.scan`; outside of a trace step by step, as on CPU gradients of convolutions
    are many times slower in a loop.
    """
    traced = any(isinstance(x, Tracer) for x in jax.tree.leaves((step.args, first, given)))
    if traced or not len(given[0]):
        return jax.lax.scan(step, first, given)
    now, effective = first, []
    for at in zip(*given, strict=True):
        now, worth = step(now, at)
        effective.append(worth)
    return now, jnp.stack(effective)


@jax.jit
def twisted(D: Partial, f: Partial, cond: Cond, y: Array, level: Array) -> Twisted:
    """Return the particles at a level, of log weights 0: an evaluation and its gradient."""
    x0, back = pulled(D, y, level, cond, {})
    value, of_x0 = jax.vjp(lambda x0: each(f(x0, level), x0), x0)
    slope = back(of_x0(jnp.ones_like(value))[0])
    return Twisted(y, x0, slope, value, jnp.zeros_like(value))


def moved(
    D: Partial, f: Partial, cond: Cond, now: Twisted, s: Array, r: Array, noise: Array
) -> Twisted:
    """Return particles moved from level s to r > 0, with their weights multiplied."""
    share, variance = (r / s) ** 2, r**2 * (s - r) * (s + r) / s**2
    shift = (1 - share) * s**2 * now.slope  # of the mean
    mean = now.denoised + share * (now.states - now.denoised)
    y = mean + shift + jnp.sqrt(variance) * noise
    then = twisted(D, f, cond, y, r)
    apart = dot(y - mean, y - mean) - dot(y - mean - shift, y - mean - shift)
    change = then.log_twist - now.log_twist - apart.reshape(-1) / (2 * variance)
    return then._replace(log_weights=now.log_weights + change)
