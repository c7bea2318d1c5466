"""Spending a number of network evaluations on single-step solvers of several orders.

A step of order k has k evaluations, so steps of one order reach only multiples of k. The mixed plan
of DPM-Solver (DPM-Solver-fast, arXiv 2206.00927) spends any number exactly: steps of order 3 and,
at the end, one or two of lower order.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from jaxdiff.solvers.orders import check_order
from jaxdiff.solvers.scalar import Scalar, check_levels, is_zero, log
from jaxdiff.typing import Array


class Plan(NamedTuple):
    """Steps that spend a given number of evaluations.

    levels: the grid of steps. orders: of every step. ratios: inner nodes of every step.
    """

    levels: list[Scalar]
    orders: list[int]
    ratios: list[list[Scalar]]


def plan_orders(evaluations: int, order: int = 3) -> list[int]:
    """Orders of steps whose sum is ``evaluations`` (arXiv 2206.00927).

    Order 3: as many 3s as leave a remainder of 1 or 2 and that remainder, or 2 and 1 where it
    would be 0. Order 2: 2s, and a 1 if the number is odd.
    """
    check_order("dpm_solver", order)
    if evaluations != int(evaluations) or evaluations < 1:
        raise ValueError(f"a plan spends a whole number of evaluations, not {evaluations}")
    whole, rest = divmod(int(evaluations), order)
    if order == 3 and rest == 0:
        return [3] * (whole - 1) + [2, 1]
    return [order] * whole + [rest] * (rest > 0)


def plan(
    levels: Sequence[Scalar] | np.ndarray | Array,
    order: int = 3,
    orders: Sequence[int] | None = None,
) -> Plan:
    """Join the steps of a fine grid into steps of higher order: :func:`dpm_solver` on the result
    evaluates the network exactly once at every level of the fine grid but the last.

        steps = plan(grids.log_snr(10))
        table(dpm_solver, steps.levels, orders=steps.orders, ratios=steps.ratios)

    The papers' other choice, all steps of equal length in log level whatever their order, is
    ``orders = plan_orders(nfe)`` on ``grids.log_snr(len(orders), zero=False)``.

    Args:
        levels: a grid with as many steps as there shall be evaluations. If it ends in 0, its last
            step stays a step of order 1.
        order: the highest.
        orders: instead of those of :func:`plan_orders`; their sum is the number of steps.
    """
    knots = check_levels(levels)
    zero, count = is_zero(knots[-1]), len(knots) - 1
    if orders is None:
        orders = [*(plan_orders(count - zero, order) if count > zero else []), *[1] * zero]
    if sum(orders) != count:
        raise ValueError(f"orders {list(orders)} add up to {sum(orders)}, not to {count} steps")
    ends = [0, *accumulate(orders)]
    spans = [[log(s) for s in knots[a:b]] for a, b in pairwise(ends)]
    ratios = [
        [(first - node) / (first - log(knots[end])) for node in inner]
        for (first, *inner), end in zip(spans, ends[1:], strict=True)
    ]
    return Plan([knots[i] for i in ends], list(orders), ratios)
