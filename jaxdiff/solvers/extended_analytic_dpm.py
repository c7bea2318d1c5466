"""Extended Analytic-DPM (Bao et al. 2022, arXiv 2206.07309): an optimal variance per element.

The steps of :mod:`jaxdiff.solvers.analytic_dpm`, with V of every element of every state from a head
of the network. That makes the step nonlinear: run it by :func:`jaxdiff.sampling.direct.direct` with
a denoiser that returns a pair.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import jax.numpy as jnp

from jaxdiff.solvers.analytic_dpm import clipped
from jaxdiff.solvers.ancestral import ancestral_levels, check_eta
from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import Noise, Scalar, State, is_zero, root

D = Callable[..., tuple[State, State]]


HEADS = ("npr", "sn")


def extended_analytic_dpm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    head: str = "npr",
    eta: float = 1.0,
    clip: float | None = None,
) -> Iterator[State]:
    """Extended Analytic-DPM (arXiv 2206.07309, eq. 9 and 13): a variance for every element.

    Run it by ``direct``. One draw per step that does not end at level 0.

    Args:
        D: returns the pair (x0, h), both of the shape of y.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        head: what h predicts: "npr" E[(eps - eps_hat)^2 | y], which is optimal for an imperfect
            eps_hat too, or "sn" E[eps^2 | y].
        eta: 0 to 1.
        clip: as for :func:`analytic_dpm`.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for another head.

    Source: Bao et al., Estimating the Optimal Covariance with Imperfect Mean in Diffusion
    Probabilistic Models, arXiv 2206.07309, equations 9 and 13.
    """
    check_eta("extended_analytic_dpm", eta)
    if head not in HEADS:
        raise ValueError(f"extended_analytic_dpm has heads 'npr' and 'sn', not {head!r}")
    for i, (s, r) in enumerate(pairwise(levels)):
        output, h = D(y, s)
        down, up = ancestral_levels(s, r, eta)
        eps = (y - output) / s
        y = output if is_zero(r) else output + down * eps
        if not is_zero(r):
            variance = jnp.maximum(value(h if head == "npr" else h - eps * eps), 0.0)
            width = root(up * up + (s - down) * (s - down) * variance)
            y = y + clipped(width, clip, levels, i) * noise()
        yield y
