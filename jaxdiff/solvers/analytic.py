"""Variances of the reverse step: learned, optimal on average, optimal for every element.

All samplers here step from level s to r with the mean of DDIM with noise eta (DDPM for eta = 1),

    mean = D + down (y - D)/s,    (down, up) = ancestral_levels(s, r, eta),

whose own variance is up^2. That is too small: x0 is not known but has a posterior. The variance
that minimises the divergence from the true reverse step is

    up^2 + (s - down)^2 V,    V = Var[eps | y] = Var[x0 | y]/s^2 = dD/dy.

Analytic-DPM (arXiv 2201.06503, theorem 1) takes one V per level, the mean over elements and states,
1 - E|eps_hat|^2/d with eps_hat = (y - D)/s. Extended Analytic-DPM (arXiv 2206.07309) has a head of
the network give V for every element of every state; Improved DDPM (arXiv 2102.09672) has one give
the whole variance. A head makes the step nonlinear: run these by
:func:`jaxdiff.sampling.direct.direct` with a denoiser that returns a pair.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.prediction import as_partial
from jaxdiff.solvers.ancestral import ancestral_levels
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_traced, is_zero, root, sqrt
from jaxdiff.typing import Array, Cond, Denoiser, Key

HEADS = ("npr", "sn")


def ddpm_learned(D: Any, y: State, levels: Sequence[Scalar], noise: Noise) -> Iterator[State]:
    """DDPM with a learned variance, large^v small^(1 - v) (arXiv 2102.09672, eq. 15).

    "small" and "large" are those of :func:`jaxdiff.solvers.ancestral.ddpm`. Run it by ``direct``.
    One draw per step that does not end at level 0.

    Args:
        D: returns the pair (x0, v), both of the shape of y. v lies in [0, 1]; published networks
            give 2 v - 1.
    """
    for s, r in pairwise(levels):
        output, v = D(y, s)
        keep = (r / s) * (r / s)
        y = keep * y + (1.0 - keep) * output
        if not is_zero(r):
            small = (r / s) * sqrt((s - r) * (s + r))
            ratio = (s / r) * sqrt((1.0 + r * r) / (1.0 + s * s))
            y = y + small * ratio**v * noise()
        yield y


def analytic_dpm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    moments: Sequence[Scalar] | Callable[[Scalar], Scalar] = (),
    eta: float = 1.0,
    bound: float | None = None,
    clip: float | None = None,
) -> Iterator[State]:
    """Analytic-DPM (arXiv 2201.06503): DDPM (eta 1) or DDIM (eta 0) with the optimal variance.

    Linear, so it becomes a table. One draw per step that does not end at level 0.

    Args:
        moments: E|eps_hat|^2/d at the level that each step starts from, one per step, or a function
            of the level; :func:`second_moments` estimates them.
        eta: 0 to 1.
        bound: the data lie in [-bound, bound], so that Var[x0 | y] <= bound^2 (1 for images).
        clip: largest mean absolute noise per element of the last step that has noise. The paper
            has 4/255 for DDPM and 2/255 for DDIM on images in [-1, 1].
    """
    check_eta(eta)
    if not callable(moments) and len(moments) != len(levels) - 1:
        raise ValueError(
            f"analytic_dpm needs the second moment of eps at every level that a step starts from: "
            f"{len(levels) - 1} numbers, not {len(moments)} (see second_moments)"
        )
    for i, (s, r) in enumerate(pairwise(levels)):
        down, up = ancestral_levels(s, r, eta)
        y = D(y, s) if is_zero(r) else (down / s) * y + (1.0 - down / s) * D(y, s)
        if not is_zero(r):
            moment = moments(s) if callable(moments) else moments[i]
            most = 1.0 if bound is None else (bound / s) ** 2
            variance = clamp(1.0 - moment, 0.0, most)
            width = root(up * up + (s - down) * (s - down) * variance)
            y = y + clipped(width, clip, levels, i) * noise()
        yield y


def extended_analytic_dpm(
    D: Any,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    head: str = "npr",
    eta: float = 1.0,
    clip: float | None = None,
) -> Iterator[State]:
    """Extended Analytic-DPM (arXiv 2206.07309, eq. 9 and 13): a variance for every element.

    Run it by ``direct``. One draw per step that does not end at level 0.

    Args:
        D: returns the pair (x0, h), both of the shape of y.
        head: what h predicts: "npr" E[(eps - eps_hat)^2 | y], which is optimal for an imperfect
            eps_hat too, or "sn" E[eps^2 | y].
        eta: 0 to 1. clip: as for :func:`analytic_dpm`.
    """
    check_eta(eta)
    if head not in HEADS:
        raise ValueError(f"extended_analytic_dpm has heads 'npr' and 'sn', not {head!r}")
    for i, (s, r) in enumerate(pairwise(levels)):
        output, h = D(y, s)
        down, up = ancestral_levels(s, r, eta)
        eps = (y - output) / s
        y = output if is_zero(r) else output + down * eps
        if not is_zero(r):
            variance = jnp.maximum(h if head == "npr" else h - eps * eps, 0.0)
            width = root(up * up + (s - down) * (s - down) * variance)
            y = y + clipped(width, clip, levels, i) * noise()
        yield y


def second_moments(
    denoiser: Denoiser,
    data: Array,
    levels: Sequence[float] | np.ndarray,
    key: Key,
    cond: Cond = None,
) -> tuple[float, ...]:
    """E|eps_hat|^2/d at every level but the last, by Monte Carlo: one noise per item and level.

    Args:
        denoiser: ``D(y, level, cond)``.
        data: (n, *shape) clean data, evaluated as one batch; average the results of several.
        levels: the grid that :func:`analytic_dpm` is to run on.
        key: typed key.
        cond: handed to the denoiser, for all of ``data``.
    """
    D = as_partial(denoiser)
    starts = [jnp.asarray(s, data.dtype) for s in levels[:-1]]
    return tuple(
        float(_second_moment(D, data, s, jax.random.fold_in(key, i), cond))
        for i, s in enumerate(starts)
    )


@jax.jit
def _second_moment(D: Denoiser, data: Array, level: Array, key: Key, cond: Cond) -> Array:
    y = data + level * jax.random.normal(key, data.shape, data.dtype)
    return jnp.mean(((y - D(y, level, cond)) / level) ** 2)


def clipped(width: Any, clip: float | None, levels: Sequence[Scalar], step: int) -> Any:
    """The width of the noise, of the last noisy step no more than mean absolute noise ``clip``."""
    last = len(levels) - 2 - is_zero(levels[-1])
    if clip is None or step != last:
        return width
    return clamp(width, 0.0, clip * (math.pi / 2) ** 0.5)  # E|z| = sqrt(2/pi)


def clamp(x: Any, low: Any, high: Any) -> Any:
    """The number (or every element) nearest to x within [low, high]."""
    traced = is_traced(x) or is_traced(high)
    return jnp.minimum(jnp.maximum(x, low), high) if traced else min(max(x, low), high)


def check_eta(eta: float) -> None:
    """Complain about an amount of noise outside [0, 1]."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1]; it is {eta}")
