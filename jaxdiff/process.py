r"""Gaussian processes: how data turn into noise.

A process is two functions of its own time t, with t = 0 data and t = ``t_max`` noise,

    x_t = alpha(t) x0 + sigma(t) eps,        eps ~ N(0, I),

each elementwise in t. Everything else follows from the two and is written once, for all processes:

    noise level         s(t)  = sigma / alpha                     increasing in t
    log-SNR                     2 log(alpha / sigma)              lambda = -log s is half of it
    rates                       d alpha/dt, d sigma/dt            forward-mode derivatives
    SDE  dx = f x dt + g dw:    f = alpha'/alpha,  g^2 = 2 sigma (sigma' - f sigma)
    inverse                     t(s), one search; differentiated as an implicit function

A process is a frozen dataclass and a pytree whose numbers are leaves, so gradients with respect
to, say, ``VP.beta_min`` are one ``jax.grad`` away. Results have the floating dtype of ``t``.

Sources: Song et al. 2011.13456 (VP, sub-VP, VE), Karras et al. 2206.00364 (the level, EDM),
Nichol and Dhariwal 2102.09672 (cosine), Liu et al. 2209.03003 (rectified flow), Lu and Song
2410.11081 (TrigFlow), Ho et al. 2006.11239 (tables of betas), Lin et al. 2305.08891 (zero
terminal SNR).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxdiff.typing import Array

_EARLIEST = 1e-30  # stands for t = 0+ in derivatives, where the sigma of VP has infinite slope
_PARTS = 8  # sections of the bracket per round of the inverse: 3 bits

Number: TypeAlias = float | Array

C = TypeVar("C", bound=type)


class Process(Protocol):
    """A pytree with ``alpha(t)``, ``sigma(t)`` and the last time ``t_max``."""

    @property
    def t_max(self) -> Number:
        """The time of pure noise."""
        ...

    def alpha(self, t: ArrayLike) -> Array:
        """Scale of the data at time t."""
        ...

    def sigma(self, t: ArrayLike) -> Array:
        """Standard deviation of the noise at time t."""
        ...


@dataclass_transform(frozen_default=True, eq_default=False)
def pytree_dataclass(cls: C) -> C:
    """Make a frozen dataclass a pytree; fields with metadata ``static`` are part of its structure.

    Unlike ``jax.tree_util.register_dataclass``, rebuilding it from leaves does not run
    ``__init__``: a check made there sees what the user passed, never a tracer, a gradient or a
    placeholder. Instances compare and hash by identity.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    static = tuple(f.name for f in fields if f.metadata.get("static", False))
    data = tuple(f.name for f in fields if f.name not in static)

    def flatten(record: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(record, n) for n in data), tuple(getattr(record, n) for n in static)

    def flatten_with_keys(record: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        keys = tuple(jax.tree_util.GetAttrKey(n) for n in data)
        leaves, structure = flatten(record)
        return tuple(zip(keys, leaves, strict=True)), structure

    def unflatten(structure: tuple[Any, ...], leaves: Any) -> Any:
        record = object.__new__(cls)
        for name, value in zip(data + static, (*leaves, *structure), strict=True):
            object.__setattr__(record, name, value)
        return record

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _numbers(t: ArrayLike, *fields: Number | np.ndarray) -> list[Array]:
    """Return t as floating numbers and the fields in its dtype."""
    dtype = jnp.result_type(t)
    t = jnp.asarray(t, dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float))
    return [t, *(jnp.asarray(field, t.dtype) for field in fields)]


def _root(x: Array) -> Array:
    """Square root of max(x, 0), with derivative 0 instead of infinity at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def check(message: str, condition: Callable[..., Any], *values: Any) -> None:
    """Raise ValueError unless the condition of the numbers holds; traced ones are trusted."""
    traced = any(isinstance(v, Tracer) for v in values)
    if not traced and not condition(*map(np.asarray, values)):
        raise ValueError(f"{message}; got {', '.join(str(v) for v in values)}")


@pytree_dataclass
class EDM:
    """2206.00364: alpha = 1, sigma = t; time is the noise level itself, t in [0, t_max]."""

    t_max: Number = 80.0

    def __post_init__(self) -> None:
        check("EDM needs 0 < t_max < inf", lambda last: 0 < last < np.inf, self.t_max)

    def alpha(self, t: ArrayLike) -> Array:
        """Return 1."""
        return jnp.ones_like(_numbers(t)[0])

    def sigma(self, t: ArrayLike) -> Array:
        """Return t."""
        return _numbers(t)[0]


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

    def alpha(self, t: ArrayLike) -> Array:
        """Return 1."""
        return jnp.ones_like(_numbers(t)[0])

    def sigma(self, t: ArrayLike) -> Array:
        """Return sigma_min^(1-t) sigma_max^t."""
        t, low, high = _numbers(t, self.sigma_min, self.sigma_max)
        return low ** (1 - t) * high**t


def _log_alpha(t: ArrayLike, beta_min: Number, beta_max: Number) -> Array:
    """Return -1/2 of the integral of beta(t) = beta_min + t (beta_max - beta_min) from 0 to t."""
    t, low, high = _numbers(t, beta_min, beta_max)
    return -0.5 * t * (low + 0.5 * t * (high - low))


def _check_betas(name: str, low: Any, high: Any) -> None:
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

    def alpha(self, t: ArrayLike) -> Array:
        """Return exp(-beta_d t^2 / 4 - beta_min t / 2)."""
        return jnp.exp(_log_alpha(t, self.beta_min, self.beta_max))

    def sigma(self, t: ArrayLike) -> Array:
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

    def alpha(self, t: ArrayLike) -> Array:
        """Return exp(-beta_d t^2 / 4 - beta_min t / 2)."""
        return jnp.exp(_log_alpha(t, self.beta_min, self.beta_max))

    def sigma(self, t: ArrayLike) -> Array:
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

    def alpha(self, t: ArrayLike) -> Array:
        """Return cos(u) / cos(u_0), written with sin(pi/2 - u) so that it is exactly 0 at t = 1."""
        t, offset = _numbers(t, self.offset)
        quarter = (math.pi / 2) / (1 + offset)
        return jnp.sin((1 - t) * quarter) / jnp.cos(offset * quarter)

    def sigma(self, t: ArrayLike) -> Array:
        """Return sqrt(1 - alpha^2), from cos^2 u_0 - cos^2 u = sin(u - u_0) sin(u + u_0)."""
        t, offset = _numbers(t, self.offset)
        quarter = (math.pi / 2) / (1 + offset)
        product = jnp.sin(t * quarter) * jnp.sin((t + 2 * offset) * quarter)
        return _root(product) / jnp.cos(offset * quarter)


@pytree_dataclass
class RectifiedFlow:
    """Straight lines, 2209.03003: alpha = 1 - t, sigma = t, t in [0, 1]; alpha(1) = 0."""

    t_max: ClassVar[float] = 1.0

    def alpha(self, t: ArrayLike) -> Array:
        """Return 1 - t."""
        return 1 - _numbers(t)[0]

    def sigma(self, t: ArrayLike) -> Array:
        """Return t."""
        return _numbers(t)[0]


@pytree_dataclass
class TrigFlow:
    """2410.11081: alpha = cos t, sigma = sigma_data sin t, t in [0, pi/2].

    The level is sigma_data tan t; alpha reaches 0 at t = pi/2.
    """

    sigma_data: Number = 1.0
    t_max: ClassVar[float] = math.pi / 2

    def __post_init__(self) -> None:
        check("TrigFlow needs 0 < sigma_data < inf", lambda x: 0 < x < np.inf, self.sigma_data)

    def alpha(self, t: ArrayLike) -> Array:
        """Return cos t as sin(pi/2 - t), exactly 0 at t_max in any precision."""
        t, last = _numbers(t, self.t_max)
        return jnp.sin(last - t)

    def sigma(self, t: ArrayLike) -> Array:
        """Return sigma_data sin t."""
        t, scale = _numbers(t, self.sigma_data)
        return scale * jnp.sin(t)


@pytree_dataclass
class Discrete:
    """The table of a discrete-time model (2006.11239), made continuous.

    alpha((k+1)/N) = sqrt(alphas_cumprod[k]); log alpha is piecewise linear in t, continued by its
    first piece below t = 1/N until it meets 0, where the data are clean; sigma^2 = 1 - alpha^2.
    In the last interval of a table that ends in 0 (zero terminal SNR) alpha itself is linear.
    ``log_alphas`` keeps log alpha, -inf for 0, because it holds more digits than alphas_cumprod
    where that is close to 1. t in [0, 1]; the network's step index is k = N t - 1.
    """

    log_alphas: Array | np.ndarray = dataclasses.field(init=False)
    t_max: ClassVar[float] = 1.0

    def __init__(self, alphas_cumprod: ArrayLike) -> None:
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
    def from_betas(cls, betas: ArrayLike) -> "Discrete":
        """Make the process of a table of betas (N,), each in (0, 1); the last one may be 1."""
        betas = np.asarray(betas, np.float64)
        check("betas must lie in (0, 1]", lambda b: (b > 0).all() and (b <= 1).all(), betas)
        return cls(np.cumprod(1 - betas))

    def _piece(self, t: ArrayLike) -> tuple[Array, Array, Array, Array]:
        """Return log alpha at the piece's two knots, the place in it, whether alpha ends in 0."""
        t, table = _numbers(t, self.log_alphas)
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

    def alpha(self, t: ArrayLike) -> Array:
        """Return the interpolated alpha."""
        start, _, place, vanishes = self._piece(t)
        return jnp.where(vanishes, jnp.exp(start) * (1 - place), jnp.exp(self._log_alpha(t)))

    def sigma(self, t: ArrayLike) -> Array:
        """Return sqrt(1 - alpha^2)."""
        variance = -jnp.expm1(2 * self._log_alpha(t))
        return _root(jnp.where(self._piece(t)[3], 1 - self.alpha(t) ** 2, variance))


def linear_betas(count: int, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """Return betas (count,) rising linearly (2006.11239); float64."""
    return np.linspace(first, last, count)


def scaled_linear_betas(count: int, first: float = 0.00085, last: float = 0.012) -> np.ndarray:
    """Return betas (count,) whose square roots rise linearly (2112.10752); float64."""
    return np.linspace(math.sqrt(first), math.sqrt(last), count) ** 2


def cosine_betas(count: int, offset: float = 0.008, cap: float = 0.999) -> np.ndarray:
    """Return betas (count,) of the cosine table, none above ``cap`` (2102.09672); float64."""
    times = np.arange(count + 1) / count
    products = np.cos((times + offset) / (1 + offset) * math.pi / 2) ** 2
    return np.minimum(1 - products[1:] / products[:-1], cap)


def zero_terminal_snr(alphas_cumprod: ArrayLike) -> np.ndarray:
    """Shift and scale sqrt(alphas_cumprod) to end in 0, first value kept (2305.08891, alg. 1)."""
    alphas = np.sqrt(np.asarray(alphas_cumprod, np.float64))
    return ((alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))) ** 2


def level(process: Process, t: ArrayLike) -> Array:
    """Return the noise level sigma(t) / alpha(t), of the shape of t; infinite where alpha is 0."""
    return process.sigma(t) / process.alpha(t)


def log_snr(process: Process, t: ArrayLike) -> Array:
    """Return 2 log(alpha / sigma), twice lambda = -log level; infinite at alpha or sigma 0."""
    return 2 * (jnp.log(process.alpha(t)) - jnp.log(process.sigma(t)))


def _rate(function: Callable[[Array], Array], t: ArrayLike) -> Array:
    """Return the derivative of an elementwise function of time; at t = 0 its value just after."""
    t = jnp.maximum(_numbers(t)[0], _EARLIEST)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


def rates(process: Process, t: ArrayLike) -> tuple[Array, Array]:
    """Return d alpha/dt and d sigma/dt, each of the shape of t.

    At t = 0 they are the values at 1e-30: where the slope of sigma is infinite (VP, Cosine) a
    huge finite number, with which products such as sigma sigma' are right.
    """
    return _rate(process.alpha, t), _rate(process.sigma, t)


def drift(process: Process, t: ArrayLike) -> Array:
    """Return f(t) = d log alpha/dt of dx = f x dt + g dw; -inf where alpha is 0."""
    return _rate(process.alpha, t) / process.alpha(t)


def diffusion(process: Process, t: ArrayLike) -> Array:
    """Return g^2(t) = d sigma^2/dt - 2 f sigma^2 (the square); infinite where alpha is 0."""
    t = jnp.maximum(_numbers(t)[0], _EARLIEST)
    sigma = process.sigma(t)
    return 2 * sigma * (_rate(process.sigma, t) - drift(process, t) * sigma)


def max_level(process: Process, largest: float = 1e3) -> Array:
    """Return the level at t_max, or ``largest`` for a process whose alpha reaches 0 there (scalar).

    Such a process has no last finite level; at 1000 the mean of the data is a thousandth of a
    standard deviation of the noise, and rectified flow is at t = 0.999.
    """
    (t,) = _numbers(process.t_max)
    alpha = process.alpha(t)
    finite = alpha > 0
    return jnp.where(finite, process.sigma(t) / jnp.where(finite, alpha, 1), largest)


def time(process: Process, level: ArrayLike) -> Array:
    """Return the time at which the process has the given noise level, the inverse of :func:`level`.

    Any process with an increasing level; result of the level's shape and dtype, right to its
    rounding. Levels below that of t = 0 give 0 and levels above that of t_max give t_max, with
    zero gradient; NaN stays NaN. Derivatives with respect to the level and the process's numbers,
    of any order, follow from the implicit function theorem.
    """
    return _inverse(process, _numbers(level)[0])


@jax.custom_jvp
def _inverse(process: Process, s: Array) -> Array:
    """Narrow a bracket of level(t) = s, eightfold per round, to twice the digits of the dtype."""
    last = jnp.asarray(process.t_max, s.dtype)
    fractions = jnp.arange(1, _PARTS, dtype=s.dtype).reshape((1,) * s.ndim + (-1,)) / _PARTS

    def narrow(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
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
    middle = jnp.where(inside, t, 0.5 * last)
    level_dot = jax.jvp(lambda p: level(p, middle), (process,), (process_dot,))[1]
    slope = _rate(lambda u: level(process, u), middle)
    rising = inside & (slope > 0)
    return t, jnp.where(rising, (s_dot - level_dot) / jnp.where(rising, slope, 1), 0)
