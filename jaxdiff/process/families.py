"""The processes of the literature, in continuous time."""

import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff.arrays import check, pytree_dataclass
from jaxdiff.process.calculus import Number, floating
from jaxdiff.typing import Array, AtTimes, Times


def _root(x: Array) -> Array:
    """Square root of max(x, 0), with derivative 0 instead of infinity at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


@pytree_dataclass
class EDM:
    """2206.00364: alpha = 1, sigma = t; time is the noise level itself, t in [0, t_max]."""

    t_max: Number = 80.0

    def __post_init__(self) -> None:
        check("EDM needs 0 < t_max < inf", lambda last: 0 < last < np.inf, self.t_max)

    def alpha(self, t: Times) -> AtTimes:
        """Return 1."""
        return jnp.ones_like(floating(t)[0])

    def sigma(self, t: Times) -> AtTimes:
        """Return t."""
        return floating(t)[0]


@pytree_dataclass
class VE:
    """Variance exploding, 2011.13456 eq. 30: alpha = 1, sigma geometric in t.

    sigma runs from sigma_min at t = 0 to sigma_max at t = 1.
    """

    sigma_min: Number = 0.02
    sigma_max: Number = 100.0
    t_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check(
            "VE needs 0 < sigma_min < sigma_max < inf",
            lambda low, high: 0 < low < high < np.inf,
            self.sigma_min,
            self.sigma_max,
        )

    def alpha(self, t: Times) -> AtTimes:
        """Return 1."""
        return jnp.ones_like(floating(t)[0])

    def sigma(self, t: Times) -> AtTimes:
        """Return sigma_min^(1-t) sigma_max^t."""
        t, low, high = floating(t, self.sigma_min, self.sigma_max)
        return low ** (1 - t) * high**t


def _log_alpha(t: ArrayLike, beta_min: Number, beta_max: Number) -> Array:
    """Return -1/2 of the integral of beta(t) = beta_min + t (beta_max - beta_min) from 0 to t."""
    t, low, high = floating(t, beta_min, beta_max)
    return -0.5 * t * (low + 0.5 * t * (high - low))


def _check_betas(name: str, low: Number, high: Number) -> None:
    check(
        f"{name} needs finite beta_min, beta_max >= 0, not both 0",
        lambda low, high: low >= 0 and high >= 0 and 0 < low + high < np.inf,
        low,
        high,
    )


@pytree_dataclass
class VP:
    """Variance preserving with linear beta, 2011.13456 eq. 33: sigma^2 = 1 - alpha^2, t in [0, 1].

    level^2 = exp(beta_d t^2 / 2 + beta_min t) - 1 with beta_d = beta_max - beta_min.
    """

    beta_min: Number = 0.1
    beta_max: Number = 20.0
    t_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_betas("VP", self.beta_min, self.beta_max)

    def alpha(self, t: Times) -> AtTimes:
        """Return exp(-beta_d t^2 / 4 - beta_min t / 2)."""
        return jnp.exp(_log_alpha(t, self.beta_min, self.beta_max))

    def sigma(self, t: Times) -> AtTimes:
        """Return sqrt(1 - alpha^2), accurate near t = 0."""
        return _root(-jnp.expm1(2 * _log_alpha(t, self.beta_min, self.beta_max)))


@pytree_dataclass
class SubVP:
    """Sub-VP with linear beta, 2011.13456 eq. 34: alpha of VP, sigma = 1 - alpha^2, t in [0, 1]."""

    beta_min: Number = 0.1
    beta_max: Number = 20.0
    t_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_betas("SubVP", self.beta_min, self.beta_max)

    def alpha(self, t: Times) -> AtTimes:
        """Return exp(-beta_d t^2 / 4 - beta_min t / 2)."""
        return jnp.exp(_log_alpha(t, self.beta_min, self.beta_max))

    def sigma(self, t: Times) -> AtTimes:
        """Return 1 - alpha^2, accurate near t = 0."""
        return -jnp.expm1(2 * _log_alpha(t, self.beta_min, self.beta_max))


@pytree_dataclass
class Cosine:
    """The cosine process, 2102.09672 eq. 17: variance preserving, t in [0, 1].

    alpha = cos(u) / cos(u_0), u = (t + offset)/(1 + offset) pi/2, sigma^2 = 1 - alpha^2; alpha
    reaches 0 at t = 1.
    """

    offset: Number = 0.008
    t_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check("Cosine needs 0 <= offset < inf", lambda x: 0 <= x < np.inf, self.offset)

    def alpha(self, t: Times) -> AtTimes:
        """Return cos(u) / cos(u_0), written with sin(pi/2 - u) so that it is exactly 0 at t = 1."""
        t, offset = floating(t, self.offset)
        quarter = (math.pi / 2) / (1 + offset)
        return jnp.sin((1 - t) * quarter) / jnp.cos(offset * quarter)

    def sigma(self, t: Times) -> AtTimes:
        """Return sqrt(1 - alpha^2), from cos^2 u_0 - cos^2 u = sin(u - u_0) sin(u + u_0)."""
        t, offset = floating(t, self.offset)
        quarter = (math.pi / 2) / (1 + offset)
        product = jnp.sin(t * quarter) * jnp.sin((t + 2 * offset) * quarter)
        return _root(product) / jnp.cos(offset * quarter)


@pytree_dataclass
class RectifiedFlow:
    """Straight lines, 2209.03003: alpha = 1 - t, sigma = t, t in [0, 1]; alpha(1) = 0."""

    t_max: ClassVar[float] = 1.0

    def alpha(self, t: Times) -> AtTimes:
        """Return 1 - t."""
        return 1 - floating(t)[0]

    def sigma(self, t: Times) -> AtTimes:
        """Return t."""
        return floating(t)[0]


@pytree_dataclass
class TrigFlow:
    """2410.11081: alpha = cos t, sigma = sigma_data sin t, t in [0, pi/2].

    The level is sigma_data tan t; alpha reaches 0 at t = pi/2.
    """

    sigma_data: Number = 1.0
    t_max: ClassVar[float] = math.pi / 2

    def __post_init__(self) -> None:
        check("TrigFlow needs 0 < sigma_data < inf", lambda x: 0 < x < np.inf, self.sigma_data)

    def alpha(self, t: Times) -> AtTimes:
        """Return cos t as sin(pi/2 - t), exactly 0 at t_max in any precision."""
        t, last = floating(t, self.t_max)
        return jnp.sin(last - t)

    def sigma(self, t: Times) -> AtTimes:
        """Return sigma_data sin t."""
        t, scale = floating(t, self.sigma_data)
        return scale * jnp.sin(t)
