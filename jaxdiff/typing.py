"""The few types that everything shares.

Letters used throughout: ``x0`` data, ``eps`` standard normal noise, ``t`` a process's own time (0
is data), ``s`` or ``level`` the noise level sigma(t)/alpha(t), ``y = x_t / alpha(t) = x0 + s eps``
the state in the one frame that samplers, losses and analysis work in, ``D`` the denoiser E[x0 | y].
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
Params: TypeAlias = Any
Cond: TypeAlias = Any


class Denoiser(Protocol):
    """Posterior mean of the clean data.

    ``D(y, level, cond)`` maps states ``y`` of shape (batch, *shape) at noise level ``level``, a
    scalar or one number per sample of shape (batch,), to E[x0 | y] of the shape of ``y``.
    """

    def __call__(self, y: Array, level: Array, cond: Cond = None, /) -> Array:
        """Return the denoised states."""
        ...


class Network(Protocol):
    """A network as a pure function of its parameters.

    ``network(params, x, label, cond)``: inputs ``x`` of shape (batch, *shape), ``label`` of shape
    (batch,) telling the noise level or time, ``cond`` whatever the network is conditioned on (class
    indices, usually), or None. With ``key=`` the network draws its dropout masks from that key;
    without it there is no dropout.
    """

    def __call__(
        self, params: Params, x: Array, label: Array, cond: Cond = None, /, **kwargs: Any
    ) -> Array:
        """Return the network's output, of the shape of ``x``."""
        ...


Solver: TypeAlias = Callable[..., Any]
