"""Derivatives of a network along a trajectory, and what is done to tame them.

A map f(y, t) that is constant along trajectories has df/dt = 0, with the total derivative
df/dt = (d f/dy) dy/dt + df/dt: one ``jax.jvp`` of the network. Its value and its derivative come
out of one call; the derivative is held fixed in the loss.

Trap: ``stop_gradient`` inside a function kills its forward derivative too; it belongs on results.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import expand
from jaxdiff.distance import norm
from jaxdiff.typing import Array


def along(
    f: Callable[..., Array], primals: Sequence[Array], tangents: Sequence[Any]
) -> tuple[Array, Array]:
    """Return the value of f and its derivative along the tangents, which is held fixed. Matrix
    products
    at full precision: a GPU's short ones make derivatives useless.
    """
    with jax.default_matmul_precision("highest"):
        value, rate = jax.jvp(f, tuple(primals), tuple(tangents))
    return value, jax.lax.stop_gradient(rate)


def warmup(step: Array, num_updates: int) -> Array:
    """min(1, step/steps), traced, float32; 1 for no steps (arXiv 2410.11081, section 4.1)."""
    if num_updates <= 0:
        return jnp.ones((), jnp.float32)
    return jnp.minimum(step.astype(jnp.float32) / num_updates, 1.0)


def normalised(g: Array, c: float = 0.1, per_number: bool = False) -> Array:
    """g/(|g| + c) per sample (arXiv 2410.11081, section 4.1); ``per_number`` takes the root mean
    square in place of the norm, which does not depend on the dimension.
    """
    size = norm(g)
    if per_number:
        size = size / float(g[0].size) ** 0.5
    return g / (expand(size, g) + c)


def adaptive(error: Array, power: float, c: float) -> Array:
    """Return the error times sg(error + c)^-power, per sample: the loss |.|^(2 - 2 power) by a
    fixed weight (arXiv 2505.13447, section 4.3; the error is squared).
    """
    return error * jax.lax.stop_gradient((error + c) ** -power)
