"""Parts of AMED and EPD: evaluations at learned levels inside a step.

An intermediate level of a step from level s to r is m = r^a s^(1 - a) and its slope is
(z - D(z, t m))/m: the network is conditioned on t m, a level moved by the time factor t. Numbers
are floats or traced scalars, and on arrays also JAX arrays of one number per sample, shaped (batch,
1, ...) to multiply a state; D is then given levels (batch,).
"""

from collections.abc import Sequence
from typing import TypeAlias, TypeGuard

import jax.numpy as jnp
import numpy as np

from jaxdiff.solvers.scalar import D, Scalar, State, is_traced

PerStep: TypeAlias = Scalar | Sequence[Scalar] | np.ndarray  # one number for all, or one per step


def intermediate_level(s: Scalar, r: Scalar, ratio: Scalar) -> Scalar:
    """Return the level between s and r at a ratio of the step in log level."""
    return r**ratio * s ** (1 - ratio)


def denoised_inside(D: D, z: State, m: Scalar, time: Scalar) -> State:
    """D(z, time m) of a state at level m, which may be one number per sample."""
    level = time * m
    return D(z, jnp.reshape(level, -1) if np.ndim(level) else level)


def inner_slope(D: D, z: State, m: Scalar, time: Scalar) -> State:
    """Return the slope (z - D(z, time m))/m at a state of level m."""
    return (z - denoised_inside(D, z, m, time)) / m


def check_ratios(ratios: Sequence[Scalar]) -> None:
    """Raise ValueError for an intermediate level that is not inside its step."""
    for a in ratios:
        if not is_traced(a) and not 0 < a < 1:
            raise ValueError(
                f"the ratio of an intermediate level must lie within (0, 1); one is {a}"
            )


def is_number(option: object) -> TypeGuard[Scalar]:
    """Return whether an option is one number rather than several."""
    return not isinstance(option, (list, tuple)) and np.ndim(option) == 0  # type: ignore[arg-type]
