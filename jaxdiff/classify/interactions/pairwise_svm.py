r"""A support vector machine over pairs, with the kernel K_d[i, k] K_t[j, l].

The decision value of a pair is F - 1, so that what resembles nothing known counts as no
interaction. With labels z = 2 Y - 1 of the observed pairs and costs C_ij, the dual is a concave
programme in a box,

    max over 0 <= a_ij <= C_ij:   sum_ij a_ij (1 + z_ij) - |f|^2 / 2,    F = K_d (a * z) K_t,
    |f|^2 = sum_ij a_ij z_ij F_ij,

whose products with the kernel of m n pairs cost two small products of matrices. It is climbed by
accelerated projected gradient with the step 1/(l_max m_max), which is safe as the eigenvalues of
the kernel of pairs are products. The gap to the primal, sum C max(0, 1 - z (F - 1)) +
|f|^2 / 2, bounds the error. The predictor is RLS-Kron's with the hinge for the square.

Source: pairwise kernels, Jacob and Vert (Bioinformatics 24, 2008, 2149), section 2.3; the ascent,
Beck and Teboulle (SIAM J. Imaging Sciences 2, 2009, 183), algorithm FISTA.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdiff.arrays import check, einsum
from jaxdiff.brief import short
from jaxdiff.classify.interactions.kernels import mixed_kernels
from jaxdiff.classify.interactions.problem import Problem, zero_or_one
from jaxdiff.typing import Array


class Machine(NamedTuple):
    """Outcome of :func:`pairwise_machine`.

    scores: (m, n) decision values F - 1. dual: (m, n) coefficients a. gap: () primal minus dual.
    """

    __repr__ = short

    scores: Float[Array, "m n"]
    dual: Float[Array, "m n"]
    gap: Array


def pairwise_svm(
    problem: Problem,
    *,
    alpha: float = 0.5,
    gamma: float = 1.0,
    cost: float = 0.1,
    balanced: bool = True,
    num_updates: int = 300,
) -> Float[Array, "m n"]:
    """Support vector machine with the pairwise kernel.

    Args:
        problem: pairs that are not observed are no training examples. known: 0 or 1.
        alpha: share of the similarities in the kernels, 0 to 1.
        gamma: bandwidth of the interaction profiles.
        cost: C of a pair, positive.
        balanced: multiply the cost of interactions by the number of other pairs over theirs.
        num_updates: steps of the ascent.

    Returns:
        (m, n) decision values.

    Deviations: the intercept is -1 instead of being trained, by which a drug far from all others is
    labelled to have no interactions; and all pairs are examples, not a sample of the negative ones.
    """
    problem = zero_or_one(problem, "pairwise_svm")
    known, observed = problem.known, problem.observed
    check("cost must be positive", lambda c: c > 0, cost)
    kernels = mixed_kernels(known, problem.drugs, problem.targets, alpha, gamma)
    positive = jnp.sum(known * observed)
    ratio = (jnp.sum(observed) - positive) / jnp.maximum(positive, 1) if balanced else 1.0
    costs = cost * observed * (1 + (ratio - 1) * known)
    return pairwise_machine(*kernels, 2 * known - 1, costs, num_updates).scores


def pairwise_machine(
    drugs: Array, targets: Array, labels: Array, costs: Array, num_updates: int
) -> Machine:
    """Solve the dual programme of this module.

    Args:
        drugs, targets: kernels (m, m) and (n, n), positive semidefinite.
        labels: (m, n), -1 or 1.
        costs: (m, n), not negative; 0 leaves a pair out.
        num_updates: steps of the ascent.
    """
    check("num_updates must be at least 1", lambda n: n >= 1, num_updates)
    largest = jnp.linalg.norm(drugs, ord="fro") * jnp.linalg.norm(targets, ord="fro")
    top = jnp.minimum(largest, _row_bound(drugs) * _row_bound(targets))  # both bound l_max m_max

    def predict(a: Array) -> Array:
        return einsum("ik,kl,lj->ij", drugs, a * labels, targets)

    def update(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        a, ahead, t = carry
        moved = jnp.clip(ahead + (1 - labels * (predict(ahead) - 1)) / top, 0, costs)
        later = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        turned = jnp.sum((ahead - moved) * (moved - a)) > 0  # restart where momentum goes downhill
        later = jnp.where(turned, 1, later)
        return moved, moved + jnp.where(turned, 0, (t - 1) / later) * (moved - a), later

    zero = jnp.zeros_like(labels)
    a, _, _ = jax.lax.fori_loop(0, num_updates, update, (zero, zero, jnp.ones((), labels.dtype)))
    fit = predict(a)
    norm = jnp.sum(a * labels * fit)
    hinge = jnp.sum(costs * jnp.maximum(0, 1 - labels * (fit - 1)))
    return Machine(fit - 1, a, hinge + norm - jnp.sum(a * (1 + labels)))


def _row_bound(kernel: Array) -> Array:
    return jnp.abs(kernel).sum(axis=1).max()
