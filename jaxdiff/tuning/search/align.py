r"""Align Your Steps: the grid with the least bound on the divergence of the sampled from the true.

A sampler that keeps the denoised output of its last evaluation, at level s, until the next, at r,
solves another SDE than the exact reverse one, dx = (2/t)(x - D(x, t)) dt + sqrt(2t) dw backwards in
t. By Girsanov's theorem the divergence of the two, path for path and therefore at the end at most,
is the sum over the steps of

    J = 1/2 E int_r^s |drift - drift kept|^2/(2t) dt = int_r^s E|D(x_t, t) - D(x_s, s)|^2 t^-3 dt

in nats, with x_t noised data and x_s = x_t + sqrt(s^2 - t^2) z further along the same noising. (The
paper writes 2/t^3; a factor common to all steps moves no level.) J depends on its two ends alone,
so that the best grid out of a fine one is found exactly (:mod:`jaxdiff.grids.dynamic`); the
paper's own search, level by level and doubling the number of steps, is :func:`coordinate_descent`
with :func:`bisect`.

The expectations come from data and one evaluation of the denoiser per sample and fine level, on one
noising path for all pairs of levels; the integral by interpolating them linearly in log t, t^-3
being integrated exactly. Both are additive over fine intervals.

- The bound has no step to 0: there J is infinite, whatever the grid. Levels end at a positive one,
  and ``np.append(grid, 0)`` then denoises from it at the cost of one more step.
- For data N(0, c^2) the expectation is c^4/(t^2 + c^2) - c^4/(s^2 + c^2) per dimension, for an
  exact denoiser in general e(s) - e(t) with e(s) = E|x0 - D(x_s, s)|^2; by which J is, up to a term
  that no inner level changes, the discrete ELBO of :mod:`jaxdiff.tuning.search.elbo`. Where the two
  differ the network is no conditional mean.
- The theorem of the same paper (3.1) that an arctangent grid is optimal is about Euler's method for
  the ODE on N(0, c^2), at its end (:func:`jaxdiff.grids.arctan`). It is not the minimum of J.

Source: Sabour et al., arXiv 2404.14507, section 3.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdiff.denoisers import as_partial
from jaxdiff.grids.dynamic import best_grids, path_cost
from jaxdiff.grids.ends import Grid
from jaxdiff.grids.lists import from_list
from jaxdiff.grids.uniform import log_snr
from jaxdiff.sampling.checks import as_states, check_start
from jaxdiff.typing import Array, Cond, Denoiser, Key


def align(
    denoiser: Denoiser,
    data: Array,
    num_steps: int,
    key: Key,
    *,
    levels: Sequence[float] | np.ndarray | None = None,
    cond: Cond = None,
) -> Grid:
    """Return the grid of ``num_steps`` steps out of ``levels`` with the least divergence bound.

    Args:
        denoiser: the model.
        data: (n, *shape), a few hundred clean samples, all in one batch.
        num_steps: 1 to the number of steps of ``levels``.
        key: typed key of the noise.
        levels: fine grid, positive; ``grids.log_snr(100, zero=False)`` by default. Its ends are
            those of the result.
        cond: handed to the denoiser.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for levels that are no grid or end in 0, or other numbers of steps.
    """
    known = log_snr(100, zero=False) if levels is None else from_list(levels)
    return best_grids(align_costs(denoiser, data, known, key, cond), known, [num_steps])[0]


def align_costs(
    denoiser: Denoiser,
    data: Array,
    levels: Sequence[float] | np.ndarray,
    key: Key,
    cond: Cond = None,
) -> np.ndarray:
    """Return J of every step between two of the levels (M + 1,), in nats: (M + 1, M + 1), upper
    triangular.

    The costs of several batches, of their own keys, may be averaged. Memory: two times the denoised
    outputs, (M + 1, n, *shape). ValueError for levels that are no grid or end in 0.

    Args:
        denoiser: ``D(y, level, cond)``, the model.
        data: (n, *shape), a few hundred clean samples, all in one batch.
        levels: decreasing and positive, (M + 1,).
        key: typed key of the noise.
        cond: handed to the denoiser.

    Returns:
        J, (M + 1, M + 1), in nats; 0 on and below the diagonal.

    Raises:
        ValueError: for levels that are no grid or end in 0.
        TypeError: for data that are not float32 or float64.
    """
    known = check_positive(levels)
    check_start(data, None)
    changes = _changes(as_partial(denoiser), data, jnp.asarray(known, data.dtype), key, cond)
    return step_costs(known, np.asarray(changes, np.float64))


def step_costs(levels: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Return the integrals of changes_i(t) t^-3 from level j up to level i, in [i, j].

    changes: (M + 1, M + 1), values at the levels; read on and above the diagonal.
    """
    s, r = levels[:-1], levels[1:]
    h = np.log(s / r)
    upper = (1 - (1 + 2 * h) * np.exp(-2 * h)) / (4 * h * r**2)  # weight of the value at s
    lower = 0.5 * (1 / r**2 - 1 / s**2) - upper
    pieces = upper * changes[:, :-1] + lower * changes[:, 1:]
    pieces = np.triu(pieces)  # the piece from level j to j + 1 belongs to steps from i <= j
    return np.pad(np.cumsum(pieces, axis=1), [(0, 0), (1, 0)]) * np.triu(np.ones_like(changes), 1)


class Descent(NamedTuple):
    """Outcome of :func:`coordinate_descent`: indices (num_steps + 1,), and the cost after each
    sweep, that of the start first.
    """

    path: np.ndarray
    history: list[float]


def coordinate_descent(
    costs: np.ndarray, path: Sequence[int] | np.ndarray, sweeps: int = 300
) -> Descent:
    """Move every inner level in turn to the best place between its neighbours, until none moves.

    The paper's search, on the fine grid. It ends in a local minimum, ``shortest`` in the best.

    Args:
        costs: (M + 1, M + 1) of the steps.
        path: increasing indices to start from, whose ends stay.
        sweeps: at most.
    """
    path = np.array(path)
    history = [path_cost(costs, path)]
    for _ in range(sweeps):
        before = path.copy()
        for k in range(1, len(path) - 1):
            a, b = path[k - 1], path[k + 1]
            path[k] = a + 1 + np.argmin(costs[a, a + 1 : b] + costs[a + 1 : b, b])
        history.append(path_cost(costs, path))
        if (path == before).all():
            break
    return Descent(path, history)


def bisect(levels: Sequence[float] | np.ndarray, path: Sequence[int] | np.ndarray) -> np.ndarray:
    """Twice the steps: between two neighbours the fine level nearest to their middle in log level.

    Raises ValueError where there is none between them.
    """
    logs, path = np.log(np.asarray(levels, np.float64)), np.asarray(path)
    if (np.diff(path) < 2).any():
        raise ValueError(f"no level between two neighbours of {path.tolist()}: take a finer grid")
    between = [
        a + 1 + np.abs(logs[a + 1 : b] - (logs[a] + logs[b]) / 2).argmin()
        for a, b in pairwise(path)
    ]
    return np.sort(np.concatenate([path, between]))


def check_positive(levels: Sequence[float] | np.ndarray) -> Grid:
    """Return the levels as a grid, all of them positive."""
    known = from_list(levels)
    if known[-1] == 0:
        raise ValueError(
            "the bound of a step to 0 is infinite: end the levels at a positive one, and append 0 "
            "to the grid that is found"
        )
    return known


@jax.jit
def _changes(D: Denoiser, data: Array, levels: Array, key: Key, cond: Cond) -> Array:
    """E|D(x_j, t_j) - D(x_i, t_i)|^2 (levels, levels) along noising paths, upwards from the
    last.
    """

    def noised(y: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        level, added, own = inputs
        y = y + added * jax.random.normal(own, y.shape, y.dtype)
        return y, as_states(D(y, level, cond), y)

    squares = levels**2 - jnp.append(levels[1:] ** 2, jnp.zeros((), levels.dtype))
    inputs = (levels, jnp.sqrt(squares), jax.random.split(key, len(levels)))
    _, outputs = lax.scan(noised, data, inputs, reverse=True)
    flat = outputs.reshape(*outputs.shape[:2], -1)
    return lax.map(lambda one: jnp.mean(jnp.sum((flat - one[None]) ** 2, axis=2), axis=1), flat)
