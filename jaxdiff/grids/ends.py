"""Knots and ends that all grids share."""

import numpy as np

Grid = np.ndarray


def knots(steps: int, zero: bool) -> np.ndarray:
    """0 to 1 over the knots that are not zero."""
    if steps != int(steps) or steps < 1:
        raise ValueError(f"a grid has a whole number of steps, at least 1; not {steps}")
    return np.linspace(0.0, 1.0, max(int(steps) + (not zero), 1))


def finish(levels: np.ndarray, zero: bool) -> Grid:
    """Append the final zero, if there is to be one."""
    return np.append(levels, 0.0) if zero else levels


def check_range(low: float, high: float) -> None:
    """Complain about ends that are not 0 < low < high."""
    if not 0 < low < high < np.inf:
        raise ValueError(f"levels need 0 < low < high; these are low={low}, high={high}")
