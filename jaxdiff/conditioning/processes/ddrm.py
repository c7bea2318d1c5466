r"""Denoising diffusion restoration models, DDRM (Kawar et al. 2022, arXiv 2201.11793).

In the coordinates of the operator's decomposition A = U S V^T, with x = V^T y, x0 = V^T D and the
measurement u_i = (U^T u)_i/S_i of noise n_i = noise/S_i, a step from level s to r draws (eq. 7, 8)

    start            S_i > 0    N(u_i, s^2 - n_i^2),   else N(0, s^2)
    S_i = 0                     N(x0 + sqrt(1 - eta^2) r (x - x0)/s,      eta^2 r^2)
    r < n_i                     N(x0 + sqrt(1 - eta^2) r (u_i - x0)/n_i,  eta^2 r^2)
    r >= n_i                    N((1 - eta_b) x0 + eta_b u_i,             r^2 - eta_b^2 n_i^2)

A process of its own, in which what is measured well is known from the beginning.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import jax.numpy as jnp

from jaxdiff.arrays import expand
from jaxdiff.conditioning.corrections.null_space import basis_of, scalar_noise, seen_as
from jaxdiff.conditioning.operators import Measurement
from jaxdiff.solvers.ancestral import check_eta
from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, root
from jaxdiff.typing import Array


def ddrm_start(start: Array, level: float, measurement: Measurement) -> Array:
    """Return the start of DDRM of one of the model, states (batch, *shape) of level times noise.

    A coordinate that is measured with more noise than the level starts as one that is not seen.

    Raises TypeError, ValueError as :func:`ddrm`.
    """
    basis = basis_of(measurement, "ddrm")
    seen, target, own = observed(measurement, start)
    x, s = basis.coordinates(start), jnp.asarray(level, start.dtype)
    known = seen & (own <= s)
    return basis.sample(jnp.where(known, target + root(1 - (own / s) ** 2) * x, x))


def observed(measurement: Measurement, like: Array) -> tuple[Array, Array, Array]:
    """Return which coordinates are seen (1, n), u_i (batch, n) and n_i (1 or batch, n)."""
    basis = basis_of(measurement, "ddrm")
    values = basis.values(like)
    seen = values > 0
    safe = jnp.where(seen, values, 1)
    own = jnp.where(seen, scalar_noise(measurement, like, "ddrm") / safe, 0)
    return seen, jnp.where(seen, basis.observed(measurement.rows(like)) / safe, 0), own


def ddrm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    measurement: Measurement,
    eta: float = 0.85,
    eta_b: float = 1.0,
    eta_c: float | None = None,
) -> Iterator[State]:
    """DDRM (arXiv 2201.11793), for :func:`jaxdiff.sampling.direct.direct`, from
    :func:`ddrm_start`. One evaluation and one draw per step, in the operator's coordinates.

    Args:
        measurement: of a linear operator with a decomposition, one noise for all it measures.
        eta: in [0, 1], of coordinates that are not seen, or whose noise is above the level.
        eta_b: in [0, 1], of the others. The paper has 0.85 and 1.
        eta_c: in [0, 1], of coordinates that are not seen where these are to have one of their own,
            which the paper has not and its authors' code has.

    Raises:
        TypeError, ValueError: for another measurement, or numbers outside [0, 1].
    """
    check_eta("ddrm", eta)
    check_eta("ddrm", eta_b)
    unseen = eta if eta_c is None else eta_c
    check_eta("ddrm", unseen)
    basis = basis_of(measurement, "ddrm")
    for s, r in pairwise(levels):
        state, output = value(y), value(D(y, s))
        seen, target, own = observed(measurement, state)
        x, x0 = basis.coordinates(state), basis.coordinates(output)
        s, r = expand(s, state), expand(r, state)
        above = seen & (r >= own)
        fresh = jnp.where(seen, eta, unseen).astype(x.dtype)
        towards = jnp.where(seen, (target - x0) / jnp.where(own > 0, own, 1), (x - x0) / s)
        mean = jnp.where(
            above, (1 - eta_b) * x0 + eta_b * target, x0 + root(1 - fresh**2) * r * towards
        )
        spread = jnp.where(above, root(jnp.where(above, r**2 - (eta_b * own) ** 2, 0)), fresh * r)
        drawn = value(noise()).reshape(x.shape)
        y = seen_as(y, basis.sample(mean + spread * drawn))
        yield y
