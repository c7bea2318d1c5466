"""Multistep DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) and multistep DPM-Solver.

An exponential integrator (:mod:`jaxdiff.solvers.exponential_integrator`) that interpolates D or eps
over past steps. One evaluation per step; a step to level 0 is y = D(y, s).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from jaxdiff.solvers.exponential_integrator import (
    Prediction,
    check_prediction,
    differences,
    exponential_step,
    predicted,
)
from jaxdiff.solvers.orders import check_order, step_order
from jaxdiff.solvers.scalar import D, Scalar, State, is_zero, log


def dpmpp(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    order: int = 2,
    prediction: Prediction = "data",
    lower_final: bool = True,
    second: Literal["midpoint", "exact"] = "midpoint",
    reference: bool = False,
) -> Iterator[State]:
    """DPM-Solver++ multistep (data prediction, arXiv 2211.01095) and DPM-Solver multistep (noise
    prediction).

    Exponential Adams method in lambda = -log level. With h the step in lambda and M the predicted
    quantity, derivatives h M', h^2 M'' come from divided differences and

        data:   y_r = (r/s) y + h phi_1(-h) M + h phi_2(-h) (h M') + h phi_3(-h) (h^2 M'')
        noise:  y_r = y - r [h phi_1(h) M + h phi_2(h) (h M') + h phi_3(h) (h^2 M'')].

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        order: 1 to 3.
        prediction: what is interpolated, "data" or "noise".
        lower_final: lower the order in the last steps (order 1 in the last).
        second: weight of h M' in a step of order 2: "midpoint", as the paper has it, is phi_1/2 in
            place of phi_2, which is of the same order; "exact" ("heun" or "taylor" in published
            code) is phi_2 itself.
        reference: at order 3, take h^2 M'' without its factor 2, as all published code does; its
            order is then 2.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an order, prediction or ``second`` that it does not have.

    Source: Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic
    Models, arXiv 2211.01095.
    """
    check_order("dpmpp", order)
    check_prediction("dpmpp", prediction)
    if second not in ("midpoint", "exact"):
        raise ValueError(f"dpmpp has second 'midpoint' and 'exact', not {second!r}")
    history: list[tuple[Scalar, State]] = []
    num_steps = len(levels) - 1
    for i, (s, r) in enumerate(pairwise(levels)):
        output = D(y, s)
        if is_zero(r):
            y = output
        else:
            history = [(-log(s), predicted(output, y, s, prediction)), *history][:order]
            used = history[: step_order(i, num_steps, order, lower_final)]
            derivatives = differences(log(s) - log(r), used, reference)
            y = exponential_step(y, s, r, derivatives, prediction, second)
        yield y
