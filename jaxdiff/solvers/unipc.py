"""UniPC (Zhao et al. 2023, arXiv 2302.04867): a predictor, and a corrector that costs nothing.

Both integrate an interpolation of D or eps in lambda = -log s against its exponential exactly, as
in :mod:`jaxdiff.solvers.exponential_integrator`. One evaluation per step; a step to level 0 is
y = D(y, s).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from jaxdiff.solvers.exponential_integrator import Prediction, check_prediction, predicted
from jaxdiff.solvers.orders import check_order, step_order
from jaxdiff.solvers.quadrature import phi
from jaxdiff.solvers.scalar import D, Scalar, State, expm1, is_zero, log, solve, weighted


def unipc(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    order: int = 3,
    variant: Literal["bh1", "bh2", "vary"] = "bh2",
    prediction: Prediction = "data",
    lower_final: bool = True,
    corrector: bool = True,
    reference: bool = False,
) -> Iterator[State]:
    """UniPC: a predictor UniP-p and a corrector UniC-p that reuses the predictor's evaluation
    (arXiv 2302.04867).

    The corrector raises the order by one at no cost in evaluations: the network is evaluated at the
    predicted state, the state is then corrected with that output. One evaluation per step; none is
    spent on correcting the last step.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        order: p, 1 to 3.
        variant: B(h) = h ("bh1") or e^h - 1 ("bh2"), which differ only where the paper's shortcut
            weight 1/2 is used (the predictor of order 2 and the corrector of order 1); or no
            shortcut ("vary", the paper's UniPC_v): the interpolation integrated exactly throughout.
        prediction: what is interpolated, "data" or "noise".
        lower_final: lower the order in the last steps.
        corrector: without it, the predictor UniP-p alone, of order p.
        reference: also correct the last step where the grid is shorter than the order, as published
            code does by its warm-up loop, which costs one more evaluation; with "vary", correct as
            published (see :func:`published_corrector`).

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an order, variant or prediction that it does not have.

    Source: Zhao et al., UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of
    Diffusion Models, arXiv 2302.04867.
    """
    check_order("unipc", order)
    check_prediction("unipc", prediction)
    if variant not in ("bh1", "bh2", "vary"):
        raise ValueError(f"unipc has variants 'bh1', 'bh2' and 'vary', not {variant!r}")
    num_steps = len(levels) - 1

    def model(y: State, s: Scalar) -> State:
        return predicted(D(y, s), y, s, prediction)

    history = [(levels[0], model(y, levels[0]))]  # of the model at *predicted* states, newest first
    for i, (s, r) in enumerate(pairwise(levels)):
        newest = history[0][1]
        base = (
            (r / s) * y + (1.0 - r / s) * newest if prediction == "data" else y + (r - s) * newest
        )
        if is_zero(r):
            yield base
            return
        warm_up = reference and i + 1 < order
        past = history[1 : step_order(i, num_steps, order, lower_final and not warm_up)]
        h = log(s) - log(r)
        ratios = [(log(s) - log(level)) / h for level, _ in past]
        slopes = [(m - newest) / c for c, (_, m) in zip(ratios, past, strict=True)]
        z, scale = (-h, 1.0) if prediction == "data" else (h, r)
        big = None if variant == "vary" else z if variant == "bh1" else expm1(z)
        ahead = base - scale * weighted(unipc_weights(ratios, z, big), slopes) if past else base
        if i == num_steps - 1 and not warm_up:
            yield ahead
            return
        if not corrector:
            y = ahead
            yield y
        history = [(r, model(ahead, r)), *history][:order]
        if not corrector:
            continue
        slopes = [*slopes, history[0][1] - newest]
        correct = published_corrector if reference and variant == "vary" else unipc_weights
        y = base - scale * weighted(correct([*ratios, 1.0], z, big), slopes)
        yield y


def unipc_weights(ratios: Sequence[Scalar], z: Scalar, big: Scalar | None) -> list[Scalar]:
    """Weights w of UniPC's divided differences: sum_m w_m ratio_m^(k-1) = k! z phi_{k+1}(z) for
    k = 1, ..., or B/2 for a single one unless B (``big``) is None.
    """
    if len(ratios) == 1 and big is not None:
        return [big / 2]
    powers = range(len(ratios))
    rhs = [math.factorial(k + 1) * z * phi(k + 2, z) for k in powers]
    return solve([[c**k for c in ratios] for k in powers], rhs)


def published_corrector(ratios: Sequence[Scalar], z: Scalar, big: Scalar | None) -> list[Scalar]:
    """Weights of the corrector in the published code of UniPC_v.

    With C_mk = ratio_m^(k-1)/k! the differences are C times the derivatives. The new difference is
    left out of all derivatives but one, the last derivative out of the past differences, and the
    row of the inverse that the new one gets is the last but one; at orders 2 and 3 it then
    converges with order 1. ``ratios`` ends in 1; ``big`` is not used.
    """
    count = len(ratios)
    derivatives = max(count - 1, 1)
    matrix = [[c**k / math.factorial(k + 1) for c in ratios] for k in range(count)]  # C transposed
    past = solve(matrix, [z * phi(k + 2, z) if k < derivatives else 0.0 for k in range(count)])
    row = solve(matrix, [1.0 if k == derivatives - 1 else 0.0 for k in range(count)])
    return [*past[:-1], z * phi(count + 1, z) * row[-1]]
