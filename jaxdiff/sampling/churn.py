"""Going back up in noise: a deterministic sampler made stochastic by raising the level at times.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from jaxdiff.sampling.scalar import D, Noise, Scalar, State, sqrt
from jaxdiff.sampling.singlestep import heun_step


def churn(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    step: Callable[[D, State, Scalar, Scalar], State] = heun_step,
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
        gamma = min(amount / steps, 2.0**0.5 - 1.0) if low <= s <= high else 0.0
        if gamma > 0:
            y = y + (inflate * s * sqrt(gamma * (2.0 + gamma))) * z
        y = step(D, y, (1.0 + gamma) * s, r)
        yield y
