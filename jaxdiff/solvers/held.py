"""A state whose array can be replaced while a solver holds it.

A solver that is run under a correction computes with these. It adds, subtracts and scales them as
it does arrays, and what it yields gets another array in place. For a function of arrays, such as
those of ``jax.numpy``, :func:`value` is the array.
"""

from typing import Any, cast

import jax

from jaxdiff.solvers.scalar import Scalar, State
from jaxdiff.typing import Array


@jax.tree_util.register_pytree_node_class
class Held:
    """An array in a place of its own; its attributes (shape, dtype, ...) are the array's."""

    __array_ufunc__ = None  # NumPy scalars hand multiplication over to us
    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)

    def __add__(self, other: "Held | Array | int") -> "Held":
        if isinstance(other, int) and other == 0:  # where sum() starts
            return self
        return Held(self.array + value(other))

    __radd__ = __add__

    def __sub__(self, other: "Held | Array") -> "Held":
        return Held(self.array - value(other))

    def __rsub__(self, other: Array) -> "Held":
        return Held(other - self.array)

    def __mul__(self, other: "Held | Scalar") -> "Held":
        return Held(value(other) * self.array)

    __rmul__ = __mul__

    def __truediv__(self, other: "Held | Scalar") -> "Held":
        return Held(self.array / value(other))

    def __neg__(self) -> "Held":
        return Held(-self.array)

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        """Return the array is the one leaf."""
        return (self.array,), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple[Any]) -> "Held":
        """Hold the leaf."""
        return cls(*leaves)


def value(x: State | Scalar) -> Array:
    """Return the array of a state."""
    return x.array if isinstance(x, Held) else cast(Array, x)


def hold(answer: Any, like: Array) -> Any:
    """Return what a denoiser answers, with its arrays of the shape of the states held."""
    own = lambda x: getattr(x, "shape", None) == like.shape  # noqa: E731
    return jax.tree.map(lambda x: Held(x) if own(x) else x, answer)
