"""Adjusted DDIM: a deterministic step that does not lose the spread of the data.

One DDIM step to level r puts all x0 that y may have come from at their mean D, so that the new
state is too small on average. With v the variance per number of x0 given y, the mean square of the
true y_r = x0 + r eps of such pairs exceeds that of DDIM's by (1 - r/s)^2 v, and the step makes up
for it by a longer noise direction (arXiv 2403.06807):

    y_r = D + sqrt(r^2 + (1 - r/s)^2 v/mean(eps^2)) eps,      eps = (y - D)/s,

the mean over the numbers of one sample. v = 0 is DDIM, that is Euler's step. The published v is
0.1/(2 + s^-2), for data scaled to [-1, 1].

Not linear in the states: there is no table of it, and it runs by
:func:`jaxdiff.sampling.direct.direct`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import jax.numpy as jnp

from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import Scalar
from jaxdiff.typing import Array

D = Callable[[Array, Scalar], Array]
Variance = Callable[[Scalar], Scalar]


def data_variance(level: Scalar) -> Scalar:
    """Return the published variance per number of x0 given y at a level: 0.1/(2 + SNR)."""
    return 0.1 * level * level / (2.0 * level * level + 1.0)


def adjusted_ddim(
    D: D, y: Array, levels: Sequence[Scalar], variance: Variance = data_variance
) -> Iterator[Array]:
    """Adjusted DDIM (arXiv 2403.06807), order 1. One evaluation per step; a step to
    level 0 returns it.

    ``variance(level)`` is that of a number of x0 given y.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        variance: ``variance(level)``, that of a number of x0 given y.

    Yields:
        State at every level after the first.

    Source: Heek et al., Multistep Consistency Models, arXiv 2403.06807.
    """
    for s, r in pairwise(levels):
        y = adjusted_ddim_step(D, y, s, r, variance)
        yield y


def adjusted_ddim_step(
    D: D, y: Array, s: Scalar, r: Scalar, variance: Variance = data_variance
) -> Array:
    """One step from level s to r: scalars, or arrays that broadcast against y."""
    denoised = D(y, s)
    eps = (y - denoised) / s
    size = jnp.mean(value(eps * eps), axis=tuple(range(1, y.ndim)), keepdims=True)
    added = (1.0 - r / s) ** 2 * variance(s) / jnp.where(size > 0, size, 1.0)
    lost = jnp.asarray(r, y.dtype) > 0  # in a step to 0 what is wanted is D itself
    return denoised + jnp.sqrt(r * r + jnp.where(lost, added, 0.0)) * eps
