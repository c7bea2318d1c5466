r"""WNN-GIP: profiles by weighted nearest neighbours, then Kronecker regularised least squares.

    y_i = sum_j T^(j-1) y_(j)        for drugs and targets without a known interaction
    vec F = K (K + s I)^-1 vec Y,    K of similarities and of the completed profiles.

The completed matrix is A Y B^T, A and B having the weights of new rows and columns: the order of
the two does not matter, and a new pair is scored by the neighbours of both.

Source: van Laarhoven and Marchiori, Predicting drug-target interactions for new drug compounds
using a weighted nearest neighbor profile (PLoS ONE 8, 2013, e66952). A toolbox that many tables
were made with multiplies eigenvalues laid out drugs by targets into coefficients laid out targets
by drugs; the coefficient of eigenvectors (a, b) belongs to l_a m_b, which is what is done here.
"""

from jaxtyping import Float

from jaxdiff.classify.interactions.kernels import mixed_kernels, weighted_neighbour_profiles
from jaxdiff.classify.interactions.problem import Problem
from jaxdiff.classify.interactions.regularised_least_squares import kronecker_ridge
from jaxdiff.typing import Array


def wnn_gip(
    problem: Problem,
    *,
    decay: float = 0.8,
    first: float = 1.0,
    alpha: float = 0.5,
    gamma: float = 1.0,
    sigma: float = 1.0,
) -> Float[Array, "m n"]:
    """Weighted nearest neighbours, then RLS-Kron.

    Args:
        problem: held-out pairs count as no interaction.
        decay: T, 0 to 1: the weight of a neighbour relative to the one before it.
        first: weight of the nearest neighbour, 1 in the paper. With ``1 - decay`` a new profile is
            a mean of its neighbours', which are added up otherwise.
        alpha: share of the similarities in the kernels, 0 to 1.
        gamma: bandwidth of the interaction profiles.
        sigma: ridge, positive.

    Returns:
        (m, n) scores.

    Source: van Laarhoven and Marchiori (2013), section "Methods".
    """
    rows = weighted_neighbour_profiles(problem.known, problem.drugs, decay, first)
    completed = weighted_neighbour_profiles(rows.T, problem.targets, decay, first).T
    kernels = mixed_kernels(completed, problem.drugs, problem.targets, alpha, gamma)
    return kronecker_ridge(*kernels, completed, sigma)
