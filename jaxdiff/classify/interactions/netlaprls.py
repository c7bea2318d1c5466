r"""NetLapRLS: Laplacian regularised least squares on similarity and network together.

With the number of targets that two drugs share as a second similarity,

    W = (S + g Y Y^T) / (1 + g), diagonal 0,    L = I - D^-1/2 W D^-1/2,
    F_d = W (W + b L W)^-1 Y = (I + b L)^-1 Y,

the same for targets, and F = (F_d + F_t^T) / 2. Source: Xia, Wu, Zhou and Wong, Semi-supervised
drug-protein interaction prediction from heterogeneous biological spaces (BMC Systems Biology 4,
2010, S6), equations 3 to 9. The first form is undefined where W is singular; the second is its
value everywhere else, and what it tends to.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdiff.arrays import check, einsum
from jaxdiff.classify.interactions.inverse import positive_inverse
from jaxdiff.classify.interactions.problem import Problem
from jaxdiff.typing import Array


def netlaprls(problem: Problem, *, gamma: float = 10.0, beta: float = 1e-5) -> Float[Array, "m n"]:
    """NetLapRLS.

    Args:
        problem: held-out pairs count as no interaction.
        gamma: weight of the network against the similarity, at least 0. The paper's is 0.01; the
            default is the one tuned by Liu et al. (PLoS Comput. Biol. 12, 2016, e1004760).
        beta: weight of the Laplacian, positive. The paper's is 0.3; likewise.

    Returns:
        (m, n) scores.

    Source: Xia et al. (2010), equation 9.
    """
    check("gamma must not be negative", lambda g: g >= 0, gamma)
    check("beta must be positive", lambda b: b > 0, beta)
    from_drugs = smoothed(problem.known, problem.drugs, gamma, beta)
    return (from_drugs + smoothed(problem.known.T, problem.targets, gamma, beta).T) / 2


def smoothed(known: Array, similarity: Array, gamma: float, beta: float) -> Float[Array, "m n"]:
    """Return (I + beta L)^-1 Y for Y (m, n) and a similarity (m, m) of its rows."""
    graph = network(known, similarity, gamma)
    degree = graph.sum(axis=1)
    scale = jnp.where(degree > 0, jax.lax.rsqrt(jnp.where(degree > 0, degree, 1)), 0)
    laplacian = jnp.eye(len(graph), dtype=graph.dtype) - scale[:, None] * graph * scale[None]
    matrix = jnp.eye(len(graph), dtype=graph.dtype) + beta * laplacian
    return einsum("ij,jk->ik", positive_inverse(matrix), known)


def network(known: Array, similarity: Array, gamma: float) -> Float[Array, "m m"]:
    """Return W, similarity and shared interactions mixed, diagonal 0, for rows of Y (m, n)."""
    shared = einsum("ik,jk->ij", known, known)
    mixed = (similarity + gamma * shared) / (1 + gamma)
    return jnp.where(jnp.eye(len(mixed), dtype=bool), 0, mixed)
