r"""Kernels of drugs and targets from the interactions, and profiles for what has none.

Gaussian interaction profile (GIP), of rows y_i of Y, m of them:

    K_ij = exp(-g |y_i - y_j|^2),    g = gamma m / |Y|_F^2,

mixed with a similarity as alpha S + (1 - alpha) K (van Laarhoven, Nabuurs and Marchiori,
Bioinformatics 27, 2011, 3036). It is positive semidefinite if S is. A row without an interaction is
at one distance from all rows of one size: the profile says nothing of a new drug, so that it is
given one by its neighbours first,

    y_i = sum_j T^(j-1) y_(j)           (1)   weighted nearest neighbours, in order of similarity
    y_i = scaled(sum_j S_ij y_j)        (2)   neighbour-based interaction-profile inferring

(1) van Laarhoven and Marchiori (PLoS ONE 8, 2013, e66952), (2) Mei et al. (Bioinformatics 29, 2013,
238), where (2) is scaled to [0, 1]. The kernel is made after, and not row by row of S for some and
of the mixture for others: that is indefinite, and L/(L + sigma) of its eigenvalues has poles.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxdiff.arrays import check, einsum
from jaxdiff.typing import Array


def profile_kernel(known: Array, gamma: float = 1.0) -> Float[Array, "m m"]:
    """Gaussian interaction profile kernel of the rows of a matrix.

    Args:
        known: (m, n) interactions; a kernel of the columns is that of the transpose.
        gamma: bandwidth relative to the mean squared norm of a row.

    Returns:
        (m, m), 1 on the diagonal; 1 throughout for a matrix of zeros.

    Source: van Laarhoven et al. (2011), equations 1 and 2.

    >>> import jax.numpy as jnp
    >>> print(profile_kernel(jnp.array([[1.0, 0.0], [0.0, 1.0]])))
    [[1.         0.13533528]
     [0.13533528 1.        ]]
    """
    check("gamma must be positive", lambda g: g > 0, gamma)
    norms = jnp.sum(known**2, axis=1)
    apart = norms[:, None] + norms[None] - 2 * einsum("ik,jk->ij", known, known)
    mean = jnp.mean(norms)
    g = gamma / jnp.where(mean > 0, mean, 1)
    kernel = jnp.exp(-g * jnp.maximum(apart, 0))
    return jnp.where(jnp.eye(len(known), dtype=bool), 1, kernel)  # whatever rounding left


def mixed_kernels(
    known: Array, drugs: Array, targets: Array, alpha: float, gamma: float
) -> tuple[Float[Array, "m m"], Float[Array, "n n"]]:
    """Return alpha S + (1 - alpha) GIP of drugs (m, m) and of targets (n, n).

    Args:
        known: (m, n), the profiles.
        drugs, targets: similarities (m, m) and (n, n).
        alpha: share of the similarities, 0 to 1; 0 knows nothing of a drug without interactions.
        gamma: as of :func:`profile_kernel`.
    """
    check("alpha must lie between 0 and 1", lambda a: 0 <= a <= 1, alpha)
    return (
        alpha * drugs + (1 - alpha) * profile_kernel(known, gamma),
        alpha * targets + (1 - alpha) * profile_kernel(known.T, gamma),
    )


def is_new(known: Array) -> Bool[Array, " m"]:
    """Return which rows have no interaction, (m,)."""
    return ~jnp.any(known != 0, axis=1)


def weighted_neighbour_profiles(
    known: Array, similarity: Array, decay: float, first: float = 1.0
) -> Array:
    """Give every row without interactions the profile (1), and leave the others.

    Args:
        known: (m, n).
        similarity: (m, m) of the rows.
        decay: T, 0 to 1; 0 takes the nearest neighbour alone.
        first: weight of the nearest neighbour, positive, of which all others are fractions.

    Returns:
        (m, n).

    Source: van Laarhoven and Marchiori (2013), section "Weighted profile".
    """
    check("decay must lie between 0 and 1", lambda t: 0 <= t <= 1, decay)
    check("first must be positive and finite", lambda w: 0 < w < float("inf"), first)
    new = is_new(known)
    order = jnp.argsort(jnp.where(new[None], -jnp.inf, similarity), axis=1, descending=True)
    rank = jnp.argsort(order, axis=1)  # of every row j among the neighbours of i
    weights = jnp.where(new[None], 0, jnp.asarray(decay, known.dtype) ** rank.astype(known.dtype))
    return jnp.where(new[:, None], first * einsum("ij,jk->ik", weights, known), known)


def inferred_profiles(known: Array, similarity: Array) -> Array:
    """Give every row without interactions the profile (2), and leave the others.

    Args:
        known: (m, n).
        similarity: (m, m) of the rows.

    Returns:
        (m, n); a profile that is the same for all columns becomes 0.

    Source: Mei et al. (2013), equations 8 and 9.
    """
    inferred = einsum("ij,jk->ik", similarity, known)  # rows that are new add nothing
    low, high = inferred.min(axis=1, keepdims=True), inferred.max(axis=1, keepdims=True)
    scaled = (inferred - low) / jnp.where(high > low, high - low, 1)
    return jnp.where(is_new(known)[:, None], scaled, known)
