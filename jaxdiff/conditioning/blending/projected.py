r"""Adaptive projected guidance, APG (Sadat et al. 2024, arXiv 2410.02416).

What guidance adds along the conditional output makes pictures oversaturated. With the difference
of the two outputs d = D_c - D_u, averaged over the steps (momentum b) and no longer than r,

    d <- d + b d',    d <- d min(1, r/|d|),    d = d_par + d_orth,    d_par along D_c,
    D = D_c + (w - 1) (d_orth + eta d_par),

norms and projections being of each sample's own.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check
from jaxdiff.brief import Changed
from jaxdiff.conditioning.blending.pairs import blended, inner, norm, ratio, two_outputs
from jaxdiff.conditioning.weights import Weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import D, Scalar, State
from jaxdiff.typing import Array, Cond, Denoiser


def projected_update(
    difference: Array, conditional: Array, eta: Array | float, largest: Array | float
) -> Array:
    """Return d_orth + eta d_par of a difference (batch, *shape) clipped to the norm ``largest``."""
    size = norm(difference)
    clipped = difference * jnp.where(size > largest, ratio(largest, size), 1)
    along = ratio(inner(clipped, conditional), inner(conditional, conditional)) * conditional
    return clipped - along + eta * along


def adaptive_projected(
    denoiser: Denoiser,
    weight: Weight,
    null: Cond = None,
    *,
    eta: float | Array = 0.0,
    largest: float | Array = 15.0,
    prediction: str = "x0",
) -> Partial:
    """APG without momentum (arXiv 2410.02416, algorithm 1), which is a function of one state.

    With momentum it is a solver, :func:`adaptive_projected_ddim`.

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        weight: a number, (batch,), or a function of the level; 1 is the conditional model.
        null: as for :func:`jaxdiff.guidance.classifier_free`.
        eta: of the parallel part; 1 without a bound on the norm is plain guidance.
        largest: r, positive, in units of a whole sample's norm; ``inf`` for no bound. The paper has
            15 for Stable Diffusion XL and 2.5 for EDM2.
        prediction: what is projected; the paper's choice is the denoised output.

    Raises:
        ValueError: for a norm that is not positive, or an unknown prediction.
    """
    check("the largest norm must be positive", lambda r: (r > 0).all(), largest)
    return blended(_projected, denoiser, weight, null, prediction, eta, largest)


def _projected(towards: Array, plain: Array, weight: Array, eta: Array, largest: Array) -> Array:
    return towards + (weight - 1) * projected_update(towards - plain, towards, eta, largest)


def both_outputs(denoiser: Denoiser, null: Cond = None) -> Partial:
    """Return ``D(y, level, cond) -> (D_c, D_u)``, for solvers that blend them themselves."""
    return Changed(_both, as_partial(denoiser), null)


def _both(
    denoiser: Partial, null: Cond, y: Array, level: Array, cond: Cond = None, **options: Any
) -> tuple[Array, Array]:
    return two_outputs(denoiser, y, level, cond, null, options)


def adaptive_projected_ddim(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    weight: Weight = 5.0,
    eta: float = 0.0,
    largest: float = 15.0,
    momentum: float = -0.5,
) -> Iterator[State]:
    """DDIM under APG with momentum (arXiv 2410.02416, algorithm 1): for
    :func:`jaxdiff.sampling.direct.direct` and :func:`both_outputs`. One evaluation of both a step.

    Args:
        weight, eta, largest: as for :func:`adaptive_projected`.
        momentum: of the running average of differences, of size below 1; the paper has -0.5.

    Raises ValueError for a momentum of 1 or beyond, or a norm that is not positive.
    """
    check("the momentum must be within (-1, 1)", lambda b: abs(b) < 1, momentum)
    check("the largest norm must be positive", lambda r: r > 0, largest)
    average = None
    for s, r in pairwise(levels):
        both: Any = D(y, s)
        towards, plain = map(value, both)
        difference = towards - plain
        average = difference if average is None else difference + momentum * average
        scale = weight_at(weight, s, towards) - 1
        guided = towards + scale * projected_update(average, towards, eta, largest)
        y = y + (r - s) * ((y - guided) / s)
        yield y
