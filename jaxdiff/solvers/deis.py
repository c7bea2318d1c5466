"""DEIS (Zhang and Chen 2022, arXiv 2204.13902): exponential integrator multistep.

In this frame y_r = y_s + int_s^r eps ds', with eps interpolated over the last few steps in the time
of a VP process or in the log level.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

from jaxdiff.solvers.orders import check_order, step_order
from jaxdiff.solvers.quadrature import lagrange_integrals
from jaxdiff.solvers.scalar import D, Scalar, State, exp, expm1, is_zero, log, sqrt, weighted


def deis(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    order: int = 4,
    variable: Literal["time", "log_level"] = "time",
    low: float = 0.002,
    high: float = 80.0,
    smallest: float = 1e-3,
    lower_final: bool = False,
) -> Iterator[State]:
    """DEIS (arXiv 2204.13902): eps interpolated in a variable u of the level.

        y_r = y_s + sum_j eps_j int (d level/du) l_j(u) du

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        order: number of past evaluations; 4 is the paper's tAB3.
        variable: "time", the paper's tAB: u is the time of a linear VP process, level^2 = exp(b_d
            u^2/2 + b_min u) - 1, with b_d, b_min such that u runs from ``smallest`` to 1 over the
            levels [low, high] (the grid :func:`jaxdiff.grids.vp_time`); its published code has the
            integral by a sum of 10 000 points, right to about 1e-5. "log_level": u is the log of
            the level, which is the exact form of DPM-Solver multistep with noise prediction, and
            what diffusers calls DEIS. The level itself, the paper's rho-AB, is :func:`lms`.
        low, high, smallest: of "time".
        lower_final: lower the order in the last steps (order 1 in the last).

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for another variable, an order that it does not have, or levels and a time out
            of range.

    Source: Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator, arXiv
    2204.13902.
    """
    check_order("deis", order, None)
    if variable not in ("time", "log_level"):
        raise ValueError(f"deis interpolates in 'time' or 'log_level', not {variable!r}")
    if not (0 < low < high and 0 < smallest < 1):
        raise ValueError(
            f"deis needs 0 < low < high, and a smallest time within (0, 1); got {low}, {high} and "
            f"{smallest}"
        )
    time, rate = _vp_time(low, high, smallest) if variable == "time" else (log, exp)
    history: list[tuple[Scalar, State]] = []
    for i, (s, r) in enumerate(pairwise(levels)):
        history = [(time(s), (y - D(y, s)) / s), *history][:order]
        used = history[: step_order(i, len(levels) - 1, order, lower_final)]
        if len(used) == 1 or is_zero(r):
            y = y + (r - s) * history[0][1]
        else:
            weights = lagrange_integrals([u for u, _ in used], time(s), time(r), rate)
            y = y + weighted(weights, [eps for _, eps in used])
        yield y


def _vp_time(low: float, high: float, smallest: float) -> tuple[Callable, Callable]:
    """Time u of a level in the linear VP process of :func:`deis`, and d level/du."""
    slope = 2 * (log(1 + low**2) / smallest - log(1 + high**2)) / (smallest - 1)
    offset = log(1 + high**2) - slope / 2

    def time(s: Scalar) -> Scalar:
        return (sqrt(offset**2 + 2 * slope * log(1 + s * s)) - offset) / slope

    def rate(u: Scalar) -> Scalar:
        squared = expm1(slope * u * u / 2 + offset * u)
        return (slope * u + offset) * (squared + 1.0) / (2 * sqrt(squared))

    return time, rate
