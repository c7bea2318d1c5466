r"""Filtering posterior sampling: particles led by a noisy version of the measurement at every level.

The measurement is noised as the states are, u_s = u_r + sqrt(s^2 - r^2) A z from u_0 = u, and each
is seen as A y_s with the measurement's own noise. From level s to r, with b^2 = r^2 (s^2 - r^2)/s^2
and m = D + r^2/s^2 (y - D),

    y_r ~ N(y_r; m, b^2 I) N(u_r; A y_r, noise^2 I), normalised,    w = N(u_r; A m, b^2 A A^T + noise^2 I)

(FPS-SMC, Dou and Song, ICLR 2024, "Diffusion posterior sampling for linear inverse problem solving:
a filtering perspective".) One particle is FPS. The measurement of every level counts as one more,
so that samples fit it more closely than its noise allows, however many particles there are. A last
step to level 0 is the denoised state.
"""  # noqa: E501

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check_any_rows, per_sample, take
from jaxdiff.conditioning.operators.measurement import Measurement, checked, linear_of
from jaxdiff.conditioning.posterior.particles import (
    UNIFORM,
    Particles,
    checked_levels,
    choice,
    normalised,
)
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import draw, sample_keys
from jaxdiff.sampling.checks import as_states
from jaxdiff.typing import Array, Cond, Denoiser, Key


def fps_smc(
    denoiser: Denoiser,
    measurement: Measurement,
    levels: Sequence[float],
    start: Array,
    key: Key,
    cond: Cond = None,
    *,
    threshold: float = 0.5,
) -> Particles:
    """Sample one posterior with particles led by noisy measurements.

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: one for all, of a linear operator with a decomposition, with one noise.
        levels, start, key, cond, threshold: as of :func:`jaxdiff.posterior.tds`.

    Raises:
        ValueError: for a measurement without noise, with several, or without a decomposition.
            Others as of :func:`jaxdiff.posterior.tds`.
    """
    _ = linear_of(checked(measurement, "fps_smc", noisy=True), "fps_smc").svd
    if measurement.noise.ndim or measurement.observation.ndim != len(measurement.operator.measured):
        raise ValueError(
            "fps_smc takes one observation and one noise; jax.vmap over measurements is for several"
        )
    grid = checked_levels("fps_smc", levels, threshold, start, key)
    cond, D = per_sample(cond, start.shape[0]), as_partial(denoiser)
    ends_at_0 = bool(grid[-1] == 0)
    knots = jnp.asarray(grid, start.dtype)
    answer = lambda D, rows: D(rows[0], knots[0], rows[1])  # noqa: E731
    check_any_rows(answer, D, (start, cond), "fps_smc")
    return _fps_smc(D, measurement, knots, start, key, cond, threshold, ends_at_0=ends_at_0)


@functools.partial(jax.jit, static_argnames="ends_at_0")
def _fps_smc(
    D: Partial, seen: Measurement, grid: Array, start: Array, key: Key, cond: Cond, threshold: Any,
    ends_at_0: bool,
) -> Particles:  # fmt: skip
    keys, own = sample_keys(key, start, None), jax.random.fold_in(key, UNIFORM)
    basis = linear_of(seen).svd
    noise = seen.noise.astype(start.dtype) ** 2
    singular = basis.values(start)
    led = _noisy_measurements(seen, grid, jax.random.fold_in(own, len(grid)), start)

    def step(carry: tuple[Array, Array, Cond], at: Any) -> tuple[Any, Array]:
        s, r, u, i = at
        y, log_weights, own_cond = carry
        share, b2 = (r / s) ** 2, r**2 * (s - r) * (s + r) / s**2
        x0 = as_states(D(y, s, own_cond), y)
        mean = basis.coordinates(x0 + share * (y - x0))
        apart = jnp.where(singular > 0, u - singular * mean, 0)
        spread = b2 * singular**2 + noise
        log_weights = log_weights - 0.5 * jnp.sum(apart**2 / spread, axis=1)
        uniform = jax.random.uniform(jax.random.fold_in(own, i), (), y.dtype)
        chosen, log_weights, effective = choice(log_weights, threshold, uniform)
        mean = (mean + b2 * singular / spread * apart)[chosen]
        z = draw(keys, i, 0, singular.shape[1:], y.dtype)
        y = basis.sample(mean + jnp.sqrt(b2 * noise / spread) * z)
        return (y, log_weights, take(own_cond, chosen)), effective

    count = len(grid) - 1 - bool(ends_at_0)
    steps = (grid[:count], grid[1 : count + 1], led[1 : count + 1], jnp.arange(count))
    first = (start, jnp.zeros(start.shape[0], start.dtype), cond)
    (y, log_weights, cond), effective = jax.lax.scan(step, first, steps)
    states = as_states(D(y, grid[-2], cond), y) if ends_at_0 else y
    return Particles(states, normalised(log_weights), effective, cond)


def _noisy_measurements(seen: Measurement, grid: Array, key: Key, like: Array) -> Array:
    """Return U^T u_s at every level of a grid, (knots, 1, n)."""
    basis = linear_of(seen).svd
    u = basis.observed(seen.rows(like[:1]))
    steps = grid**2 - jnp.append(grid[1:], 0) ** 2  # from the level below, 0 at last
    z = jax.random.normal(key, (len(grid), *basis.singular.shape), like.dtype)
    walk = jnp.cumsum((jnp.sqrt(steps)[:, None] * z)[::-1], axis=0)[::-1]
    return u[None] + (basis.values(like) * walk)[:, None]
