"""Predictor-corrector sampling (Song et al., arXiv 2011.13456, algorithms 2 and 4) and Langevin
dynamics.

A predictor step takes the state from level s to r; Langevin steps at level r then move it towards
that level's marginal,

    y <- y + step * score + sqrt(2 step) z,    score = (D(y, r) - y)/r^2,
    step = 2 (snr |z|/|score|)^2.

The score is -eps/r, and both |eps| and |z| are about sqrt(d), so that |z|/|score| is about r:

    step = 2 (snr r)^2,    y <- y + 2 snr^2 (D - y) + 2 snr r z,

which is linear in the states and is the default. On N(0, v) data its stationary variance is
w/(1 - step/(2 w)), w = v + r^2, instead of w.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import jax.numpy as jnp

from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_zero, sqrt
from jaxdiff.typing import Array

PREDICTORS = ("reverse", "ancestral", "none")


def predictor_corrector(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    predictor: str = "reverse",
    corrector_steps: int = 1,
    snr: float = 0.16,
    measured: bool = False,
) -> Iterator[State]:
    """Predictor-corrector sampling of the variance-exploding SDE.

    A step to level 0 is the predictor's mean, the denoised output, and is not corrected. One draw
    per predictor step (none for "none" and to level 0), then one per corrector step. 1 +
    corrector_steps evaluations per step; with "none" those of the corrector, and one to level 0.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        predictor: "reverse" for reverse diffusion, noise of variance s^2 - r^2; "ancestral" for the
            posterior's variance r^2 (s^2 - r^2)/s^2 (both have the mean of DDPM); "none" for
            annealed Langevin dynamics (arXiv 1907.05600), whose step size there is 4 (snr level)^2.
        corrector_steps: Langevin steps per level.
        snr: r in the paper.
        measured: the paper's own step with the norms of the actual noise and score, of each sample
            by itself (the paper averages them over the batch). Meant for data of many dimensions: a
            step that depends on the state and on its own noise is biased, by little at hundreds of
            dimensions and badly at a few. Not linear: run it by
            :func:`jaxdiff.sampling.direct.direct`.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for another predictor, fewer than 0 corrector steps or an snr that is not
            positive.

    Source: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations,
    arXiv 2011.13456.
    """
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor is one of {', '.join(PREDICTORS)}; not {predictor!r}")
    if corrector_steps < 0 or not snr > 0:
        raise ValueError(
            f"need corrector_steps >= 0 and snr > 0; these are {corrector_steps} and {snr}"
        )
    for s, r in pairwise(levels):
        if is_zero(r):
            y = D(y, s)
        elif predictor != "none":
            width = sqrt((s - r) * (s + r)) * (1.0 if predictor == "reverse" else r / s)
            keep = (r / s) * (r / s)
            y = keep * y + (1.0 - keep) * D(y, s) + width * noise()
        for _ in range(0 if is_zero(r) else corrector_steps):
            y = langevin_step(D, y, r, snr, noise(), measured)
        yield y


def langevin_step(D: D, y: State, r: Scalar, snr: float, z: State, measured: bool = False) -> State:
    """One step of Langevin dynamics at level r, with noise z."""
    move = D(y, r) - y  # r^2 times the score
    if not measured:
        return y + 2.0 * snr * snr * move + (2.0 * snr * r) * z
    pace = 2.0**0.5 * snr * r * (norm(z) / norm(move))  # sqrt(step)/r
    return y + pace * pace * move + (2.0**0.5 * r * pace) * z


def norm(x: State) -> Array:
    """Each sample's Euclidean norm, of shape (batch, 1, ...); not zero."""
    array = value(x)
    squares = jnp.sum(array * array, axis=tuple(range(1, array.ndim)), keepdims=True)
    return jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny))
