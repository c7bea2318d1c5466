"""Sampling with consistency models: jump to the data, return to a lower level, jump again.

A consistency function f(y, s) maps a state to the end of its trajectory. It stands here where other
solvers have a denoiser: a consistency model made by ``denoiser(..., sigma_min=...)``, or one that
keeps a noise-predicting network's own boundary condition, made by :func:`latent_consistency`.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.prediction import as_partial, expand
from jaxdiff.process import Process, level, time
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_traced, is_zero, root
from jaxdiff.typing import Array, Cond, Denoiser


def consistency(
    D: D, y: State, levels: Sequence[Scalar], noise: Noise, smallest: float = 0.0
) -> Iterator[State]:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1): denoise, return to the next
    level, repeat.

    Meant for a consistency function, whose trajectories end at level ``smallest``; the noise that
    returns to level r has variance r^2 - smallest^2. One draw per step not ending there. With the
    function of :func:`latent_consistency` it is the sampler of latent consistency models (arXiv
    2310.04378, algorithm 3).
    """
    last = levels[-1]
    if not (0 <= smallest and (is_traced(last) or is_zero(last) or smallest <= last)):
        raise ValueError(f"levels end at {last}, but a trajectory at smallest = {smallest}")
    for s, r in pairwise(levels):
        y = D(y, s)
        if is_traced(r) or r > smallest:
            y = y + root((r - smallest) * (r + smallest)) * noise()
        yield y


def tcd(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    gamma: float = 0.3,
    lower: Sequence[Scalar] | None = None,
) -> Iterator[State]:
    """Strategic stochastic sampling of trajectory consistency models (arXiv 2402.19159, algorithm
    4): jump below the next level, then noise up to it.

        y_r = D + lower (y - D)/s + sqrt(r^2 - lower^2) z,    lower at time (1 - gamma) t_r.

    gamma 0 is Euler's method (DDIM), gamma 1 multistep consistency sampling. One draw per step with
    lower < r.

    Args:
        gamma: share of noise, 0 to 1; published code calls it eta.
        lower: the levels to jump to, one per step, each at most the level that the step ends at.
            By default time is the level itself, so that lower = (1 - gamma) r; for another process
            they are ``earlier_levels(process, levels, gamma)``.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"tcd needs 0 <= gamma <= 1, not {gamma}")
    targets = [(1.0 - gamma) * r for r in levels[1:]] if lower is None else list(lower)
    if len(targets) != len(levels) - 1:
        raise ValueError(f"lower needs one level per step, {len(levels) - 1}; not {len(targets)}")
    for (s, r), q in zip(pairwise(levels), targets, strict=True):
        if not (is_traced(q) or is_traced(r) or 0 <= q <= r):
            raise ValueError(f"a step to level {r} cannot go lower by way of level {q}")
        y = (q / s) * y + (1.0 - q / s) * D(y, s)
        if is_traced(q) or q < r:
            y = y + root((r - q) * (r + q)) * noise()
        yield y


def earlier_levels(
    process: Process, levels: Sequence[float] | np.ndarray, gamma: float
) -> list[float]:
    """Levels at (1 - gamma) of the times at which a process has the given levels, the first left
    out: the option ``lower`` of :func:`tcd`. float64 on the host.
    """
    with jax.enable_x64(True):
        times = time(process, np.asarray(levels[1:], np.float64))
        return [float(s) for s in np.asarray(level(process, (1.0 - gamma) * times))]


def latent_consistency(
    denoiser: Denoiser,
    process: Process,
    sigma_data: float = 0.5,
    scaling: float = 10.0,
    steps: int = 1000,
) -> jax.tree_util.Partial:
    """The consistency function of a latent consistency model (arXiv 2310.04378, eq. 9).

        f = c_skip x + c_out D,    x = alpha y,    u = scaling (steps t - 1),
        c_skip = sigma_data^2/(u^2 + sigma_data^2),    c_out = u/sqrt(u^2 + sigma_data^2)

    with t the process's time, so that steps t - 1 is the index in a table of ``steps``.
    """
    return jax.tree_util.Partial(
        _latent_consistency, as_partial(denoiser), process, sigma_data, scaling, steps
    )


def _latent_consistency(
    denoiser: Denoiser,
    process: Process,
    sigma_data: float,
    scaling: float,
    steps: int,
    y: Array,
    level: Array,
    cond: Cond = None,
) -> Array:
    t = time(process, jnp.asarray(level, y.dtype))
    u = scaling * (steps * t - 1.0)
    norm = u * u + sigma_data**2
    skip, out = process.alpha(t) * sigma_data**2 / norm, u / jnp.sqrt(norm)
    return expand(skip, y) * y + expand(out, y) * denoiser(y, level, cond)
