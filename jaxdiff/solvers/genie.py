"""Truncated Taylor steps of the probability-flow ODE: a derivative of the network along the way.

With dy/ds = eps(y, s) = (y - D)/s, the second derivative along a trajectory needs only that of D,

    d eps/ds = (eps - dD/ds)/s - eps/s = -(dD/ds)/s,      dD/ds = (dD/dy) eps + partial_s D,

a Jacobian-vector product. The second truncated Taylor method (GENIE, arXiv 2210.05475, section 3,
whose gamma is the level s) is then

    y_r = y + (r - s) eps + (r - s)^2/2 d eps/ds.

This is not linear in the states: there is no table of it, and it runs by
:func:`jaxdiff.sampling.direct.direct`. A step costs one evaluation and one tangent of it, together
about as long as two to three evaluations. GENIE distils the tangent into a small head; here it is
exact.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp

from jaxdiff.solvers.scalar import Scalar, is_zero
from jaxdiff.typing import Array

D = Callable[[Array, Scalar], Array]


def genie(D: D, y: Array, levels: Sequence[Scalar]) -> Iterator[Array]:
    """Second-order truncated Taylor method, order 2 (arXiv 2210.05475).

    One evaluation and one tangent of it per step; one evaluation in a step to level 0, which
    returns it.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Source: Dockhorn et al., GENIE: Higher-Order Denoising Diffusion Solvers, arXiv 2210.05475.
    """
    for s, r in pairwise(levels):
        if is_zero(r):
            yield D(y, s)
            return
        y = taylor_step(D, y, s, r)
        yield y


def taylor_step(D: D, y: Array, s: Scalar, r: Scalar) -> Array:
    """One step from level s to r."""
    level = jnp.asarray(s, y.dtype)
    denoised, tangent = jax.linearize(D, y, level)
    eps = (y - denoised) / level
    bend = -tangent(eps, jnp.ones_like(level)) / level  # d eps/ds along the trajectory
    return y + (r - s) * (eps + (r - s) / 2 * bend)
