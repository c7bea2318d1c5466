r"""A measurement: u = A(x0) + noise N(0, I), with the operator, the observation and its noise.

Methods are handed one of these, and nothing else of the problem. It is a pytree: ``jax.vmap`` and
``jax.grad`` go over observations and noises as over any array.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff.arrays import check, pytree_dataclass
from jaxdiff.conditioning.operators.algebra import Operator
from jaxdiff.conditioning.operators.linear import Linear
from jaxdiff.noise import draw, index_of
from jaxdiff.typing import Array, Key, PerSample


@pytree_dataclass
class Measurement:
    """A measurement of a sample.

    operator: what was measured.
    observation: (*measured), of all samples; or (batch, *measured), a row for each.
    noise: its standard deviation, 0 for none: a number, or an array (*measured), or (batch, 1, ...)
        with a number for each sample.

    Raises ValueError for an observation of another shape, that is not finite, or that is not 0
    where the operator sees nothing; and for negative noise or noise of another shape.
    """

    operator: Operator
    observation: Array
    noise: Array

    def __init__(self, operator: Operator, observation: ArrayLike, noise: ArrayLike) -> None:
        """Check what is given against the operator."""
        if not isinstance(operator, Operator):
            raise TypeError(f"an operator is made by jaxdiff.operators, not {type(operator)}")
        u, noise = jnp.asarray(observation), jnp.asarray(noise)
        measured = operator.measured
        if not jnp.issubdtype(u.dtype, jnp.floating):
            raise TypeError(f"an observation is a floating array, not {u.dtype}")
        if u.shape[max(0, u.ndim - len(measured)) :] != measured or u.ndim > len(measured) + 1:
            raise ValueError(
                f"this operator's observations have shape {measured}, or (batch, *{measured}); got "
                f"{u.shape}"
            )
        check("an observation must be finite", lambda v: np.isfinite(v).all(), u)
        check("noise is a standard deviation, finite and not negative", _standard, noise)
        support = operator.support
        if support is not None:
            check(
                "an observation is 0 where the operator sees nothing: operator.apply(picture) "
                "makes it so",
                lambda v, m: not (v * ~m).any(), u, support,
            )  # fmt: skip
        ones = (1,) * len(measured)
        if noise.shape not in ((), measured) and noise.shape[1:] != ones:
            raise ValueError(
                f"noise is a number, an array {measured}, or an array of shape (batch, "
                f"{str(ones)[1:-1]}) with a number for each sample; got {noise.shape}"
            )
        if not jnp.issubdtype(noise.dtype, jnp.floating):
            noise = noise.astype(u.dtype)
        object.__setattr__(self, "operator", operator)
        object.__setattr__(self, "observation", u)
        object.__setattr__(self, "noise", noise)

    def rows(self, like: Array) -> Array:
        """Return the observation of every row of states (batch, *shape), in their dtype."""
        u, measured = self.observation.astype(like.dtype), self.operator.measured
        if u.ndim == len(measured):
            return jnp.broadcast_to(u[None], (like.shape[0], *measured))
        if u.shape[0] != like.shape[0]:
            raise ValueError(
                f"{u.shape[0]} observations for a batch of {like.shape[0]} samples: one for all, "
                "or one for each. What takes a batch apart needs one for all, or jax.vmap over "
                "measurements"
            )
        return u

    def deviation(self, like: Array) -> Array:
        """Return the noise's standard deviation in the dtype of states, to stand beside
        :meth:`rows`: (1 or batch, *measured or ones).
        """
        noise, rank = self.noise.astype(like.dtype), len(self.operator.measured)
        if noise.ndim == 0:
            return noise.reshape((1,) * (rank + 1))
        if noise.ndim == rank:
            return noise[None]
        if noise.shape[0] not in (1, like.shape[0]):
            raise ValueError(
                f"noise of {noise.shape[0]} samples for a batch of {like.shape[0]}: one for all, "
                "or one for each"
            )
        return noise

    def residual(self, x0: Array) -> Array:
        """Return u - A(x0) of samples (batch, *shape)."""
        return self.rows(x0) - self.operator.apply(x0)

    def log_likelihood(self, x0: Array) -> PerSample:
        """Return log N(u; A(x0), noise^2 I) of samples, up to a constant, (batch,); noise not 0."""
        white = self.residual(x0) / self.deviation(x0)
        return -0.5 * jnp.sum(white.reshape(x0.shape[0], -1) ** 2, axis=1)


def measure(
    operator: Operator, x0: Array, noise: ArrayLike, key: Key, index: Any = None
) -> Measurement:
    """Measure samples: u = A(x0) + noise N(0, I), each sample's noise its own.

    Args:
        operator: of samples (*shape).
        x0: (batch, *shape).
        noise: standard deviation, as of :class:`Measurement`.
        key: typed key.
        index: (batch,) integers naming the samples; 0, 1, ... by default.

    Raises:
        ValueError: for one sample without a batch axis, whose rows would be taken for samples.
    """
    u = operator.apply(x0)
    if u.ndim != len(operator.measured) + 1:
        raise ValueError(
            f"measure takes a batch of samples, (batch, *{operator.shape}); got {jnp.shape(x0)}"
        )
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index_of(x0, index)))
    drawn = draw(keys, 0, 0, operator.measured, u.dtype)
    if operator.support is not None:
        drawn = jnp.where(operator.support[None], drawn, 0)
    plain = Measurement(operator, u, noise)
    return Measurement(operator, u + plain.deviation(u) * drawn, plain.noise)


def checked(measurement: Measurement, name: str, *, noisy: bool = False) -> Measurement:
    """Return a measurement that a method takes. TypeError for something else; ValueError, naming
    the method, for one without noise where the method needs some.
    """
    if not isinstance(measurement, Measurement):
        raise TypeError(
            f"{name} takes a Measurement(operator, observation, noise), not "
            f"{type(measurement).__name__}"
        )
    if noisy:
        check(f"{name} divides by the noise, which is positive", lambda s: (s > 0).all(),
              measurement.noise)  # fmt: skip
    return measurement


def linear_of(measurement: Measurement, name: str = "this method") -> Linear:
    """Return a measurement's operator. TypeError, naming the method, for one that is not linear."""
    operator = checked(measurement, name).operator
    if not isinstance(operator, Linear):
        raise TypeError(
            f"{name} takes a linear operator, not {type(operator).__name__}; dps, energy, lgd_mc "
            "and mpgd take any measurement"
        )
    return operator


def _standard(noise: np.ndarray) -> bool:
    return bool(np.isfinite(noise).all() and (noise >= 0).all())
