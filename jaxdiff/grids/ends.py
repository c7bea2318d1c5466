"""Knots and ends that all grids share, and the check that each makes of its own result."""

from collections.abc import Sequence

import numpy as np

from jaxdiff.typing import Grid


def knots(num_steps: int, zero: bool) -> np.ndarray:
    """0 to 1 over the knots that are not zero."""
    if not np.isfinite(num_steps) or num_steps != int(num_steps) or num_steps < 1:
        raise ValueError(f"a grid has a whole number of steps, at least 1; not {num_steps}")
    return np.linspace(0.0, 1.0, max(int(num_steps) + (not zero), 1))


def finish(levels: np.ndarray, zero: bool) -> Grid:
    """Return the grid of these levels, with the final zero if there is to be one, checked."""
    return checked(np.append(levels, 0.0) if zero else levels)


def checked(levels: Sequence[float] | np.ndarray) -> Grid:
    """Return the levels as a grid.

    Raises:
        ValueError: unless there are at least two finite numbers, strictly decreasing, positive but
            for the last, which may be 0.
    """
    grid = np.asarray(levels, np.float64)
    if grid.ndim != 1 or grid.size < 2:
        raise ValueError(f"a grid is a list of at least two levels; got shape {grid.shape}")
    if not np.isfinite(grid).all() or grid[-1] < 0:
        raise ValueError(f"levels must be finite and not negative; got {grid}")
    wrong = np.flatnonzero(np.diff(grid) >= 0)
    if wrong.size:
        i = int(wrong[0])
        raise ValueError(
            f"levels must strictly decrease; levels[{i}] = {grid[i]} comes before "
            f"levels[{i + 1}] = {grid[i + 1]}"
        )
    return grid


def check_positive(**numbers: float) -> None:
    """Raise ValueError for numbers, by name, that are not positive and finite."""
    for name, number in numbers.items():
        if not 0 < number < np.inf:
            raise ValueError(f"{name} must be positive and finite; it is {number}")


def check_range(low: float, high: float) -> None:
    """Raise ValueError for ends that are not 0 < low < high."""
    if not 0 < low < high < np.inf:
        raise ValueError(f"levels need 0 < low < high; these are low={low}, high={high}")
