"""Deterministic solvers of the probability-flow ODE, as they stand in their papers.

In the frame y = x0 + s eps the ODE is dy/ds = (y - D(y, s))/s = eps(y, s). With lambda = -log s its
exact solution between levels s > r has two forms, which the solvers below discretise,

    y_r = y_s + int_s^r eps ds'                                       (noise prediction)
    y_r = (r/s) y_s + r int_{-log s}^{-log r} e^lambda D dlambda      (data prediction).

Each solver is a generator ``solver(D, y, levels, **options)`` yielding the state at every level
after the first. D and y may be arrays (then it simply runs) or the symbolic vectors of
:mod:`jaxdiff.sampling.table` (then it becomes a table). A step to level 0 is always y = D(y, s),
the only finite limit of all of them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

from jaxdiff.sampling.scalar import (
    Scalar,
    expm1,
    is_zero,
    lagrange_integrals,
    log,
    phi,
    solve,
    sqrt,
)

State = Any
D = Callable[[State, Scalar], State]
Prediction = Literal["data", "noise"]


def unit_first(y: State, s: Scalar) -> State:
    """The usual analytic first step: D for N(0, I) data as VP models see it, eps = y / sqrt(1 +
    s^2) (solvers AMED, SA).
    """
    return y - s * (y / (1.0 + s * s) ** 0.5)


def euler_step(D: D, y: State, s: Scalar, r: Scalar) -> State:
    """One Euler step from level s to r; the DDIM step in every frame."""
    return y + (r - s) * ((y - D(y, s)) / s)


def heun_step(D: D, y: State, s: Scalar, r: Scalar) -> State:
    """One step of Heun's method; an Euler step to level 0 (Karras et al. 2022, arXiv 2206.00364,
    algorithm 1).
    """
    eps = (y - D(y, s)) / s
    predicted = y + (r - s) * eps
    if is_zero(r):
        return predicted
    return y + (r - s) / 2 * (eps + (predicted - D(predicted, r)) / r)


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


def heun(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
    """Heun's method, order 2 (arXiv 2206.00364). Two evaluations per step, one in a step to level
    0.
    """
    for s, r in pairwise(levels):
        y = heun_step(D, y, s, r)
        yield y


def dpm2(D: D, y: State, levels: Sequence[Scalar], ratio: Scalar = 0.5) -> Iterator[State]:
    """DPM-Solver-2, order 2 (arXiv 2206.00927). Two evaluations per step, one in a step to level
    0.
    """
    for s, r in pairwise(levels):
        y = dpm2_step(D, y, s, r, ratio)
        yield y


def lms(D: D, y: State, levels: Sequence[Scalar], order: int = 4) -> Iterator[State]:
    """Variable-step Adams-Bashforth: eps interpolated by polynomials in the level and integrated
    exactly.

    Linear multistep of the given order; the same numbers are DEIS rho-AB (arXiv 2204.13902) and
    what iPNDM_v intends.
    """
    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        history = [(s, (y - D(y, s)) / s), *history][:order]
        weights = lagrange_integrals([level for level, _ in history], s, r)
        y = y + weighted(weights, [eps for _, eps in history])
        yield y


ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(D: D, y: State, levels: Sequence[Scalar], order: int = 4) -> Iterator[State]:
    """Improved PNDM: Adams-Bashforth with the coefficients of a uniform grid (arXiv 2204.13902
    appendix; PNDM 2202.09778).

    On a grid that is not uniform in the level its order is 2 whatever ``order`` says; at few steps
    it is among the best.
    """
    if not 1 <= order <= 4:
        raise ValueError(f"ipndm has orders 1 to 4, not {order}")
    history: list[State] = []
    for s, r in pairwise(levels):
        history = [(y - D(y, s)) / s, *history][:order]
        y = y + (r - s) * weighted(ADAMS_BASHFORTH[len(history) - 1], history)
        yield y


def ipndm_v(
    D: D, y: State, levels: Sequence[Scalar], order: int = 4, reference: bool = False
) -> Iterator[State]:
    """IPNDM with coefficients for a variable step: Adams-Bashforth, as :func:`lms`.

    Args:
        order: 1 to 4.
        reference: the published coefficients (diff-sampler and what is copied from it), which
            differ at orders 3 and 4 by three algebra slips; those of order 4 do not sum to 1.
    """
    if not 1 <= order <= 4:
        raise ValueError(f"ipndm_v has orders 1 to 4, not {order}")
    if not reference:
        yield from lms(D, y, levels, order)
        return
    history: list[State] = []
    for i, (s, r) in enumerate(pairwise(levels)):
        history = [(y - D(y, s)) / s, *history][:order]
        knots = [r, *reversed(levels[max(0, i + 1 - len(history)) : i + 1])]
        y = y + (r - s) * weighted(published_ipndm_v([a - b for a, b in pairwise(knots)]), history)
        yield y


def published_ipndm_v(steps: Sequence[Scalar]) -> list[Scalar]:
    """Published coefficients of iPNDM_v from the last one to four steps, newest first."""
    if len(steps) == 1:
        return [1.0]
    h0, h1, *older = steps
    if not older:
        return [1 + h0 / (2 * h1), -h0 / (2 * h1)]
    h2, *oldest = older
    ratio = h1 / h2
    a = 0.5 * (1 - h0 / (3 * (h0 + h1)) * h0 * (h0 + h1) / (h1 * (h1 + h2)))
    if not oldest:
        return [1 + h0 / (2 * h1) + a, -h0 / (2 * h1) - (1 + ratio) * a, ratio * a]
    h3 = oldest[0]
    inner = 0.5 * (1 - h0 / (3 * (h0 + h1)))
    inner = inner + (1 - h0 / (2 * (h0 + h1))) * h0 / (6 * (h0 + h1 + h2))
    b = inner * h0 * (h0 + h1) * (h0 + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    q = h1 * (h1 + h2) / (h2 * (h2 + h3))
    return [
        1 + h0 / (2 * h1) + a + b,
        -h0 / (2 * h1) - (1 + ratio) * a - (1 + ratio + q) * b,
        ratio * a + (ratio + q * (1 + h2 / h3)) * b,
        -b * q * ratio,
    ]


def deis(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    order: int = 4,
    low: float = 0.002,
    high: float = 80.0,
    smallest: float = 1e-3,
) -> Iterator[State]:
    """DEIS tAB (arXiv 2204.13902): eps interpolated in the time of a linear VP process.

        y_r = y_s + sum_j eps_j int (d level/du) l_j(u) du,
        level^2 = exp(b_d u^2/2 + b_min u) - 1,

    with b_d, b_min such that u runs from ``smallest`` to 1 over the levels [low, high] (the grid
    :func:`jaxdiff.grids.vp_time`). ``order`` 4 is the paper's tAB3. The published code has the
    integral by a sum of 10 000 points, right to about 1e-5.
    """
    slope = 2 * (log(1 + low**2) / smallest - log(1 + high**2)) / (smallest - 1)
    offset = log(1 + high**2) - slope / 2

    def time(s: Scalar) -> Scalar:
        return (sqrt(offset**2 + 2 * slope * log(1 + s * s)) - offset) / slope

    def rate(u: Scalar) -> Scalar:
        squared = expm1(slope * u * u / 2 + offset * u)
        return (slope * u + offset) * (squared + 1.0) / (2 * sqrt(squared))

    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        history = [(time(s), (y - D(y, s)) / s), *history][:order]
        if len(history) == 1 or is_zero(r):
            weights = [r - s, *[0.0] * (len(history) - 1)]
        else:
            weights = lagrange_integrals([u for u, _ in history], time(s), time(r), rate)
        y = y + weighted(weights, [eps for _, eps in history])
        yield y


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
    reference: bool = False,
) -> Iterator[State]:
    """DPM-Solver++ multistep (data prediction, arXiv 2211.01095) and DPM-Solver multistep (noise
    prediction).

    Exponential Adams method in lambda = -log level. With h the step in lambda and M the predicted
    quantity, derivatives h M', h^2 M'' come from divided differences and

        data:   y_r = (r/s) y + h phi_1(-h) M + h phi_2(-h) (h M') + h phi_3(-h) (h^2 M'')
        noise:  y_r = y - r [h phi_1(h) M + h phi_2(h) (h M') + h phi_3(h) (h^2 M'')];

    at order 2 the published solver has phi_1/2 in place of phi_2, which is of the same order.

    Args:
        order: 1 to 3.
        prediction: what is interpolated, "data" or "noise".
        lower_final: lower the order in the last steps (order 1 in the last).
        reference: at order 3, take h^2 M'' without its factor 2, as all published code does; its
            order is then 2.
    """
    check_order("dpmpp", order, prediction)
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
                y = (r / s) * y - _adams(-h, derivatives)
            else:
                y = y - r * _adams(h, derivatives)
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


def _adams(z: Scalar, derivatives: list[State]) -> State:
    """Z (phi_1 M + phi_2 (h M') + phi_3 (h^2 M'')), with phi_1/2 for phi_2 at order 2 (2211.01095,
    algorithm 2).
    """
    total = expm1(z) * derivatives[0]
    if len(derivatives) == 2:
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
    variant: Literal["bh1", "bh2"] = "bh2",
    prediction: Prediction = "data",
    lower_final: bool = True,
    reference: bool = False,
) -> Iterator[State]:
    """UniPC: a predictor UniP-p and a corrector UniC-p that reuses the predictor's evaluation
    (arXiv 2302.04867).

    The corrector raises the order by one at no cost in evaluations: the network is evaluated at the
        predicted state,
    the state is then corrected with that output. One evaluation per step; none is spent on
    correcting the last step.

    Args:
        order: p, 1 to 3.
        variant: B(h) = h ("bh1") or e^h - 1 ("bh2"). They differ only where the paper's shortcut
            weight 1/2 is used (the predictor of order 2 and the corrector of order 1).
        prediction: what is interpolated, "data" or "noise".
        lower_final: lower the order in the last steps.
        reference: also correct the last step where the grid is shorter than the order, as published
            code does by its warm-up loop, which costs one more evaluation.
    """
    check_order("unipc", order, prediction)
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"unipc has variants 'bh1' and 'bh2', not {variant!r}")
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
        big = z if variant == "bh1" else expm1(z)
        predicted = (
            base - (scale * big) * weighted(unipc_weights(ratios, z, big), slopes) if past else base
        )
        if i == steps - 1 and not warm_up:
            yield predicted
            return
        history = [(r, model(predicted, r)), *history][:order]
        slopes = [*slopes, history[0][1] - newest]
        y = base - (scale * big) * weighted(unipc_weights([*ratios, 1.0], z, big), slopes)
        yield y


def unipc_weights(ratios: Sequence[Scalar], z: Scalar, big: Scalar) -> list[Scalar]:
    """Weights rho of UniPC: sum_m rho_m ratio_m^(k-1) = k! z phi_{k+1}(z) / B for k = 1, ..., or
    1/2 for a single one.
    """
    if len(ratios) == 1:
        return [0.5]
    powers = range(len(ratios))
    rhs = [math.factorial(k + 1) * z * phi(k + 2, z) / big for k in powers]
    return solve([[c**k for c in ratios] for k in powers], rhs)


def weighted(weights: Sequence[Scalar], values: Sequence[State]) -> State:
    """The sum of weights times values."""
    return sum(w * v for w, v in zip(weights, values, strict=True))
