r"""Weights of the squared error of x0 in training, beside those of :mod:`jaxdiff.prediction`.

Each is a function ``weight(level, sigma_data)`` of the level's shape. With SNR = level^-2 and
lambda = log SNR:

    prediction   1/c_out^2: the plain squared error of what the network predicts
    min_snr      min(SNR, limit)                                 2303.09556, section 3.4
    sigmoid      SNR sigmoid(bias - lambda)/p                    2303.00848; 2410.19324

The last is the weight sigmoid(bias - lambda) of the error of eps per unit of lambda, whatever the
density p of the levels that are drawn.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check
from jaxdiff.distill.parts.level_distributions import LevelDistribution
from jaxdiff.prediction import X0, check_prediction, edm_weight, mix, row, snr_weight
from jaxdiff.process import Number, Process, rates, time
from jaxdiff.typing import AtTimes

Weight = Callable[[AtTimes, Number], AtTimes]


def prediction_weight(prediction: str, process: Process) -> Weight:
    """Return the weight that makes it the plain squared error of the prediction, 1/c_out^2.

    For 'score' it is the error of eps, i.e. of sigma times the score: as Song et al. weigh it
    (2011.13456, eq. 7), in inverse proportion to the score's own size. Raises ValueError for an
    unknown prediction.
    """
    check_prediction(prediction)
    if prediction == "edm":
        return edm_weight
    if prediction == "score":
        return snr_weight

    def weight(level: AtTimes, sigma_data: Number = 0.5) -> AtTimes:
        t = time(process, level)
        alpha = process.alpha(t)
        sigma = level * alpha
        _, out = mix(row(prediction, alpha, sigma, rates(process, t)), X0, alpha, sigma)
        return jnp.broadcast_to(1.0 / jnp.square(out), level.shape)

    return weight


def min_snr(limit: float = 5.0) -> Weight:
    """Return min(level^-2, limit): of the error of eps it is min(limit level^2, 1).

    Source: Hang et al. 2303.09556, section 3.4; 5 is their recommendation. Raises ValueError for a
    limit that is not positive.
    """
    check("the limit of the signal-to-noise ratio must be positive", lambda x: x > 0, limit)
    return lambda level, sigma_data=0.5: jnp.minimum(level**-2, limit)


def sigmoid(levels: LevelDistribution, bias: float = 2.0) -> Weight:
    """Return the weight that falls as a sigmoid of lambda = -2 log level: that of the module.

    p is the density of log level in ``levels``, twice that of lambda. Where times are uniform on
    (0, 1), 1/p is |d log level/dt|, half the papers' factor -d lambda/dt.
    Source: Kingma and Gao 2303.00848, whose bias is 2; Hoogeboom et al. 2410.19324, section 3.
    """

    def weight(level: AtTimes, sigma_data: Number = 0.5) -> AtTimes:
        return level**-2 * jax.nn.sigmoid(bias + 2 * jnp.log(level)) / levels.density(level)

    return weight
