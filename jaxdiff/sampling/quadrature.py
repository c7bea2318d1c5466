"""Gauss-Legendre quadrature for coefficients of solvers: on the host, or traced.

For the analytic integrands of exponential integrators 32 points are exact to rounding over ten
e-folds of the level, without the cancellation of closed forms at small steps. Traced, the points
are one vector: a few operations in the compiled program, not a few hundred.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxdiff.sampling.scalar import Scalar, is_traced

Rule = tuple[np.ndarray, np.ndarray]  # points in [-1, 1] and weights

GAUSS: Rule = np.polynomial.legendre.leggauss(32)
RIEMANN: Rule = (np.arange(100) / 50 - 1, np.full(100, 1 / 50))  # left end points, for reference


def integral(
    function: Callable[[Scalar], Scalar], start: Scalar, end: Scalar, rule: Rule = GAUSS
) -> Scalar:
    """The integral of ``function``, which is given numbers on the host and vectors when traced."""
    half, middle = (end - start) / 2, (end + start) / 2
    if not is_traced(half):
        pairs = zip(*(a.tolist() for a in rule), strict=True)
        return half * sum(w * function(middle + half * x) for x, w in pairs)
    points, weights = (jnp.asarray(a, half.dtype) for a in rule)
    return half * jnp.sum(weights * function(middle + half * points))


def lagrange(knots: Sequence[Scalar], j: int, t: Scalar) -> Scalar:
    """The Lagrange polynomial that is 1 at knot j and 0 at the others, at t."""
    return math.prod((t - k) / (knots[j] - k) for i, k in enumerate(knots) if i != j)
