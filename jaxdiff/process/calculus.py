"""Quantities that follow from alpha and sigma, for every process: rates, drift and diffusion, level
and its inverse.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff.typing import Array, AtTimes, Times

_EARLIEST = 1e-30  # stands for t = 0+ in derivatives, where the sigma of VP has infinite slope


_PARTS = 8  # sections of the bracket per round of the inverse: 3 bits


Number: TypeAlias = float | Array


@runtime_checkable
class Process(Protocol):
    """A pytree with ``alpha(t)``, ``sigma(t)`` and the last time ``t_max``."""

    @property
    def t_max(self) -> Number:
        """Return the time of pure noise."""
        ...

    def alpha(self, t: Times) -> AtTimes:
        """Scale of the data at time t."""
        ...

    def sigma(self, t: Times) -> AtTimes:
        """Standard deviation of the noise at time t."""
        ...


def floating(t: ArrayLike, *fields: Number | np.ndarray) -> list[Array]:
    """Return t as floating numbers and the fields in its dtype."""
    dtype = jnp.result_type(t)
    t = jnp.asarray(t, dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float))
    return [t, *(jnp.asarray(field, t.dtype) for field in fields)]


def level(process: Process, t: Times) -> AtTimes:
    """Return the noise level sigma(t) / alpha(t), of the shape of t; infinite where alpha is 0.

    Args:
        process: ``alpha(t)`` and ``sigma(t)``.
        t: times, of any shape.

    Returns:
        Noise levels, of the shape of t.
    """
    return process.sigma(t) / process.alpha(t)


def log_snr(process: Process, t: Times) -> AtTimes:
    """Return 2 log(alpha / sigma), twice lambda = -log level; infinite at alpha or sigma 0.

    Args:
        process: ``alpha(t)`` and ``sigma(t)``.
        t: times, of any shape.

    Returns:
        Logarithms of the signal-to-noise ratio, of the shape of t.
    """
    return 2 * (jnp.log(process.alpha(t)) - jnp.log(process.sigma(t)))


def _rate(function: Callable[[Array], Array], t: ArrayLike) -> Array:
    """Return the derivative of an elementwise function of time; at t = 0 its value just after."""
    t = jnp.maximum(floating(t)[0], _EARLIEST)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


def rates(process: Process, t: Times) -> tuple[AtTimes, AtTimes]:
    """Return d alpha/dt and d sigma/dt, each of the shape of t.

    At t = 0 they are the values at 1e-30: where the slope of sigma is infinite (VP, Cosine) a
    huge finite number, with which products such as sigma sigma' are right.

    Args:
        process: ``alpha(t)`` and ``sigma(t)``.
        t: times, of any shape.

    Returns:
        d alpha/dt and d sigma/dt.
    """
    return _rate(process.alpha, t), _rate(process.sigma, t)


def drift(process: Process, t: Times) -> AtTimes:
    """Return f(t) = d log alpha/dt of dx = f x dt + g dw; -inf where alpha is 0.

    Args:
        process: ``alpha(t)`` and ``sigma(t)``.
        t: times, of any shape.

    Returns:
        f(t), of the shape of t.
    """
    return _rate(process.alpha, t) / process.alpha(t)


def diffusion(process: Process, t: Times) -> AtTimes:
    """Return g^2(t) = d sigma^2/dt - 2 f sigma^2 (the square); infinite where alpha is 0.

    Args:
        process: ``alpha(t)`` and ``sigma(t)``.
        t: times, of any shape.

    Returns:
        g^2(t), of the shape of t.
    """
    t = jnp.maximum(floating(t)[0], _EARLIEST)
    sigma = process.sigma(t)
    return 2 * sigma * (_rate(process.sigma, t) - drift(process, t) * sigma)


def max_level(process: Process, largest: float = 1e3) -> Array:
    """Return the level at t_max, or ``largest`` for a process whose alpha reaches 0 there (scalar).

    Such a process has no last finite level; at 1000 the mean of the data is a thousandth of a
    standard deviation of the noise, and rectified flow is at t = 0.999.

    Args:
        process: ``alpha(t)`` and ``sigma(t)``.
        largest: the level instead of an infinite one.

    Returns:
        A scalar.
    """
    (t,) = floating(process.t_max)
    alpha = process.alpha(t)
    finite = alpha > 0
    return jnp.where(finite, process.sigma(t) / jnp.where(finite, alpha, 1), largest)


def time(process: Process, level: Times) -> AtTimes:
    """Return the time at which the process has the given noise level, the inverse of :func:`level`.

    Any process with an increasing level; result of the level's shape and dtype, right to its
    rounding. Levels below that of t = 0 give 0 and levels above that of t_max give t_max, with
    zero gradient; NaN stays NaN. Derivatives with respect to the level and the process's numbers,
    of any order, follow from the implicit function theorem.

    Args:
        process: ``alpha(t)`` and ``sigma(t)``.
        level: noise levels, of any shape.

    Returns:
        Times, of the shape and dtype of ``level``.
    """
    return _inverse(process, floating(level)[0])


@jax.custom_jvp
@jax.jit  # outside of a program every call would compile the loop anew
def _inverse(process: Process, s: Array) -> Array:
    """Narrow a bracket of level(t) = s, eightfold per round, to twice the digits of the dtype."""
    last = jnp.asarray(process.t_max, s.dtype)
    fractions = jnp.arange(1, _PARTS, dtype=s.dtype).reshape((1,) * s.ndim + (-1,)) / _PARTS

    def narrow(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, width = bracket
        below = level(process, low[..., None] + width * fractions) < s[..., None]
        count = jnp.sum(below, axis=-1, dtype=s.dtype)
        return low + count * (width / _PARTS), width / _PARTS

    rounds = -(-2 * jnp.finfo(s.dtype).nmant // 3)
    low, _ = jax.lax.fori_loop(0, rounds, narrow, (jnp.zeros_like(s), last))
    t = jnp.where(s < level(process, last), jnp.minimum(low, last), last)
    return jnp.where(jnp.isnan(s), s, t)


@_inverse.defjvp
def _inverse_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    """Differentiate level(process, t) = s: dt = (ds - d level at fixed t) / (d level/dt)."""
    (process, s), (process_dot, s_dot) = primals, tangents
    t = _inverse(process, s)
    last = jnp.asarray(process.t_max, s.dtype)
    inside = (t < last) & (s >= level(process, jnp.zeros_like(last)))
    inner = jnp.where(inside, t, 0.5 * last)
    level_dot = jax.jvp(lambda p: level(p, inner), (process,), (process_dot,))[1]
    slope = _rate(lambda u: level(process, u), inner)
    rising = inside & (slope > 0)
    return t, jnp.where(rising, (s_dot - level_dot) / jnp.where(rising, slope, 1), 0)
