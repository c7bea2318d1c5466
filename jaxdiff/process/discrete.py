"""Processes of discrete-time models: tables of betas, made continuous."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff.arrays import check, pytree_dataclass
from jaxdiff.process.calculus import floating
from jaxdiff.process.families import _root
from jaxdiff.typing import Array, AtTimes, Times, Values


@pytree_dataclass
class Discrete:
    """The table of a discrete-time model (2006.11239), made continuous.

    alpha((k+1)/N) = sqrt(alphas_cumprod[k]); log alpha is piecewise linear in t, continued by its
    first piece below t = 1/N until it meets 0, where the data are clean; sigma^2 = 1 - alpha^2.
    In the last interval of a table that ends in 0 (zero terminal SNR) alpha itself is linear.
    ``log_alphas`` keeps log alpha, -inf for 0, because it holds more digits than alphas_cumprod
    where that is close to 1. t in [0, 1]; the network's step index is k = N t - 1, which
    :func:`discrete_label` rounds.
    """

    log_alphas: Array | np.ndarray = dataclasses.field(init=False)
    t_max: ClassVar[float] = 1.0

    def __init__(self, alphas_cumprod: Values) -> None:
        """Take cumulative products (N,), N >= 2: decreasing, in (0, 1), the last possibly 0."""
        table = alphas_cumprod
        if not isinstance(table, jax.Array):
            table = np.asarray(table, np.float64)  # logs are taken on the host, in float64
        if table.ndim != 1 or table.shape[0] < 2:
            raise ValueError(f"alphas_cumprod must have shape (N,) with N >= 2; got {table.shape}")
        check(
            "alphas_cumprod must decrease strictly, from below 1 to 0 or more",
            lambda table: table[0] < 1 and (table[:-1] > table[1:]).all() and table[-1] >= 0,
            table,
        )
        xp = jnp if isinstance(table, jax.Array) else np
        logs = 0.5 * xp.log(xp.where(table > 0, table, 1))
        object.__setattr__(self, "log_alphas", xp.where(table > 0, logs, -xp.inf))

    @classmethod
    def from_betas(cls, betas: Values) -> "Discrete":
        """Make the process of a table of betas (N,), each in (0, 1); the last one may be 1."""
        betas = np.asarray(betas, np.float64)
        check("betas must lie in (0, 1]", lambda b: (b > 0).all() and (b <= 1).all(), betas)
        return cls(np.cumprod(1 - betas))

    def _piece(self, t: ArrayLike) -> tuple[Array, Array, Array, Array]:
        """Return log alpha at the piece's two knots, the place in it, whether alpha ends in 0."""
        t, table = floating(t, self.log_alphas)
        count = table.shape[0]
        position = t * count - 1
        k = jnp.clip(jnp.floor(position), 0, count - 2)
        index = k.astype(jnp.int32)
        end = table[index + 1]
        vanishes = jnp.isneginf(end)
        return table[index], jnp.where(vanishes, 0, end), position - k, vanishes

    def _log_alpha(self, t: ArrayLike) -> Array:
        start, end, place, _ = self._piece(t)
        return jnp.minimum(start + place * (end - start), 0)

    def alpha(self, t: Times) -> AtTimes:
        """Return the interpolated alpha."""
        start, _, place, vanishes = self._piece(t)
        return jnp.where(vanishes, jnp.exp(start) * (1 - place), jnp.exp(self._log_alpha(t)))

    def sigma(self, t: Times) -> AtTimes:
        """Return sqrt(1 - alpha^2)."""
        variance = -jnp.expm1(2 * self._log_alpha(t))
        return _root(jnp.where(self._piece(t)[3], 1 - self.alpha(t) ** 2, variance))


@functools.cache
def discrete_label(num_timesteps: int) -> Callable[[Times], AtTimes]:
    """Return the label of a network of ``num_timesteps`` timesteps as a function of time: the
    nearest one.

    It is N t - 1, rounded, within 0 to N - 1: the index of the step of :class:`Discrete`, a whole
    number in the dtype of t (the time of a level is right to rounding, and 1000 t - 1 may fall
    short of the step or, below the first one's level, be negative). The same function for the same
    count.

    Args:
        num_timesteps: of the table.

    Returns:
        ``label(t)``, of the shape of t.

    Raises:
        ValueError: unless num_timesteps is a whole number, at least 1.
    """
    if num_timesteps != int(num_timesteps) or num_timesteps < 1:
        raise ValueError(
            f"a discrete process has a whole number of steps, at least 1; not {num_timesteps}"
        )

    def label(t: Times) -> AtTimes:
        (t,) = floating(t)
        return jnp.clip(jnp.round(num_timesteps * t - 1), 0, num_timesteps - 1)

    return label


def linear_betas(num_timesteps: int, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """Return betas rising linearly (DDPM, arXiv 2006.11239, section 4).

    Args:
        num_timesteps: N.
        first, last: the two ends, in (0, 1).

    Returns:
        (N,) float64.

    Raises:
        ValueError: for betas outside (0, 1], or fewer than two.
    """
    return _checked(np.linspace(first, last, num_timesteps))


def scaled_linear_betas(
    num_timesteps: int, first: float = 0.00085, last: float = 0.012
) -> np.ndarray:
    """Return betas whose square roots rise linearly (latent diffusion, arXiv 2112.10752).

    Args:
        num_timesteps: N.
        first, last: the two ends, in (0, 1).

    Returns:
        (N,) float64.

    Raises:
        ValueError: for ends outside (0, 1], or fewer than two betas.
    """
    _checked(np.array([first, last]))
    return _checked(np.linspace(math.sqrt(first), math.sqrt(last), num_timesteps) ** 2)


def cosine_betas(num_timesteps: int, offset: float = 0.008, cap: float = 0.999) -> np.ndarray:
    """Return betas of the cosine table (Improved DDPM, arXiv 2102.09672, eq. 17).

    Args:
        num_timesteps: N.
        offset: s of the paper.
        cap: no beta is above it.

    Returns:
        (N,) float64.

    Raises:
        ValueError: for betas outside (0, 1], as of a negative offset, or fewer than two.
    """
    times = np.arange(num_timesteps + 1) / num_timesteps
    products = np.cos((times + offset) / (1 + offset) * math.pi / 2) ** 2
    return _checked(np.minimum(1 - products[1:] / products[:-1], cap))


def _checked(betas: np.ndarray) -> np.ndarray:
    """Return betas (N,). ValueError for others than of a table."""
    if len(betas) < 2 or not ((betas > 0) & (betas <= 1)).all():
        raise ValueError(f"a table has two betas or more, in (0, 1]; these are {betas}")
    return betas


def zero_terminal_snr(alphas_cumprod: Values) -> np.ndarray:
    """Shift and scale sqrt(alphas_cumprod) to end in 0, first value kept (Lin et al., arXiv
    2305.08891, algorithm 1).

    Args:
        alphas_cumprod: (N,) cumulative products.

    Returns:
        (N,) float64, the last 0.

    Raises:
        ValueError: for numbers that do not decrease from below 1, as betas.
    """
    Discrete(alphas_cumprod)  # its error for others
    alphas = np.sqrt(np.asarray(alphas_cumprod, np.float64))
    return ((alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))) ** 2
