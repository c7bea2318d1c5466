"""Restart sampling (Xu et al. 2023, arXiv 2306.14878): far back up in noise, and down again.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import jax

from jaxdiff.solvers.scalar import D, Noise, Scalar, State, sqrt
from jaxdiff.solvers.steps import Step, heun_step


def restart(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    intervals: Sequence[tuple[float, float, int, int]] = ((0.14, 0.30, 2, 2),),
    inflate: float = 1.0,
    step: Step = heun_step,
    rho: float = 7.0,
) -> Iterator[State]:
    """Restart sampling (arXiv 2306.14878, algorithm 1): at chosen levels go far back up, and solve
    down again, several times.

    Having reached the level of the grid nearest to ``low``, ``repeats`` times: noise is added up to
    level ``high`` and the ODE is solved back over a grid of ``num_steps`` steps, uniform in
    level^(1/rho). One draw per repeat. With Heun's method on a grid of N steps that ends in 0 the
    evaluations are 2 N - 1 plus 2 steps for every repeat.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        intervals: rows (low, high, repeats, steps), carried out in this order where two share a
            level of the grid. Published lists give ``num_steps + 1`` points instead. The default is
            the paper's for CIFAR-10 (VP, N = 18: 43 evaluations).
        inflate: factor of the noise; 1.003 in the paper for ImageNet-64.
        step: the deterministic step.
        rho: of the grids that are solved back over.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an interval that is empty on this grid, fewer than one repeat or step, or
            levels whose values are not known (traced by jit).

    Source: Xu et al., Restart Sampling for Improving Generative Processes, arXiv 2306.14878,
    algorithm 1.
    """
    jumps: dict[int, list[tuple[float, int, int]]] = {}
    for low, high, repeats, num_steps in intervals:
        i, snapped = nearest(levels, low)
        if not (snapped < high and repeats >= 1 and num_steps >= 1):
            raise ValueError(
                f"restart needs rows (low, high, repeats, steps) with high above the level of the "
                f"grid nearest to low (here {snapped:.4g}) and repeats, steps >= 1; "
                f"not {(low, high, repeats, num_steps)}"
            )
        jumps.setdefault(i, []).append((high, repeats, num_steps))
    for i, (s, r) in enumerate(pairwise(levels), 1):
        y = step(D, y, s, r)
        for high, repeats, num_steps in jumps.get(i, ()):
            for _ in range(repeats):
                y = y + (inflate * sqrt((high - r) * (high + r))) * noise()
                for a, b in pairwise(knots(high, r, num_steps, rho)):
                    y = step(D, y, a, b)
        yield y


def nearest(levels: Sequence[Scalar], low: float) -> tuple[int, float]:
    """Return which level after the first, 0 excepted, is nearest to ``low``, and its value."""
    try:
        known = [float(jax.lax.stop_gradient(s)) for s in levels]
    except jax.errors.ConcretizationTypeError as error:
        raise ValueError(
            "restart chooses among the levels by their values, so under jit they must be constants"
        ) from error
    inner = [i for i in range(1, len(known)) if known[i] > 0]
    if not inner:
        raise ValueError("restart needs a grid with a positive level after the first")
    i = min(inner, key=lambda i: abs(known[i] - low))
    return i, known[i]


def knots(high: Scalar, low: Scalar, num_steps: int, rho: float) -> list[Scalar]:
    """Levels from ``high`` to ``low``, both exact, uniform in level^(1/rho)."""
    first, last = high ** (1 / rho), low ** (1 / rho)
    middle = [(first + i / num_steps * (last - first)) ** rho for i in range(1, num_steps)]
    return [high, *middle, low]
