"""Single-step DPM-Solver (Lu et al. 2022, arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095).

A single-step solver starts every step afresh from the state; its intermediate evaluations are spent
within the step. Orders 1 to 3 are exponential integrators
(:mod:`jaxdiff.solvers.exponential_integrator`) whose derivatives come from evaluations at inner
nodes lambda_s + c h. A step to level 0 is y = D(y, s).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from jaxdiff.solvers.exponential_integrator import (
    Prediction,
    check_prediction,
    exponential_step,
    predicted,
)
from jaxdiff.solvers.intermediate import check_ratios
from jaxdiff.solvers.orders import check_order
from jaxdiff.solvers.scalar import D, Scalar, State, is_traced, is_zero
from jaxdiff.solvers.steps import dpm2_step


def dpm2(D: D, y: State, levels: Sequence[Scalar], ratio: Scalar = 0.5) -> Iterator[State]:
    """DPM-Solver-2, order 2 (arXiv 2206.00927). Two evaluations per step, one in a step to level
    0.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        ratio: in (0, 1), where in the step's log level the intermediate evaluation is.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for another ratio.

    Source: Lu et al., DPM-Solver, arXiv 2206.00927.
    """
    check_ratios([ratio])
    for s, r in pairwise(levels):
        y = dpm2_step(D, y, s, r, ratio)
        yield y


def dpm_solver(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    order: int = 3,
    prediction: Prediction = "noise",
    orders: Sequence[int] | None = None,
    ratios: Sequence[Any] | None = None,
    variant: Literal["dpm", "taylor"] = "dpm",
    reference: bool = False,
) -> Iterator[State]:
    """Single-step DPM-Solver-1, 2, 3 (arXiv 2206.00927, algorithms 1, 4, 5) by noise prediction,
    and DPM-Solver++ 2S, 3S (arXiv 2211.01095) by data prediction.

    A step of order k has k evaluations, a step to level 0 one.
    :mod:`jaxdiff.solvers.planning` spreads a given number of evaluations over steps of several
    orders.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        order: 1 to 3.
        prediction: what is expanded, "noise" or "data".
        orders: one for every step, instead of ``order``.
        ratios: inner nodes c, ascending from 0 to 1: k - 1 numbers for all steps of order k, or one
            such tuple for every step. By default 1/2 at order 2, 1/3 and 2/3 at order 3; with its
            last node elsewhere than at 2/3 a step of order 3 has order 2.
        variant: "dpm" is the papers' form, with phi_1/2 in place of phi_2 at order 2 and, at order
            3, M' from the last node alone and no M''; "taylor" has the expansion in full. Both have
            the same order.
        reference: at order 3, reach the second inner node with phi_1/2 in place of phi_2, as the
            code of diffusers does; the order is the same.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for orders, ratios, a prediction or a variant that it does not have.

    Source: Lu et al., DPM-Solver, arXiv 2206.00927, algorithms 1, 4 and 5; Lu et al., DPM-Solver++,
    arXiv 2211.01095.
    """
    num_steps = len(levels) - 1
    orders = [order] * num_steps if orders is None else list(orders)
    for k in {order, *orders}:
        check_order("dpm_solver", k)
    check_prediction("dpm_solver", prediction)
    if variant not in ("dpm", "taylor"):
        raise ValueError(f"dpm_solver has variants 'dpm' and 'taylor', not {variant!r}")
    if len(orders) != num_steps:
        raise ValueError(f"orders has {len(orders)} entries for a grid of {num_steps} steps")
    nodes = inner_nodes(orders, ratios)
    for (s, r), own in zip(pairwise(levels), nodes, strict=True):
        y = dpm_step(D, y, s, r, own, prediction, variant, reference)
        yield y


def dpm_step(
    D: D,
    y: State,
    s: Scalar,
    r: Scalar,
    ratios: Sequence[Scalar] = (1 / 3, 2 / 3),
    prediction: Prediction = "noise",
    variant: Literal["dpm", "taylor"] = "dpm",
    reference: bool = False,
) -> State:
    """One step of :func:`dpm_solver`, of order len(ratios) + 1."""
    if is_zero(r):
        return D(y, s)

    def model(y: State, level: Scalar) -> State:
        return predicted(D(y, level), y, level, prediction)

    first, slopes = model(y, s), []
    for c in ratios:
        node = s ** (1 - c) * r**c
        derivatives = [first, *(c * slope for slope in slopes)]
        inner = "midpoint" if reference else "exact"
        between = exponential_step(y, s, node, derivatives, prediction, inner)
        slopes.append((model(between, node) - first) / c)
    second = "midpoint" if variant == "dpm" and len(slopes) == 1 else "exact"
    if variant == "taylor" and len(slopes) == 2:
        c1, c2 = ratios
        change = (slopes[1] - slopes[0]) / (c2 - c1)
        slopes = [slopes[0] - c1 * change, 2.0 * change]
    else:
        slopes = slopes[-1:]
    return exponential_step(y, s, r, [first, *slopes], prediction, second)


def inner_nodes(orders: Sequence[int], ratios: Sequence[Any] | None) -> list[Sequence[Scalar]]:
    """Return the inner nodes of every step: given, or evenly spaced in log level."""
    nodes: list[Sequence[Scalar]] = [[j / k for j in range(1, k)] for k in orders]
    if ratios is not None and not any(isinstance(c, (Sequence, np.ndarray)) for c in ratios):
        if len(ratios) + 1 not in orders:
            raise ValueError(f"{len(ratios)} ratios are for order {len(ratios) + 1}: no such step")
        nodes = [ratios if len(even) == len(ratios) else even for even in nodes]
    elif ratios is not None:
        nodes = list(ratios)
    given = [len(own) for own in nodes]
    if given != [k - 1 for k in orders]:
        raise ValueError(f"orders {list(orders)} need one inner node less each; ratios has {given}")
    for own in nodes:
        if not any(map(is_traced, own)) and not all(a < b for a, b in pairwise([0.0, *own])):
            raise ValueError(f"ratios must be positive and ascend; these are {list(own)}")
    return nodes
