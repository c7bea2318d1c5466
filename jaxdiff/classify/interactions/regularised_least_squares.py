r"""Regularised least squares for drug-target prediction: one side at a time, or all pairs at once.

    RLS-avg   F = [K_d (K_d + s I)^-1 Y  +  (K_t (K_t + s I)^-1 Y^T)^T] / 2
    RLS-Kron  vec F = K (K + s I)^-1 vec Y,    K = K_t (x) K_d

with kernels mixed of similarity and interaction profile (:mod:`.kernels`). With K_d = U diag(l) U^T
and K_t = V diag(m) V^T the second is

    F = U [ (U^T Y V) * l m^T / (l m^T + s) ] V^T,

entry (a, b) of the coefficients going with l_a m_b. Source: van Laarhoven, Nabuurs and Marchiori,
Gaussian interaction profile kernels for predicting drug-target interaction (Bioinformatics 27,
2011, 3036), sections 2.3 and 2.4.
"""

import jax.numpy as jnp
from jaxtyping import Float

from jaxdiff.arrays import check, einsum
from jaxdiff.classify.interactions.inverse import positive_inverse
from jaxdiff.classify.interactions.kernels import mixed_kernels
from jaxdiff.classify.interactions.problem import Problem
from jaxdiff.typing import Array


def rls_avg(
    problem: Problem, *, alpha: float = 0.5, gamma: float = 1.0, sigma: float = 1.0
) -> Float[Array, "m n"]:
    """RLS-avg: the mean of the predictions from drugs and from targets.

    Args:
        problem: held-out pairs count as no interaction, as in the paper.
        alpha: share of the similarities in the kernels, 0 to 1.
        gamma: bandwidth of the interaction profiles.
        sigma: ridge, positive.

    Returns:
        (m, n) scores: higher for likelier interactions.

    Source: van Laarhoven et al. (2011), equation 6.
    """
    kernels = mixed_kernels(problem.known, problem.drugs, problem.targets, alpha, gamma)
    return (
        ridge(kernels[0], problem.known, sigma) + ridge(kernels[1], problem.known.T, sigma).T
    ) / 2


def ridge(kernel: Array, values: Array, sigma: float) -> Float[Array, "m n"]:
    """Return K (K + sigma I)^-1 values, the fit of kernel ridge regression at its own points.

    kernel: (m, m), positive semidefinite. values: (m, n). sigma: positive.
    """
    check("sigma must be positive", lambda s: s > 0, sigma)
    inverse = positive_inverse(kernel + sigma * jnp.eye(len(kernel), dtype=kernel.dtype))
    return values - sigma * einsum("ij,jk->ik", inverse, values)


def rls_kron(
    problem: Problem, *, alpha: float = 0.5, gamma: float = 1.0, sigma: float = 1.0
) -> Float[Array, "m n"]:
    """RLS-Kron: kernel ridge regression of all pairs, by two small eigendecompositions.

    Args:
        problem: held-out pairs count as no interaction, as in the paper.
        alpha: share of the similarities in the kernels, 0 to 1.
        gamma: bandwidth of the interaction profiles.
        sigma: ridge, positive.

    Returns:
        (m, n) scores: higher for likelier interactions.

    Source: van Laarhoven et al. (2011), equations 7 and 8.
    """
    kernels = mixed_kernels(problem.known, problem.drugs, problem.targets, alpha, gamma)
    return kronecker_ridge(*kernels, problem.known, sigma)


def kronecker_ridge(drugs: Array, targets: Array, values: Array, sigma: float) -> Array:
    """Return the fit of kernel ridge regression with the kernel K_d[i, k] K_t[j, l] of pairs.

    drugs: (m, m) and targets: (n, n), positive semidefinite. values: (m, n). sigma: positive.
    """
    check("sigma must be positive", lambda s: s > 0, sigma)
    l, U = jnp.linalg.eigh(drugs)
    m, V = jnp.linalg.eigh(targets)
    product = jnp.maximum(l, 0)[:, None] * jnp.maximum(m, 0)[None]  # rounding may leave -1e-16
    shrunk = einsum("ia,ij,jb->ab", U, values, V) * product / (product + sigma)
    return einsum("ia,ab,jb->ij", U, shrunk, V)
