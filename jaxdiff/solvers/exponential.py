"""Exponential multistep solvers: DPM-Solver, DPM-Solver++ and UniPC.

With lambda = -log s the solution of the probability-flow ODE between levels s > r has two forms,

    y_r = y_s - r int e^(lambda_r - lambda) eps dlambda               (noise prediction)
    y_r = (r/s) y_s + r int_{-log s}^{-log r} e^lambda D dlambda      (data prediction),

of which eps or D is interpolated in lambda and the exponential is integrated exactly. One
evaluation per step. Generators as in :mod:`jaxdiff.solvers.singlestep`; a step to level 0 is
y = D(y, s).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from jaxdiff.solvers.quadrature import phi
from jaxdiff.solvers.scalar import D, Scalar, State, expm1, is_zero, log, solve, weighted

Prediction = Literal["data", "noise"]


def step_order(i: int, steps: int, order: int, lower_final: bool) -> int:
    """Order of step i: as many as there is history for, and lower towards the end if asked."""
    return min(order, i + 1, steps - i if lower_final else order)


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
        order: 1 to 3.
        prediction: what is interpolated, "data" or "noise".
        lower_final: lower the order in the last steps (order 1 in the last).
        second: weight of h M' in a step of order 2: "midpoint", as the paper has it, is phi_1/2 in
            place of phi_2, which is of the same order; "exact" ("heun" or "taylor" in published
            code) is phi_2 itself.
        reference: at order 3, take h^2 M'' without its factor 2, as all published code does; its
            order is then 2.
    """
    check_order("dpmpp", order, prediction)
    if second not in ("midpoint", "exact"):
        raise ValueError(f"dpmpp has second 'midpoint' and 'exact', not {second!r}")
    history: list[tuple[Scalar, State]] = []
    steps = len(levels) - 1
    for i, (s, r) in enumerate(pairwise(levels)):
        output = D(y, s)
        if is_zero(r):
            y = output
        else:
            predicted = output if prediction == "data" else (y - output) / s
            history = [(-log(s), predicted), *history][:order]
            h = -log(r) - history[0][0]
            derivatives = differences(
                h, history[: step_order(i, steps, order, lower_final)], reference
            )
            if prediction == "data":
                y = (r / s) * y - adams(-h, derivatives, second)
            else:
                y = y - r * adams(h, derivatives, second)
        yield y


def differences(h: Scalar, history: list[tuple[Scalar, State]], reference: bool) -> list[State]:
    """M, h M', h^2 M'' by divided differences over one to three past values."""
    times, values = zip(*history, strict=True)
    if len(values) == 1:
        return [values[0]]
    r0 = (times[0] - times[1]) / h
    first = (values[0] - values[1]) / r0
    if len(values) == 2:
        return [values[0], first]
    r1 = (times[1] - times[2]) / h
    change = (first - (values[1] - values[2]) / r1) / (r0 + r1)
    return [values[0], first + r0 * change, change if reference else 2.0 * change]


def adams(z: Scalar, derivatives: Sequence[State], second: str = "exact") -> State:
    """Z (phi_1 M + phi_2 (h M') + phi_3 (h^2 M'')) at z, the integrated exponential; a "midpoint"
    step of order 2 has phi_1/2 for phi_2 (2211.01095, algorithm 2).
    """
    total = expm1(z) * derivatives[0]
    if len(derivatives) == 2 and second == "midpoint":
        return total + (expm1(z) / 2) * derivatives[1]
    return total + sum(z * phi(k, z) * d for k, d in enumerate(derivatives[1:], 2))


def check_order(solver: str, order: int, prediction: str) -> None:
    """Complain about an order or a prediction that a solver does not have."""
    if order not in (1, 2, 3):
        raise ValueError(f"{solver} has orders 1, 2 and 3, not {order}")
    if prediction not in ("data", "noise"):
        raise ValueError(f"{solver} predicts 'data' or 'noise', not {prediction!r}")


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
    """
    check_order("unipc", order, prediction)
    if variant not in ("bh1", "bh2", "vary"):
        raise ValueError(f"unipc has variants 'bh1', 'bh2' and 'vary', not {variant!r}")
    steps = len(levels) - 1

    def model(y: State, s: Scalar) -> State:
        output = D(y, s)
        return output if prediction == "data" else (y - output) / s

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
        past = history[1 : step_order(i, steps, order, lower_final and not warm_up)]
        h = log(s) - log(r)
        ratios = [(log(s) - log(level)) / h for level, _ in past]
        slopes = [(m - newest) / c for c, (_, m) in zip(ratios, past, strict=True)]
        z, scale = (-h, 1.0) if prediction == "data" else (h, r)
        big = None if variant == "vary" else z if variant == "bh1" else expm1(z)
        predicted = base - scale * weighted(unipc_weights(ratios, z, big), slopes) if past else base
        if i == steps - 1 and not warm_up:
            yield predicted
            return
        history = [(r, model(predicted, r)), *history][:order]
        if not corrector:
            y = predicted
            yield y
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
