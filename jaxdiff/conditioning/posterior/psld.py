r"""Posterior sampling in a latent space: DPS through the decoder, with latents glued to pictures.

    E(z0) = ||u - A dec(z0)|| + gamma/omega ||z0 - enc(A^T u + (I - A^T A) dec(z0))||,
    y_r = step(y) - omega grad_y E(D(y, s))

(PSLD, Rout et al., arXiv 2307.00619: norms, not their squares, as in its code.)
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check
from jaxdiff.conditioning.operators.measurement import Measurement, linear_of
from jaxdiff.conditioning.posterior.energy import as_function, energy
from jaxdiff.conditioning.posterior.parts import norm, per_step
from jaxdiff.typing import Array, Denoiser


def psld(
    denoiser: Denoiser,
    measurement: Measurement,
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    levels: Sequence[float] | Array,
    step: float | Array = 1.0,
    gluing: float | Array = 0.1,
    eta: float = 1.0,
) -> Partial:
    """Posterior sampling with a latent model (arXiv 2307.00619), for :func:`jaxdiff.solvers.ddim`.

    Args:
        denoiser: ``D(z, level, cond)`` of latents.
        measurement: of pictures, by a linear operator.
        encode, decode: pictures (batch, *shape) to latents, and back, differentiable.
        levels: the grid it is sampled on.
        step: omega, of the data. gluing: gamma, of the latents' fixed point.
        eta: of the solver.

    Raises:
        ValueError: for a step that is not positive, or a negative gluing.
    """
    linear_of(measurement, "psld")
    check("step must be positive", lambda a: (a > 0).all(), step)
    check("gluing must not be negative", lambda a: (a >= 0).all(), gluing)
    parts = as_function(encode, "encode"), as_function(decode, "decode")
    loss = Partial(_loss, measurement, *parts, jnp.asarray(gluing) / jnp.asarray(step))
    return energy(denoiser, loss, per_step(step, levels, eta))


def _loss(
    measurement: Measurement, encode: Partial, decode: Partial, ratio: Array, z0: Array
) -> Array:
    A, picture = linear_of(measurement), decode(z0)
    residual = measurement.residual(picture)
    glued = encode(picture + A.transpose(residual))  # A^T u + (I - A^T A) picture
    if glued.shape != z0.shape:
        raise ValueError(f"encode makes latents {glued.shape} of pictures; they are {z0.shape}")
    return norm(residual) + ratio.astype(z0.dtype) * norm(z0 - glued)
