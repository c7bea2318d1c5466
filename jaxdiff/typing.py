"""The few types that everything shares.

Letters used throughout: ``x0`` data, ``eps`` standard normal noise, ``t`` a process's own time (0
is data), ``s`` or ``level`` the noise level sigma(t)/alpha(t), ``y = x_t / alpha(t) = x0 + s eps``
the state in the one frame that samplers, losses and analysis work in, ``D`` the denoiser E[x0 | y].
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Float64, Shaped

from jaxdiff.brief import short

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
# also data, noise and denoised outputs
States: TypeAlias = Float[Array, "batch *shape"]  # noqa: F821
PerSample: TypeAlias = Float[Array, " batch"]  # one number per sample
Points: TypeAlias = Float[Array, "batch d"]  # states of the exact models
Grid: TypeAlias = Float64[np.ndarray, " knots"]  # noise levels, strictly decreasing
Times: TypeAlias = (
    Shaped[Array, "*times"] | Shaped[np.ndarray, "*times"] | np.number | np.bool_ | float | int
)  # a process's own; results have the shape of the argument
Values: TypeAlias = ArrayLike | Sequence[Any]  # an array, a number, or nested lists
AtTimes: TypeAlias = Float[Array, "*times"]
Params: TypeAlias = Any
Cond: TypeAlias = Any


@runtime_checkable
class Denoiser(Protocol):
    """Posterior mean of the clean data.

    ``D(y, level, cond)`` maps states ``y`` of shape (batch, *shape) at noise level ``level``, a
    scalar or one number per sample of shape (batch,), to E[x0 | y] of the shape of ``y``.
    """

    def __call__(self, y: Array, level: Array, cond: Cond = None, /) -> Array:
        """Return the denoised states."""
        ...


class Outputs(NamedTuple):
    """All that a network may return, and a denoiser made of it.

    value: (batch, *shape). log_variance: (batch,), a learned log of the loss's size at the label,
    or None for a network without that head. features: hidden maps, batch first, in the order they
    are computed.
    """

    __repr__ = short

    value: Any
    log_variance: Any
    features: tuple[Any, ...]


@runtime_checkable
class Network(Protocol):
    """A network as a pure function of its parameters.

    ``network(params, x, label, cond)``: inputs ``x`` of shape (batch, *shape), ``label`` of shape
    (batch,) telling the noise level or time, ``cond`` whatever the network is conditioned on (class
    indices, usually), or None. With ``key=`` the network draws its dropout masks from that key;
    without it there is no dropout.

    Optional: a network may take labels (batch, k), the further columns being a second time, a
    guidance weight or a number of steps; and with ``full=True`` it returns :class:`Outputs`.
    """

    def __call__(
        self, params: Params, x: Array, label: Array, cond: Cond = None, /, **kwargs: Any
    ) -> Array:
        """Return the network's output, of the shape of ``x``."""
        ...


Correct: TypeAlias = Callable[[Array, Array, Key | None], Array]
Solver: TypeAlias = Callable[..., Any]
