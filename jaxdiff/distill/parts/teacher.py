"""Steps and roll-outs of a frozen teacher.

Levels are one per sample, (batch,), so that every sample of a batch may be anywhere on its
trajectory.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.arrays import expand
from jaxdiff.solvers.steps import heun_step
from jaxdiff.typing import Array

SolverStep = Callable[..., Array]  # solver_step(D, y, s, r), which evaluates D first at (y, s)


def advance(
    D: Callable[[Array, Array], Array],
    y: Array,
    s: Array,
    r: Array,
    solver_step: SolverStep = heun_step,
) -> Array:
    """Make one solver step of a denoiser from levels s to r, (batch,) each; no gradient. To level
    0 it is D(y, s) for every solver: those that evaluate the end, too, cannot do so there.
    """
    outputs = []

    def recorded(y: Array, s: Array) -> Array:
        outputs.append(D(y, s.reshape(-1)))
        return outputs[-1]

    inner = r > 0
    lower = jnp.where(inner, r, 0.5 * s)  # any lower level: the result is not used
    out = solver_step(recorded, y, expand(s, y), expand(lower, y))
    if outputs:
        out = jnp.where(expand(inner, y).astype(bool), out, outputs[0])
    else:  # a step that needs no denoiser, the exact flow, can end at 0
        out = solver_step(recorded, y, expand(s, y), expand(r, y))
    return jax.lax.stop_gradient(out)


def rollout(
    D: Callable[[Array, Array], Array], y: Array, levels: Array, solver_step: SolverStep = heun_step
) -> Array:
    """States (K + 1, batch, *shape) at levels (K + 1, batch) of K solver steps from ``y``; no
    gradient. A step between equal levels leaves the state as it is.
    """

    def body(y: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        s, r = ends
        still = expand(s == r, y)
        lower = jnp.where(s == r, 0.5 * s, r)  # any lower level: the result is not used
        y = jnp.where(still.astype(bool), y, advance(D, y, s, lower, solver_step))
        return y, y

    _, path = jax.lax.scan(body, y, (levels[:-1], levels[1:]))
    return jax.lax.stop_gradient(jnp.concatenate([y[None], path]))
