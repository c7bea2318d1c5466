"""Ancestral sampling: a deterministic step to a lower level than wanted, then noise up to it.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import jax.numpy as jnp

from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_zero, sqrt
from jaxdiff.solvers.singlestep import dpm2_step


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
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    eta: float = 1.0,
    inflate: float = 1.0,
    clip: float | None = None,
) -> Iterator[State]:
    """DDIM with noise eta (arXiv 2010.02502, eq. 12 and 16); eta 1 is DDPM's small variance, eta 0
    is Euler.

    In this frame it is the Euler ancestral sampler. One draw per step that adds noise: all but one
    to level 0, and none for eta 0.

    Args:
        eta: 0 to 1. inflate: factor of the noise.
        clip: clip D to [-clip, clip] but keep the eps of the unclipped D, as published code does
            for images, so that the two no longer add up to the state. Not linear: run it by
            :func:`jaxdiff.sampling.direct.direct`. To clip D altogether see
            :mod:`jaxdiff.conditioning.threshold`.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"ddim needs 0 <= eta <= 1, not {eta}")
    for s, r in pairwise(levels):
        down, up = ancestral_levels(s, r, eta)
        output = D(y, s)
        eps = (y - output) / s
        y = y + (down - s) * eps if clip is None else jnp.clip(output, -clip, clip) + down * eps
        if not is_zero(up):
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
