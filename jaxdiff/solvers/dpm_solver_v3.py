r"""DPM-Solver-v3: the exponential solver whose linear part is measured on the model.

With lambda = -log s the probability flow is dy/dlambda = D - y. Choose numbers l(lambda), one per
number of the state, and call f what they leave of the flow; choose s(lambda) and b(lambda) that
predict how f changes, and call g what they leave of f:

    f = (1 - l) y - D,           dy/dlambda = -l y - f,                      L = int l dlambda,
    f = e^S (g + B),             df/dlambda = s f + b + e^S dg/dlambda,      S = int s dlambda,
                                                                             B = int e^-S b dlambda.

The flow between lambda_s and lambda_t is then exactly

    y_t = e^(L_s - L_t) y_s - int e^(L - L_t + S) (g + B) dlambda,

in which g, nearly constant if the statistics (:mod:`jaxdiff.solvers.model_statistics`) are good,
is interpolated by a polynomial in lambda through past evaluations. (l, s, b) = (1, 0, 0) is data
prediction, f = g = -D: DPM-Solver++ and UniPC; (0, -1, 0) is noise prediction, f = s eps and
g = eps. On a Gaussian with independent numbers one step is exact.

Run it by :func:`jaxdiff.sampling.direct.direct`: its weights are arrays of a sample's shape.

Source: Zheng et al. 2023, arXiv 2310.13268 (sections 3.1 to 3.3; f, s eps and x in the frame where
alpha = 1).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from jaxdiff.solvers.held import value
from jaxdiff.solvers.model_statistics import Statistics, check_grid
from jaxdiff.solvers.orders import check_order, step_order
from jaxdiff.solvers.quadrature import gauss
from jaxdiff.solvers.scalar import D, Scalar, State, is_traced, is_zero, log
from jaxdiff.typing import Array

Numbers: TypeAlias = np.ndarray | Array  # on the host, or traced


class _Step(NamedTuple):
    """A past evaluation: lambda, and f there."""

    time: Scalar
    f: State


class _Curves(NamedTuple):
    """L, S and B at the knots of the statistics, lambda = start + step i, and their derivatives."""

    start: float
    step: float
    values: tuple[np.ndarray, np.ndarray, np.ndarray]
    slopes: tuple[np.ndarray, np.ndarray, np.ndarray]


def _curves(statistics: Statistics) -> _Curves:
    times = -np.log(check_grid(statistics.levels))
    step = float((times[-1] - times[0]) / (len(times) - 1))
    l, s, b = (np.asarray(a, np.float64) for a in statistics[1:])  # noqa: E741
    S = _cumulative(s, step)
    slopes = (l, s, np.exp(-S) * b)
    return _Curves(
        float(times[0]), step, (_cumulative(l, step), S, _cumulative(slopes[2], step)), slopes
    )


def _cumulative(values: np.ndarray, step: float) -> np.ndarray:
    """Integrals from the first knot to every knot, of cubics through four neighbours."""
    a, b, c, d = values[:-3], values[1:-2], values[2:-1], values[3:]
    first = (9 * a + 19 * b - 5 * c + d)[:1]
    last = (a - 5 * b + 19 * c + 9 * d)[-1:]
    parts = np.concatenate([0 * first, first, -a + 13 * b + 13 * c - d, last])
    return np.cumsum(parts, axis=0) * (step / 24)


def _place(curves: _Curves, times: Numbers) -> tuple[Numbers, Numbers]:
    """Return the interval of each time (n,), and where in it, shaped to multiply arrays (n,
    *shape).
    """
    xp = jnp if is_traced(times) else np
    knots = curves.values[0]
    u = (times - curves.start) / curves.step
    floor = xp.clip(xp.floor(u), 0, len(knots) - 2)
    return floor.astype(np.int32), (u - floor).reshape((-1,) + (1,) * (knots.ndim - 1))


def _ends(knots: np.ndarray, i: Numbers, like: Numbers) -> tuple[Any, Any]:
    """Return the values at both ends of the intervals i."""
    known = jnp.asarray(knots, like.dtype) if is_traced(like) else knots
    return known[i], known[i + 1]


def _at(curves: _Curves, times: Numbers) -> list[Any]:
    """L, S and B at times (n,), each (n, *shape), by cubic Hermite interpolation."""
    i, u = _place(curves, times)
    left, right = (1 + 2 * u) * (1 - u) ** 2, u * u * (3 - 2 * u)
    rise, fall = curves.step * u * (1 - u) ** 2, curves.step * u * u * (u - 1)
    found = []
    for values, slopes in zip(curves.values, curves.slopes, strict=True):
        (a, b), (da, db) = _ends(values, i, u), _ends(slopes, i, u)
        found.append(left * a + right * b + rise * da + fall * db)
    return found


def _gain(curves: _Curves, time: Scalar) -> Any:
    """Return l at a time, (1, *shape), the derivative of L."""
    i, u = _place(curves, time.reshape(1) if is_traced(time) else np.array([time]))
    (a, b), (da, db) = _ends(curves.values[0], i, u), _ends(curves.slopes[0], i, u)
    return (
        6 * u * (1 - u) / curves.step * (b - a) + (1 - u) * (1 - 3 * u) * da + u * (3 * u - 2) * db
    )


def _basis(times: Sequence[Scalar], i: int, t: Numbers, pseudo: bool) -> Any:
    """Return what the value at times[i] contributes at t: Newton's form of the interpolation, or
    its divided differences taken for Taylor coefficients about times[0] (the paper's pseudo order).
    """
    total: Any = 0.0
    for k in range(i, len(times)):
        points = [times[0]] * k if pseudo else times[:k]
        scale = math.prod(times[i] - times[j] for j in range(k + 1) if j != i)
        total = total + math.prod((t - p for p in points), start=1.0) / scale
    return total


def _advance(curves: _Curves, y: State, past: Sequence[_Step], end: Scalar, pseudo: bool) -> State:
    """From the state at past[0] to lambda = end, with g through all of the past."""
    times = [step.time for step in past]
    xp = jnp if any(map(is_traced, [*times, end])) else np
    half = xp.asarray((end - times[0]) / 2)
    points, weights = gauss(64)
    inner = times[0] + half * (1 + points.astype(half.dtype))
    L, S, B = _at(curves, xp.stack([xp.asarray(t, half.dtype) for t in [*times, end]]))
    L_in, S_in, B_in = _at(curves, inner)
    column = (-1,) + (1,) * (L.ndim - 1)
    # S and B are counted from the step's beginning, L from its end: nothing overflows
    kernel = xp.exp(L_in - L[-1:] + S_in - S[:1])
    kernel = kernel * (half * weights.astype(half.dtype)).reshape(column)
    shift = xp.exp(S[:1]) * (B - B[:1])
    number = lambda a: a.astype(value(y).dtype)  # noqa: E731
    moved = number(xp.exp(L[:1] - L[-1:])) * y
    inner_shift = xp.exp(S[:1]) * (B_in - B[:1])
    moved = moved - number(xp.sum(kernel * inner_shift, axis=0, keepdims=True))
    for i, step in enumerate(past):
        basis = (_basis(times, i, inner, pseudo) * xp.ones_like(inner)).reshape(column)
        weight = xp.sum(kernel * basis, axis=0, keepdims=True)
        here = slice(i, i + 1)
        g = number(xp.exp(S[:1] - S[here])) * step.f - number(shift[here])
        moved = moved - number(weight) * g
    return moved


def dpm_v3(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    statistics: Statistics,
    order: int = 3,
    corrector: bool = True,
    pseudo: bool = False,
    lower_final: bool = True,
    reference: bool = False,
) -> Iterator[State]:
    """DPM-Solver-v3 multistep (arXiv 2310.13268, algorithm 2). One evaluation per step.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        statistics: of the model, over all positive levels of the grid.
        order: 1 to 3.
        corrector: correct every state but the last with the evaluation made there, which raises the
            order by one at no cost (f, not D, is kept from the predicted state). On mixtures it
            takes 30 to 70 % off the error at 5 to 10 steps; the paper has it below seven only.
        pseudo: divided differences in place of derivatives: a lower order, which the paper takes at
            five steps.
        lower_final: lower the order in the last steps.
        reference: the published corrector, which leaves out the oldest evaluation unless it is
            pseudo, and so raises the order by none.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an order it does not have, or levels that the statistics do not cover.

    Source: Zheng et al., DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model
    Statistics, arXiv 2310.13268, algorithm 2.
    """
    check_order("dpm_v3", order)
    known = [s for s in levels if not is_traced(s) and not is_zero(s)]
    high, low = float(statistics.levels[0]), float(statistics.levels[-1])
    if known and not (known[0] <= high * (1 + 1e-6) and known[-1] >= low * (1 - 1e-6)):
        raise ValueError(
            f"the statistics cover levels {high:g} to {low:g}; the grid has {known[0]:g} to "
            f"{known[-1]:g}"
        )
    curves, num_steps = _curves(statistics), len(levels) - 1

    def evaluate(y: State, s: Scalar) -> tuple[_Step, Array]:
        rest = (1 - _gain(curves, -log(s))).astype(value(y).dtype)
        return _Step(-log(s), rest * y - D(y, s)), rest

    newest, rest = evaluate(y, levels[0])
    history = [newest]
    for i, r in enumerate(levels[1:]):
        if is_zero(r):
            yield rest * y - history[0].f
            return
        used = step_order(i, num_steps, order, lower_final)
        predicted = _advance(curves, y, history[:used], -log(r), pseudo)
        if i == num_steps - 1:
            yield predicted
            return
        newest, rest = evaluate(predicted, r)
        nodes = [history[0], newest, *history[1:used]]
        if reference and not pseudo:
            nodes = nodes[:used]
        if corrector and len(nodes) > 1:
            y = _advance(curves, y, nodes, newest.time, pseudo)
        else:
            y = predicted
        history = [newest, *history][:order]
        yield y
