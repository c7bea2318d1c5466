"""Single steps of the probability-flow ODE dy/ds = (y - D(y, s))/s = eps, from level s to r.

What solvers, students' teachers and inversions are made of. A step to level 0 is y = D(y, s), the
only finite limit of all of them. :func:`unit_first` is a denoiser in closed form for a first step.
"""

from collections.abc import Callable
from typing import TypeVar

from jaxdiff.solvers.scalar import D, Scalar, State, is_zero

S = TypeVar("S", bound=State)
Step = Callable[[D, State, Scalar, Scalar], State]


def eps_prediction(D: Callable[..., S], y: S, s: Scalar) -> S:
    """Return the slope dy/ds = eps of the probability-flow ODE at a state."""
    return (y - D(y, s)) / s


def euler_step(D: Callable[..., S], y: S, s: Scalar, r: Scalar) -> S:
    """One Euler step from level s to r; the DDIM step in every frame."""
    return y + (r - s) * ((y - D(y, s)) / s)


def heun_step(D: Callable[..., S], y: S, s: Scalar, r: Scalar, ratio: Scalar = 1.0) -> S:
    """One step of Heun's method; an Euler step to level 0 (Karras et al. 2022, arXiv 2206.00364,
    algorithm 1; with ``ratio`` its alpha, algorithm 3).
    """
    eps = (y - D(y, s)) / s
    if is_zero(r):
        return y + (r - s) * eps
    middle, weight = (1 - ratio) * s + ratio * r, 1 / (2 * ratio)
    between = y + (middle - s) * eps
    eps_between = (between - D(between, middle)) / middle
    return y + (r - s) * ((1 - weight) * eps + weight * eps_between)


def dpm2_step(D: Callable[..., S], y: S, s: Scalar, r: Scalar, ratio: Scalar = 0.5) -> S:
    """One step of DPM-Solver-2, evaluated at s^(1 - ratio) r^ratio (arXiv 2206.00927, algorithm
    4).
    """
    if is_zero(r):
        return euler_step(D, y, s, r)
    middle = r**ratio * s ** (1 - ratio)
    eps = (y - D(y, s)) / s
    between = y + (middle - s) * eps
    eps_between = (between - D(between, middle)) / middle
    return y + (r - s) * ((1 / (2 * ratio)) * eps_between + (1 - 1 / (2 * ratio)) * eps)


def unit_first(y: S, s: Scalar) -> S:
    """Return the analytic first step of AMED and SA-Solver: D for N(0, I) data as VP models see it,
    eps = y / sqrt(1 + s^2).
    """
    return y - s * (y / (1.0 + s * s) ** 0.5)
