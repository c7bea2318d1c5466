r"""Guidance by the covariance that Gaussian data would have.

    D + C A^T (noise^2 I + A C A^T)^-1 (u - A D),    C = (S^-1 + s^-2 I)^-1

with S the covariance of the data. Exact for Gaussian data with that S; nothing is differentiated
through the network. (JFPS, as implementations call it.)
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import check, einsum
from jaxdiff.brief import Changed
from jaxdiff.conditioning.operators.measurement import Measurement, checked, linear_of
from jaxdiff.conditioning.posterior.parts import (
    CHEAP_ITERATIONS,
    conjugate_gradients,
    denoised,
    square,
)
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser


def gaussian_covariance(
    denoiser: Denoiser, measurement: Measurement, covariance: ArrayLike
) -> Partial:
    """Guidance with the posterior covariance of Gaussian data.

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: of a linear operator, with noise.
        covariance: of the data: a number or of a sample's shape (variances), or (n, n) of flat
            samples of n numbers.

    Raises:
        ValueError: for a covariance of another shape, or one that is not symmetric and positive.
        TypeError: for an operator that is not linear.
    """
    A = linear_of(checked(measurement, "gaussian_covariance", noisy=True), "gaussian_covariance")
    S, n = jnp.asarray(covariance), math.prod(A.shape)
    S = S.astype(jnp.result_type(float)) if not jnp.issubdtype(S.dtype, jnp.floating) else S
    axes, variances = None, S
    if S.shape == (n, n) and S.shape != A.shape:
        if not isinstance(S, Tracer):
            check("a covariance is symmetric", lambda a: np.allclose(a, a.T), S)
        variances, axes = jnp.linalg.eigh(S)
    elif S.shape not in ((), A.shape):
        raise ValueError(
            f"a covariance of samples {A.shape} has their shape or ({n}, {n}); got {S.shape}"
        )
    check("variances must be positive", lambda v: (v > 0).all(), variances)
    return Changed(_gaussian_covariance, as_partial(denoiser), measurement, variances, axes)


def _gaussian_covariance(
    denoiser: Partial, measurement: Measurement, variances: Array, axes: Array | None, y: Array,
    level: Array, cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    A = linear_of(measurement)
    output = denoised(denoiser, y, level, cond, options)
    noise = measurement.deviation(y) ** 2
    s2 = square(level, y)
    if axes is None:
        l = variances.astype(y.dtype)  # noqa: E741
        l = l[None] if l.ndim else l  # noqa: E741
        covariance = lambda x: l * s2 / (l + s2) * x  # noqa: E731
    else:
        covariance = functools.partial(_full, variances.astype(y.dtype), axes.astype(y.dtype), s2)
    matrix = lambda u: noise * u + A.apply(covariance(A.transpose(u)))  # noqa: E731
    found = conjugate_gradients(matrix, measurement.residual(output), CHEAP_ITERATIONS)
    return output + covariance(A.transpose(found))


def _full(variances: Array, axes: Array, s2: Array, x: Array) -> Array:
    s2 = s2.reshape(-1, 1)
    c = einsum("ij,bi->bj", axes, x.reshape(x.shape[0], -1))
    c = c * (variances[None] * s2 / (variances[None] + s2))
    return einsum("ij,bj->bi", axes, c).reshape(x.shape)
