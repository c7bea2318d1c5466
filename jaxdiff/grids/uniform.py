"""Grids uniform in a function of the noise level."""

import numpy as np

from jaxdiff.grids.ends import Grid, check_positive, check_range, finish, knots


def karras(
    num_steps: int, low: float = 0.002, high: float = 80.0, *, rho: float = 7.0, zero: bool = True
) -> Grid:
    """Return levels uniform in level^(1/rho) (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    Args:
        num_steps: intervals.
        low, high: the lowest positive and the highest level, 0 < low < high.
        rho: the larger, the denser at low levels; positive.
        zero: whether a step to level 0 is the last of them; otherwise the grid ends at ``low``.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for ends, rho or numbers of steps that are none.

    >>> [round(float(level), 3) for level in karras(4)]
    [80.0, 9.723, 0.47, 0.002, 0.0]
    """
    check_range(low, high)
    check_positive(rho=rho)
    u = knots(num_steps, zero)
    return finish((high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho, zero)


def log_snr(num_steps: int, low: float = 0.002, high: float = 80.0, *, zero: bool = True) -> Grid:
    """Return levels uniform in log level (DPM-Solver, arXiv 2206.00927, section 3.1); the limit of
    :func:`karras` for large rho.

    Args:
        num_steps: intervals.
        low, high: the lowest positive and the highest level, 0 < low < high.
        zero: whether a step to level 0 is the last of them; otherwise the grid ends at ``low``.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for ends, numbers of steps that are none.
    """
    check_range(low, high)
    u = knots(num_steps, zero)
    return finish(np.exp((1 - u) * np.log(high) + u * np.log(low)), zero)


exponential = log_snr  # the name it has where levels are called sigmas


def poly_exponential(
    num_steps: int, low: float = 0.002, high: float = 80.0, *, rho: float = 1.0, zero: bool = True
) -> Grid:
    """Return levels whose log is a polynomial of degree rho in the knot's number; rho 1 is
    :func:`log_snr`.

    Args:
        num_steps: intervals.
        low, high: the lowest positive and the highest level, 0 < low < high.
        rho: degree, positive.
        zero: whether a step to level 0 is the last of them; otherwise the grid ends at ``low``.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for ends, rho or numbers of steps that are none.
    """
    check_range(low, high)
    check_positive(rho=rho)
    u = (1 - knots(num_steps, zero)) ** rho
    return finish(np.exp(u * (np.log(high) - np.log(low)) + np.log(low)), zero)


def vp_time(
    num_steps: int,
    low: float = 0.002,
    high: float = 80.0,
    *,
    rho: float = 1.0,
    smallest: float = 1e-3,
    zero: bool = True,
) -> Grid:
    """Return levels uniform in u^(1/rho) of the time u of the linear VP process whose range of
    levels is [low, high].

    level^2 = exp(b_d u^2/2 + b_min u) - 1 for u from 1 to ``smallest``, with b_d and b_min fitted
    to the ends. DEIS (arXiv 2204.13902) uses rho = 2.

    Args:
        num_steps: intervals.
        low, high: the lowest positive and the highest level, 0 < low < high.
        rho: 1 is uniform in time, 2 quadratic.
        smallest: the time of ``low``, in (0, 1).
        zero: whether a step to level 0 is the last of them; otherwise the grid ends at ``low``.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for ends, rho, times or numbers of steps that are none, and where no such
            process has levels that fall from one end to the other.
    """
    check_range(low, high)
    check_positive(rho=rho)
    if not 0 < smallest < 1:
        raise ValueError(f"the smallest time lies between 0 and 1; it is {smallest}")
    first, slope = _betas(low, high, smallest)
    u = (1 + knots(num_steps, zero) * (smallest ** (1 / rho) - 1)) ** rho
    with np.errstate(invalid="ignore", over="ignore"):  # finish refuses what is no number
        levels = np.sqrt(np.expm1(slope * u**2 / 2 + first * u))
    return finish(levels, zero)


def has_vp_time(low: float, high: float, *, smallest: float = 1e-3) -> bool:
    """Return whether the levels of :func:`vp_time` fall all the way, whatever the number of steps:
    beta is positive from ``smallest`` to 1.
    """
    first, slope = _betas(low, high, smallest)
    return min(first + slope * smallest, first + slope) > 0


def _betas(low: float, high: float, smallest: float) -> tuple[float, float]:
    """beta_min and beta_d of the linear VP process with level low at ``smallest`` and high at 1."""
    a, b = np.log1p(low**2), np.log1p(high**2)
    slope = 2 * (a / smallest - b) / (smallest - 1)
    return float(b - slope / 2), float(slope)


def arctan(
    num_steps: int, low: float = 0.002, high: float = 80.0, *, scale: float = 1.0, zero: bool = True
) -> Grid:
    """Return levels uniform in the arctangent of level/scale.

    Optimal for Euler steps on N(0, scale^2) data (Align Your Steps, arXiv 2404.14507, theorem 3.1).

    Args:
        num_steps: intervals.
        low, high: the lowest positive and the highest level, 0 < low < high.
        scale: positive.
        zero: whether a step to level 0 is the last of them; otherwise the grid ends at ``low``.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for ends, scale or numbers of steps that are none.
    """
    check_range(low, high)
    check_positive(scale=scale)
    u = knots(num_steps, zero)
    return finish(
        scale * np.tan((1 - u) * np.arctan(high / scale) + u * np.arctan(low / scale)), zero
    )


def cosine(num_steps: int, low: float = 0.002, high: float = 80.0, *, zero: bool = True) -> Grid:
    """Return levels uniform in the time of a cosine process, alpha = cos u, sigma = sin u, whose
    level is tan u: :func:`arctan` with scale 1 (Improved DDPM, arXiv 2102.09672, eq. 17, without
    its offset).

    Args:
        num_steps: intervals.
        low, high: the lowest positive and the highest level, 0 < low < high.
        zero: whether a step to level 0 is the last of them; otherwise the grid ends at ``low``.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for ends, numbers of steps that are none.
    """
    return arctan(num_steps, low, high, zero=zero)
