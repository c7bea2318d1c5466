"""Single-step solvers of the probability-flow ODE, as they stand in their papers.

In the frame y = x0 + s eps the ODE is dy/ds = (y - D(y, s))/s = eps(y, s). A single-step solver
starts every step afresh from the state; its intermediate evaluations are spent within the step. A
step to level 0 is always y = D(y, s), the only finite limit of all of them.

DPM-Solver of orders 1 to 3 expands the predicted quantity M (D or eps) in lambda = -log s and
integrates the exponential in front of it exactly: with h = log s - log r the step in lambda,

    data:   y_r = (r/s) y + h [phi_1(-h) M + phi_2(-h) (h M') + phi_3(-h) (h^2 M'')]
    noise:  y_r = y - r h [phi_1(h) M + phi_2(h) (h M') + phi_3(h) (h^2 M'')],

where the derivatives come from evaluations at inner nodes lambda_s + c h.

Every solver is a generator ``solver(D, y, levels, **options)`` yielding the state at every level
after the first. D and y may be arrays (then it simply runs) or the symbolic vectors of
:mod:`jaxdiff.sampling.trace` (then it becomes a table).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from jaxdiff.solvers.exponential import Prediction, adams, check_order
from jaxdiff.solvers.scalar import D, Scalar, State, is_traced, is_zero, log


def unit_first(y: State, s: Scalar) -> State:
    """The usual analytic first step: D for N(0, I) data as VP models see it, eps = y / sqrt(1 +
    s^2) (solvers AMED, SA).
    """
    return y - s * (y / (1.0 + s * s) ** 0.5)


def euler_step(D: D, y: State, s: Scalar, r: Scalar) -> State:
    """One Euler step from level s to r; the DDIM step in every frame."""
    return y + (r - s) * ((y - D(y, s)) / s)


def heun_step(D: D, y: State, s: Scalar, r: Scalar, ratio: Scalar = 1.0) -> State:
    """One step of Heun's method; an Euler step to level 0 (Karras et al. 2022, arXiv 2206.00364,
    algorithm 1; with ``ratio`` its alpha, algorithm 3).
    """
    eps = (y - D(y, s)) / s
    if is_zero(r):
        return y + (r - s) * eps
    middle, weight = (1 - ratio) * s + ratio * r, 1 / (2 * ratio)
    between = y + (middle - s) * eps
    eps_between = (between - D(between, middle)) / middle
    return y + (r - s) * ((1 - weight) * eps + weight * eps_between)


def dpm2_step(D: D, y: State, s: Scalar, r: Scalar, ratio: Scalar = 0.5) -> State:
    """One step of DPM-Solver-2, its middle at s^(1 - ratio) r^ratio (arXiv 2206.00927, algorithm
    4).
    """
    if is_zero(r):
        return euler_step(D, y, s, r)
    middle = r**ratio * s ** (1 - ratio)
    eps = (y - D(y, s)) / s
    between = y + (middle - s) * eps
    eps_between = (between - D(between, middle)) / middle
    return y + (r - s) * ((1 / (2 * ratio)) * eps_between + (1 - 1 / (2 * ratio)) * eps)


def euler(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
    """Euler's method, order 1: DDIM (arXiv 2010.02502) in every frame. One evaluation per step."""
    for s, r in pairwise(levels):
        y = euler_step(D, y, s, r)
        yield y


def heun(D: D, y: State, levels: Sequence[Scalar], ratio: Scalar = 1.0) -> Iterator[State]:
    """Heun's method, order 2 (arXiv 2206.00364). Two evaluations per step, one in a step to level
    0.

    ``ratio`` in (0, 1] is where in the step the second evaluation is: 1 is Heun's method, 1/2 the
    midpoint method, 2/3 Ralston's.
    """
    for s, r in pairwise(levels):
        y = heun_step(D, y, s, r, ratio)
        yield y


def dpm2(D: D, y: State, levels: Sequence[Scalar], ratio: Scalar = 0.5) -> Iterator[State]:
    """DPM-Solver-2, order 2 (arXiv 2206.00927). Two evaluations per step, one in a step to level
    0.
    """
    for s, r in pairwise(levels):
        y = dpm2_step(D, y, s, r, ratio)
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
        output = D(y, level)
        return output if prediction == "data" else (y - output) / level

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


def exponential_step(
    y: State,
    s: Scalar,
    r: Scalar,
    derivatives: Sequence[State],
    prediction: Prediction,
    second: str = "exact",
) -> State:
    """The step from level s to r given M, h M', h^2 M'' of the predicted quantity at s."""
    h = log(s) - log(r)
    if prediction == "data":
        return (r / s) * y - adams(-h, derivatives, second)
    return y - r * adams(h, derivatives, second)


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

    Raises:
        ValueError: for orders, ratios, a prediction or a variant that it does not have.
    """
    steps = len(levels) - 1
    orders = [order] * steps if orders is None else list(orders)
    for k in {order, *orders}:
        check_order("dpm_solver", k, prediction)
    if variant not in ("dpm", "taylor"):
        raise ValueError(f"dpm_solver has variants 'dpm' and 'taylor', not {variant!r}")
    if len(orders) != steps:
        raise ValueError(f"orders has {len(orders)} entries for a grid of {steps} steps")
    nodes = inner_nodes(orders, ratios)
    for (s, r), own in zip(pairwise(levels), nodes, strict=True):
        y = dpm_step(D, y, s, r, own, prediction, variant, reference)
        yield y


def inner_nodes(orders: Sequence[int], ratios: Sequence[Any] | None) -> list[Sequence[Scalar]]:
    """The inner nodes of every step: given, or evenly spaced in log level."""
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
