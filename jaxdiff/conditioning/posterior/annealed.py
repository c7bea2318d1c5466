r"""Likelihood scores of the noisy state itself, with nothing differentiated.

    annealed Langevin    g = A^T (u - A y)/(noise^2 + gamma(s)^2)
                         Jalal et al., arXiv 2108.01368
    Score-SDE            g = A^T (u + s A e - A y)/(noise^2 + gamma(s)^2),  e ~ N(0, I)
                         Song et al., arXiv 2011.13456, appendix I.4

As u - A y = noise - s A e has the covariance noise^2 I + s^2 A A^T, which rows that are orthonormal
make noise^2 + s^2, the default is gamma = s. Score-SDE compares with a measurement that is as noisy
as the state, and its mean over e is the other.
"""

from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import expand
from jaxdiff.brief import Changed
from jaxdiff.conditioning.operators.measurement import Measurement, linear_of
from jaxdiff.conditioning.posterior.parts import (
    denoised,
    level_draws,
    over,
    square,
)
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.checks import check_typed
from jaxdiff.typing import Array, Cond, Denoiser, Key


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
    linear_of(measurement, "annealed_langevin")
    of = _same if gamma is None else gamma
    return Changed(_annealed, as_partial(denoiser), measurement, as_weight(of), as_weight(weight))


def score_sde(
    denoiser: Denoiser,
    measurement: Measurement,
    key: Key,
    gamma: Weight | None = None,
    weight: Weight = 1.0,
) -> Partial:
    """The likelihood score of a measurement with the state's own noise (arXiv 2011.13456, I.4).

    Deviation: the paper's weight is that of its corrector; here gamma has the default of
    :func:`annealed_langevin`.

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: of a linear operator.
        key: typed key of e. Each level has its own, which all samples share, so that none depends
            on its batch.
        gamma: what is added to the noise at a level: a number or a function of the level; the level
            itself if None.
        weight: of the score: a number, one per sample, or a function of the level.

    Returns:
        ``D'(y, level, cond)``.

    Raises:
        TypeError: for a key that is not typed, or an operator that is not linear.
    """
    check_typed(key)
    linear_of(measurement, "score_sde")
    of = _same if gamma is None else gamma
    given = as_partial(denoiser), measurement, as_weight(of), as_weight(weight), key
    return Changed(_score_sde, *given)


def _annealed(
    denoiser: Partial, measurement: Measurement, gamma: Any, weight: Any, y: Array, level: Array,
    cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    output = denoised(denoiser, y, level, cond, options)
    return output + _shift(measurement, gamma, weight, y, level, measurement.residual(y))


def _score_sde(
    denoiser: Partial, measurement: Measurement, gamma: Any, weight: Any, key: Key, y: Array,
    level: Array, cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    s = jnp.asarray(level, y.dtype)
    e = jnp.broadcast_to(level_draws(key, s, 1, y, y.shape[1:])[0], y.shape)
    apart = measurement.residual(y) + linear_of(measurement).apply(expand(s, y) * e)
    output = denoised(denoiser, y, level, cond, options)
    return output + _shift(measurement, gamma, weight, y, level, apart)


def _shift(
    measurement: Measurement, gamma: Any, weight: Any, y: Array, level: Array, residual: Array
) -> Array:
    """Return w s^2 A^T residual/(noise^2 + gamma^2)."""
    spread = measurement.deviation(y) ** 2 + weight_at(gamma, level, residual) ** 2
    g = linear_of(measurement).transpose(over(residual, spread))  # at level 0 without noise: 0
    return weight_at(weight, level, y) * square(level, y) * g


def _same(level: Array) -> Array:
    return level
