"""At which noise levels, and pairs of them, a loss is taken; and schedules of training.

Everything takes a traced step or stage, so that nothing compiles anew while training goes on.
Levels s and times t of a process are interchangeable (s = sigma/alpha): a method that is written in
rectified-flow time draws t in (0, 1) and has s = t/(1 - t).
"""

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, Key


def log_normal_levels(key: Key, x0: Array, mean: float, std: float) -> Array:
    """Return one noise level per sample of ``x0``, its logarithm N(mean, std^2) (arXiv 2206.00364,
    table 1).
    """
    return jnp.exp(mean + std * jax.random.normal(key, x0.shape[:1], x0.dtype))


def logit_normal_times(key: Key, x0: Array, mean: float, std: float) -> Array:
    """Return one time in (0, 1) per sample of ``x0``, its logit N(mean, std^2) (arXiv 2403.03206,
    section 3.1).
    """
    return jax.nn.sigmoid(mean + std * jax.random.normal(key, x0.shape[:1], x0.dtype))


def karras_level(index: Array, scales: Array, low: float, high: float, rho: float) -> Array:
    """Level number ``index`` (0 the highest) of the Karras grid of ``scales`` levels; both may be
    traced.
    """
    u = index / (scales - 1.0)
    return (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def karras_between(
    key: Key, x0: Array, low: float, high: float, first: float, last: float, rho: float = 7.0
) -> Array:
    """Return one level per sample of ``x0``, uniform on the Karras grid of infinitely many levels,
    from its fraction ``first`` (0 is ``high``) to ``last`` (1 is ``low``).
    """
    u = jax.random.uniform(key, x0.shape[:1], x0.dtype, minval=first, maxval=last)
    return karras_level(u, jnp.full_like(u, 2.0), low, high, rho)


def grid_index(key: Key, x0: Array, count: Array | int) -> Array:
    """Return one of 0 .. count - 1 per sample of ``x0``, uniformly, as a number of its dtype;
    ``count`` may be traced.
    """
    count = jnp.asarray(count).astype(x0.dtype)
    index = jnp.floor(jax.random.uniform(key, x0.shape[:1], x0.dtype) * count)
    return jnp.minimum(index, count - 1.0)  # the product may round up to count
