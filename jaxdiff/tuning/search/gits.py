r"""GITS: the grid whose Euler steps stay closest to a teacher's trajectory.

Trajectories of the probability flow are nearly the same curve for every sample, so a few of them,
solved accurately once, show which levels matter. From the teacher's state x_i, its denoised output
D_i known, one Euler step to any later level is free,

    x_i + (t_j - t_i) (x_i - D_i)/t_i,

and the cost of a step is how far that is from the teacher's x_j, in the mean over the batch:

    "dev"       what the published recipes measure, the default: the distance of the point from the
                chord between the trajectory's two ends less that of x_j. It is signed, negative for
                a step that cuts a corner.
    "l1", "l2"  the norm of the difference; the paper's text describes the 2-norm

:mod:`jaxdiff.grids.dynamic` finds the best grid, its costs multiplied by a discount per
step: for Euler itself 1 is the better objective, and the published 1.15 trades accuracy of the
whole for finer steps at low levels. The grid is then used with any solver. A teacher's grid that
ends in 0 has the teacher's sample as its last state, and all grids out of it end in 0.

Source: Chen et al., arXiv 2405.11326, section 3.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.analysis.local_error import Measure, truncation_errors
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import norm
from jaxdiff.grids.dynamic import best_grids
from jaxdiff.grids.ends import Grid
from jaxdiff.grids.lists import from_list
from jaxdiff.grids.uniform import karras
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.pndm import ipndm
from jaxdiff.solvers.scalar import Scalar
from jaxdiff.solvers.steps import unit_first
from jaxdiff.tuning.learned.path import Path, follow
from jaxdiff.typing import Array, Cond, Denoiser, Solver


def gits(
    denoiser: Denoiser,
    start: Array,
    num_steps: int,
    *,
    levels: Sequence[float] | np.ndarray | None = None,
    discount: float = 1.15,
    measure: Measure = "dev",
    solver: Solver = ipndm,
    cond: Cond = None,
    **options: Any,
) -> Grid:
    """Return the best grid of ``num_steps`` steps out of the teacher's.

    Several grids of one teacher cost one solution::

        path = follow(D, table(ipndm, levels), start)
        best_grids(jump_costs(path), levels, [4, 5, 6, 8, 10], discount=1.15)

    Args:
        denoiser: the model.
        start: (batch, *shape) at ``levels[0]``; the paper takes 256 samples.
        num_steps: 1 to the number of the teacher's steps.
        levels: the teacher's grid; ``grids.karras(60, zero=False)`` by default. Its ends are those
            of the result.
        discount: 1.15 in the paper for images, 1.2 for Stable Diffusion.
        measure: "dev", "l2" or "l1".
        solver: the teacher's, deterministic; iPNDM of order 4 as in the published recipes.
        cond: handed to the denoiser.
        options: of the solver.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for levels that are no grid, other numbers of steps, an unknown measure.

    Source: Chen et al., On the Trajectory Regularity of ODE-based Diffusion Sampling, arXiv
    2405.11326.
    """
    known = karras(60, zero=False) if levels is None else from_list(levels)
    path = follow(denoiser, table(solver, known, **options), start, cond)
    costs = jump_costs(path, measure, zero=bool(known[-1] == 0))
    return best_grids(costs, known, [num_steps], discount)[0]


def jump_costs(path: Path, measure: Measure = "dev", *, zero: bool = False) -> np.ndarray:
    """Return what one Euler step costs between any two states of a teacher, (M + 1, M + 1), upper
    triangular; with ``zero`` the teacher's sample, at level 0, is one more state.

    Args:
        path: the teacher's trajectory, of M + 1 states.
        measure: "dev", "l2" or "l1".
        zero: whether the teacher's sample, at level 0, is one more state.

    Returns:
        (M + 1, M + 1) costs, or one row and column more with ``zero``; read above the diagonal.

    Raises:
        ValueError: for an unknown measure.
    """
    levels, states = path.levels, path.states
    if zero:
        levels = jnp.append(levels, jnp.zeros((), levels.dtype))
        states = jnp.concatenate([states, path.end[None]])
    return truncation_errors(levels, states, path.denoised, measure)


def insert_analytic(
    denoiser: Denoiser,
    path: Path,
    grid: Sequence[float] | np.ndarray,
    solver: Solver = ipndm,
    *,
    first: Callable[[Any, Scalar], Any] = unit_first,
    cond: Cond = None,
    **options: Any,
) -> Grid:
    """Return the grid with one more level after its first, for a sampler with an analytic first
    step.

    The step to the new level is analytic, so that ``table(solver, grid, first=first, **options)``
    has one more step and as many evaluations as before. The level is the one of the teacher's
    between the grid's first two from which the sampler ends closest to the teacher, in the mean of
    the distances.

    Args:
        denoiser: ``D(y, level, cond)``, the model.
        path: the teacher's trajectory, of :func:`jaxdiff.tuning.learned.path.follow`.
        grid: of the sampler, its first level the teacher's.
        solver: of the sampler.
        first: the analytic first step, as for :func:`jaxdiff.table`.
        cond: handed to the denoiser.
        options: handed to the solver.

    Returns:
        The grid with one level more.

    Raises:
        ValueError: if the teacher has no level there, or starts at another level.
    """
    known = from_list(grid)
    levels = np.asarray(path.levels, np.float64)  # perhaps rounded to float32 before
    if abs(levels[0] / known[0] - 1) > 1e-6:
        raise ValueError(f"the teacher starts at level {levels[0]}, the grid at {known[0]}")
    between = levels[(levels < known[0] * (1 - 1e-6)) & (levels > known[1] * (1 + 1e-6))]
    if not len(between):
        raise ValueError(
            f"the teacher has no level between {known[0]} and {known[1]}, the first two of the grid"
        )
    D, apart = as_partial(denoiser), []
    for level in between:
        made = table(solver, np.insert(known, 1, level), first=first, **options)
        end = sample(D, made, path.states[0], cond)
        apart.append(float(jnp.mean(norm(end - path.end))))
    return np.insert(known, 1, between[int(np.argmin(apart))])
