r"""Guidance by the covariance of p(x0 | y) itself, V = s^2 dD/dy.

    MMPS    D + V A^T (noise^2 I + A V A^T)^-1 (u - A D)    Rozet et al., arXiv 2405.13712
    TMPD    the same with A V A^T taken for diag(A V A^T 1)    Boys et al., arXiv 2310.06721

Both match the first two moments of p(x0 | y) (moment matching, Tweedie moment projection). MMPS is
exact for Gaussian data of any covariance. V is symmetric for an exact denoiser, so products with V
are pullbacks, one each.
"""

from typing import Any

from jax import numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import fixed
from jaxdiff.brief import Changed
from jaxdiff.conditioning.operators.measurement import Measurement, checked, linear_of
from jaxdiff.conditioning.posterior.parts import (
    check_iterations,
    conjugate_gradients,
    minimal_residuals,
    pulled,
    square,
)
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser

SOLVERS = ("cg", "minres")


def mmps(
    denoiser: Denoiser, measurement: Measurement, num_iterations: int = 5, solver: str = "cg"
) -> Partial:
    """Moment matching posterior sampling (arXiv 2405.13712).

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: of a linear operator, with noise.
        num_iterations: of the linear solve, a pullback of D each, and one more; the paper has 1 to
            5. As many as there are numbers measured solve it.
        solver: 'cg', conjugate gradients, or 'minres', whose iterates are those of GMRES.

    Raises:
        ValueError: for a measurement without noise, an unknown solver or fewer than one iteration.
        TypeError: for an operator that is not linear.
    """
    linear_of(checked(measurement, "mmps", noisy=True), "mmps")
    check_iterations("mmps", num_iterations)
    if solver not in SOLVERS:
        raise ValueError(f"solver is one of {', '.join(SOLVERS)}, not {solver!r}")
    shift = fixed(_mmps, num_iterations=num_iterations, solver=solver)
    return Changed(shift, as_partial(denoiser), measurement)


def tmpd(denoiser: Denoiser, measurement: Measurement) -> Partial:
    """Tweedie moment projected diffusion (arXiv 2310.06721), with the rows' sums for the diagonal.

    Arguments as of :func:`mmps`. Two pullbacks of D. A sum of a row, unlike a diagonal, can be
    negative, and nothing keeps it from the noise's size: such a sample leaves its path.
    """
    linear_of(checked(measurement, "tmpd", noisy=True), "tmpd")
    return Changed(_tmpd, as_partial(denoiser), measurement)


def _mmps(
    denoiser: Partial, measurement: Measurement, y: Array, level: Array, cond: Cond = None, *,
    num_iterations: int, solver: str, **options: Any,
) -> Array:  # fmt: skip
    A = linear_of(measurement)
    output, back = pulled(denoiser, y, level, cond, options)
    noise, s2 = measurement.deviation(y) ** 2, square(level, y)
    covariance = lambda u: s2 * back(A.transpose(u))  # noqa: E731
    matrix = lambda u: noise * u + A.apply(covariance(u))  # noqa: E731
    residual = measurement.residual(output)
    if solver == "cg":  # unrolled: on CPU gradients of convolutions are slow in loops
        found = conjugate_gradients(matrix, residual, num_iterations, unroll=True)
    else:
        found = minimal_residuals(matrix, residual, num_iterations)
    return output + covariance(found)


def _tmpd(
    denoiser: Partial, measurement: Measurement, y: Array, level: Array, cond: Cond = None,
    **options: Any,
) -> Array:  # fmt: skip
    A = linear_of(measurement)
    output, back = pulled(denoiser, y, level, cond, options)
    s2, residual = square(level, y), measurement.residual(output)
    covariance = lambda u: s2 * back(A.transpose(u))  # noqa: E731
    rows = measurement.deviation(y) ** 2 + A.apply(covariance(jnp.ones_like(residual)))
    return output + covariance(residual / rows)
