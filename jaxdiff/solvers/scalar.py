"""Types of solvers, and scalar functions for their coefficients.

A solver's coefficients are functions of noise levels. Levels are Python floats while a table is
built on the host (then everything here is float64), or traced JAX scalars when the table is to be
differentiated with respect to its grid. Each function below takes either.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff.typing import Array

Scalar: TypeAlias = float | Array


class State(Protocol):
    """A vector that a solver adds, subtracts and scales: an array (batch, *shape), or what stands
    for one while it is traced (:class:`jaxdiff.sampling.trace.Vector`) or corrected
    (:class:`jaxdiff.solvers.held.Held`).
    """

    def __add__(self, other: Self | int, /) -> Self: ...
    def __radd__(self, other: Self | int, /) -> Self: ...
    def __sub__(self, other: Self, /) -> Self: ...
    def __mul__(self, scale: Scalar, /) -> Self: ...
    def __rmul__(self, scale: Scalar, /) -> Self: ...
    def __truediv__(self, scale: Scalar, /) -> Self: ...
    def __neg__(self) -> Self: ...


D: TypeAlias = Callable[..., State]  # D(y, s), or D(y, s, r) of a map that jumps from level s to r
Noise: TypeAlias = Callable[[], State]


def is_traced(x: object) -> TypeGuard[Array]:
    """Return whether ``x`` is a JAX value rather than a number on the host."""
    return isinstance(x, jax.Array)


def _either(host: Callable, traced: Callable) -> Callable[[Scalar], Scalar]:
    return lambda x: traced(x) if is_traced(x) else float(host(x))


exp = _either(math.exp, jnp.exp)
expm1 = _either(math.expm1, jnp.expm1)
log = _either(math.log, jnp.log)
sqrt = _either(math.sqrt, jnp.sqrt)


def is_zero(level: Scalar) -> bool:
    """Return whether a level is known to be zero. A traced level never is: give a final zero as a
    Python number.
    """
    return bool(not is_traced(level) and level == 0)


def solve(matrix: Sequence[Sequence[Scalar]], rhs: Sequence[Scalar]) -> list[Scalar]:
    """Solve a small linear system whose entries may be traced."""
    traced = [x for row in [*matrix, rhs] for x in row if is_traced(x)]
    if not traced:
        return [float(x) for x in np.linalg.solve(np.array(matrix), np.array(rhs))]
    rows = [jnp.stack([jnp.asarray(x, traced[0].dtype) for x in row]) for row in [*matrix, rhs]]
    return list(jnp.linalg.solve(jnp.stack(rows[:-1]), rows[-1]))


def weighted(weights: Sequence[Scalar], values: Sequence[State]) -> State:
    """Return the sum of weights times values."""
    total: Any = sum(w * v for w, v in zip(weights, values, strict=True))
    return total


def root(x: Scalar) -> Scalar:
    """Return the square root of a variance, 0 at and below 0; there its gradient is 0, not
    infinite.
    """
    if not is_traced(x):
        return sqrt(max(x, 0.0))
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def between(level: Scalar, low: float, high: float) -> Scalar:
    """1.0 for a level within [low, high], 0.0 for another."""
    if not is_traced(level):
        return float(low <= level <= high)
    return jnp.where((low <= level) & (level <= high), 1.0, 0.0).astype(level.dtype)


def check_levels(levels: Sequence[Scalar] | np.ndarray | Array) -> list[Scalar]:
    """Return the levels as Python floats or traced scalars, after checking what can be checked."""
    if isinstance(levels, str) or not hasattr(levels, "__len__"):
        raise TypeError(
            "levels are a list of decreasing numbers, such as jaxdiff.grids.karras(10); this is "
            f"{levels!r:.60}"
        )
    if hasattr(levels, "ndim") and levels.ndim != 1:  # type: ignore[union-attr]
        raise ValueError(f"levels must be one-dimensional; these have shape {levels.shape}")  # type: ignore[union-attr]
    traced = isinstance(levels, Tracer)
    knots: list[Scalar] = [
        x if isinstance(x, Tracer) else float(x) for x in (list(levels) if traced else levels)
    ]
    if len(knots) < 2:
        raise ValueError(f"a grid needs at least two levels (one step); this one has {len(knots)}")
    known = [(i, s) for i, s in enumerate(knots) if not is_traced(s)]
    for i, s in known:
        if not math.isfinite(s) or s < 0:
            raise ValueError(f"levels must be finite and not negative; levels[{i}] is {s}")
    for (i, s), (j, r) in zip(known, known[1:], strict=False):
        if not r < s:
            raise ValueError(
                f"levels must strictly decrease; levels[{i}] = {s} comes before levels[{j}] = {r}"
            )
    if any(is_zero(s) for s in knots[:-1]):
        raise ValueError("only the last level may be zero")
    return knots
