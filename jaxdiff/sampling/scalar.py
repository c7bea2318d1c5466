"""What solvers are written in: types, and scalar functions for their coefficients.

A solver's coefficients are functions of noise levels. Levels are Python floats while a table is
built on the host (then everything here is float64), or traced JAX scalars when the table is to be
differentiated with respect to its grid. Each function below takes either.

The phi functions of exponential integrators,

    phi_k(z) = int_0^1 exp((1 - theta) z) theta^(k-1) / (k-1)! dtheta,    phi_1(z) = (e^z - 1)/z,

are evaluated by quadrature: the usual recursion phi_{k+1} = (phi_k - 1/k!)/z cancels for small z,
and its gradient more so.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Scalar = Any
State = Any
D = Callable[[State, Scalar], State]
Noise = Callable[[], State]
_GAUSS = [
    ((1.0 + float(n)) / 2, float(w) / 2)
    for n, w in zip(*np.polynomial.legendre.leggauss(32), strict=True)
]


def is_traced(x: Scalar) -> bool:
    """Whether ``x`` is a JAX value rather than a number on the host."""
    return isinstance(x, jax.Array)


def _either(host: Callable, traced: Callable) -> Callable[[Scalar], Scalar]:
    return lambda x: traced(x) if is_traced(x) else float(host(x))


exp = _either(math.exp, jnp.exp)
expm1 = _either(math.expm1, jnp.expm1)
log = _either(math.log, jnp.log)
sqrt = _either(math.sqrt, jnp.sqrt)


def is_zero(level: Scalar) -> bool:
    """Whether a level is known to be zero. A traced level never is: give a final zero as a Python
    number.
    """
    return not is_traced(level) and level == 0


def phi(k: int, z: Scalar) -> Scalar:
    """phi_k(z) for k >= 1, relative accuracy near rounding for abs(z) up to about 40."""
    return sum(
        w * theta ** (k - 1) / math.factorial(k - 1) * exp((1.0 - theta) * z) for theta, w in _GAUSS
    )


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
    half, middle = (end - start) / 2, (end + start) / 2

    def basis(j: int, t: Scalar) -> Scalar:
        return math.prod((t - k) / (knots[j] - k) for i, k in enumerate(knots) if i != j)

    nodes = [
        (middle + half * float(n), half * float(w))
        for n, w in zip(*np.polynomial.legendre.leggauss(points), strict=True)
    ]
    if weight is not None:
        nodes = [(t, w * weight(t)) for t, w in nodes]
    return [sum(w * basis(j, t) for t, w in nodes) for j in range(len(knots))]


def solve(matrix: Sequence[Sequence[Scalar]], rhs: Sequence[Scalar]) -> list[Scalar]:
    """Solve a small linear system whose entries may be traced."""
    traced = [x for row in [*matrix, rhs] for x in row if is_traced(x)]
    if not traced:
        return [float(x) for x in np.linalg.solve(np.array(matrix), np.array(rhs))]
    rows = [jnp.stack([jnp.asarray(x, traced[0].dtype) for x in row]) for row in [*matrix, rhs]]
    return list(jnp.linalg.solve(jnp.stack(rows[:-1]), rows[-1]))


def weighted(weights: Sequence[Scalar], values: Sequence[State]) -> State:
    """The sum of weights times values."""
    return sum(w * v for w, v in zip(weights, values, strict=True))
