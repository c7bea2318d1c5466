"""Exponential moving averages of parameters: e <- b e + (1 - b) p after each of a player's updates.

A decay b is a function of n, the number of updates the player made before this one (0 at the
first). Averages are kept in float32 at least, whatever the parameters' dtype: at b = 0.9999 a
bfloat16 average never moves.

With p_1, p_2, ... the parameters after each update and e_0 = p_0 the initial ones:
    constant   e_n = b^n p_0 + (1 - b) sum_i b^(n-i) p_i
    half-life  b = 2^(-1/h), h in updates; h grows as ramp * n at first, so that early averages
               do not drag the initial parameters along (2206.00364, appendix F.2)
    power      b = (1 - 1/(n+1))^(gamma+1): weight i^gamma on p_i, up to O(1/i), over a window that
               is a fixed fraction of the run (2312.02696, eq. 3 and appendix C)
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.method import Decay
from jaxdiff.typing import Array, Params


def constant(decay: float) -> Decay:
    """Keep ``decay`` of the average at every update. Raises ValueError outside [0, 1)."""
    if not 0 <= decay < 1:
        raise ValueError(f"an EMA decay lies in [0, 1); got {decay}")
    return lambda n: jnp.asarray(decay, float)


def halflife(updates: float, ramp: float | None = 0.05) -> Decay:
    """Halve a parameter's weight every ``updates`` updates, or every ramp * n while that is less.

    ramp: None for none. Raises ValueError for a half-life that is not positive.
    """
    if not updates > 0 or (ramp is not None and not ramp > 0):
        raise ValueError(f"half-life and ramp must be positive; got {updates} and {ramp}")

    def decay(n: Array) -> Array:
        h = jnp.asarray(updates, float)
        if ramp is not None:
            h = jnp.minimum(h, ramp * n.astype(float))
        return jnp.exp2(-1 / jnp.maximum(h, 1e-6))

    return decay


def power(gamma: float) -> Decay:
    """Power-function average of exponent ``gamma``; see :func:`exponent` for its relative width.

    Raises ValueError for a negative exponent.
    """
    if gamma < 0:
        raise ValueError(f"the exponent of a power-function average is not negative; got {gamma}")

    def decay(n: Array) -> Array:
        n = n.astype(float)
        return (n / (n + 1)) ** (gamma + 1)

    return decay


def exponent(width: float) -> float:
    """Return the gamma whose profile has standard deviation ``width``, as a fraction of the run.

    Solves width^2 (gamma+2)^2 (gamma+3) = gamma + 1 (2312.02696, eq. 4 and appendix C); 0.05 gives
    16.97 and 0.1 gives 6.94. Raises ValueError outside (0, 12^(-1/2)], where no gamma >= 0 exists.
    """
    if not 0 < width <= 12**-0.5:
        raise ValueError(f"the relative width lies in (0, 0.2886]; got {width}")
    roots = np.roots([1.0, 7.0, 16 - width**-2, 12 - width**-2])
    return max(float(np.max(roots.real)), 0.0)


def start(params: Params) -> Params:
    """Return the initial average: a copy of ``params`` in float32 at least."""
    return jax.tree.map(lambda p: jnp.array(p, _kept(p), copy=True), params)


def update(average: Params, params: Params, decay: Array) -> Params:
    """Return ``decay * average + (1 - decay) * params``; leaves that are no floats are copied."""

    def one(e: Array, p: Array) -> Array:
        if not jnp.issubdtype(p.dtype, jnp.floating):
            return p
        b = decay.astype(e.dtype)
        return b * e + (1 - b) * p.astype(e.dtype)

    return jax.tree.map(one, average, params)


def _kept(p: Array) -> jnp.dtype:
    dtype = jnp.asarray(p).dtype
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32) if narrow else dtype
