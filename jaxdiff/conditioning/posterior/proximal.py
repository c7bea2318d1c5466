r"""Data consistency of the denoised state, with nothing differentiated through the network.

    DiffPIR    D' = argmin_z ||u - A z||^2/(2 noise^2) + lambda ||z - D||^2/(2 s^2)
               = D + v A^T (v A A^T + noise^2 I)^-1 (u - A D),  v = s^2/lambda
    DDS        D' = M steps of conjugate gradients on (gamma A^T A + I) z = gamma A^T u + D, from D

(DiffPIR, Zhu et al., arXiv 2305.08995; decomposed diffusion sampling, Chung et al.,
arXiv 2303.05754.)
"""

from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check, expand, fixed
from jaxdiff.brief import Changed
from jaxdiff.conditioning.operators.measurement import Measurement, linear_of
from jaxdiff.conditioning.posterior.parts import (
    check_iterations,
    conjugate_gradients,
    denoised,
    gain,
)
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser


def diffpir(
    denoiser: Denoiser, measurement: Measurement, strength: float | Array = 10.0
) -> Partial:
    """Plug-and-play restoration's data step on the denoised state (arXiv 2305.08995).

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: of a linear operator; without noise D' fits it exactly.
        strength: lambda, of the denoiser against the data; the paper has 7 to 10 of most tasks.

    Raises:
        ValueError: for a strength that is not positive.
        TypeError: for an operator that is not linear.
    """
    linear_of(measurement, "diffpir")
    check("strength must be positive", lambda a: (a > 0).all(), strength)
    return Changed(_diffpir, as_partial(denoiser), measurement, strength)


def dds(
    denoiser: Denoiser, measurement: Measurement, num_iterations: int = 5,
    gamma: float | Array = 5.0,
) -> Partial:  # fmt: skip
    """Decomposed diffusion sampling (arXiv 2303.05754), for solvers with noise or without.

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: of a linear operator; its noise does not enter.
        num_iterations: M of the paper, 5 there; each an A and an A^T.
        gamma: weight of the data; larger for less noise.
    """
    linear_of(measurement, "dds")
    check_iterations("dds", num_iterations)
    check("gamma must be positive", lambda a: (a > 0).all(), gamma)
    steps = fixed(_dds, num_iterations=num_iterations)
    return Changed(steps, as_partial(denoiser), measurement, gamma)


def _diffpir(
    denoiser: Partial, measurement: Measurement, strength: Any, y: Array, level: Array,
    cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    output = denoised(denoiser, y, level, cond, options)
    v = jnp.asarray(level, y.dtype) ** 2 / jnp.asarray(strength, y.dtype)
    return output + gain(measurement, v, measurement.residual(output))


def _dds(
    denoiser: Partial, measurement: Measurement, gamma: Any, y: Array, level: Array,
    cond: Cond = None, *, num_iterations: int, **options: Any,
) -> Array:  # fmt: skip
    A, weight = linear_of(measurement), expand(gamma, y)
    output = denoised(denoiser, y, level, cond, options)
    matrix = lambda z: weight * A.transpose(A.apply(z)) + z  # noqa: E731
    b = weight * A.transpose(measurement.residual(output))  # of z - D
    return output + conjugate_gradients(matrix, b, num_iterations)
