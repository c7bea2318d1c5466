r"""Collaborative matrix factorisation: interactions and similarities share their factors.

Minimised over U (m, r) and V (n, r) by alternating least squares, each row in turn exactly,

    |O * (Y - U V^T)|^2 + l (|U|^2 + |V|^2) + l_d |S_d - U U^T|^2 + l_t |S_t - V V^T|^2,

the second U of U U^T held fixed in a step, so that row i of U solves

    (sum_j O_ij v_j v_j^T + l I + l_d U^T U) u_i = sum_j O_ij Y_ij v_j + l_d sum_k S_d[i, k] u_k.

Source: Zheng, Ding, Mamitsuka and Zhu, Collaborative matrix factorization with multiple
similarities for predicting drug-target interactions (KDD 2013), equations 5 to 9, for one
similarity of each kind.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdiff.arrays import check, einsum
from jaxdiff.classify.interactions.inverse import positive_inverse
from jaxdiff.classify.interactions.problem import Problem
from jaxdiff.typing import Array, Key


def cmf(
    problem: Problem,
    key: Key,
    *,
    rank: int = 50,
    ridge: float = 0.5,
    drug_weight: float = 0.125,
    target_weight: float = 0.125,
    num_updates: int = 30,
) -> Float[Array, "m n"]:
    """Collaborative matrix factorisation.

    Args:
        problem: pairs that are not observed are left out of the sum.
        key: of the factors at the start, normal of variance 1/rank.
        rank: r of the factors.
        ridge: l, positive.
        drug_weight, target_weight: l_d and l_t, not negative.
        num_updates: rounds over both factors.

    Returns:
        (m, n) scores U V^T.

    Source: Zheng et al. (2013), algorithm 1. The defaults of ridge and weights lie in the grid of
    Liu et al. (PLoS Comput. Biol. 12, 2016, e1004760).
    """
    check("rank must be at least 1", lambda r: r >= 1, rank)
    check("ridge must be positive", lambda l: l > 0, ridge)
    check("num_updates must be at least 1", lambda n: n >= 1, num_updates)
    weights = (drug_weight, target_weight)
    check("the weights must not be negative", lambda a, b: a >= 0 and b >= 0, *weights)
    known, observed, drugs, targets = problem
    for_drugs, for_targets = jax.random.split(key)
    scale = jnp.asarray(rank, known.dtype) ** -0.5
    U = scale * jax.random.normal(for_drugs, (known.shape[0], rank), known.dtype)
    V = scale * jax.random.normal(for_targets, (known.shape[1], rank), known.dtype)

    def update(_: Array, factors: tuple[Array, Array]) -> tuple[Array, Array]:
        U, V = factors
        U = updated_rows(known, observed, drugs, U, V, ridge, drug_weight)
        return U, updated_rows(known.T, observed.T, targets, V, U, ridge, target_weight)

    U, V = jax.lax.fori_loop(0, num_updates, update, (U, V))
    return einsum("ir,jr->ij", U, V)


def updated_rows(
    known: Array,
    observed: Array,
    similarity: Array,
    U: Array,
    V: Array,
    ridge: float,
    weight: float,
) -> Array:
    """Return U with every row at its minimum, V and the other rows' factors being given."""
    rank = U.shape[1]
    outer = (V[:, :, None] * V[:, None]).reshape(len(V), -1)
    seen = einsum("ij,jk->ik", observed, outer).reshape(len(U), rank, rank)
    shared = ridge * jnp.eye(rank, dtype=U.dtype) + weight * einsum("kr,ks->rs", U, U)
    right = einsum("ij,jr->ir", observed * known, V) + weight * einsum("ik,kr->ir", similarity, U)
    return einsum("irs,is->ir", positive_inverse(seen + shared[None]), right)
