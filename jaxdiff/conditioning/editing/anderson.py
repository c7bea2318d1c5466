r"""Accelerated iterative diffusion inversion, AIDI (Pan et al. 2023, arXiv 2309.04907).

The implicit Euler step up, Y = f(Y) = y + (r - s) eps(Y, r), is a fixed point
(:func:`jaxdiff.sampling.inversion.fixed_point` iterates it). Anderson's acceleration combines the
last m iterates so that their residuals cancel best (section 3.2),

    Y <- sum_i a_i f(Y_i),     a = argmin |sum_i a_i (f(Y_i) - Y_i)|,   sum_i a_i = 1,

for every sample by itself, and takes a few evaluations a step where plain iteration takes many.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import einsum
from jaxdiff.sampling.checks import check_start
from jaxdiff.sampling.direct import execute
from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import D, Scalar, State, check_levels, is_zero
from jaxdiff.solvers.steps import eps_prediction
from jaxdiff.typing import Array, Cond, Denoiser


def anderson_invert(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray | Array,
    data: Array,
    cond: Cond = None,
    *,
    iterations: int = 5,
    memory: int = 2,
) -> Array:
    """Latents z = y_T/s_T of data by implicit Euler steps up: exact inverses of DDIM's steps down.

    Args:
        denoiser: ``D(y, level, cond)``.
        levels: the sampler's decreasing grid; the last is positive, and data are states there.
        data: (batch, *shape), float32 or float64.
        cond: handed to the denoiser.
        iterations: evaluations for each step, at least 1. memory: m, iterates combined, at least 1,
            which is plain iteration; the paper has few of both.

    Raises:
        ValueError: for such numbers below 1, or a grid that ends in 0.
    """
    if iterations < 1 or memory < 1:
        raise ValueError(f"iterations and memory must be at least 1, not {iterations}, {memory}")
    knots = check_levels(levels)
    if is_zero(knots[-1]):
        raise ValueError("inversion starts at a positive level: leave out the final 0")
    check_start(data, None)

    def upwards(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
        for s, r in pairwise(levels):
            y = _fixed(D, value(y), s, r, iterations, memory)
            yield y

    states = execute(denoiser, upwards, knots[::-1], data, cond, None, None, None, {})
    return states / jnp.asarray(knots[0], states.dtype)


def _fixed(D: D, y: Array, s: Scalar, r: Scalar, iterations: int, memory: int) -> Array:
    found: Any = y
    images, residuals = [], []
    for _ in range(iterations):
        image: Any = y + (r - s) * eps_prediction(D, found, r)
        images, residuals = [*images, image][-memory:], [*residuals, image - found][-memory:]
        weights = _weights(jnp.stack([x.reshape(len(y), -1) for x in residuals], axis=1))
        shape = (-1, *(1,) * (y.ndim - 1))
        found = sum(weights[:, i].reshape(shape) * x for i, x in enumerate(images))
    return found


def _weights(residuals: Array) -> Array:
    """Return the weights (batch, m), summing to 1, of least residuals (batch, m, d)."""
    gram = einsum("bmd,bnd->bmn", residuals, residuals)
    size = jnp.trace(gram, axis1=1, axis2=2)[:, None, None]
    small = jnp.where(size == 0, 1, 10 * jnp.finfo(gram.dtype).eps * size)
    ones = jnp.ones((*gram.shape[:2], 1), gram.dtype)
    solved = jnp.linalg.solve(gram + small * jnp.eye(gram.shape[1], dtype=gram.dtype)[None], ones)
    return (solved / solved.sum(1, keepdims=True))[..., 0]
