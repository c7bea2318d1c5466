r"""Gaussian start: a jump in closed form where noise hides all but the data's mean and covariance.

At a high level s the posterior mean of any data is close to that of the Gaussian N(m, S) with the
data's own mean and covariance, whose probability flow is known. In the axes of S, variance l,

    D = m + l/(l + s^2) (y - m),     y - m  ->  sqrt((l + r^2)/(l + s^2)) (y - m)   from s to r.

So the evaluations at high levels are replaced by one jump in closed form, and any sampler goes on
from the level where the Gaussian stops being good enough::

    model = fit(data)                                      # once per data set
    errors = jump_errors(D, model, levels, starts)         # once per denoiser: where to switch
    y = jump(model, start, 80.0, switch)                   # no evaluation
    x = sample(D, table(solver, grids.karras(num_steps, high=switch)), y)

The analytic first step for unit variance (:func:`jaxdiff.solvers.steps.unit_first`) is one Euler
step with the denoiser of N(0, I); this is the exact flow with the data's own covariance.

How far to jump. With delta(s) the difference of the two denoisers along the Gaussian's path, the
final sample is displaced, to first order in delta and with the Gaussian's flow carrying the
displacement to level 0, by

    e(r) = int_{log r}^{log s_T} sqrt(l/(l + s^2)) delta(s) dlog s        (in the axes of S).

On mixtures this is right within a factor of about two over four decades.

Sources: Wang and Vastola 2024, arXiv 2412.09726 (Gaussian solution of the probability flow, and
skipping evaluations by it); Karras et al. 2206.00364 (the flow's form in this frame).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import check, pytree_dataclass
from jaxdiff.denoisers import as_partial
from jaxdiff.exact import Gaussian
from jaxdiff.typing import Array, Cond, Denoiser

Covariance = Literal["isotropic", "channel", "diagonal", "full"]


class Flow(Protocol):
    """A model of flattened states (B, d) with a denoiser and a probability flow in closed form."""

    def denoise(self, y: Array, level: ArrayLike, cond: Cond = None) -> Array:
        """Return E[x0 | y]."""
        ...

    def flow(self, y: Array, level_from: ArrayLike, level_to: ArrayLike) -> Array:
        """Return where the probability flow takes y."""
        ...


@pytree_dataclass
class LowRank:
    """The Gaussian with a few variances of its own and one for all other directions.

    mean: (d,). variances: (k,), along the axes. axes: (d, k), orthonormal columns. rest: (), the
    variance of every direction orthogonal to them. Its cost is that of k + 1 numbers per dimension,
    where a full covariance needs d.
    """

    mean: Array
    variances: Array
    axes: Array
    rest: Array

    def _scale(self, y: Array, factor: Callable[[Array], Array]) -> Array:
        """Return m + f(l) (y - m), a function of the covariance applied to the centred states."""
        mean, variances, axes, rest = (
            jnp.asarray(a, y.dtype) for a in (self.mean, self.variances, self.axes, self.rest)
        )
        z = y - mean[None]
        other = factor(rest.reshape(1, 1))
        inner = jnp.einsum("bd,dk->bk", z, axes, precision="highest")
        inner = (factor(variances[None]) - other) * inner
        return mean[None] + other * z + jnp.einsum("bk,dk->bd", inner, axes, precision="highest")

    def denoise(self, y: Array, level: ArrayLike, cond: Cond = None) -> Array:
        """Return E[x0 | y], (B, d); the level is a scalar or (B,)."""
        squared = jnp.asarray(level, y.dtype).reshape(-1, 1) ** 2
        return self._scale(y, lambda l: l / (l + squared))

    @property
    def denoiser(self) -> Partial:
        """Return the denoiser D(y, level, cond=None), a pytree."""
        return Partial(LowRank.denoise, self)

    def flow(self, y: Array, level_from: ArrayLike, level_to: ArrayLike) -> Array:
        """Return where the probability flow takes y (B, d) from one level (scalar) to another."""
        high, low = (jnp.asarray(s, y.dtype) ** 2 for s in (level_from, level_to))
        return self._scale(y, lambda l: jnp.sqrt((l + low) / (l + high)))


def fit(data: ArrayLike, covariance: Covariance = "full", floor: float = 1e-4) -> Gaussian:
    """Return the Gaussian with the mean and covariance of data (n, *shape), over flattened states.

    A class-conditional model has one per class: fit them to the classes' own data.

    Args:
        data: at least two examples, as the denoiser's output looks (the process's x0).
        covariance: "full"; "diagonal", a variance per number; "channel", one per index of the last
            axis; or "isotropic". A full one costs d^2 numbers and is decomposed once, in d^3: for
            large d take :func:`fit_low_rank`.
        floor: added to every variance, relative to their mean, so that constant pixels and data
            with fewer examples than dimensions have a positive covariance.

    Returns:
        The Gaussian, over flattened states of d numbers.

    Raises:
        ValueError: for fewer than two examples, numbers that are not finite, another name, or a
            negative floor.
    """
    check("floor must not be negative", lambda f: f >= 0, floor)
    kinds = ("isotropic", "channel", "diagonal", "full")
    if covariance not in kinds:
        raise ValueError(f"covariance must be one of {', '.join(kinds)}; got {covariance!r}")
    flat, shape = _flat(data)
    if covariance == "full":
        mean, variances, axes = spectrum(flat)
        return Gaussian.of_axes(mean, variances + floor * variances.mean(), axes)
    mean, variances = flat.mean(0, dtype=np.float64), flat.var(0, dtype=np.float64)
    least = floor * variances.mean()
    if covariance == "channel":
        per_channel = variances.reshape(-1, shape[-1] if shape else 1).mean(0)
        variances = np.tile(per_channel, len(mean) // len(per_channel))
    if covariance == "isotropic":
        variances = np.full_like(mean, variances.mean())
    return Gaussian(mean, variances + least)


def fit_low_rank(data: ArrayLike, rank: int, floor: float = 1e-4) -> LowRank:
    """Return the Gaussian of data (n, *shape) with its ``rank`` largest variances, and their mean
    for the rest (probabilistic principal components: Tipping and Bishop 1999, doi
    10.1111/1467-9868.00196).

    Args:
        data: at least two examples, (n, *shape).
        rank: number of variances that are kept, below n and d.
        floor: added to every variance, relative to their mean.

    Returns:
        The Gaussian, with axes (d, rank).

    Raises:
        ValueError: unless 1 <= rank < min(n, d); otherwise as :func:`fit`.
    """
    check("floor must not be negative", lambda f: f >= 0, floor)
    flat, _ = _flat(data)
    if not 1 <= rank < min(flat.shape):
        raise ValueError(f"rank must be 1 to {min(flat.shape) - 1} for this data; got {rank}")
    mean, variances, axes = spectrum(flat)
    least = floor * variances.mean()
    rest = variances[rank:].sum() / (len(mean) - rank)
    numbers = (mean, variances[:rank] + least, axes[:, :rank], rest + least)
    return LowRank(*(jnp.asarray(a, jnp.result_type(float)) for a in numbers))


def spectrum(flat: np.ndarray, rows: int = 4096) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean (d,) of examples (n, d), and the variances (d,), falling, along the principal
    axes (d, d), columns; in float64, a block of ``rows`` examples at a time.

    Args:
        flat: examples, (n, d).
        rows: examples in a block.

    Returns:
        The mean (d,), the variances (d,), falling, and the axes (d, d), columns.
    """
    mean = flat.mean(0, dtype=np.float64)
    covariance = np.zeros((len(mean),) * 2)
    for first in range(0, len(flat), rows):
        apart = flat[first : first + rows] - mean
        covariance += apart.T @ apart
    variances, axes = np.linalg.eigh(covariance / len(flat))
    return mean, np.maximum(variances[::-1], 0), axes[:, ::-1]


def _flat(data: ArrayLike) -> tuple[np.ndarray, tuple[int, ...]]:
    examples = np.asarray(data)
    if examples.ndim < 2 or len(examples) < 2:
        raise ValueError(f"data must be (n, *shape) with n >= 2; these have shape {examples.shape}")
    check("data must be finite", lambda a: np.isfinite(a).all(), examples)
    flat = examples.reshape(len(examples), -1)
    return flat if flat.dtype.kind == "f" else flat.astype(np.float64), examples.shape[1:]


def jump(model: Flow, start: Array, high: float | Array, low: float | Array) -> Array:
    """Take states (batch, *shape) from level ``high`` to ``low`` by the model's probability flow.

    The same start gives the same picture as the full sampler, up to what the Gaussian misses.

    Args:
        model: a Gaussian as fitted, or any with ``flow``.
        start: states (batch, *shape) at level ``high``.
        high, low: noise levels, high > low >= 0.

    Returns:
        States (batch, *shape) at level ``low``.

    Raises:
        ValueError: unless high > low >= 0.
    """
    check("a jump goes down in level: need 0 <= low < high", lambda a, b: 0 <= a < b, low, high)
    _check_any(start)
    return model.flow(start.reshape(start.shape[0], -1), high, low).reshape(start.shape)


def _check_any(start: Array) -> None:
    if 0 in start.shape:
        raise ValueError(f"start has shape {start.shape}: there is nothing to move")


@jax.jit
def _displacement(
    D: Denoiser, model: Flow, start: Array, high: Array, level: Array, cond: Cond
) -> Array:
    """Return the integrand of e: delta at a level, carried to level 0 by the model's flow; (batch,
    d).
    """
    y = model.flow(start.reshape(start.shape[0], -1), high, level)
    output = D(y.reshape(start.shape), level, cond).reshape(y.shape).astype(y.dtype)
    zero = jnp.zeros_like(level)
    moved = y + (output - model.denoise(y, level))
    return model.flow(moved, level, zero) - model.flow(y, level, zero)


def jump_errors(
    denoiser: Denoiser,
    model: Flow,
    levels: Sequence[float] | np.ndarray,
    start: Array,
    cond: Cond = None,
) -> np.ndarray:
    """Estimate how far the final samples are moved by a jump from levels[0] to each of the levels.

    First order in the difference of the denoisers (see the module), by the trapezoidal rule in
    log level over the levels given; one evaluation of the batch per level.

    Args:
        denoiser: ``D(y, level, cond)``.
        model: as fitted.
        levels: strictly decreasing and positive, ``start`` belongs to the first; ten to thirty,
            evenly spaced in log level.
        start: (batch, *shape) states; a few dozen are enough.
        cond: handed to the denoiser.

    Returns:
        (len(levels),) root mean squares over batch and numbers, in units of the data; the first
        is 0.
    """
    knots = np.asarray(levels, np.float64)
    falling = lambda a: len(a) > 1 and (a > 0).all() and (np.diff(a) < 0).all()  # noqa: E731
    check("levels must be positive and strictly decrease", falling, knots)
    _check_any(start)
    D, number = as_partial(denoiser), lambda s: jnp.asarray(s, start.dtype)
    total: Any = 0.0
    errors, previous = (
        [0.0],
        _displacement(D, model, start, number(knots[0]), number(knots[0]), cond),
    )
    for s, r in zip(knots[:-1], knots[1:], strict=True):
        new = _displacement(D, model, start, number(knots[0]), number(r), cond)
        total = total + (previous + new) * number(0.5 * np.log(s / r))
        errors.append(float(jnp.sqrt(jnp.mean(total**2))))
        previous = new
    return np.array(errors)


def switch_level(
    levels: Sequence[float] | np.ndarray, errors: np.ndarray, tolerance: float
) -> float:
    """Return the lowest of the levels to which one can jump with an estimated error within
    tolerance.

    Args:
        levels, errors: as given to and by :func:`jump_errors`.
        tolerance: in units of the data; the error that the sampling below the switch makes anyway
            is a sensible choice, and a tenth of the data's standard deviation, as is common for ten
            evaluations.

    Returns:
        One of ``levels``, not the first.

    Raises:
        ValueError: if no jump is that good: levels[0] itself is the only choice.
    """
    good = np.cumprod(np.asarray(errors) <= tolerance).sum()
    if good < 2:
        raise ValueError(
            f"no jump from level {levels[0]} keeps within {tolerance}; the error of the shortest "
            f"is {errors[1]:.3g}"
        )
    return float(levels[good - 1])
