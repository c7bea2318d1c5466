r"""Time travel: solvers that go back up in noise, and down again, on a path of their own.

A path is a list of places in a grid of N steps: it begins at 0, goes down by one step at a time,
up to any place before, and ends at N. Up is y + sqrt(s_b^2 - s_a^2) n. Every state that a step down
ends in is accepted, so that a correction is applied to it: with a replacement by what is known this
is RePaint (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1 and appendix B), without one the
travel of FreeDoM (2303.09833), universal guidance (2302.07121) and DDNM (2212.00490).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.sampling.solver_options import check_options, check_solver, solver_name
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, check_levels, is_traced, sqrt
from jaxdiff.typing import Array, Solver


def resampling_path(num_steps: int, jump: int = 10, repeats: int = 10) -> list[int]:
    """RePaint's path: at every ``jump``-th place go up by ``jump`` steps, ``repeats`` times in all
    through each stretch (arXiv 2201.09865, appendix B).

    Args:
        num_steps: of the grid; the paper has 250, with jumps of 10 and 10 repeats.
        jump: steps up.
        repeats: how often a stretch is gone through, 1 for never going up.

    Raises:
        ValueError: for numbers below 1, and for a jump over the whole grid, which is never made.

    >>> resampling_path(4, 1, 2)
    [0, 1, 0, 1, 2, 1, 2, 3, 2, 3, 4]
    """
    if min(num_steps, jump, repeats) < 1:
        raise ValueError(
            f"num_steps, jump and repeats must be at least 1, not {num_steps}, {jump}, {repeats}"
        )
    if repeats > 1 and jump >= num_steps > 1:
        raise ValueError(f"a jump of {jump} has no place on {num_steps} steps: take a shorter one")
    left = {num_steps - 1 - t: repeats - 1 for t in range(0, num_steps - jump, jump)}
    path = [0]
    while path[-1] < num_steps:
        path.append(path[-1] + 1)
        if left.get(path[-1], 0):
            left[path[-1]] -= 1
            path.append(path[-1] - jump)
    return path


def check_path(path: Sequence[int], num_steps: int) -> None:
    """Raise ValueError for a path that is none on a grid of ``num_steps`` steps."""
    wrong = [(a, b) for a, b in pairwise(path) if not (b == a + 1 or 0 <= b < a)]
    if not path or path[0] != 0 or path[-1] != num_steps or wrong:
        raise ValueError(
            f"a path on {num_steps} steps begins at 0, ends at {num_steps}, goes down by one and "
            f"up to any place before; this one has {wrong[0] if wrong else [*path[:1], *path[-1:]]}"
        )


def travel_table(
    solver: Solver,
    levels: Sequence[Scalar] | np.ndarray | Array,
    path: Sequence[int],
    **options: Any,
) -> Table:
    """Trace a solver of single steps along a path that goes up in noise.

    ``sample(D, travel_table(solvers.ddpm, levels, resampling_path(250)), start, key=key,
    correct=replacement(known, mask))`` is RePaint.

    Args:
        solver: deterministic or not; each step is begun anew, so that a multistep solver is what
            it is in its first step.
        levels: the decreasing grid.
        path: places in it, as of :func:`resampling_path`.
        options: handed to the solver.

    Returns:
        A table whose accepted states are those at the ends of steps down. It draws the noise of
        every step, and one noise for every move up.

    Raises:
        ValueError: for a path that is none on this grid. Others as
            :func:`jaxdiff.sampling.trace.table`.
    """
    check_solver(solver)
    knots = check_levels(levels)
    check_path(path, len(knots) - 1)
    stochastic = check_options(solver, options)

    def along(D: D, y: State, levels: Sequence[Scalar], noise: Noise) -> Iterator[State]:
        extra = {"noise": noise} if stochastic else {}
        for a, b in pairwise(path):
            if b < a:
                s, r = knots[b], knots[a]
                y = y + sqrt((s - r) * (s + r)) * noise()
            else:
                (y,) = solver(D, y, knots[a : b + 1], **extra, **options)
                yield y

    def straight(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
        yield from along(D, y, levels, _no_noise)

    ends: list[Scalar] = [knots[0], *(knots[b] for a, b in pairwise(path) if b > a)]
    draws = stochastic or any(b < a for a, b in pairwise(path))
    stand_in = np.arange(len(ends), 0, -1.0)  # decreasing, as a grid is
    made = table(along if draws else straight, stand_in, name=f"{solver_name(solver)} travel")
    traced = [s for s in ends if is_traced(s)]
    own = jnp.stack([jnp.asarray(s, traced[0].dtype) for s in ends]) if traced else np.array(ends)
    return dataclasses.replace(made, levels=own)


def _no_noise() -> State:
    raise AssertionError("a path without moves up draws no noise")
