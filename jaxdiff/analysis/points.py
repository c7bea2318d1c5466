"""Checks of trajectories, and their points as vectors."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdiff.arrays import check
from jaxdiff.distance import norm
from jaxdiff.typing import Array

F = TypeVar("F", bound=Callable[..., Any])
Profile = Float[Array, "points batch"]  # one number for each point of each trajectory


def compiled(*static: str) -> Callable[[F], F]:
    """Compile a function as a whole, with the arguments of these names as constants, and keep its
    signature.
    """

    def wrap(f: F) -> F:
        program = jax.jit(f, static_argnames=static)

        @functools.wraps(f)
        def call(*args: Any, **options: Any) -> Any:
            return program(*args, **options)

        return cast(F, call)

    return wrap


def vectors(name: str, points: Any, least: int = 2) -> Float[Array, "points batch d"]:
    """Return trajectories (points, batch, *shape) with each point flattened.

    Raises:
        TypeError: for numbers that are not floating.
        ValueError: for another shape, no samples, or fewer than ``least`` points.
    """
    points = floating(name, points)
    if points.ndim < 2 or 0 in points.shape:
        raise ValueError(
            f"{name} must have shape (points, batch, *shape), as in jaxdiff.trajectory(...).states;"
            f" theirs is {points.shape}"
        )
    if points.shape[0] < least:
        raise ValueError(f"{name} need at least {least} points; there are {points.shape[0]}")
    return points.reshape(*points.shape[:2], -1)


def states_of(path: Any) -> tuple[Array, Array]:
    """Return the states of a trajectory and their levels, in the dtype of the states.

    Raises:
        TypeError, ValueError: for states that are none, or another number of levels.
    """
    vectors("path.states", path.states, least=1)
    states = jnp.asarray(path.states)
    return states, jnp.ravel(level_column(path.levels, states))


def floating(name: str, x: Any) -> Array:
    """Return floating numbers as an array. TypeError for others."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating numbers; their dtype is {x.dtype}")
    return x


def same_shape(first: str, a: Any, second: str, b: Any) -> None:
    """Raise ValueError unless the samples of two sets of points have one shape."""
    if jnp.shape(a)[1:] != jnp.shape(b)[1:]:
        raise ValueError(
            f"{first} and {second} must be of the same samples: their shapes are {jnp.shape(a)} "
            f"and {jnp.shape(b)}"
        )


def level_column(levels: Any, points: Array) -> Array:
    """Return levels (points,) to multiply points (points, batch, *shape). ValueError for another
    number of them.
    """
    levels = jnp.asarray(levels, points.dtype)
    if levels.shape != points.shape[:1]:
        raise ValueError(
            f"levels must have shape ({points.shape[0]},), one per point; theirs is {levels.shape}"
        )
    return levels.reshape((-1,) + (1,) * (points.ndim - 1))


def positive_level(level: Any, y: Array) -> Array:
    """Return the level of states (batch, *shape), a scalar or (batch,), in their dtype.

    Raises:
        ValueError: for another shape, or a level that is not positive.
    """
    if jnp.shape(level) not in ((), y.shape[:1]):
        raise ValueError(
            f"level must be a scalar or ({y.shape[0]},), one per sample; its shape is "
            f"{jnp.shape(level)}"
        )
    check("level must be positive", lambda s: (s > 0).all(), level)
    return jnp.asarray(level, y.dtype)


def divide(numerator: Array, denominator: Array) -> Array:
    """Return the quotient, 0 where the denominator is 0; NaN stays NaN."""
    zero = denominator == 0
    return jnp.where(zero, 0, numerator / jnp.where(zero, 1, denominator))


@compiled()
def distances(
    a: Float[Array, "points batch *shape"], b: Float[Array, "points batch *shape"]
) -> Profile:
    """Return the Euclidean distance of each point of ``a`` from that of ``b``."""
    return lengths(vectors("points", a - b, least=1))


def lengths(flat: Float[Array, "points batch d"]) -> Profile:
    """Return the Euclidean norm of every point, with gradient 0 at 0."""
    return norm(flat.reshape(-1, flat.shape[-1])).reshape(flat.shape[:2])
