r"""Editing by deterministic paths: up with one model or condition, down with another.

Dual diffusion implicit bridges (Su et al. 2203.08382): the probability-flow ODE of the source takes
a sample to its latent, that of the target takes the latent to its own sample.

Controlled flows (RF-inversion, Rout et al. 2410.10792, eq. 8 and 15) blend the flow's own velocity
with the one that leads straight to a given end. The frame is affine in D, and both are denoisers:

    down, towards a picture x    D' = (1 - a) D + a x
    up, towards a noise n        D' = (1 - a) D + a (y - s n)
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import expand
from jaxdiff.conditioning.corrections.replacement import rows_like
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.inversion import invert
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Cond, Denoiser, Solver


def translate(
    source: Denoiser,
    target: Denoiser,
    solver: Solver,
    levels: Sequence[float] | np.ndarray | Array,
    data: Array,
    cond_source: Cond = None,
    cond_target: Cond = None,
    **options: Any,
) -> Array:
    """Translate data by a latent (DDIB, arXiv 2203.08382, algorithm 1).

    Args:
        source, target: denoisers of the two; the same with two conditions is an edit by DDIM
            inversion.
        solver, options: deterministic, run up and down.
        levels: its decreasing grid; the last is positive, data being taken for states there.
        data: (batch, *shape).
        cond_source, cond_target: handed to each.

    Raises:
        ValueError, TypeError: as :func:`jaxdiff.sampling.inversion.invert`.
    """
    latent = invert(source, solver, levels, data, cond_source, **options)
    start = latent * jnp.asarray(levels[0], latent.dtype)
    return sample(target, table(solver, levels, **options), start, cond_target)


def towards_picture(denoiser: Denoiser, picture: ArrayLike, strength: Weight) -> Partial:
    """Return the denoiser whose paths lead to a picture (RF-inversion, arXiv 2410.10792, eq. 15).

    Args:
        denoiser: ``D(y, level, cond)`` of the edit.
        picture: (*shape) of all samples, or (batch, *shape).
        strength: the paper's eta, 0 for the model alone and 1 for the picture; a number, (batch,),
            or a function of the level (:func:`jaxdiff.conditioning.weights.interval` is 1 outside
            of its interval). The paper has 0.9 in the first quarter of the steps, then 0.

    Raises ValueError, when called, for a picture of another shape.
    """
    return Partial(_to_picture, as_partial(denoiser), jnp.asarray(picture), as_weight(strength))


def _to_picture(
    denoiser: Partial, picture: Array, strength: Any, y: Array, level: Array, cond: Cond = None,
    **options: Any,
) -> Array:  # fmt: skip
    own, share = denoiser(y, level, cond, **options), weight_at(strength, level, y)
    return own + share * (rows_like(picture, y, "a picture") - own)


def towards_noise(denoiser: Denoiser, noise: ArrayLike, strength: Weight) -> Partial:
    """Return the denoiser whose paths up lead to a noise (RF-inversion, arXiv 2410.10792, eq. 8).

    Args:
        denoiser: ``D(y, level, cond)``, usually without a condition.
        noise: (*shape) or (batch, *shape), standard normal.
        strength: the paper's gamma, 0 for the model's own inversion; it has 0.5.

    Raises ValueError, when called, for a noise of another shape.
    """
    return Partial(_to_noise, as_partial(denoiser), jnp.asarray(noise), as_weight(strength))


def _to_noise(
    denoiser: Partial, noise: Array, strength: Any, y: Array, level: Array, cond: Cond = None,
    **options: Any,
) -> Array:  # fmt: skip
    own, share = denoiser(y, level, cond, **options), weight_at(strength, level, y)
    return own + share * (y - expand(level, y) * rows_like(noise, y, "a noise") - own)
