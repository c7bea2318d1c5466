r"""The grid with the best evidence lower bound, from one evaluation per level.

A discrete-time model that samples x_r given x_s from the posterior of the noising process, with the
denoised output in the place of x0,

    q(x_r | x_s, x0) = N((r/s)^2 x_s + (1 - (r/s)^2) x0, r^2 (1 - (r/s)^2)),

loses in its bound on -log p(x0), at a step from level s to r < s,

    L(s, r) = E KL(q(x_r | x_s, x0) || q(x_r | x_s, D(x_s, s)))
            = 1/2 (1/r^2 - 1/s^2) E|x0 - D(x0 + s eps, s)|^2      nats.

The expectation depends on s alone: M evaluations per sample give the cost of every step between M
levels, and :mod:`jaxdiff.grids.dynamic` the best grid for every number of steps. The other
two terms of the bound, of the first and of the last level, are the same for all grids with these
ends; a step to 0 costs infinitely much and belongs to the last term.

Better likelihood is not better pictures: the authors find no gain in FID, which is what
gradient-tuned samplers are for. For an exact denoiser the best grid is that of
:mod:`jaxdiff.tuning.search.align`.

Source: Watson et al., arXiv 2106.03802, sections 2 and 3.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdiff.denoisers import as_partial
from jaxdiff.grids.dynamic import best_grids
from jaxdiff.grids.ends import Grid
from jaxdiff.grids.lists import from_list
from jaxdiff.grids.uniform import log_snr
from jaxdiff.sampling.checks import as_states, check_start
from jaxdiff.tuning.search.align import check_positive
from jaxdiff.typing import Array, Cond, Denoiser, Key


def best_elbo(
    denoiser: Denoiser,
    data: Array,
    num_steps: int,
    key: Key,
    *,
    levels: Sequence[float] | np.ndarray | None = None,
    cond: Cond = None,
) -> Grid:
    """Return the grid of ``num_steps`` steps out of ``levels`` with the best bound; arguments and
    errors as of :func:`jaxdiff.tuning.search.align.align`.

    Args:
        denoiser: ``D(y, level, cond)``, the model.
        data: (n, *shape), a few hundred clean samples, all in one batch.
        num_steps: 1 to the number of steps of ``levels``.
        key: typed key of the noise.
        levels: fine grid, positive, whose ends are those of the result; a default as for
            :func:`jaxdiff.tuning.search.align.align`.
        cond: handed to the denoiser.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for levels that are no grid or end in 0, or other numbers of steps.
    """
    known = log_snr(100, zero=False) if levels is None else from_list(levels)
    return best_grids(elbo_costs(denoiser, data, known, key, cond), known, [num_steps])[0]


def elbo_costs(
    denoiser: Denoiser,
    data: Array,
    levels: Sequence[float] | np.ndarray,
    key: Key,
    cond: Cond = None,
) -> np.ndarray:
    """Return L of every step between two of the levels (M + 1,), in nats: (M + 1, M + 1), upper
    triangular.

    ``path_cost`` of it is what a grid adds to the bound on -log p. The costs of several batches, of
    their own keys, may be averaged. ValueError for levels that are no grid or end in 0.

    Args:
        denoiser: ``D(y, level, cond)``, the model.
        data: (n, *shape), a few hundred clean samples, all in one batch.
        levels: decreasing and positive, (M + 1,).
        key: typed key of the noise.
        cond: handed to the denoiser.

    Returns:
        L, (M + 1, M + 1), in nats; 0 on and below the diagonal.

    Raises:
        ValueError: for levels that are no grid or end in 0.
        TypeError: for data that are not float32 or float64.
    """
    known = check_positive(levels)
    check_start(data, None)
    errors = _errors(as_partial(denoiser), data, jnp.asarray(known, data.dtype), key, cond)
    return costs_of_errors(known, np.asarray(errors, np.float64))


def costs_of_errors(levels: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """L of every step, from the squared errors E|x0 - D|^2 at the levels, (M + 1,) both."""
    precision = 1 / levels**2
    return np.triu(0.5 * (precision[None] - precision[:, None]) * errors[:, None], 1)


@jax.jit
def _errors(D: Denoiser, data: Array, levels: Array, key: Key, cond: Cond) -> Array:
    """E|x0 - D(x0 + s eps, s)|^2 at every level, (levels,)."""

    def error(inputs: tuple[Array, Array]) -> Array:
        level, own = inputs
        y = data + level * jax.random.normal(own, data.shape, data.dtype)
        apart = (data - as_states(D(y, level, cond), y)).reshape(len(data), -1)
        return jnp.mean(jnp.sum(apart**2, axis=1))

    return lax.map(error, (levels, jax.random.split(key, len(levels))))
