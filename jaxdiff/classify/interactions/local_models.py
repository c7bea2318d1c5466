r"""Bipartite local models: a classifier for every drug, one for every target, and their maximum.

The model of drug i learns its row y_i from the similarities of targets, the model of target j its
column from the similarities of drugs, and pair (i, j) gets the larger of the two answers (Bleakley
and Yamanishi, Bioinformatics 25, 2009, 2397). The models of one side share a kernel; by regularised
least squares they are one solve,

    F_t = (K_t (K_t + s I)^-1 Y^T)^T,    F_d = K_d (K_d + s I)^-1 Y,    F = max(F_t, F_d).

A drug without a known interaction has nothing to train its model with. BLM-NII trains it with a
profile inferred from its neighbours (equation 2 of :mod:`.kernels`; Mei, Kwoh, Yang, Li and Zheng,
Bioinformatics 29, 2013, 238).
"""

import jax.numpy as jnp
from jaxtyping import Float

from jaxdiff.arrays import check
from jaxdiff.classify.interactions.kernels import inferred_profiles, is_new, mixed_kernels
from jaxdiff.classify.interactions.problem import Problem
from jaxdiff.typing import Array


def blm(
    problem: Problem,
    *,
    alpha: float = 0.7,
    gamma: float = 1.0,
    sigma: float = 1.0,
    reference: bool = False,
) -> Float[Array, "m n"]:
    """Bipartite local models by regularised least squares.

    Args:
        problem: held-out pairs count as no interaction.
        alpha: share of the similarities in the kernels, 0 to 1.
        gamma: bandwidth of the interaction profiles.
        sigma: ridge, positive.
        reference: as a well-known toolbox has it: the kernel of what has no interactions is the
            similarity alone, beside mixtures for all others. That matrix is indefinite.

    Returns:
        (m, n) scores; 0 from the model of a drug or target without interactions.

    Deviations: the local classifiers are regularised least squares, as BLM-NII has them; the paper
    has support vector machines, of similarities alone.
    Source: Bleakley and Yamanishi (2009), section 2.3; Mei et al. (2013), equation 5.
    """
    drugs, targets = _kernels(problem, alpha, gamma, reference)
    return _larger(drugs, problem.known, targets, problem.known, sigma)


def blm_nii(
    problem: Problem,
    *,
    alpha: float = 0.7,
    gamma: float = 1.0,
    sigma: float = 1.0,
    reference: bool = False,
) -> Float[Array, "m n"]:
    """Bipartite local models with neighbour-based interaction-profile inferring.

    Args:
        problem: held-out pairs count as no interaction.
        alpha: share of the similarities in the kernels, 0 to 1.
        gamma: bandwidth of the interaction profiles.
        sigma: ridge, positive.
        reference: as a well-known toolbox has it, and tables made with it: with the kernels of
            :func:`blm`, and the inferred row of a new drug is not the labels of its own model, over
            targets, but joins the labels of the targets' models, over drugs.

    Returns:
        (m, n) scores.

    Source: Mei et al. (2013), section 2.3.
    """
    drugs, targets = _kernels(problem, alpha, gamma, reference)
    rows = inferred_profiles(problem.known, problem.drugs)
    columns = inferred_profiles(problem.known.T, problem.targets).T
    if reference:
        rows, columns = columns, rows
    return _larger(drugs, columns, targets, rows, sigma)


def _kernels(problem: Problem, alpha: float, gamma: float, reference: bool) -> tuple[Array, Array]:
    drugs, targets = mixed_kernels(problem.known, problem.drugs, problem.targets, alpha, gamma)
    if not reference:
        return drugs, targets
    sides = (
        (drugs, problem.drugs, is_new(problem.known)),
        (targets, problem.targets, is_new(problem.known.T)),
    )
    drugs, targets = (jnp.where(new[:, None] | new[None], S, K) for K, S, new in sides)
    return drugs, targets


def _larger(drugs: Array, columns: Array, targets: Array, rows: Array, sigma: float) -> Array:
    from_targets = indefinite_ridge(targets, rows.T, sigma).T
    return jnp.maximum(from_targets, indefinite_ridge(drugs, columns, sigma))


def indefinite_ridge(kernel: Array, values: Array, sigma: float) -> Float[Array, "m n"]:
    """Return K (K + sigma I)^-1 values for K of any sign: (m, m) and (m, n)."""
    check("sigma must be positive", lambda s: s > 0, sigma)
    shifted = kernel + sigma * jnp.eye(len(kernel), dtype=kernel.dtype)
    return values - sigma * jnp.linalg.solve(shifted, values)
