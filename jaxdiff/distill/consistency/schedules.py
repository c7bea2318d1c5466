"""Schedules of consistency models: levels r(t), numbers of levels, decays; weights of a pair."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.method import Decay
from jaxdiff.prediction import edm_weight
from jaxdiff.process import Number
from jaxdiff.typing import Array

Weight = Callable[[Array, Array], Array]  # of levels t > r, (batch,) each


def ect_level(
    t: Array, stage: Array, q: float = 2.0, k: float = 8.0, b: float = 1.0, least: float = 0.0
) -> Array:
    """Return the lower level r = t (1 - q^-(stage+1) (1 + k sigmoid(-b t))), not below 0
    (2406.14548, eq. 13 and appendix).

    ``k = 0`` is the constant mapping. ``stage`` may be traced. ``least``: the smallest q^-(stage+1)
    there is, since in 32-bit floats r meets t where it nears 1e-7.
    """
    gap = jnp.power(q, -(jnp.asarray(stage, t.dtype) + 1.0))
    return mapped_level(t, jnp.maximum(gap, least), k, b)


def mapped_level(t: Array, gap: Array | float, k: float = 8.0, b: float = 1.0) -> Array:
    """Return the same mapping of a given relative gap, r = t (1 - gap (1 + k sigmoid(-b t))), not
    below 0.
    """
    return t * jnp.maximum(1.0 - gap * (1.0 + k * jax.nn.sigmoid(-b * t)), 0.0)


def inverse_gap(t: Array, r: Array) -> Array:
    """Return the weight 1/(t - r), under which the loss has a limit as r nears t (2310.14189,
    section 3.2).
    """
    return 1.0 / (t - r)


def inverse_root_gap(t: Array, r: Array) -> Array:
    """Return the weight 1/sqrt(t - r)."""
    return jax.lax.rsqrt(t - r)


def inverse_level(t: Array, r: Array) -> Array:
    """Return the weight 1/t^2."""
    return 1.0 / (t * t)


def inverse_output(sigma_data: Number = 0.5, power: float = 1.0) -> Weight:
    """Return the weight c_out(t)^-power; with power 2 the network's own errors count equally at all
    levels.
    """
    return lambda t, r: edm_weight(t, sigma_data) ** (power / 2)


def ct_scales(step: Array, num_updates: int, first: int = 2, last: int = 150) -> Array:
    """N(k) = ceil(sqrt(k/K ((s1+1)^2 - s0^2) + s0^2) - 1) + 1 of consistency training (2303.01469,
    appendix C).
    """
    done = jnp.minimum(step.astype(float) / num_updates, 1.0)
    return jnp.ceil(jnp.sqrt(done * ((last + 1.0) ** 2 - first**2) + first**2) - 1.0) + 1.0


def ct_decay(
    num_updates: int, start: float = 0.9, first: int = 2, last: int = 150, reference: bool = False
) -> Decay:
    """mu(k) = exp(s0 log(mu0)/N(k)), the decay of consistency training's target network (same
    place).

    The published code divides by N(k) - 1, which ``reference`` does too.
    """
    return lambda step: jnp.exp(
        first * np.log(start).item() / (ct_scales(step, num_updates, first, last) - int(reference))
    )
