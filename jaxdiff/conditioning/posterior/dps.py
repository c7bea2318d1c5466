r"""Diffusion posterior sampling: the gradient of the misfit of the denoised state.

    DPS    y_r = step(y) - zeta grad_y ||u - A(D(y, s))||        Chung et al., arXiv 2209.14687
    MCG    y_r = step(y) - zeta grad_y ||A^+ (u - A D(y, s))||^2  Chung et al., arXiv 2206.00941

DPS's zeta_i = zeta/||u - A D|| times the gradient of the squared norm is half the gradient of the
norm; zeta here multiplies the gradient of the norm, as in implementations. MCG is completed by a
projection of the states on the measurement, a correction.

Both put all of p(x0 | y) on its mean, and are exact for no prior. The papers step in x_t = alpha y,
where a gradient step of zeta is one of zeta/(alpha_r alpha_s) here.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check, fixed
from jaxdiff.conditioning.operators.measurement import Measurement, checked, linear_of
from jaxdiff.conditioning.posterior.energy import energy
from jaxdiff.conditioning.posterior.parts import dot, norm, over, per_step
from jaxdiff.typing import Array, Denoiser


def dps(
    denoiser: Denoiser,
    measurement: Measurement,
    levels: Sequence[float] | Array,
    step: float | Array = 1.0,
    eta: float = 1.0,
    *,
    reference: bool = False,
) -> Partial:
    """DPS on a grid (arXiv 2209.14687, algorithm 1), for :func:`jaxdiff.solvers.ddim`.

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: of any operator; its noise does not enter.
        levels: the grid it is sampled on.
        step: zeta; about 1 for linear operators, 0.3 to 0.4 for others.
        eta: of the solver; the paper's ancestral sampler is 1.
        reference: divide by the norm over the whole batch, as published code does when it is given
            one: samples then depend on their batch.

    Raises:
        ValueError: for a step that is not positive.
    """
    checked(measurement, "dps")
    check("step must be positive", lambda z: (z > 0).all(), step)
    norm = fixed(_misfit, whole=reference)
    return energy(denoiser, Partial(norm, measurement), per_step(step, levels, eta))


def mcg(
    denoiser: Denoiser,
    measurement: Measurement,
    levels: Sequence[float] | Array,
    step: float | Array = 1.0,
    eta: float = 1.0,
) -> Partial:
    """The gradient of manifold constrained gradients on a grid (arXiv 2206.00941).

    Arguments as of :func:`dps`; the operator is linear and has a decomposition.
    """
    checked(measurement, "mcg")
    check("step must be positive", lambda z: (z > 0).all(), step)
    _ = linear_of(measurement).svd
    return energy(denoiser, Partial(_pseudo_misfit, measurement), per_step(step, levels, eta))


def _misfit(measurement: Measurement, x0: Array, *, whole: bool) -> Array:
    """Return ||u - A(x0)||, its gradient 0 where it is 0."""
    r = measurement.residual(x0)
    if whole:  # sum_i |r_i|^2/(2 |r|): the gradient of the norm over the batch
        size = dot(r, r).reshape(-1)
        total = jnp.sqrt(jax.lax.stop_gradient(jnp.sum(size)))
        return over(size, jnp.broadcast_to(2 * total, size.shape))
    return norm(r)


def _pseudo_misfit(measurement: Measurement, x0: Array) -> Array:
    r: Any = linear_of(measurement).pseudo_inverse(measurement.residual(x0))
    return dot(r, r).reshape(-1)
