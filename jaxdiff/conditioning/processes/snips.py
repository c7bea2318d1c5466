r"""SNIPS: solving noisy inverse problems stochastically (Kawar et al. 2021, arXiv 2105.14951).

Annealed Langevin dynamics of the posterior, in the coordinates of A = U S V^T, where the state's
noise is drawn to agree with the measurement's. With x = V^T y, the score t = V^T (D - y)/s^2 and
u = U^T of the measurement of noise n, the gradient and the step size of a coordinate are (eq. 9 and
algorithm 1)

    S_i = 0          t_i                                            c s^2
    s S_i < n        t_i + S_i (u_i - S_i x_i)/(n^2 - s^2 S_i^2)    c s^2 (1 - s^2 S_i^2/n^2)
    s S_i > n        S_i (u_i - S_i x_i)/(s^2 S_i^2 - n^2)          c (s^2 - n^2/S_i^2)

and x <- x + step gradient + sqrt(2 step) z. Where s S_i = n the step is 0.
"""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp

from jaxdiff.arrays import expand
from jaxdiff.conditioning.corrections.null_space import basis_of, scalar_noise, seen_as
from jaxdiff.conditioning.operators import Measurement
from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_zero
from jaxdiff.typing import Array


def snips(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    measurement: Measurement,
    num_inner: int = 3,
    step: float = 0.1,
) -> Iterator[State]:
    """SNIPS (arXiv 2105.14951, algorithm 1), for :func:`jaxdiff.sampling.direct.direct`.

    ``num_inner`` steps of Langevin dynamics at each level after the first but a last 0, where the
    state is denoised: so many evaluations and draws per step.

    Args:
        measurement: of a linear operator with a decomposition, one noise for all it measures.
        num_inner: steps at every level. step: c, positive. The paper has 3 and 3.3e-6 s^2/s_L^2,
            s_L the lowest of 500 levels; the default is for grids of tens of levels.

    Raises:
        TypeError, ValueError: for another measurement, no steps, or a step that is not positive.
    """
    if num_inner < 1 or not step > 0:
        raise ValueError(f"snips needs num_inner >= 1 and a positive step, not {num_inner}, {step}")
    basis = basis_of(measurement, "snips")
    for s in levels[1:]:
        if is_zero(s):
            y = D(y, levels[-2])
            yield y
            return
        for _ in range(num_inner):
            state, output = value(y), value(D(y, s))
            x, level = basis.coordinates(state), expand(s, state)
            score = basis.coordinates(output - state) / level**2
            gradient, size = _direction(measurement, x, score, level, state)
            size = step * size
            drawn = value(noise()).reshape(x.shape)
            y = seen_as(y, basis.sample(x + size * gradient + jnp.sqrt(2 * size) * drawn))
        yield y


def _direction(
    measurement: Measurement, x: Array, score: Array, level: Array, like: Array
) -> tuple[Array, Array]:
    """Return gradients and step sizes over c of coordinates, (batch, n) and (1 or batch, n)."""
    basis = basis_of(measurement, "snips")
    values = basis.values(like)
    noise = scalar_noise(measurement, like, "snips")
    apart = values * (basis.observed(measurement.rows(like)) - values * x)
    gap = noise**2 - (level * values) ** 2  # positive below the measurement's noise
    pull = jnp.where(gap == 0, 0, apart / jnp.where(gap == 0, 1, jnp.abs(gap)))
    seen = values > 0
    gradient = jnp.where(gap >= 0, score, 0) + jnp.where(seen, pull, 0)
    gradient = jnp.where(seen, gradient, score)
    low = level**2 * gap / jnp.where(noise > 0, noise, 1) ** 2
    high = -gap / jnp.where(seen, values, 1) ** 2
    return gradient, jnp.where(seen, jnp.where(gap > 0, low, high), level**2)
