r"""What a network predicts, and the denoiser made of it.

A prediction is a row (a, b): its target is a x0 + b eps, where x = alpha x0 + sigma eps is what
the network sees.

    x0     ( 1,             0            )
    eps    ( 0,             1            )
    score  ( 0,            -1/sigma      )   of x; that of y = x/alpha is alpha times it
    v      (-sigma,         alpha        )   2202.00512, appendix D
    flow   ( alpha',        sigma'       )   d x_t/dt, 2209.03003
    edm    ( sigma/(sd n), -alpha sd/n   )   2206.00364: (D - c_skip y)/c_out,
                                             n^2 = sigma^2 + sd^2 alpha^2

Value and state are two equations for (x0, eps), alpha x0 + sigma eps = x and a x0 + b eps = value,
so that every other row follows from one 2x2 solve: with det = alpha b - sigma a,

    a* x0 + b* eps = p x + q value,   p = (a* b - b* a)/det,   q = (alpha b* - sigma a*)/det.

det is alpha for eps, -sigma for x0, -alpha/sigma for score, alpha^2 + sigma^2 for v,
alpha sigma' - sigma alpha' for flow and -n/sd for edm. So eps and score do not determine the data
at alpha = 0, x0 does not determine the noise at sigma = 0, where the score itself is infinite.
There the weights are infinite or NaN; nothing is hidden.

The denoiser is D(y, s) = E[x0 | y] with y = x/alpha and the level s = sigma/alpha.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike, DTypeLike

from jaxdiff.process import EDM, Number, Process, check, rates, time
from jaxdiff.typing import Array, Cond, Denoiser, Network, Params

Row: TypeAlias = tuple[Number, Number]

X0: Row = (1.0, 0.0)
EPS: Row = (0.0, 1.0)
PREDICTIONS = ("x0", "eps", "score", "v", "flow", "edm")
_SMALLEST = 1e-12  # stands for level 0 in log(level), so that label and gradient stay finite
_KARRAS = EDM()


class Scalings(NamedTuple):
    """D(y) = c_skip y + c_out F(c_in y, c_noise); each of the shape of the level."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def edm_scalings(level: Array, sigma_data: Number = 0.5) -> Scalings:
    """Return the scalings of 2206.00364, table 1; c_noise = log(level)/4, finite at level 0."""
    norm = jnp.sqrt(level**2 + sigma_data**2)
    c_noise = jnp.log(jnp.maximum(level, _SMALLEST)) / 4
    return Scalings(sigma_data**2 / norm**2, level * sigma_data / norm, 1 / norm, c_noise)


def boundary_scalings(
    level: Array, sigma_data: Number = 0.5, sigma_min: Number = 0.002
) -> Scalings:
    """Return the scalings that make D(y) = y at level ``sigma_min`` (2303.01469, appendix C)."""
    edm = edm_scalings(level, sigma_data)
    rise = level - sigma_min
    c_skip = sigma_data**2 / (rise**2 + sigma_data**2)
    return edm._replace(c_skip=c_skip, c_out=rise * sigma_data * edm.c_in)


def check_prediction(name: str) -> None:
    """Raise ValueError unless ``name`` is one of ``PREDICTIONS``."""
    if name not in PREDICTIONS:
        raise ValueError(f"unknown prediction {name!r}; it must be one of {', '.join(PREDICTIONS)}")


def row(
    name: str,
    alpha: Number,
    sigma: Number,
    rates: tuple[Number, Number] | None = None,
    sigma_data: Number = 0.5,
) -> Row:
    """Return (a, b) of the target a x0 + b eps.

    name: one of ``PREDICTIONS``.
    alpha, sigma: of the process, scalars or (batch,).
    rates: (d alpha/dt, d sigma/dt), needed for 'flow' only.
    sigma_data: standard deviation of the data, of 'edm' only.

    Raises ValueError for another name, or 'flow' without rates.
    """
    check_prediction(name)
    if name == "flow":
        if rates is None:
            raise ValueError("prediction 'flow' needs rates=(d alpha/dt, d sigma/dt)")
        return rates
    if name == "edm":
        norm = (sigma**2 + (sigma_data * alpha) ** 2) ** 0.5
        return sigma / (sigma_data * norm), -sigma_data * alpha / norm
    if name == "score":
        return 0.0, -1.0 / sigma
    return {"x0": X0, "eps": EPS, "v": (-sigma, alpha)}[name]


def mix(source: Row, target: Row, alpha: Number, sigma: Number) -> Row:
    """Return the weights (p, q) with target value = p x + q source value; scalars or (batch,).

    A row onto itself (the same object) is (0, 1), also where det = 0.
    """
    if source is target:
        return 0.0, 1.0
    (a, b), (a_new, b_new) = source, target
    det = alpha * b - sigma * a
    return (a_new * b - b_new * a) / det, (alpha * b_new - sigma * a_new) / det


def expand(numbers: ArrayLike, like: Array) -> Array:
    """Return a scalar, or a number per sample (batch,), shaped to multiply ``like``."""
    numbers = jnp.asarray(numbers, like.dtype)
    return numbers.reshape((-1,) + (1,) * (like.ndim - 1)) if numbers.ndim == 1 else numbers


def convert(
    value: Array, x: Array, source: Row, target: Row, alpha: Number, sigma: Number
) -> Array:
    """Return what the ``target`` row says where the ``source`` row says ``value``.

    value, x: (batch, *shape) with x = alpha x0 + sigma eps.
    Rows (see :func:`row`), alpha, sigma: scalars or (batch,).

    Infinite or NaN where det = alpha b - sigma a of the source row is 0 (see the module).
    """
    p, q = mix(source, target, alpha, sigma)
    return expand(p, x) * x + expand(q, x) * value


def target(
    name: str, x0: Array, eps: Array, process: Process, t: ArrayLike, sigma_data: Number = 0.5
) -> Array:
    """Return a x0 + b eps, what a network of the given prediction is trained to say at time t.

    x0, eps: (batch, *shape); t: scalar or (batch,). Raises ValueError for an unknown name.
    """
    check_prediction(name)
    a, b = row(name, process.alpha(t), process.sigma(t), rates(process, t), sigma_data)
    return expand(a, x0) * x0 + expand(b, x0) * eps


def uniform_weight(level: Array, sigma_data: Number = 0.5) -> Array:
    """Return 1 for every level. This and the next are weights of the squared error of x0."""
    return jnp.ones_like(level)


def snr_weight(level: Array, sigma_data: Number = 0.5) -> Array:
    """Return the signal-to-noise ratio level^-2, which makes it the squared error of eps."""
    return level**-2


def snr_plus_one_weight(level: Array, sigma_data: Number = 0.5) -> Array:
    """Return level^-2 + 1, which makes it that of v if alpha^2 + sigma^2 = 1 (2202.00512)."""
    return level**-2 + 1


def truncated_snr_weight(level: Array, sigma_data: Number = 0.5) -> Array:
    """Return max(level^-2, 1) (2202.00512, section 4)."""
    return jnp.maximum(level**-2, 1)


def edm_weight(level: Array, sigma_data: Number = 0.5) -> Array:
    """Return (level^2 + sigma_data^2)/(level sigma_data)^2 = 1/c_out^2 (2206.00364, table 1)."""
    return level**-2 + sigma_data**-2


@dataclasses.dataclass(frozen=True)
class _Denoise:
    """The static half of a denoiser, equal for equal networks: they share compiled programs."""

    apply: Network
    prediction: str
    label: Callable[[Array], Array] | None
    compute_dtype: DTypeLike | None

    def __call__(
        self,
        params: Params,
        process: Process,
        sigma_data: Number,
        sigma_min: Number,
        y: Array,
        level: ArrayLike,
        cond: Cond = None,
        *,
        target: ArrayLike | None = None,
        extra: ArrayLike | None = None,
        **options: Any,
    ) -> Any:
        dtype = y.dtype if jnp.finfo(y.dtype).bits >= 32 else jnp.dtype(jnp.float32)
        state, level = y.astype(dtype), jnp.asarray(level, dtype)
        data = jnp.asarray(sigma_data, dtype), jnp.asarray(sigma_min, dtype)
        c_in, label, skip, out = self.weights(process, *data, level)
        columns = [jnp.broadcast_to(jnp.asarray(label, dtype), y.shape[:1])]
        if target is not None:
            second = self.label_of(process, jnp.asarray(target, dtype))
            columns.append(jnp.broadcast_to(jnp.asarray(second, dtype), y.shape[:1]))
        label = _labels(columns, extra)
        inputs = (expand(c_in, state) * state).astype(self.compute_dtype or y.dtype)
        answer: Any = self.apply(params, inputs, label, cond, **options)
        value = (answer.value if options.get("full") else answer).astype(dtype)
        value = (expand(skip, state) * state + expand(out, state) * value).astype(y.dtype)
        return answer._replace(value=value) if options.get("full") else value

    def label_of(self, process: Process, level: Array) -> Number:
        """Return what the network is told of a level."""
        if self.prediction == "edm":
            c_noise = jnp.log(jnp.maximum(level, _SMALLEST)) / 4
            return c_noise if self.label is None else self.label(level)
        t = time(process, level)
        return t if self.label is None else self.label(t)

    def weights(
        self, process: Process, sigma_data: Array, sigma_min: Array, level: Array
    ) -> tuple[Number, ...]:
        """Return c_in, label, c_skip and c_out of D = c_skip y + c_out network(c_in y, label)."""
        if self.prediction == "edm":
            c_skip, c_out, c_in, _ = boundary_scalings(level, sigma_data, sigma_min)
            return c_in, self.label_of(process, level), c_skip, c_out
        t = time(process, level)
        alpha = process.alpha(t)
        sigma = level * alpha  # sigma(t), with the exact level and its derivative at level 0
        p, q = mix(row(self.prediction, alpha, sigma, rates(process, t)), X0, alpha, sigma)
        # an Euler step to level sigma_min: the identity there, and D where that is 0
        stay = sigma_min / jnp.maximum(level, jnp.maximum(sigma_min, _SMALLEST))
        skip, out = stay + (1.0 - stay) * p * alpha, (1.0 - stay) * q
        return alpha, t if self.label is None else self.label(t), skip, out


def _labels(columns: list[Any], extra: ArrayLike | None) -> Array:
    """One label (batch,), or several (batch, k): level, target, then the columns of ``extra``."""
    batch, dtype = columns[0].shape[0], columns[0].dtype
    if extra is not None:
        numbers = jnp.asarray(extra, dtype)
        rows = numbers if numbers.ndim == 2 else jnp.broadcast_to(numbers, (batch,))[:, None]
        columns = [*columns, *rows.T]
    return columns[0] if len(columns) == 1 else jnp.stack(columns, axis=1)


def denoiser(
    apply: Network,
    params: Params,
    *,
    prediction: str = "edm",
    process: Process = _KARRAS,
    sigma_data: Number = 0.5,
    sigma_min: Number = 0.0,
    label: Callable[[Array], Array] | None = None,
    compute_dtype: DTypeLike | None = None,
) -> Partial:
    """Make the denoiser D(y, level, cond=None, **options) of a network.

    apply: ``apply(params, x, label, cond, **options)`` with x (batch, *shape), label (batch,).
    prediction: one of ``PREDICTIONS``. For 'edm' the network sees x = c_in y; for the others
        x = alpha(t) y at t = time(process, level).
    process: not used for 'edm'; levels above its last are taken for the last, so stay within
        ``max_level``.
    sigma_data: standard deviation of the data, of 'edm' only.
    sigma_min: the level at which D(y) = y exactly (0 for a diffusion model, the lowest level for
        some consistency models): for 'edm' by :func:`boundary_scalings`, for the others by an Euler
        step to that level in place of one to 0.
    label: what the network is told, a function of the level for 'edm' (log(level)/4 if None) and
        of t for the others (t itself if None); ``lambda t: 1000 * t - 1`` gives the step of a
        table of 1000.
    compute_dtype: the network's input is cast to it and its output back. Labels are float32, or
        float64 where y is.

    The result is a pytree whose leaves are those of params, process and the two sigmas; its static
    rest is equal for equal arguments. D takes y (batch, *shape) and a level, scalar or (batch,).
    For networks that take several labels, ``D(y, level, cond, target=..., extra=...)``: the level
    that a map between two levels jumps to, told as ``level`` is, and further numbers told as they
    are, a scalar, (batch,) or (batch, k). With ``full=True`` it returns
    :class:`jaxdiff.typing.Outputs`, the value being the denoised state.

    Raises ValueError for an unknown prediction or a sigma_data that is not positive, TypeError if
    ``apply`` is not callable.
    """
    check_prediction(prediction)
    if not callable(apply):
        raise TypeError(f"apply must be a function (params, x, label, cond); got {type(apply)}")
    check("sigma_data must be positive and finite", lambda x: 0 < x < float("inf"), sigma_data)
    static = _Denoise(apply, prediction, label, compute_dtype)
    return Partial(static, params, process, sigma_data, sigma_min)


def predictor(D: Partial, process: Process, name: str) -> Callable[..., Array]:
    """Return what a network says, in another process's coordinates: F(x, t, cond=None, **options).

    D: made by :func:`denoiser` with prediction 'edm', 'eps' or 'x0', or with prediction ``name``
        and this same process. sigma_min must be 0.
    name: one of ``PREDICTIONS``, the row of ``process`` to return.

    F takes x = alpha x0 + sigma eps (batch, *shape) and t (batch,); ``target`` and whatever else D
    takes pass through, ``target`` being a time too. Nothing is divided that the formula does not
    divide: F of a network's own row is the network itself, also at t = 0.

    Raises TypeError for a D that :func:`denoiser` did not make, ValueError for another prediction.
    """
    static = getattr(D, "func", None)
    if not isinstance(static, _Denoise):
        raise TypeError("predictor needs a denoiser made by jaxdiff.prediction.denoiser")
    params, own, sigma_data, _ = D.args
    native = static.prediction == name != "edm" and type(own) is type(process)
    if static.prediction not in ("edm", "eps", "x0") and not native:
        raise ValueError(
            f"a network predicting {static.prediction!r} of {type(own).__name__} cannot be read as "
            f"{name!r} of {type(process).__name__}: use prediction 'edm', 'eps' or 'x0'"
        )

    def told(t: Array) -> Number:
        if native:
            return t if static.label is None else static.label(t)
        return static.label_of(own, process.sigma(t) / process.alpha(t))

    def F(
        x: Array,
        t: Array,
        cond: Cond = None,
        *,
        target: Array | None = None,
        extra: ArrayLike | None = None,
        **options: Any,
    ) -> Any:
        alpha, sigma = process.alpha(t), process.sigma(t)
        rows = [
            row(name, alpha, sigma, rates(process, t), sigma_data)
            for name in {static.prediction: None, name: None}
        ]
        if native:
            c_in = jnp.ones_like(t)
        elif static.prediction == "edm":
            c_in = 1 / jnp.sqrt(sigma**2 + (sigma_data * alpha) ** 2)
        else:
            c_in = own.alpha(time(own, sigma / alpha)) / alpha
        label = _labels([told(t)] if target is None else [told(t), told(target)], extra)
        answer: Any = static.apply(params, expand(c_in, x) * x, label, cond, **options)
        p, q = mix(rows[0], rows[-1], alpha, sigma)
        value = answer.value if options.get("full") else answer
        value = expand(p, x) * x + expand(q, x) * value
        return answer._replace(value=value) if options.get("full") else value

    return F


def conditioned(D: Denoiser, **numbers: Any) -> Partial:
    """Return the denoiser with numbers bound: ``conditioned(D, extra=weight)``."""
    return Partial(conditioned_call, as_partial(D), numbers)


def conditioned_call(
    D: Any, numbers: dict[str, Any], y: Array, level: Array, cond: Cond = None, **options: Any
) -> Array:
    """What :func:`conditioned` calls."""
    return D(y, level, cond, **numbers, **options)


def as_partial(denoiser: Denoiser) -> Partial:
    """Return the denoiser as an argument that compiled functions take, a pytree.

    A plain function becomes part of the program and is compiled anew for each new function object.
    Raises TypeError for what cannot be called.
    """
    if isinstance(denoiser, Partial):
        return denoiser
    if not callable(denoiser):
        raise TypeError(
            f"a denoiser is a function D(y, level, cond); this is {type(denoiser).__name__}"
        )
    return Partial(denoiser)
