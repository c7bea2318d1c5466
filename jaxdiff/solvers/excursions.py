"""Going back up in noise: a deterministic sampler made stochastic by raising the level at times.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import jax

from jaxdiff.solvers.scalar import D, Noise, Scalar, State, between, is_traced, root, sqrt
from jaxdiff.solvers.singlestep import heun_step

Step = Callable[[D, State, Scalar, Scalar], State]


def churn(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    step: Step = heun_step,
    amount: float = 40.0,
    low: float = 0.05,
    high: float = 50.0,
    inflate: float = 1.003,
) -> Iterator[State]:
    """EDM's stochastic sampler (arXiv 2206.00364, algorithm 2): raise the noise level a little,
    then step down.

    At levels within [low, high] the level grows by the factor 1 + min(amount/steps, sqrt(2) - 1)
    before the step. One draw per step, also where nothing is added. The defaults are the paper's
    for ImageNet-64.

    Args:
        step: the deterministic step, ``heun_step``, ``euler_step`` or ``dpm2_step``.
        amount: S_churn. low, high: S_tmin, S_tmax. inflate: S_noise.
    """
    steps = len(levels) - 1
    for s, r in pairwise(levels):
        z = noise()
        gamma = min(amount / steps, 2.0**0.5 - 1.0) * between(s, low, high)
        if is_traced(gamma) or gamma > 0:
            y = y + (inflate * s * root(gamma * (2.0 + gamma))) * z
        y = step(D, y, (1.0 + gamma) * s, r)
        yield y


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
    level ``high`` and the ODE is solved back over a grid of ``steps`` steps, uniform in
    level^(1/rho). One draw per repeat. With Heun's method on a grid of N steps that ends in 0 the
    evaluations are 2 N - 1 plus 2 steps for every repeat.

    Args:
        intervals: rows (low, high, repeats, steps), carried out in this order where two share a
            level of the grid. Published lists give ``steps + 1`` points instead. The default is
            the paper's for CIFAR-10 (VP, N = 18: 43 evaluations).
        inflate: factor of the noise; 1.003 in the paper for ImageNet-64.
        step: the deterministic step.

    Raises:
        ValueError: for an interval that is empty on this grid, fewer than one repeat or step, or
            levels whose values are not known (traced by jit).
    """
    jumps: dict[int, list[tuple[float, int, int]]] = {}
    for low, high, repeats, steps in intervals:
        i, snapped = nearest(levels, low)
        if not (snapped < high and repeats >= 1 and steps >= 1):
            raise ValueError(
                f"restart needs rows (low, high, repeats, steps) with high above the level of the "
                f"grid nearest to low (here {snapped:.4g}) and repeats, steps >= 1; "
                f"not {(low, high, repeats, steps)}"
            )
        jumps.setdefault(i, []).append((high, repeats, steps))
    for i, (s, r) in enumerate(pairwise(levels), 1):
        y = step(D, y, s, r)
        for high, repeats, steps in jumps.get(i, ()):
            for _ in range(repeats):
                y = y + (inflate * sqrt((high - r) * (high + r))) * noise()
                for a, b in pairwise(knots(high, r, steps, rho)):
                    y = step(D, y, a, b)
        yield y


def nearest(levels: Sequence[Scalar], low: float) -> tuple[int, float]:
    """Which level after the first, 0 excepted, is nearest to ``low``, and its value."""
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


def knots(high: Scalar, low: Scalar, steps: int, rho: float) -> list[Scalar]:
    """Levels from ``high`` to ``low``, both exact, uniform in level^(1/rho)."""
    first, last = high ** (1 / rho), low ** (1 / rho)
    middle = [(first + i / steps * (last - first)) ** rho for i in range(1, steps)]
    return [high, *middle, low]
