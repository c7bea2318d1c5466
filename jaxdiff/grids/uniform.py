"""Grids uniform in a function of the noise level."""

import numpy as np

from jaxdiff.grids.ends import Grid, check_range, finish, knots


def karras(
    steps: int, low: float = 0.002, high: float = 80.0, *, rho: float = 7.0, zero: bool = True
) -> Grid:
    """Uniform in level^(1/rho) (arXiv 2206.00364, eq. 5)."""
    check_range(low, high)
    u = knots(steps, zero)
    return finish((high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho, zero)


def log_snr(steps: int, low: float = 0.002, high: float = 80.0, *, zero: bool = True) -> Grid:
    """Uniform in log level (arXiv 2206.00927); the limit of :func:`karras` for large rho."""
    check_range(low, high)
    u = knots(steps, zero)
    return finish(np.exp((1 - u) * np.log(high) + u * np.log(low)), zero)


exponential = log_snr  # the name it has where levels are called sigmas


def poly_exponential(
    steps: int, low: float = 0.002, high: float = 80.0, *, rho: float = 1.0, zero: bool = True
) -> Grid:
    """Log level a polynomial of degree rho in the knot's number; rho 1 is :func:`log_snr`."""
    check_range(low, high)
    u = (1 - knots(steps, zero)) ** rho
    return finish(np.exp(u * (np.log(high) - np.log(low)) + np.log(low)), zero)


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
    check_range(low, high)
    a, b = np.log1p(low**2), np.log1p(high**2)
    slope = 2 * (a / smallest - b) / (smallest - 1)
    u = (1 + knots(steps, zero) * (smallest ** (1 / rho) - 1)) ** rho
    return finish(np.sqrt(np.expm1(slope * u**2 / 2 + (b - slope / 2) * u)), zero)


def arctan(
    steps: int, low: float = 0.002, high: float = 80.0, *, scale: float = 1.0, zero: bool = True
) -> Grid:
    """Uniform in the arctangent of level/scale.

    Optimal for Euler steps on N(0, scale^2) data (arXiv 2404.14507, theorem 3.1).
    """
    check_range(low, high)
    u = knots(steps, zero)
    return finish(
        scale * np.tan((1 - u) * np.arctan(high / scale) + u * np.arctan(low / scale)), zero
    )


def cosine(steps: int, low: float = 0.002, high: float = 80.0, *, zero: bool = True) -> Grid:
    """Uniform in the time of a cosine process, alpha = cos u, sigma = sin u, whose level is tan u:
    :func:`arctan` with scale 1 (arXiv 2102.09672 without its offset).
    """
    return arctan(steps, low, high, zero=zero)
