r"""A likelihood score of the noisy state itself, with nothing differentiated.

    g = A^T (u - A y)/(noise^2 + gamma(s)^2)    Jalal et al., arXiv 2108.01368

As u - A y = noise - s A e has the covariance noise^2 I + s^2 A A^T, which rows that are orthonormal
make noise^2 + s^2, the default is gamma = s. (Score-SDE's conditional score, arXiv 2011.13456,
appendix I.4, compares A y with u + s A e instead, whose mean this is.)
"""

from typing import Any

from jax.tree_util import Partial

from jaxdiff.conditioning.operators.measurement import Measurement, checked
from jaxdiff.conditioning.posterior.parts import (
    denoised,
    linear_operator,
    over,
    square,
)
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser


def annealed_langevin(
    denoiser: Denoiser, measurement: Measurement, gamma: Weight | None = None, weight: Weight = 1.0
) -> Partial:
    """The likelihood score of annealed Langevin dynamics (arXiv 2108.01368).

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: of a linear operator.
        gamma: what is added to the noise at a level: a number or a function of the level; the level
            itself if None.
        weight: of the score: a number, one per sample, or a function of the level.

    Sampled with any solver; the paper's is Langevin dynamics at every level,
    :func:`jaxdiff.solvers.predictor_corrector`.
    """
    linear_operator(checked(measurement, "annealed_langevin"))
    of = _same if gamma is None else gamma
    return Partial(_annealed, as_partial(denoiser), measurement, as_weight(of), as_weight(weight))


def _annealed(
    denoiser: Partial, measurement: Measurement, gamma: Any, weight: Any, y: Array, level: Array,
    cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    A = linear_operator(measurement)
    residual = measurement.residual(y)
    spread = measurement.deviation(y) ** 2 + weight_at(gamma, level, residual) ** 2
    g = A.transpose(over(residual, spread))  # at level 0 without noise: 0
    output = denoised(denoiser, y, level, cond, options)
    return output + weight_at(weight, level, y) * square(level, y) * g


def _same(level: Array) -> Array:
    return level
