r"""KBMF2K: kernelised Bayesian matrix factorisation with twin kernels, for binary matrices.

Factors are linear in the kernels, scores bilinear in the factors, and labels their signs, with a
margin nu that keeps f away from 0:

    a_ir ~ N(0, 1/lambda_ir), lambda_ir ~ Gamma(1, 1)      (m, r), likewise for targets
    G_d = K_d A_d + noise of deviation s                   (m, r), likewise G_t (n, r)
    f_ij ~ N(g_i . g_j, 1),    z_ij f_ij > nu,  z = 2 Y - 1.

The posterior is approximated by a product of one factor for each of these (variational Bayes), and
each is updated in turn: Gaussian for the columns of A, rows of G, Gamma for lambda, normal
truncated to z f > nu for f. A pair is scored by the probability of f > nu against that of f < -nu,

    P = Phi((mu - nu)/d) / [Phi((mu - nu)/d) + Phi((-mu - nu)/d)],    d^2 = 1 + var(g_i . g_j).

Source: Gonen, Predicting drug-target interactions from chemical and genomic kernels using Bayesian
matrix factorization (Bioinformatics 28, 2012, 2304), sections 2.2 and 2.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Float

from jaxdiff.arrays import check, einsum
from jaxdiff.classify.interactions.inverse import inverse_factor, positive_inverse
from jaxdiff.classify.interactions.problem import Problem, zero_or_one
from jaxdiff.typing import Array, Key


class Side(NamedTuple):
    """Moments of one side: precisions (m, r), weights A (m, r) and factors G (m, r), with the
    covariance that all rows of G share, (r, r).
    """

    precision: Array
    weights: Array
    factors: Array
    covariance: Array


def kbmf2k(
    problem: Problem,
    key: Key,
    *,
    rank: int = 50,
    margin: float = 1.0,
    noise: float = 0.1,
    num_updates: int = 200,
) -> Float[Array, "m n"]:
    """Kernelised Bayesian matrix factorisation with twin kernels.

    Args:
        problem: held-out pairs count as no interaction, as in the paper. known: 0 or 1. Of more
            than some fifty drugs or targets in float64 (``predict_folds(..., dtype=jnp.float64)``):
            the posterior's precision is the square of a kernel over s^2, and its inverse in float32
            becomes NaN (measured with 223 drugs).
        key: of the moments at the start.
        rank: r of the factors.
        margin: nu, not negative.
        noise: s, the deviation of factors from the kernels' span, positive.
        num_updates: rounds of updates.

    Returns:
        (m, n) probabilities.

    Source: Gonen (2012), section 2.3.
    """
    check("rank must be at least 1", lambda r: r >= 1, rank)
    check("margin must not be negative", lambda v: v >= 0, margin)
    check("noise must be positive", lambda s: s > 0, noise)
    check("num_updates must be at least 1", lambda n: n >= 1, num_updates)
    problem = zero_or_one(problem, "kbmf2k")
    known, _, drugs, targets = problem
    labels, dtype = 2 * known - 1, known.dtype
    keys = jax.random.split(key, 3)

    def start(key: Key, count: int) -> Side:
        weights, factors = jax.random.normal(key, (2, count, rank), dtype)
        return Side(jnp.ones_like(weights), weights, factors, jnp.eye(rank, dtype=dtype))

    def update(_: Array, state: tuple[Side, Side, Array]) -> tuple[Side, Side, Array]:
        left, right, f = state
        left = updated(left, right, drugs, f, noise)
        right = updated(right, left, targets, f.T, noise)
        return (
            left,
            right,
            truncated_mean(einsum("ir,jr->ij", left.factors, right.factors), labels, margin),
        )

    f = (jnp.abs(jax.random.normal(keys[2], known.shape, dtype)) + margin) * labels
    first = (start(keys[0], len(drugs)), start(keys[1], len(targets)), f)
    left, right, _ = jax.lax.fori_loop(0, num_updates, update, first)
    return _probability(left, right, margin)


def updated(own: Side, other: Side, kernel: Array, f: Array, noise: float) -> Side:
    """Return one side after its three updates, the other side and f (m, n) being given."""
    dtype, rank = kernel.dtype, own.weights.shape[1]
    gram = einsum("ki,kj->ij", kernel, kernel) / noise**2
    aimed = einsum("ki,kr->ri", kernel, own.factors) / noise**2

    def column(precision: Array, aim: Array) -> tuple[Array, Array]:
        W = inverse_factor(gram + jnp.diag(precision))  # the covariance is W^T W
        return einsum("ki,k->i", W, einsum("kj,j->k", W, aim)), jnp.sum(W**2, axis=0)

    mean, variance = jax.vmap(column)(own.precision.T, aimed)
    weights, squares = mean.T, (mean**2 + variance).T
    second = einsum("jr,js->rs", other.factors, other.factors) + len(f.T) * other.covariance
    covariance = positive_inverse(second + jnp.eye(rank, dtype=dtype) / noise**2)
    aim = einsum("ik,kr->ir", kernel, weights) / noise**2 + einsum("ij,jr->ir", f, other.factors)
    factors = einsum("rs,is->ir", covariance, aim)
    return Side(1.5 / (1 + squares / 2), weights, factors, covariance)


def truncated_mean(mean: Array, labels: Array, margin: float) -> Array:
    """Return the mean of a normal variable of this mean, variance 1, truncated to z f > margin."""
    b = labels * mean - margin
    return mean + labels * jnp.exp(norm.logpdf(b) - norm.logcdf(b))


def _probability(left: Side, right: Side, margin: float) -> Array:
    mean = einsum("ir,jr->ij", left.factors, right.factors)
    variance = (
        1
        + einsum("rs,jr,js->j", left.covariance, right.factors, right.factors)[None]
        + einsum("rs,ir,is->i", right.covariance, left.factors, left.factors)[:, None]
        + einsum("rs,rs->", left.covariance, right.covariance)
    )
    deviation = jnp.sqrt(variance)
    above, below = (norm.logcdf((sign * mean - margin) / deviation) for sign in (1, -1))
    return jax.nn.sigmoid(above - below)
