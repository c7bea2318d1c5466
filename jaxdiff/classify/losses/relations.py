"""Distillation of how the samples of a batch lie to each other, features e (batch, k).

    PKT   mean p_t log(p_t / p_s),       p_ij = (1 + cos(e_i, e_j)) / 2, rows divided by their sums
    RKD   25 h(d_s, d_t) + 50 h(c_s, c_t),   d = distances over their mean, c = cosines of the
          angles of all triples, h Huber's loss
    CC    mean over i of |D_i| . |D_(i+1)|,  D = e_s - e_t

Each is of the whole batch, and under pmap of each device's part.

Sources: PKT, Passalis and Tefas, arXiv 1803.10837; RKD, Park et al., arXiv 1904.05068; CC, Peng et
al., arXiv 1904.01802, in the form that comparisons of methods use.
"""

import jax.numpy as jnp

from jaxdiff.arrays import einsum
from jaxdiff.classify.losses.maps import check_pairs, gram, unit
from jaxdiff.typing import Array


def probabilistic(e_s: Array, e_t: Array) -> Array:
    """Return PKT of features (batch, k) and (batch, l) (arXiv 1803.10837). Raises ValueError for a
    batch of one, as all of these do.
    """
    check_pairs(e_s, "probabilistic transfer")
    small = jnp.asarray(1e-7, e_s.dtype)
    s, t = ((gram(_nearly_unit(e)) + 1.0) / 2.0 for e in (e_s, e_t))
    s, t = (p / jnp.sum(p, axis=1, keepdims=True) for p in (s, t))
    return jnp.mean(t * jnp.log((t + small) / (s + small)))


def _nearly_unit(e: Array) -> Array:
    return e / (jnp.sqrt(jnp.sum(e**2, axis=1, keepdims=True)) + 1e-7)


def relational(
    e_s: Array, e_t: Array, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Array:
    """Return RKD of features (batch, k) and (batch, l) (Park et al., arXiv 1904.05068)."""
    check_pairs(e_s, "relational distillation")
    distances = huber(_distances(e_s) - _distances(e_t))
    return distance_weight * distances + angle_weight * huber(_angles(e_s) - _angles(e_t))


def huber(x: Array) -> Array:
    """Return the mean of x^2 / 2 within -1 to 1 and |x| - 1/2 beyond."""
    size = jnp.abs(x)
    return jnp.mean(jnp.where(size < 1, 0.5 * x**2, size - 0.5))


def _distances(e: Array) -> Array:
    """Return the distances of all pairs over the mean of those that are not 0, (batch, batch)."""
    square = jnp.sum(e**2, axis=1)
    apart = jnp.maximum(square[:, None] + square[None] - 2.0 * gram(e), 1e-12)
    d = jnp.where(jnp.eye(e.shape[0], dtype=jnp.bool_), 0.0, jnp.sqrt(apart))
    return d / (jnp.sum(d) / jnp.sum((d > 0).astype(d.dtype)))


def _angles(e: Array) -> Array:
    """Return the cosine of the angle at i of the triangle i, j, k, (batch, batch, batch)."""
    apart = unit(e[None] - e[:, None], axis=2)
    return einsum("ijd,ikd->ijk", apart, apart)


def congruence(e_s: Array, e_t: Array) -> Array:
    """Return CC of features of one shape (batch, k), neighbours in the batch being pairs (arXiv
    1904.01802).
    """
    check_pairs(e_s, "correlation congruence")
    apart = jnp.abs(e_s - e_t)
    return jnp.mean(jnp.sum(apart[:-1] * apart[1:], axis=1))
