r"""Denoising in the null space of an operator, DDNM (Wang et al. 2022, arXiv 2212.00490).

What a measurement u = A x0 determines of a sample is taken from it, the rest from the model,

    D' = D + A^+ (u - A D)          (eq. 13),      so that A D' = u,

under any sampler; the paper's is DDPM. DDNM+ is for measurements with noise, in the
coordinates of A = U S V^T, for the step from level s to r (section 3.3, general form in appendix I;
as in the authors' code with eta and eps = (y - D)/s):

    D' = D - V l V^T A^+ (A D - u),     y_r = D' + V (d z + e V^T eps),
    r >= noise/S > 0     l = 1,                             d^2 = r^2 - noise^2/S^2,  e = 0
    r < noise/S          l = S r sqrt(1 - eta^2)/noise,     d = eta r,                e = 0
    noise or S is 0      l = 1,                             d = eta r,  e = r sqrt(1 - eta^2)

so that with what the measurement's noise adds every coordinate has the noise of level r.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.arrays import check, expand
from jaxdiff.conditioning.operators import Basis, Measurement
from jaxdiff.conditioning.operators.linear import CUTOFF
from jaxdiff.conditioning.operators.measurement import linear_of
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.checks import as_states
from jaxdiff.solvers.ancestral import check_eta
from jaxdiff.solvers.held import Held, value
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, root
from jaxdiff.typing import Array, Cond, Denoiser


def ddnm(denoiser: Denoiser, measurement: Measurement) -> Partial:
    """Return the denoiser that agrees with a measurement without noise (arXiv 2212.00490, eq. 13).

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: of a linear operator with a decomposition, its noise 0.

    Raises:
        TypeError: for what is no measurement of a linear operator.
        ValueError: for one with noise, or whose operator has no decomposition.
    """
    linear_of(measurement, "ddnm").svd  # noqa: B018 - its error now
    quiet = lambda v: not np.any(v)  # noqa: E731
    check("ddnm is for measurements without noise: see ddnm_plus", quiet, measurement.noise)
    return Partial(_ddnm, as_partial(denoiser), measurement)


def _ddnm(
    denoiser: Partial, measurement: Measurement, y: Array, level: Array, cond: Cond = None,
    **options: Any,
) -> Array:  # fmt: skip
    output = as_states(denoiser(y, level, cond, **options), y)
    return output + linear_of(measurement, "ddnm").pseudo_inverse(measurement.residual(output))


def scalar_noise(measurement: Measurement, like: Array, name: str) -> Array:
    """Return a measurement's noise, (1 or batch, 1), in the dtype of states. ValueError, naming the
    method, for noise of each number measured, which has no place in the operator's own coordinates.
    """
    noise = measurement.noise
    if noise.ndim not in (0, len(measurement.operator.measured) + 1):
        raise ValueError(f"{name} takes one noise for all that is measured, or one for each sample")
    return measurement.deviation(like).reshape(-1, 1)


def basis_of(measurement: Measurement, name: str) -> Basis:
    """Return the decomposition of a measurement's linear operator, errors naming the method."""
    return linear_of(measurement, name).svd


def seen_as(state: State, array: Array) -> State:
    """Return an array as a solver holds states."""
    return Held(array) if isinstance(state, Held) else array  # type: ignore[return-value]


def ddnm_plus(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    measurement: Measurement,
    eta: float = 0.85,
) -> Iterator[State]:
    """DDNM+, for measurements with noise (arXiv 2212.00490, section 3.3): for
    :func:`jaxdiff.sampling.direct.direct`.

    One evaluation and one draw per step.

    Args:
        measurement: of a linear operator with a decomposition, one noise for all it measures.
        eta: in [0, 1], of the noise that is fresh.

    Raises:
        TypeError, ValueError: for another measurement, or eta outside [0, 1].
    """
    check_eta("ddnm_plus", eta)
    operator, kept = linear_of(measurement, "ddnm_plus"), float(root(1 - eta * eta))
    basis = operator.svd
    for s, r in pairwise(levels):
        state, output = value(y), value(D(y, s))
        deviation = scalar_noise(measurement, state, "ddnm_plus")
        values, r = basis.values(state), expand(r, state)
        seen = values > CUTOFF * jnp.max(values)  # as A^+ has it
        own = jnp.where(seen, deviation / jnp.where(seen, values, 1), 0)  # noise of A^+ u
        noisy = own > 0
        above = noisy & (r >= own)
        part = jnp.where(noisy & ~above, r * kept / jnp.where(noisy, own, 1), 1)
        fresh = jnp.where(above, root(jnp.where(above, r**2 - own**2, 0)), eta * r)
        residual = measurement.residual(output)
        apart = basis.coordinates(operator.pseudo_inverse(residual))
        eps = basis.coordinates((state - output) / expand(s, state))
        drawn = basis.coordinates(value(noise()))
        moved = part * apart + fresh * drawn + jnp.where(noisy, 0, kept * r) * eps
        y = seen_as(y, output + basis.sample(moved))
        yield y
