"""Distillation of which side of zero a number is, before its ReLU.

    AB    mean [ 1(s > -m, t <= 0) (s + m)^2 + 1(s <= m, t > 0) (s - m)^2 ],    m = 1
    OFD   sum over numbers of d(s, t'), divided by the batch and by 1000,
          t' = max(t, m_c),   m_c = mean of the channel's negative t,
          d = 0 where s <= t' <= 0, else (s - t')^2

Sources: AB, Heo et al., arXiv 1811.03233, eq. 4; OFD, Heo et al., arXiv 1904.01866, eqs. 1 to 4;
its margin is of the batch, where the authors take it from batch norm's parameters.
"""

import jax.numpy as jnp

from jaxdiff.typing import Array


def activation_boundary(s: Array, t: Array, margin: float = 1.0) -> Array:
    """Return AB of a connected student's map ``s`` before its ReLU and a teacher's ``t`` of the
    same shape, whose sign alone counts: before or after its ReLU (arXiv 1811.03233, eq. 4).
    """
    above = jnp.where((s > -margin) & (t <= 0), (s + margin) ** 2, 0.0)
    below = jnp.where((s <= margin) & (t > 0), (s - margin) ** 2, 0.0)
    return jnp.mean(above + below)


def margins(t: Array) -> Array:
    """Return the mean of the negative numbers of each channel, (channels,), 0 where there are
    none.
    """
    negative = (t < 0).astype(t.dtype)
    axes = tuple(range(t.ndim - 1))
    return jnp.sum(t * negative, axis=axes) / jnp.maximum(jnp.sum(negative, axis=axes), 1.0)


def overhaul(s: Array, t: Array) -> Array:
    """Return OFD of a connected student's map and a teacher's, both before their ReLU (arXiv
    1904.01866, eqs. 2 to 4).
    """
    floor = margins(t).reshape((1,) * (t.ndim - 1) + (-1,))
    t = jnp.maximum(t, floor)
    each = jnp.where((s <= t) & (t <= 0), 0.0, (s - t) ** 2)
    return jnp.sum(each) / (1000.0 * t.shape[0])
