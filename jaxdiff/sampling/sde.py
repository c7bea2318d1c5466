"""Stochastic solvers, as they stand in their papers, in the frame y = x0 + s eps.

The generators take one more argument than those of :mod:`jaxdiff.sampling.ode`: ``noise``, a
function whose every call gives a new standard normal vector. Each documents how many it draws, and
in which order.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from jaxdiff.sampling.ode import (
    D,
    State,
    check_order,
    differences,
    dpm2_step,
    heun_step,
    weighted,
)
from jaxdiff.sampling.scalar import Scalar, exp, expm1, is_zero, log, phi, sqrt

Noise = Callable[[], State]


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


def ddim(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, eta: float = 1.0, inflate: float = 1.0
) -> Iterator[State]:
    """DDIM with noise eta (arXiv 2010.02502, eq. 12 and 16); eta 1 is DDPM's small variance, eta 0
    is Euler.

    In this frame it is the Euler ancestral sampler. ``inflate`` scales the noise. One draw per step
    that adds noise: all but one to level 0, and none for eta 0.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"ddim needs 0 <= eta <= 1, not {eta}")
    for s, r in pairwise(levels):
        down, up = ancestral_levels(s, r, eta)
        y = y + (down - s) * ((y - D(y, s)) / s)
        if not is_zero(up):
            y = y + inflate * up * noise()
        yield y


def dpm2_ancestral(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, eta: float = 1.0, inflate: float = 1.0
) -> Iterator[State]:
    """DPM-Solver-2's midpoint step to the lower level, then noise (ancestral form of k-diffusion).

    Two evaluations per step, one in a step to level 0. Draws as in :func:`ddim`.
    """
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
    """
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


def sde_dpmpp(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    order: int = 2,
    eta: float = 1.0,
    inflate: float = 1.0,
    second: str = "midpoint",
    reference: bool = False,
) -> Iterator[State]:
    """SDE-DPM-Solver++ multistep (arXiv 2211.01095, section 5): the data-predicting reverse SDE.

    With h the step in -log level and z = -(1 + eta) h,

        y_r = (r/s) e^(-eta h) y + (1 - e^z) M + second and third order terms in D's derivatives
            + r sqrt(1 - e^(-2 eta h)) noise.

    eta 0 is the ODE, 1 the reverse SDE. One draw per step that does not end at level 0 (none for
    eta 0).

    Args:
        order: 1 to 3.
        second: at order 2, weight of h M': "midpoint" has (1 - e^z)/2, "exact" the integral itself.
        reference: at order 3, h^2 M'' without its factor 2, as in all published code.
    """
    check_order("sde_dpmpp", order, "data")
    if second not in ("midpoint", "exact"):
        raise ValueError(f"sde_dpmpp has second 'midpoint' and 'exact', not {second!r}")
    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        output = D(y, s)
        if is_zero(r):
            yield output
            return
        history = [(-log(s), output), *history][:order]
        h = log(s) - log(r)
        z = -(1.0 + eta) * h
        derivatives = differences(h, history, reference)
        weights = [-expm1(z), *((-z) * phi(k, z) for k in range(2, len(derivatives) + 1))]
        if order == 2 and len(derivatives) == 2 and second == "midpoint":
            weights[1] = -expm1(z) / 2
        y = (r / s) * exp(-eta * h) * y + weighted(weights, derivatives)
        if eta > 0:
            y = y + inflate * r * sqrt(-expm1(-2.0 * eta * h)) * noise()
        yield y


def sde_dpmpp_2s(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    eta: float = 1.0,
    inflate: float = 1.0,
    ratio: float = 0.5,
) -> Iterator[State]:
    """SDE-DPM-Solver++ single-step of order 2, as in k-diffusion's dpmpp_sde.

    An ancestral first-order step to the level s^(1 - ratio) r^ratio, then one over the whole step
    with the output extrapolated from both. Two evaluations per step, one in a step to level 0; two
    draws per step (middle, then end).
    """
    fraction = 1.0 / (2.0 * ratio)
    for s, r in pairwise(levels):
        output = D(y, s)
        if is_zero(r):
            yield output
            return
        middle = s ** (1 - ratio) * r**ratio
        down, up = ancestral_levels(s, middle, eta)
        between = (down / s) * y + (1.0 - down / s) * output
        if eta > 0:
            between = between + inflate * up * noise()
        output = (1.0 - fraction) * output + fraction * D(between, middle)
        down, up = ancestral_levels(s, r, eta)
        y = (down / s) * y + (1.0 - down / s) * output
        if eta > 0:
            y = y + inflate * up * noise()
        yield y


def ddpm(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, variance: str = "small"
) -> Iterator[State]:
    """DDPM ancestral sampling (arXiv 2006.11239): the posterior q(y_r | y_s, x0 = D).

    Its mean is (r/s)^2 y + (1 - (r/s)^2) D, its variance the posterior's own, r^2 (s^2 - r^2)/s^2
    ("small"), or that of q(x_s | x_r) in the variance-preserving frame, which is (s^2 - r^2)
    (1 + r^2)/(1 + s^2) in this one ("large"). One draw per step that does not end at level 0.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"ddpm has variances 'small' and 'large', not {variance!r}")
    for s, r in pairwise(levels):
        keep = (r / s) * (r / s)
        y = keep * y + (1.0 - keep) * D(y, s)
        if not is_zero(r):
            width = r / s if variance == "small" else sqrt((1.0 + r * r) / (1.0 + s * s))
            y = y + (width * sqrt((s - r) * (s + r))) * noise()
        yield y


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


def consistency(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, smallest: float = 0.0
) -> Iterator[State]:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1): denoise, return to the next
    level, repeat.

    Meant for a consistency model, whose D maps to the end of the trajectory, at level ``smallest``;
    the noise that returns to level r has variance r^2 - smallest^2. One draw per step not ending at
    level 0.
    """
    for s, r in pairwise(levels):
        y = D(y, s)
        if not is_zero(r):
            y = y + sqrt((r - smallest) * (r + smallest)) * noise()
        yield y
