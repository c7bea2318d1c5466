r"""Loss-guided diffusion by samples: p(x0 | y) is taken for N(D, v I), and drawn from.

    g = grad_y log (1/n) sum_j exp(-L(D + sqrt(v) e_j)),    v = d^2 s^2/(d^2 + s^2)

(LGD-MC, Song et al., ICML 2023, "Loss-guided diffusion models for plug-and-play controllable
generation"; d the standard deviation of the data.) With one draw of no variance it is
:func:`energy`; with many, for a Gaussian likelihood, it is :func:`pigdm`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check, expand, fixed
from jaxdiff.brief import Changed
from jaxdiff.conditioning.posterior.energy import Loss, as_function, each
from jaxdiff.conditioning.posterior.parts import (
    check_iterations,
    level_draws,
    pulled,
    square,
)
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.checks import check_typed
from jaxdiff.typing import Array, Cond, Denoiser, Key


def lgd_mc(
    denoiser: Denoiser,
    loss: Loss,
    key: Key,
    num_draws: int = 10,
    data_std: float | Array = 1.0,
    weight: Weight = 1.0,
) -> Partial:
    """Loss-guided diffusion with several draws.

    Args:
        denoiser: ``D(y, level, cond)``.
        loss: ``L(x0) -> (batch,)``, minus a log-likelihood: ``lambda x: -m.log_likelihood(x)`` of a
            measurement with noise for one sample as for many.
        key: typed key of the draws. Each level has its own, which all samples share, so that none
            depends on its batch.
        num_draws: n. The network is differentiated once.
        data_std: d.
        weight: a number, one per sample, or a function of the level.

    Raises:
        ValueError: for fewer than one draw, or a data_std that is not positive.
        TypeError: for a key that is not typed.
    """
    check_typed(key)
    check_iterations("lgd_mc", num_draws)
    check("data_std must be positive", lambda d: (d > 0).all(), data_std)
    shift = fixed(_lgd_mc, num_draws=num_draws)
    return Changed(
        shift, as_partial(denoiser), as_function(loss, "a loss"), key, data_std, as_weight(weight)
    )


def _lgd_mc(
    denoiser: Partial, loss: Partial, key: Key, data_std: Any, weight: Any, y: Array, level: Array,
    cond: Cond = None, *, num_draws: int, **options: Any,
) -> Array:  # fmt: skip
    output, back = pulled(denoiser, y, level, cond, options)
    s, d = jnp.asarray(level, y.dtype), jnp.asarray(data_std, y.dtype)
    spread = expand(d * s / jnp.sqrt(d**2 + s**2), y)
    noise = level_draws(key, s, num_draws, y, y.shape[1:])

    def evidence(x0: Array) -> Array:
        losses = jax.lax.map(lambda e: each(loss(x0 + spread * e), x0), noise)
        return jnp.sum(jax.nn.logsumexp(-losses, axis=0))

    g = back(jax.grad(evidence)(output))
    return output + weight_at(weight, level, y) * square(level, y) * g
