"""EDM's stochastic sampler (Karras et al. 2022, arXiv 2206.00364): up a little, then down.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.scalar import D, Noise, Scalar, State, between, is_traced, root
from jaxdiff.solvers.steps import Step, heun_step


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
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        step: the deterministic step, ``heun_step``, ``euler_step`` or ``dpm2_step``.
        amount: S_churn.
        low, high: S_tmin, S_tmax.
        inflate: S_noise.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for a negative amount.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364, algorithm 2.
    """
    if not is_traced(amount) and not amount >= 0:
        raise ValueError(f"churn needs an amount of at least 0, not {amount}")
    num_steps = len(levels) - 1
    for s, r in pairwise(levels):
        z = noise()
        gamma = min(amount / num_steps, 2.0**0.5 - 1.0) * between(s, low, high)
        if is_traced(gamma) or gamma > 0:
            y = y + (inflate * s * root(gamma * (2.0 + gamma))) * z
        y = step(D, y, (1.0 + gamma) * s, r)
        yield y
