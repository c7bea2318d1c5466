r"""Solvers that put the measurement into x0 and noise it again: for :func:`jaxdiff.direct`.

DAPS (Zhang et al., arXiv 2407.01521, algorithm 1), from level s to r:

    x' = the flow from y to level 0, a few Euler steps
    x0 ~ p(x0 | x', u), proportional to N(x0; x', s^2 I) p(u | x0)
    y_r = x0 + r e

ReSample (Song et al., arXiv 2307.08123, algorithm 1), at every few steps, y' the DDIM step:

    x = argmin |u - A(x)|^2 from D,    g = gamma r^2 (s^2 - r^2)
    y_r ~ N((g x + r^2 y')/(g + r^2), g r^2/(g + r^2) I)

Both are solvers: ``direct(D, daps, levels, start, key=key, measurement=seen)``.
"""

import functools
from collections.abc import Iterator, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.arrays import expand
from jaxdiff.conditioning.operators.linear import Linear
from jaxdiff.conditioning.operators.measurement import Measurement, checked
from jaxdiff.conditioning.posterior.energy import slope
from jaxdiff.conditioning.posterior.parts import check_iterations, dot, gain, over
from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_zero
from jaxdiff.solvers.steps import euler_step
from jaxdiff.typing import Array


def daps(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    *,
    measurement: Measurement,
    num_ode_steps: int = 5,
    num_langevin: int = 100,
    step: float | None = None,
) -> Iterator[State]:
    """Decoupled annealing posterior sampling (arXiv 2407.01521).

    ``num_ode_steps`` evaluations per step. One draw per step and one more unless it is to level 0;
    with Langevin dynamics ``num_langevin`` in place of the first.

    Args:
        measurement: with noise.
        num_ode_steps: Euler steps of the flow from a level to 0, uniform in level^(1/7).
        num_langevin: steps of Langevin dynamics.
        step: their size, the paper's way for any operator. None, for a linear operator with a
            decomposition and one noise for a sample, draws from what they lead to.

    Raises:
        ValueError: for a measurement without noise, or one that needs a step and has none.
    """
    checked(measurement, "daps", noisy=True)
    check_iterations("daps", num_ode_steps)
    check_iterations("daps", num_langevin)
    if step is None and not _drawable(measurement):
        raise ValueError("daps needs step=, of Langevin dynamics, for this measurement")
    if step is not None and not step > 0:
        raise ValueError(f"daps needs a positive step, not {step}")
    for s, r in pairwise(levels):
        x = y
        for a, b in pairwise(_to_zero(s, num_ode_steps)):
            x = euler_step(D, x, a, b)
        if step is None:
            x0 = _drawn(measurement, value(x), jnp.asarray(s), value(noise()))
        else:
            x0 = value(x)
            for _ in range(num_langevin):
                x0 = _langevin(measurement, value(x), x0, jnp.asarray(s), step, value(noise()))
        y = x0 if is_zero(r) else x0 + r * value(noise())
        yield y


def resample(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    *,
    measurement: Measurement,
    every: int = 10,
    gamma: float = 40.0,
    num_iterations: int = 100,
    step: float | None = None,
) -> Iterator[State]:
    """ReSample, of samples or of latents (arXiv 2307.08123), DDIM's step between.

    One evaluation per step, one draw at every ``every``-th step, not to level 0.

    Args:
        measurement: of any operator; of latents, of the operator after the decoder.
        every: steps from one resampling to the next, the last step is one.
        gamma: 40 of the paper.
        num_iterations: of gradient descent on f = |u - A(x)|^2/2.
        step: their size. None, for a linear operator with a decomposition, takes its minimum
            nearest to D; for others f/|grad f|^2, Polyak's step to a minimum of 0, in place of the
            paper's optimiser with momentum.

    Raises:
        ValueError: for a gamma or step that is not positive, or fewer than one iteration.
    """
    checked(measurement, "resample")
    check_iterations("resample", every)
    check_iterations("resample", num_iterations)
    if not gamma > 0 or (step is not None and not step > 0):
        raise ValueError(f"resample needs a positive gamma and step; got {gamma}, {step}")
    count, state = len(levels) - 1, value(y)
    for i, (s, r) in enumerate(pairwise(levels), 1):
        output = value(D(state, s))
        state = output + (r / s) * (state - output)
        if i % every == 0 or i == count:
            x = _consistent(measurement, output, num_iterations, step)
            if is_zero(r):
                state = x
            else:
                g, r2 = gamma * r**2 * (s**2 - r**2), r**2
                state = (g * x + r2 * state) / (g + r2)
                state = state + (g * r2 / (g + r2)) ** 0.5 * value(noise())
        yield state


def _drawable(measurement: Measurement) -> bool:
    A, each = measurement.operator, (0, 1 + len(measurement.operator.measured))
    return isinstance(A, Linear) and A.basis is not None and measurement.noise.ndim in each


def _to_zero(level: Scalar, count: int) -> list[Scalar]:
    return [level * float(share) for share in np.linspace(1, 0, count + 1) ** 7]


@jax.jit
def _drawn(measurement: Measurement, x: Array, level: Array, e: Array) -> Array:
    """Return a draw of N(x0; x, s^2 I) N(u; A x0, noise^2 I), normalised, with normal numbers e."""
    basis = measurement.operator.svd  # type: ignore[union-attr]
    s2 = level.astype(x.dtype) ** 2
    mean = x + gain(measurement, s2, measurement.residual(x))
    noise = measurement.deviation(x).reshape(-1, 1) ** 2
    variance = s2 * noise / (s2 * basis.values(x) ** 2 + noise)
    return mean + basis.sample(jnp.sqrt(variance) * e.reshape(e.shape[0], -1))


@jax.jit
def _langevin(
    measurement: Measurement, centre: Array, x: Array, level: Array, step: Array, e: Array
) -> Array:
    h, s2 = jnp.asarray(step, x.dtype), level.astype(x.dtype) ** 2
    g = slope(Partial(measurement.log_likelihood), x) - (x - centre) / s2
    return x + h * g + jnp.sqrt(2 * h) * e


@functools.partial(jax.jit, static_argnums=2)
def _descended(measurement: Measurement, x: Array, count: int, step: Array | None) -> Array:
    def misfit(x: Array) -> tuple[Array, Array]:
        each = 0.5 * dot(r := measurement.residual(x), r).reshape(-1)
        return jnp.sum(each), each

    def move(_: Array, x: Array) -> Array:
        g, each = jax.grad(misfit, has_aux=True)(x)
        if step is None:
            return x - over(expand(each, x), dot(g, g)) * g
        return x - jnp.asarray(step, x.dtype) * g

    return jax.lax.fori_loop(0, count, move, x)


def _consistent(measurement: Measurement, x: Array, count: int, step: float | None) -> Array:
    """Return a sample near x that fits the measurement."""
    A = measurement.operator
    if step is None and isinstance(A, Linear) and A.basis is not None:
        return x + A.pseudo_inverse(measurement.residual(x))
    return _descended(measurement, x, count, None if step is None else jnp.asarray(step))
