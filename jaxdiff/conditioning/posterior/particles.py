r"""Weighted particles: what sequential Monte Carlo carries, and how it is resampled.

Particles x_k with weights w_k stand for sum_k w_k delta(x - x_k). They are worth 1/sum_k w_k^2
equal ones (Kong et al. 1994); where that falls below a share of their number they are resampled,
systematically: ancestor j is where the sum of weights passes (j + U)/K, one uniform U for all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxdiff.arrays import check
from jaxdiff.brief import short
from jaxdiff.sampling.checks import check_start, check_typed
from jaxdiff.typing import Array, Cond, Key

UNIFORM = 2**31 - 3  # in place of a particle's number: the keys of the resampling


class Particles(NamedTuple):
    """A weighted sample.

    states: (particles, *shape).
    log_weights: (particles,), normalised.
    effective: (steps,), the effective number of particles before each resampling.
    cond: of each particle, a row for every one; it goes with its particle when these are resampled.
    """

    __repr__ = short

    states: Array
    log_weights: Float[Array, " particles"]
    effective: Float[Array, " steps"]
    cond: Cond = None


def resampled(particles: Particles, key: Key) -> Array:
    """Return the particles' states (particles, *shape), of equal weights."""
    check_typed(key)
    uniform = jax.random.uniform(key, (), particles.log_weights.dtype)
    return particles.states[ancestors(particles.log_weights, uniform)]


def ancestors(log_weights: Array, uniform: Array) -> Int[Array, " particles"]:
    """Return systematic resampling's choice for one uniform number in [0, 1)."""
    count = log_weights.shape[0]
    places = (jnp.arange(count, dtype=log_weights.dtype) + uniform) / count
    passed = jnp.cumsum(jnp.exp(normalised(log_weights)))
    return jnp.clip(jnp.searchsorted(passed, places), 0, count - 1)


def normalised(log_weights: Array) -> Array:
    """Return log weights whose exponentials sum to 1."""
    return log_weights - jax.nn.logsumexp(log_weights)


def effective_number(log_weights: Array) -> Array:
    """Return 1/sum_k w_k^2 of weights, normalised or not."""
    return jnp.exp(-jax.nn.logsumexp(2 * normalised(log_weights)))


def choice(log_weights: Array, threshold: float, uniform: Array) -> tuple[Array, Array, Array]:
    """Return each particle's ancestor, the log weights after the choice, and the effective number
    before it; all stay as they are where that is at least ``threshold`` times their number.
    """
    count = log_weights.shape[0]
    effective = effective_number(log_weights)
    renew = effective < threshold * count
    chosen = jnp.where(renew, ancestors(log_weights, uniform), jnp.arange(count, dtype=jnp.int32))
    return chosen, jnp.where(renew, jnp.zeros_like(log_weights), log_weights), effective


def checked_levels(
    name: str, levels: Sequence[float], threshold: float, start: Array, key: Key
) -> np.ndarray:
    """Return a grid. ValueError, naming the method, unless it decreases to 0 or above it, and the
    threshold is in [0, 1]; TypeError for a key that is not typed, and a start of other numbers than
    floating ones.
    """
    check_typed(key)
    check_start(start, None)
    grid = np.asarray(levels, float)
    if grid.ndim != 1 or len(grid) < 2 or not (np.diff(grid) < 0).all() or grid[-1] < 0:
        raise ValueError(f"{name} needs two or more decreasing levels, the last at least 0; {grid}")
    check(f"{name}: threshold is in [0, 1]", lambda t: 0 <= t <= 1, threshold)
    return grid
