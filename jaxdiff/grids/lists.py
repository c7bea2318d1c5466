"""Grids from lists of levels: checked, resampled, moved, and published ones.

The published lists are noise levels as printed, high to low, for the models they are named after.
They are tuned to those models; :func:`resample` brings them to another number of steps, and
:func:`end_in_zero` to the end they are published for::

    grids.end_in_zero(grids.resample(grids.AYS_SDXL, 20))

Sources: Align Your Steps (arXiv 2404.14507) for ``AYS_*``, GITS (arXiv 2405.11326) for ``GITS_*``;
``GITS_CIFAR10`` ends at its last level.
"""

from collections.abc import Sequence

import numpy as np

from jaxdiff.grids.ends import Grid, check_positive, checked, finish, knots

# fmt: off
AYS_SD15 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
AYS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
AYS_DEEPFLOYD = (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006)
AYS_SVD = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
GITS_SDXL = (14.615, 4.734, 2.567, 1.529, 0.987, 0.652, 0.418, 0.268, 0.179, 0.127, 0.029)
GITS_CIFAR10 = (80.0, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002)
# fmt: on


def from_list(levels: Sequence[float] | np.ndarray) -> Grid:
    """Check any list of noise levels and return it as a grid.

    Args:
        levels: a grid: decreasing, positive but for the last, which may be 0.

    Returns:
        (num_steps + 1,) float64.

    Raises:
        ValueError: unless there are at least two finite numbers, strictly decreasing, positive but
            for the last, which may be 0.
    """
    return checked(levels)


def end_in_zero(levels: Sequence[float] | np.ndarray) -> Grid:
    """Return the grid with 0 in place of its last level; its number of steps stays.

    Args:
        levels: a grid: decreasing, positive but for the last, which may be 0.

    Returns:
        (num_steps + 1,) float64.

    Raises:
        ValueError: for levels that are no grid.
    """
    grid = from_list(levels).copy()
    grid[-1] = 0.0
    return grid


def shift(levels: Sequence[float] | np.ndarray, factor: float, power: float = 1.0) -> Grid:
    """Return the grid's levels to a power, times a factor: the time shift of flow models.

    tau' = factor tau/(1 + (factor - 1) tau) (SD3, arXiv 2403.03206, eq. 23) multiplies the level
    tau/(1 - tau) by ``factor``, and e^mu/(e^mu + (1/tau - 1)^power) is factor e^mu with a power.
    Shifting twice is shifting by the product: it belongs in one place.

    Args:
        levels: a grid: decreasing, positive but for the last, which may be 0.
        factor, power: positive.

    Returns:
        (num_steps + 1,) float64.

    Raises:
        ValueError: for levels that are no grid, or a factor or power that is not positive.
    """
    check_positive(factor=factor, power=power)
    return checked(factor * from_list(levels) ** power)


def resample(levels: Sequence[float] | np.ndarray, num_steps: int) -> Grid:
    """Return a grid with another number of steps: linear interpolation of log level over the knots'
    numbers.

    Args:
        levels: a grid: decreasing, positive but for the last, which may be 0.
        num_steps: intervals of the result.

    Returns:
        (num_steps + 1,) float64. A final zero stays; it is not counted among the interpolated
        knots.

    Raises:
        ValueError: for levels that are no grid, or fewer steps than 1.
    """
    levels = from_list(levels)
    zero = bool(levels[-1] == 0)
    own = levels[:-1] if zero else levels
    u = knots(num_steps, zero) * (len(own) - 1)
    return finish(np.exp(np.interp(u, np.arange(len(own)), np.log(own))), zero)


def snap(levels: Sequence[float] | np.ndarray, allowed: np.ndarray) -> Grid:
    """Move every level to the nearest of ``allowed`` in log level, for networks that know only a
    list of levels.

    Args:
        levels: a grid: decreasing, positive but for the last, which may be 0.
        allowed: (n,) positive levels, in any order.

    Returns:
        Strictly decreasing levels, float64: those that land on the same one are merged, and a final
        zero stays.

    Raises:
        ValueError: where fewer than two are left, and for ``allowed`` that are not positive.
    """
    levels, allowed = from_list(levels), np.asarray(allowed, np.float64)
    if allowed.ndim != 1 or not allowed.size or not ((allowed > 0) & (allowed < np.inf)).all():
        raise ValueError(f"allowed levels are a list of positive numbers; got {allowed}")
    zero = bool(levels[-1] == 0)
    own = levels[:-1] if zero else levels
    nearest = np.abs(np.log(own)[:, None] - np.log(allowed)[None, :]).argmin(axis=1)
    return finish(np.unique(allowed[nearest])[::-1], zero)
