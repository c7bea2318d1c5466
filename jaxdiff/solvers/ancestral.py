"""Ancestral sampling: a deterministic step to a lower level than wanted, then noise up to it.

As in k-diffusion, with the steps of DPM-Solver-2 and DPM-Solver++ 2S. Stochastic generators take
one more argument than deterministic ones: ``noise``, a function whose every call gives a new
standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_traced, is_zero, sqrt
from jaxdiff.solvers.steps import dpm2_step


def ancestral_levels(s: Scalar, r: Scalar, eta: Scalar) -> tuple[Scalar, Scalar]:
    """Level to step down to and standard deviation to add back, so that a step from s ends at level
    r.

    up^2 = eta^2 r^2 (s^2 - r^2)/s^2, which for eta = 1 is the variance of the posterior q(y_r |
    y_s, x0), and down^2 = r^2 - up^2, here without the cancellation.
    """
    if is_zero(r):
        return 0.0, 0.0
    up = eta * (r / s) * sqrt((s - r) * (s + r))
    return (r / s) * sqrt((1.0 - eta * eta) * s * s + eta * eta * r * r), up


def check_eta(solver: str, eta: Scalar) -> None:
    """Raise ValueError for an amount of noise outside [0, 1]; a traced one is trusted."""
    if not is_traced(eta) and not 0 <= eta <= 1:
        raise ValueError(f"{solver} needs 0 <= eta <= 1, not {eta}")


def dpm2_ancestral(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, eta: float = 1.0, inflate: float = 1.0
) -> Iterator[State]:
    """DPM-Solver-2's midpoint step to the lower level, then noise (ancestral form of k-diffusion).

    Two evaluations per step, one in a step to level 0. Draws as in :func:`ddim`.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        eta: share of the ancestral noise: 0 none, 1 all of it.
        inflate: factor of the noise.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an eta outside [0, 1].

    Source: Lu et al., DPM-Solver, arXiv 2206.00927; the ancestral split is that of DDPM, arXiv
    2006.11239.
    """
    check_eta("dpm2_ancestral", eta)
    for s, r in pairwise(levels):
        down, up = ancestral_levels(s, r, eta)
        y = dpm2_step(D, y, s, down)
        if not is_zero(up):
            y = y + inflate * up * noise()
        yield y


def dpmpp_2s_ancestral(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, eta: float = 1.0, inflate: float = 1.0
) -> Iterator[State]:
    """DPM-Solver++ 2S (arXiv 2211.01095, algorithm 1, r = 1/2) to the lower level, then noise.

    With eta 0 it is the deterministic single-step solver. Two evaluations per step, one in a step
    to level 0. Draws as in :func:`ddim`.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        eta: share of the ancestral noise: 0 none, 1 all of it.
        inflate: factor of the noise.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an eta outside [0, 1].

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, algorithm 1.
    """
    check_eta("dpmpp_2s_ancestral", eta)
    for s, r in pairwise(levels):
        down, up = ancestral_levels(s, r, eta)
        output = D(y, s)
        if not is_zero(down):
            middle = sqrt(s * down)
            between = (middle / s) * y + (1.0 - middle / s) * output
            output = D(between, middle)
        y = (down / s) * y + (1.0 - down / s) * output
        if not is_zero(up):
            y = y + inflate * up * noise()
        yield y
