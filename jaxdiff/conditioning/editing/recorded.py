r"""Inversion of a stochastic sampler: the noise that it would have to draw to give a sample.

For DDIM with noise eta, whose step is y_r = mu(y_s) + sigma n, choose states of the data at every
level and solve for n,

    n = (y_r - mu(y_s))/sigma,

states with independent noises (edit-friendly DDPM, Huberman-Spiegelglas et al. 2304.06140, eq. 5
and 6), or each drawn of q(y_r | y_s, x0) (CycleDiffusion, Wu and De la Torre 2210.05559, section
3.2). Sampled with these noises, the model gives the data; with another condition, or another model,
an edit of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_cond
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import draw, sample_keys
from jaxdiff.sampling.checks import as_states, check_start, check_typed
from jaxdiff.solvers.ancestral import ancestral_levels, check_eta
from jaxdiff.solvers.scalar import check_levels, is_zero
from jaxdiff.typing import Array, Cond, Denoiser, Key


class Recorded(NamedTuple):
    """A stochastic solve that ends in given data.

    states: (N, batch, *shape), at every level of the grid but the last.
    noise: (draws, batch, *shape), what the solver draws. An edit from the k-th level on is
        ``sample(D, table(solvers.ddim, levels[k:]), states[k], cond, noise=noise[k:])``.
    """

    __repr__ = short

    states: Array
    noise: Array


def record(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray | Array,
    data: Array,
    cond: Cond = None,
    *,
    key: Key,
    index: Array | None = None,
    eta: float = 1.0,
    correlated: bool = False,
) -> Recorded:
    """Return states and noises with which ``solvers.ddim`` with this eta gives the data.

    Exactly where the grid ends above 0, data being states at its end. On a grid that ends in 0 the
    last step draws nothing and gives the denoised output of the last state, as in the papers.

    Args:
        denoiser: ``D(y, level, cond)``. levels: the sampler's decreasing grid.
        data: (batch, *shape), float32 or float64. cond: handed to the denoiser.
        key, index: as for :func:`jaxdiff.sample`.
        eta: in (0, 1]. The papers have 1; less leaves more to the model.
        correlated: draw each state of the one before (CycleDiffusion), not of the data alone
            (edit-friendly DDPM).

    Raises:
        ValueError, TypeError: for arguments that do not fit, before anything is compiled.
    """
    check_eta("record", eta)
    if eta == 0:
        raise ValueError("record needs eta above 0: without noise, use invert")
    knots = check_levels(levels)
    check_start(data, index)
    check_cond(cond, data.shape[0])
    check_typed(key)
    D, keys = as_partial(denoiser), sample_keys(key, data, index)
    states, shape = [], data.shape[1:]
    for i, s in enumerate(knots[:-1]):
        fresh = draw(keys, i, 0, shape, data.dtype)
        if i and correlated:
            down, up = ancestral_levels(knots[i - 1], s, 1.0)
            eps = (states[-1] - data) / knots[i - 1]
            states.append(data + down * eps + up * fresh)
        else:
            states.append(data + s * fresh)
    ahead = [*states[1:], *([] if is_zero(knots[-1]) else [data])]
    steps = [ancestral_levels(s, r, eta) for s, r in zip(knots, knots[1:], strict=False)]
    count = len(ahead)
    rows = (knots[:count], *zip(*steps[:count], strict=True))
    numbers = [jnp.asarray(v, data.dtype) for v in rows]

    def noise_of(given: tuple[Array, ...]) -> Array:
        y, after, s, down, up = given
        eps = (y - as_states(D(y, s, cond), y)) / s
        return (after - (y + (down - s) * eps)) / up

    given = (jnp.stack(states[:count]), jnp.stack(ahead), *numbers)
    return Recorded(jnp.stack(states), jax.jit(lambda g: jax.lax.map(noise_of, g))(given))
