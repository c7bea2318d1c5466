"""Grids of noise levels: strictly decreasing arrays, nothing else.

``steps`` counts intervals, so a grid has steps + 1 knots. By default the last knot is 0 and the one
before it is ``low``, as in EDM (arXiv 2206.00364): a step to 0 returns the denoised output. With
``zero=False`` the grid ends at ``low``, as most papers on few-step solvers have it; numbers of the
two conventions are not comparable. Grids are made on the host in float64. A published list of
levels is a grid as it is: ``numpy.array([...])``.
"""

import jax
import numpy as np

from jaxdiff.process import Process, level

Grid = np.ndarray


def _knots(steps: int, zero: bool) -> np.ndarray:
    """0 to 1 over the knots that are not zero."""
    if steps != int(steps) or steps < 1:
        raise ValueError(f"a grid has a whole number of steps, at least 1; not {steps}")
    return np.linspace(0.0, 1.0, max(int(steps) + (not zero), 1))


def _finish(levels: np.ndarray, zero: bool) -> Grid:
    return np.append(levels, 0.0) if zero else levels


def _check_range(low: float, high: float) -> None:
    if not 0 < low < high < np.inf:
        raise ValueError(f"levels need 0 < low < high; these are low={low}, high={high}")


def karras(
    steps: int, low: float = 0.002, high: float = 80.0, *, rho: float = 7.0, zero: bool = True
) -> Grid:
    """Uniform in level^(1/rho) (arXiv 2206.00364, eq. 5)."""
    _check_range(low, high)
    u = _knots(steps, zero)
    return _finish((high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho, zero)


def log_snr(steps: int, low: float = 0.002, high: float = 80.0, *, zero: bool = True) -> Grid:
    """Uniform in log level (arXiv 2206.00927); the limit of :func:`karras` for large rho."""
    _check_range(low, high)
    u = _knots(steps, zero)
    return _finish(np.exp((1 - u) * np.log(high) + u * np.log(low)), zero)


def poly_exponential(
    steps: int, low: float = 0.002, high: float = 80.0, *, rho: float = 1.0, zero: bool = True
) -> Grid:
    """Log level a polynomial of degree rho in the knot's number; rho 1 is :func:`log_snr`."""
    _check_range(low, high)
    u = (1 - _knots(steps, zero)) ** rho
    return _finish(np.exp(u * (np.log(high) - np.log(low)) + np.log(low)), zero)


def vp_time(
    steps: int,
    low: float = 0.002,
    high: float = 80.0,
    *,
    rho: float = 1.0,
    smallest: float = 1e-3,
    zero: bool = True,
) -> Grid:
    """Uniform in u^(1/rho) of the time u of the linear VP process whose range of levels is [low,
    high].

    level^2 = exp(b_d u^2/2 + b_min u) - 1 for u from 1 to ``smallest``, with b_d and b_min fitted
    to the ends. DEIS (arXiv 2204.13902) uses rho = 2.
    """
    _check_range(low, high)
    a, b = np.log1p(low**2), np.log1p(high**2)
    slope = 2 * (a / smallest - b) / (smallest - 1)
    u = (1 + _knots(steps, zero) * (smallest ** (1 / rho) - 1)) ** rho
    return _finish(np.sqrt(np.expm1(slope * u**2 / 2 + (b - slope / 2) * u)), zero)


def arctan(
    steps: int, low: float = 0.002, high: float = 80.0, *, scale: float = 1.0, zero: bool = True
) -> Grid:
    """Uniform in the arctangent of level/scale.

    Optimal for Euler steps on N(0, scale^2) data (arXiv 2404.14507, theorem 3.1).
    """
    _check_range(low, high)
    u = _knots(steps, zero)
    return _finish(
        scale * np.tan((1 - u) * np.arctan(high / scale) + u * np.arctan(low / scale)), zero
    )


def of_process(
    process: Process,
    steps: int,
    *,
    start: float | None = None,
    end: float = 1e-3,
    rho: float = 1.0,
    zero: bool = True,
) -> Grid:
    """Levels of a process at times uniform in t^(1/rho) from ``start`` (its end by default) to
    ``end``.

    rho 1 is uniform in time, 2 quadratic.

    Raises:
        ValueError: if the level at ``start`` is not finite (alpha = 0): give an earlier one.
    """
    first = float(process.t_max if start is None else start)
    u = _knots(steps, zero)
    times = (first ** (1 / rho) + u * (end ** (1 / rho) - first ** (1 / rho))) ** rho
    with jax.enable_x64(True):
        levels = np.asarray(level(process, times), np.float64)
    if not np.isfinite(levels[0]):
        raise ValueError(f"the level at t = {first} is not finite; start a little earlier")
    return _finish(levels, zero)


def resample(levels: np.ndarray, steps: int) -> Grid:
    """A grid with another number of steps: linear interpolation of log level over the knots'
    numbers.

    A final zero stays; it is not counted among the interpolated knots.
    """
    levels = np.asarray(levels, np.float64)
    zero = bool(levels[-1] == 0)
    knots = levels[:-1] if zero else levels
    u = _knots(steps, zero) * (len(knots) - 1)
    return _finish(np.exp(np.interp(u, np.arange(len(knots)), np.log(knots))), zero)


def snap(levels: np.ndarray, allowed: np.ndarray) -> Grid:
    """Move every level to the nearest of ``allowed`` in log level, for networks that know only a
    list of levels.

    Levels that land on the same one are merged, so that the result strictly decreases; a final zero
    stays.
    """
    levels, allowed = np.asarray(levels, np.float64), np.asarray(allowed, np.float64)
    zero = bool(levels[-1] == 0)
    knots = levels[:-1] if zero else levels
    nearest = np.abs(np.log(knots)[:, None] - np.log(allowed)[None, :]).argmin(axis=1)
    return _finish(np.unique(allowed[nearest])[::-1], zero)
