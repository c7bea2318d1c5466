"""Denoisers made of networks: D(y, s) = E[x0 | y] with y = x/alpha and the level s = sigma/alpha.

A network of any prediction (:mod:`jaxdiff.prediction`) and process becomes one function of state
and level, D = c_skip y + c_out network(c_in y, label), as a pytree of its parameters.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jax.typing import ArrayLike, DTypeLike

from jaxdiff.arrays import check, expand
from jaxdiff.prediction import SMALLEST, X0, boundary_scalings, check_prediction, mix, row
from jaxdiff.process import EDM, Number, Process, rates, time
from jaxdiff.typing import Array, Cond, Denoiser, Network, Params

_KARRAS = EDM()


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

        def denoised(value: Array) -> Array:
            mixed = expand(skip, state) * state + expand(out, state) * value.astype(dtype)
            return mixed.astype(y.dtype)

        return _changed(answer, denoised, options.get("full", False))

    def label_of(self, process: Process, level: Array) -> Number:
        """Return the label that conditions the network on a level."""
        if self.prediction == "edm":
            c_noise = jnp.log(jnp.maximum(level, SMALLEST)) / 4
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
        alpha, sigma = _at_level(process, t, level)
        p, q = mix(row(self.prediction, alpha, sigma, rates(process, t)), X0, alpha, sigma)
        # an Euler step to level sigma_min: the identity there, and D where that is 0
        stay = sigma_min / jnp.maximum(level, jnp.maximum(sigma_min, SMALLEST))
        skip, out = stay + (1.0 - stay) * p * alpha, (1.0 - stay) * q
        return alpha, t if self.label is None else self.label(t), skip, out


class _Denoiser(Partial):
    """A denoiser of a network: a Partial that shows itself in one line, and not by its numbers."""

    def __repr__(self) -> str:
        """Say network, prediction, process and how many parameters there are."""
        params, process = self.args[:2]
        network = getattr(self.func.apply, "module", self.func.apply)
        name = getattr(network, "__name__", type(network).__name__)
        leaves = [leaf for leaf in jax.tree.leaves(params) if hasattr(leaf, "size")]
        count = sum(leaf.size for leaf in leaves)
        what = f"{self.func.prediction} of {type(process).__name__}"
        return f"Denoiser({name}, {what}, {count:,} parameters)"


jax.tree_util.register_pytree_node(
    _Denoiser,
    lambda D: ((D.args, D.keywords), D.func),
    lambda func, parts: _Denoiser(func, *parts[0], **parts[1]),
)


def _at_level(process: Process, t: Array, level: Array) -> tuple[Array, Array]:
    """Return alpha and sigma at a time whose level, their ratio, is known exactly.

    Sigma follows from alpha, whose digits are there at small levels, where those of sigma at the
    time found are lost. Where alpha is small it follows from sigma: in float32 the time of a flow's
    level 1e9 is 1, where alpha is 0.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    small = alpha < 0.1
    return (
        jnp.where(small, sigma / jnp.where(small, level, 1), alpha),
        jnp.where(small, sigma, level * alpha),
    )


def _changed(answer: Any, change: Callable[[Array], Array], full: bool) -> Any:
    """Return a network's output with its value changed: an array, ``full`` outputs, or a pair of
    either and the network's next state.
    """
    if type(answer) is tuple:
        return _changed(answer[0], change, full), *answer[1:]
    return answer._replace(value=change(answer.value)) if full else change(answer)


def _labels(columns: list[Any], extra: ArrayLike | None) -> Array:
    """Return one label (batch,), or several (batch, k): level, target, then the columns of
    ``extra``.
    """
    batch, dtype = columns[0].shape[0], columns[0].dtype
    if extra is not None:
        numbers = jnp.asarray(extra, dtype)
        if numbers.ndim > 2 or numbers.shape[:1] not in ((), (batch,)):
            raise ValueError(
                f"extra is a number, or numbers (batch,) or (batch, k), of {batch} samples here; "
                f"its shape is {numbers.shape}"
            )
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

    Args:
        apply: ``apply(params, x, label, cond, **options)`` with x (batch, *shape), label (batch,).
        params: the network's parameters, a pytree, which are leaves of the denoiser.
        prediction: one of ``PREDICTIONS``. For 'edm' the network sees x = c_in y; for the others x
            = alpha(t) y at t = time(process, level).
        process: not used for 'edm'; levels above its last are taken for the last, so stay within
            ``max_level``.
        sigma_data: standard deviation of the data, of 'edm' only.
        sigma_min: the level at which D(y) = y exactly (0 for a diffusion model, the lowest level
            for some consistency models): for 'edm' by :func:`boundary_scalings`, for the others by
            an Euler step to that level in place of one to 0.
        label: what the network is conditioned on, a function of the level for 'edm' (log(level)/4
            if None) and of t for the others (t itself if None);
            :func:`jaxdiff.process.discrete_label` gives the step of a table.
        compute_dtype: the network's input is cast to it and its output back. Labels are float32, or
            float64 where y is.

    Returns:
        ``D(y, level, cond=None, **options)``, a ``jax.tree_util.Partial`` of the parameters.

    The result is a pytree whose leaves are those of params, process and the two sigmas; its static
    rest is equal for equal arguments. D takes y (batch, *shape) and a level, scalar or (batch,).
    For networks that take several labels, ``D(y, level, cond, target=..., extra=...)``: the level
    that a map between two levels jumps to, embedded as ``level`` is, and further labels as they
    are, a scalar, (batch,) or (batch, k). With ``full=True`` it returns
    :class:`jaxdiff.typing.Outputs`, the value being the denoised state; and where the network
    returns a pair of its output and its next state (``state=`` and ``key=``, in training), a pair.

    Raises ValueError for an unknown prediction, a sigma_data that is not positive or a negative
    sigma_min, TypeError if ``apply`` is not callable, for what is no process, and for a
    compute_dtype that is not floating.
    """
    check_prediction(prediction)
    if not callable(apply):
        raise TypeError(f"apply must be a function (params, x, label, cond); got {type(apply)}")
    check("sigma_data must be positive and finite", lambda x: 0 < x < float("inf"), sigma_data)
    check("sigma_min must not be negative", lambda x: 0 <= x < float("inf"), sigma_min)
    if isinstance(process, type) or not callable(getattr(process, "alpha", None)):
        raise TypeError(f"process is one of jaxdiff.process, such as VP(); got {process!r}")
    if compute_dtype is not None and not jnp.issubdtype(compute_dtype, jnp.floating):
        raise TypeError(f"compute_dtype must be floating, not {jnp.dtype(compute_dtype)}")
    static = _Denoise(apply, prediction, label, compute_dtype)
    return _Denoiser(static, params, process, sigma_data, sigma_min)


def description(D: Denoiser) -> dict[str, Any] | None:
    """Return what a denoiser was made of by :func:`denoiser`: network, params, prediction, process,
    sigma_data, label and compute_dtype; None for one made otherwise.

    Args:
        D: any denoiser.

    Returns:
        Its parts by name, or None.
    """
    static = getattr(D, "func", None)
    if not isinstance(static, _Denoise):
        return None
    params, process, sigma_data, _ = D.args  # type: ignore[attr-defined]
    return {
        "network": static.apply, "params": params, "prediction": static.prediction,
        "process": process, "sigma_data": sigma_data, "label": static.label,
        "compute_dtype": static.compute_dtype,
    }  # fmt: skip


def scalings(D: Denoiser, level: ArrayLike) -> tuple[Number, Number]:
    """Return c_skip and c_out at a level of a denoiser made by :func:`denoiser`, for which D(y) =
    c_skip y + c_out F with F what its network predicts. TypeError for one made otherwise.

    Args:
        D: made by :func:`denoiser`.
        level: scalar or (batch,).

    Returns:
        c_skip and c_out, of the shape of ``level``.

    Raises:
        TypeError: for a denoiser made otherwise.
    """
    static = getattr(D, "func", None)
    if not isinstance(static, _Denoise):
        raise TypeError("a denoiser not made by jaxdiff.denoisers.denoiser has no known scalings")
    _, process, sigma_data, sigma_min = D.args  # type: ignore[attr-defined]
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(level, jnp.float32)
    level = jnp.asarray(level, dtype)
    data, low = (jnp.asarray(x, level.dtype) for x in (sigma_data, sigma_min))
    _, _, skip, out = static.weights(process, data, low, level)
    return skip, out


def check_network_cond(D: Denoiser, cond: Cond) -> None:
    """Check the numbers of a condition, where they are known before tracing, by
    ``check_cond(cond)`` of the network of a denoiser made by :func:`denoiser`, if it has one.

    Args:
        D: any denoiser.
        cond: what it is to be called with.

    Returns:
        None.

    Raises:
        ValueError: of the network's own check.
    """
    made = description(D)
    look = None if made is None else getattr(made["network"], "check_cond", None)
    here = lambda x: not isinstance(x, Tracer) and getattr(x, "is_fully_addressable", True)  # noqa: E731
    if look is not None and all(map(here, jax.tree.leaves(cond))):
        look(cond)


def predictor(D: Partial, process: Process, name: str) -> Callable[..., Array]:
    """Return a network's prediction in another process's coordinates: F(x, t, cond=None,
    **options).

    Args:
        D: made by :func:`denoiser` with prediction 'edm', 'eps' or 'x0', or with prediction
            ``name`` and this same process. sigma_min must be 0.
        process: whose row is returned.
        name: one of ``PREDICTIONS``, the row of ``process`` to return.

    Returns:
        ``F(x, t, cond=None, **options)``, of the shape of x.

    F takes x = alpha x0 + sigma eps (batch, *shape) and t (batch,); ``target`` and whatever else D
    takes pass through, ``target`` being a time too. Nothing is divided that the formula does not
    divide: F of a network's own row is the network itself, also at t = 0.

    Raises TypeError for a D that :func:`denoiser` did not make, ValueError for another prediction.
    """
    static = getattr(D, "func", None)
    if not isinstance(static, _Denoise):
        raise TypeError("predictor needs a denoiser made by jaxdiff.denoisers.denoiser")
    params, own, sigma_data, _ = D.args
    native = static.prediction == name != "edm" and type(own) is type(process)
    if static.prediction not in ("edm", "eps", "x0") and not native:
        raise ValueError(
            f"a network predicting {static.prediction!r} of {type(own).__name__} cannot be read as "
            f"{name!r} of {type(process).__name__}: use prediction 'edm', 'eps' or 'x0'"
        )

    def label_at(t: Array) -> Number:
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
        label = _labels([label_at(t)] if target is None else [label_at(t), label_at(target)], extra)
        answer: Any = static.apply(params, expand(c_in, x) * x, label, cond, **options)
        p, q = mix(rows[0], rows[-1], alpha, sigma)
        turned = lambda value: expand(p, x) * x + expand(q, x) * value  # noqa: E731
        return _changed(answer, turned, options.get("full", False))

    return F


def conditioned(D: Denoiser, **numbers: Any) -> Partial:
    """Return the denoiser with options bound: ``conditioned(D, extra=weight)``.

    A function among them (``attention=f``, see :mod:`jaxdiff.networks.attention`) is part of the
    program, which is compiled anew for each new function object; a ``jax.tree_util.Partial`` is a
    function with arrays of its own, which are arguments of the program.

    Args:
        D: ``D(y, level, cond, **options)``.
        numbers: options by name: a scalar, (batch,) or (batch, k), or a function.

    Returns:
        ``D(y, level, cond)``, a ``jax.tree_util.Partial`` with the numbers as leaves.
    """
    keep = lambda x: Partial(x) if callable(x) and not isinstance(x, Partial) else x  # noqa: E731
    bound = {name: keep(x) for name, x in numbers.items()}
    return Partial(conditioned_call, as_partial(D), bound)


def conditioned_call(
    D: Partial, numbers: dict[str, Any], y: Array, level: Array, cond: Cond = None, **options: Any
) -> Array:
    """Return what :func:`conditioned` calls.

    Args:
        D: the denoiser that options are bound to.
        numbers: these options.
        y: states, (batch, *shape).
        level: scalar or (batch,).
        cond: handed to D.
        options: further ones, which must not be bound.

    Returns:
        D's output.
    """
    return D(y, level, cond, **numbers, **options)


def as_partial(denoiser: Denoiser) -> Partial:
    """Return the denoiser as an argument that compiled functions take, a pytree.

    A plain function becomes part of the program and is compiled anew for each new function object.
    Raises TypeError for what cannot be called.

    Args:
        denoiser: ``D(y, level, cond)``: a ``jax.tree_util.Partial`` is returned as it is.

    Returns:
        The denoiser as a ``jax.tree_util.Partial``.

    Raises:
        TypeError: for what cannot be called.
    """
    if isinstance(denoiser, Partial):
        return denoiser
    if not callable(denoiser):
        raise TypeError(
            f"a denoiser is a function D(y, level, cond); this is {type(denoiser).__name__}"
        )
    return Partial(denoiser)


def latent_consistency(
    denoiser: Denoiser,
    process: Process,
    sigma_data: float = 0.5,
    scaling: float = 10.0,
    num_timesteps: int = 1000,
) -> Partial:
    """Return the consistency function of a latent consistency model (arXiv 2310.04378, eq. 9).

        f = c_skip x + c_out D,    x = alpha y,    u = scaling (N t - 1),
        c_skip = sigma_data^2/(u^2 + sigma_data^2),    c_out = u/sqrt(u^2 + sigma_data^2)

    with t the process's time, so that N t - 1 is the index in a table of N = ``num_timesteps``; at
    levels below the table's first u is 0, and f is x.

    Args:
        denoiser: ``D(y, level, cond)`` of the model.
        process: of the model, whose time enters u.
        sigma_data: of c_skip and c_out, in their own units.
        scaling: of the timestep.
        num_timesteps: N of the process's table.

    Returns:
        ``f(y, level, cond)``, the state at the end of the trajectory.
    """
    return Partial(
        _latent_consistency, as_partial(denoiser), process, sigma_data, scaling, num_timesteps
    )


def _latent_consistency(
    denoiser: Denoiser,
    process: Process,
    sigma_data: float,
    scaling: float,
    num_timesteps: int,
    y: Array,
    level: Array,
    cond: Cond = None,
) -> Array:
    t = time(process, jnp.asarray(level, y.dtype))
    u = scaling * jnp.maximum(num_timesteps * t - 1.0, 0.0)
    norm = u * u + sigma_data**2
    skip, out = process.alpha(t) * sigma_data**2 / norm, u / jnp.sqrt(norm)
    return expand(skip, y) * y + expand(out, y) * denoiser(y, level, cond)
