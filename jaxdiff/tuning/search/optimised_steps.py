r"""The grid on which a solver passes on least of the network's error; no network is needed.

A linear solver's sample is y_N = a y_0 + sum_i W_i D_i, where W_i depends on the grid alone. If the
network's error in predicting the noise is of the same size everywhere, D_i is wrong by about
sigma_i/alpha_i, its level; if it falls with a power of sigma, as it does in latent spaces, by
e_i = sigma_i^p/alpha_i. Then the sample is wrong by at most

    sum_i |W_i| e_i,     e = sigma^p/alpha = s^p alpha^(p-1)     (s = sigma/alpha),

which is minimised over the grid's inner levels, its ends fixed. p = 1 for pixels, 2 for latents.
For Euler's method and p = 1 the best grid is uniform in log level, by the inequality of the means:
there the sum is r sum_i (s_i/s_{i+1} - 1), r the last level.

Taken literally, the sum has minima that are no good: W_i adds up what every later step does with
D_i, with both signs, and a grid with one huge step first makes that cancel. (From a grid uniform in
log level, 8 steps of a predictor of order 3 with p = 1 come to a twelfth of the bound, and samples
of a Gaussian with the covariance of CIFAR-10 to five times the error.) So the published code bounds
the first three steps each by itself and sums over the others only,

    sum_{k < separate} |(w_ki e_i)_i|_2 + sum_i |sum_{k >= separate} w_ki| e_i,     W_i = sum_k
    w_ki,

and so does this one; with ``separate=0`` it is the sum itself.

The w_ki come from the table of any solver, built on traced levels, and their gradient from
autodiff. Levels move as softmax shares of the way in log level
(:mod:`jaxdiff.tuning.learned.levels`): they decrease whatever the optimiser tries, where the paper
has a trust-region method with constraints.

In a grid that ends in 0 the last evaluation makes the sample, W = (0, ..., 0, 1), and the sum says
nothing of the others: there it is taken at the last positive level.

Source: Xue et al., arXiv 2402.17376, section 3; ``separate`` from its published code.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from jaxdiff.grids.ends import Grid
from jaxdiff.grids.lists import from_list
from jaxdiff.ranges import Count, Natural, Positive, in_range
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.scalar import Scalar, is_zero
from jaxdiff.solvers.unipc import unipc
from jaxdiff.tuning.learned.levels import moving
from jaxdiff.typing import Array, Solver

Alpha = Callable[[Array], Array]


class Optimised(NamedTuple):
    """A grid, and its bound at the start and after every iteration."""

    grid: Grid
    history: list[float]


def variance_preserving(level: Array) -> Array:
    """Alpha, at a level s, of every process with alpha^2 + sigma^2 = 1: 1/sqrt(1 + s^2)."""
    return 1 / jnp.sqrt(1 + level**2)


@in_range
def optimised_steps(
    levels: Sequence[float] | np.ndarray,
    solver: Solver = unipc,
    *,
    power: Positive = 1.0,
    alpha: Alpha = variance_preserving,
    separate: Natural = 3,
    iterations: Count = 200,
    **options: Any,
) -> Optimised:
    """Move a grid's inner levels to where :func:`weight_bound` is least, by L-BFGS in float64.

    Args:
        levels: where to start: in the paper ``grids.log_snr`` for pixels, a grid uniform in time
            for latents. Both ends stay; a final 0 stays, and the level before it.
        solver: deterministic. The paper's is ``unipc(order=3, variant="vary", corrector=False)``,
            or order 2 for latents.
        power: p, 1 for pixels, 2 for latents.
        alpha: of the model's process, as a function of level.
        separate: how many steps are bounded each by itself.
        iterations: at most.
        options: of the solver.

    Returns:
        The grid, and its bound at the start and after every iteration.

    Raises:
        ValueError: for levels that are no grid, a stochastic solver, or numbers out of range.

    Source: Xue et al., Accelerating Diffusion Sampling with Optimized Time Steps, arXiv 2402.17376,
    section 3.
    """
    from scipy.optimize import minimize

    given = from_list(levels)
    own = given[given > 0]
    bound = functools.partial(
        weight_bound, solver=solver, power=power, alpha=alpha, separate=separate, **options
    )
    with jax.enable_x64(True):
        start, build = moving(own)
        slope = jax.jit(jax.value_and_grad(lambda raw: bound(build(raw))))

        def objective(raw: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = slope(jnp.asarray(raw))
            return float(value), np.asarray(gradient)

        history = [objective(np.asarray(start))[0]]
        found = minimize(
            objective,
            np.asarray(start),
            jac=True,
            method="L-BFGS-B",
            callback=lambda intermediate_result: history.append(float(intermediate_result.fun)),
            options={"maxiter": iterations},
        )
        inner = np.array(build(jnp.asarray(found.x))[1:-1], np.float64)
    return Optimised(from_list(np.concatenate([own[:1], inner, given[len(own) - 1 :]])), history)


def weight_bound(
    levels: Sequence[Scalar] | np.ndarray | Array,
    solver: Solver = unipc,
    *,
    power: float = 1.0,
    alpha: Alpha = variance_preserving,
    separate: int = 3,
    **options: Any,
) -> Array:
    """Return the bound on a solver's error, a scalar, in units of the network's.

    Args:
        levels: a grid that ends above 0; traced levels give a bound that is differentiable with
            respect to them.
        solver, power, alpha, separate, options: as in :func:`optimised_steps`.

    Raises:
        ValueError: for a grid that ends in 0, or a stochastic solver.
    """
    made = table(solver, levels, **options)
    if is_zero(made.levels[-1]):
        raise ValueError("in a grid that ends in 0 only the last weight is not 0: leave out the 0")
    nodes = jnp.asarray(made.nodes)
    parts = contributions(made)[1] * (nodes**power * alpha(nodes) ** (power - 1))[None]
    early = jnp.linalg.norm(parts[:separate], axis=1)
    return jnp.sum(early) + jnp.sum(jnp.abs(jnp.sum(parts[separate:], axis=0)))


def contributions(made: Table) -> tuple[Array, Array]:
    """Return what makes a deterministic table's sample: the weight of its start, (), and the
    weights of its N denoised outputs, split by the evaluation after which they are added, (N, N).

    Row k says what the rows between evaluations k and k + 1 add of every output, carried to the
    end; the sum over rows is W. Differentiable in a traced table.

    With states S = A S + b y_0 + B D in the order they are made, the end's dependence on each is
    q = (1 - A^T)^-1 (0, ..., 0, 1), and the weights are q b and q B, row by row.

    Raises ValueError for a stochastic or a padded table.
    """
    if made.stochastic or made.count is not None:
        raise ValueError(f"{made!r} draws noise or is padded: its weights are not the sample")
    segments, rows = made.states.shape[:2]
    number = np.arange(segments * rows)
    before = _placed(jnp.asarray(made.states), number, len(number) + 1)  # the start comes first
    outputs = _placed(jnp.asarray(made.denoised), number // rows - 1, segments - 1)
    end = jnp.zeros_like(before[:, 0]).at[-1].set(1)
    identity = jnp.eye(len(number), dtype=before.dtype)
    q = solve_triangular(identity - before[:, 1:], end, trans=1, lower=True)
    parts = (q[:, None] * outputs).reshape(segments, rows, -1)
    return q @ before[:, 0], jnp.sum(parts, axis=1)[1:]


def _placed(weights: Array, newest: np.ndarray, columns: int) -> Array:
    """Weights by lag as weights by number: lag k of row p goes to column newest_p - k."""
    flat = weights.reshape(len(newest), -1)
    column = newest[:, None] - np.arange(flat.shape[1])[None]
    known = jnp.where(column >= 0, flat, jnp.zeros_like(flat))  # lags reach back before the start
    place = (np.arange(len(newest))[:, None], np.maximum(column, 0))
    return jnp.zeros((len(newest), columns), flat.dtype).at[place].add(known)
