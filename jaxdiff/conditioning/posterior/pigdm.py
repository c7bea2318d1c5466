r"""Pseudo-inverse guidance: p(x0 | y) is taken for N(D, v I).

    g = J^T A^T (v A A^T + noise^2 I)^-1 (u - A D),    J = dD/dy,    v = d^2 s^2/(d^2 + s^2)

(PiGDM, Song et al., ICLR 2023, "Pseudoinverse-guided diffusion models for inverse problems";
v for data of standard deviation d.) Exact for data N(m, d^2 I). Without noise the gradient
is J^T A^+ (u - A D)/v.
"""

from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check, expand, fixed
from jaxdiff.brief import Changed
from jaxdiff.conditioning.operators.measurement import Measurement, linear_of
from jaxdiff.conditioning.posterior.parts import (
    denoised,
    gain,
    pulled,
)
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser


def pigdm(
    denoiser: Denoiser,
    measurement: Measurement,
    data_std: float | Array = 1.0,
    weight: Weight = 1.0,
    *,
    jacobian: bool = True,
) -> Partial:
    """Pseudo-inverse guidance of a linear measurement, with noise or without.

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: of a linear operator.
        data_std: d, standard deviation of the data.
        weight: of the gradient: 1 is Bayes' rule for the Gaussian that p(x0 | y) is taken for. The
            paper multiplies the step by v: ``lambda s: v(s) * per_step(1.0, levels, eta)(s)``.
        jacobian: False takes J for that of the same Gaussian, v/s^2 I: nothing is differentiated
            through the network, and D' is the mean of N(D, v I) given the measurement. For
            students, whose derivative is no covariance: a consistency function's is sqrt(1 +
            s^2/d^2) times too large.

    Raises:
        ValueError: for a data_std that is not positive.
        TypeError: for an operator that is not linear.
    """
    linear_of(measurement, "pigdm")
    check("data_std must be positive", lambda d: (d > 0).all(), data_std)
    shift = fixed(_pigdm, jacobian=jacobian)
    return Changed(shift, as_partial(denoiser), measurement, data_std, as_weight(weight))


def _pigdm(
    denoiser: Partial, measurement: Measurement, data_std: Any, weight: Any, y: Array, level: Array,
    cond: Cond = None, *, jacobian: bool, **options: Any,
) -> Array:  # fmt: skip
    s2 = jnp.asarray(level, y.dtype) ** 2
    d2 = jnp.asarray(data_std, y.dtype) ** 2
    v = d2 * s2 / (d2 + s2)
    if not jacobian:
        output = denoised(denoiser, y, level, cond, options)
        shift = gain(measurement, v, measurement.residual(output))
        return output + weight_at(weight, level, y) * shift
    output, back = pulled(denoiser, y, level, cond, options)
    shift = back(gain(measurement, v, measurement.residual(output)))
    return output + weight_at(weight, level, y) * expand((d2 + s2) / d2, y) * shift  # s^2/v
