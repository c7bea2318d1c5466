"""Gauss-Legendre quadrature for coefficients of solvers: on the host, or traced.

The phi functions of exponential integrators,

    phi_k(z) = int_0^1 exp((1 - theta) z) theta^(k-1) / (k-1)! dtheta,    phi_1(z) = (e^z - 1)/z,

are evaluated by it: the recursion phi_{k+1} = (phi_k - 1/k!)/z cancels for small z, and its
gradient more so. For such integrands 32 points are exact to rounding over ten e-folds of the level.
Traced, the points are one vector: a few operations in the compiled program, not a few hundred.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxdiff.solvers.scalar import Scalar, exp, is_traced

Rule = tuple[np.ndarray, np.ndarray]  # points in [-1, 1] and weights

RIEMANN: Rule = (np.arange(100) / 50 - 1, np.full(100, 1 / 50))  # left end points, for reference


@functools.cache
def gauss(points: int) -> Rule:
    """Gauss-Legendre's rule; read-only. Made when first needed: numpy.polynomial takes a fifth of
    the time that importing jaxdiff takes besides jax.
    """
    rule = np.polynomial.legendre.leggauss(points)
    for array in rule:
        array.flags.writeable = False
    return rule


def integral(
    function: Callable[[Scalar], Scalar], start: Scalar, end: Scalar, rule: Rule | None = None
) -> Scalar:
    """Return the integral of ``function``, which is given numbers on the host and vectors when
    traced; by Gauss quadrature with 32 points unless another rule is given.
    """
    rule = gauss(32) if rule is None else rule
    half, middle = (end - start) / 2, (end + start) / 2
    if not is_traced(half):
        pairs = zip(*(a.tolist() for a in rule), strict=True)
        return half * sum(w * function(middle + half * x) for x, w in pairs)
    points, weights = (jnp.asarray(a, half.dtype) for a in rule)
    return half * jnp.sum(weights * function(middle + half * points))


def phi(k: int, z: Scalar) -> Scalar:
    """phi_k(z) for k >= 1, relative accuracy near rounding for abs(z) up to about 40."""
    zero = 0.0 * z  # so that the ends are traced where z is
    scale = 1 / math.factorial(k - 1)
    return integral(lambda t: scale * exp((1.0 - t) * z) * t ** (k - 1), zero, zero + 1.0)


def lagrange(knots: Sequence[Scalar], j: int, t: Scalar) -> Scalar:
    """Return the Lagrange polynomial that is 1 at knot j and 0 at the others, at t."""
    return math.prod((t - k) / (knots[j] - k) for i, k in enumerate(knots) if i != j)


def lagrange_integrals(
    knots: Sequence[Scalar],
    start: Scalar,
    end: Scalar,
    weight: Callable[[Scalar], Scalar] | None = None,
) -> list[Scalar]:
    """Integrals from ``start`` to ``end`` of the Lagrange polynomials through ``knots``.

    Exact; with a smooth ``weight`` under the integral, by Gauss quadrature with 64 points.
    """
    points = (len(knots) + 1) // 2 + 1 if weight is None else 64
    rule, density = gauss(points), weight or (lambda t: 1.0)
    return [
        integral(lambda t, j=j: density(t) * lagrange(knots, j, t), start, end, rule)
        for j in range(len(knots))
    ]
