"""The few types that everything shares.

Letters used throughout: ``x0`` data, ``eps`` standard normal noise, ``t`` a process's own time (0
is data), ``s`` or ``level`` the noise level sigma(t)/alpha(t), ``y = x_t / alpha(t) = x0 + s eps``
the state in the one frame that samplers, losses and analysis work in, ``D`` the denoiser E[x0 | y].
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

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


class Outputs(NamedTuple):
    """All that a network may return, and a denoiser made of it.

    value: (batch, *shape). log_variance: (batch,), a learned log of the loss's size at the label,
    or None for a network without that head. features: hidden maps, batch first, in the order they
    are computed.
    """

    value: Any
    log_variance: Any
    features: tuple[Any, ...]


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


Solver: TypeAlias = Callable[..., Any]
