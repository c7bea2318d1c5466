"""Solvers that choose where inside a step to evaluate: AMED, its plug-ins, and EPD.

In a step from level s to r the slope is taken at a level in between. With eps = (y - D(y, s))/s,

    m = r^a s^(1 - a),     z = y + (m - s) eps,     eps_m = (z - D(z, t m))/m,
    AMED    y_r = y + c (r - s) eps_m,

where the ratio a in (0, 1), the direction factor c and the time factor t, which moves the level
that the network is told but not the one divided by, are chosen step by step: learned, because by
the mean value theorem some m makes the step exact on a trajectory that lies in a plane (Zhou et
al., arXiv 2312.00094). a = 1/2, c = t = 1 is DPM-Solver-2.

A plug-in is another solver with the middles put into its grid; its step from m to r is scaled by c
and told t m. EPD (Zhu et al., arXiv 2507.14797) has K middles that do not depend on one another,

    y_r = y + (r - s) sum_k w_k c_k eps_k,     c_k = 1 + o_k, t_k = 1 + delta_k in the paper,

so that a step takes the time of two evaluations if they are made at once
(:mod:`jaxdiff.sampling.stages`).

A middle of a step to level 0 would be level 0 itself. Such a step has none: it is one evaluation,
and what the solver without middles does with it (y = D(y, s) for all but iPNDM's plug-in).

Generators as in :mod:`jaxdiff.solvers.singlestep`. The numbers may be floats or traced scalars
(then a table is differentiable in them), and on arrays also JAX arrays of one number per sample,
shaped (batch, 1, ...) to multiply a state; D is then given levels (batch,).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.solvers.exponential import Prediction, check_order, differences, step_order
from jaxdiff.solvers.multistep import ADAMS_BASHFORTH
from jaxdiff.solvers.scalar import D, Scalar, State, is_traced, is_zero, log, weighted
from jaxdiff.solvers.singlestep import exponential_step


class Told(NamedTuple):
    """What a step is told: ratio a, direction factor c, time factor t."""

    ratio: Scalar
    direction: Scalar = 1.0
    time: Scalar = 1.0


Past = tuple[Any, ...]
Step = Callable[..., tuple[State, Past]]
"""``step(D, y, past, levels, i, ask) -> (y, past)``: step i of a grid. ``ask()`` says what the step
is told, and is called after its first evaluation, on whose features a prediction may rest."""


def march(
    step: Step, D: D, y: State, levels: Sequence[Scalar], ask: Callable[[int], Told]
) -> Iterator[State]:
    """Take all steps of a grid; step i is told ``ask(i)``."""
    past: Past = ()
    for i in range(len(levels) - 1):
        y, past = step(D, y, past, levels, i, functools.partial(ask, i))
        yield y


def middle(s: Scalar, r: Scalar, ratio: Scalar) -> Scalar:
    """The level between s and r at a ratio of the step in log level."""
    return r**ratio * s ** (1 - ratio)


def denoised_inside(D: D, z: State, m: Scalar, time: Scalar) -> State:
    """D(z, time m) of a state at level m, which may be one number per sample."""
    level = time * m
    return D(z, jnp.reshape(level, -1) if np.ndim(level) else level)


def inner_slope(D: D, z: State, m: Scalar, time: Scalar) -> State:
    """The slope (z - D(z, time m))/m at a state of level m."""
    return (z - denoised_inside(D, z, m, time)) / m


def amed(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    middles: Any = 0.5,
    direction: Any = 1.0,
    time: Any = 1.0,
) -> Iterator[State]:
    """AMED-Solver (arXiv 2312.00094). Two evaluations per step, one in a step to level 0.

    Order 2 with all numbers left as they are; with others, order 1 or (c not 1) none: they are
    fitted to a grid.

    Args:
        middles: the ratio a of the middle in every step, in (0, 1): one number, or one per step.
        direction: the factor c of the direction: one number, or one per step.
        time: the factor t of the level told to the network: one number, or one per step.

    Raises:
        ValueError: for a ratio not within (0, 1), or as many numbers as there are no steps.
    """
    return march(amed_step, D, y, levels, _told(levels, middles, direction, time))


def amed_step(
    D: D, y: State, past: Past, levels: Sequence[Scalar], i: int, ask: Callable[[], Told]
) -> tuple[State, Past]:
    """One step of :func:`amed`; the past stays empty."""
    return _midpoint(D, y, levels[i : i + 2], ask, mixed=False), past


def amed_dpm2(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    middles: Any = 0.5,
    direction: Any = 1.0,
    time: Any = 1.0,
) -> Iterator[State]:
    """DPM-Solver-2 with AMED's numbers; a ratio of 1/2 is :func:`amed`. Arguments and evaluations
    as there.
    """
    return march(amed_dpm2_step, D, y, levels, _told(levels, middles, direction, time))


def amed_dpm2_step(
    D: D, y: State, past: Past, levels: Sequence[Scalar], i: int, ask: Callable[[], Told]
) -> tuple[State, Past]:
    """One step of :func:`amed_dpm2`; the past stays empty."""
    return _midpoint(D, y, levels[i : i + 2], ask, mixed=True), past


def _midpoint(
    D: D, y: State, ends: Sequence[Scalar], ask: Callable[[], Told], mixed: bool
) -> State:
    """The step by the slope in the middle, ``mixed`` with that at its beginning to order 2."""
    s, r = ends
    eps = (y - D(y, s)) / s
    if is_zero(r):
        return y + (r - s) * eps
    ratio, direction, time = ask()
    m = middle(s, r, ratio)
    slope = inner_slope(D, y + (m - s) * eps, m, time)
    if mixed:
        weight = 1 / (2 * ratio)
        slope = weight * slope + (1 - weight) * eps
    return y + direction * (r - s) * slope


def amed_ipndm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    middles: Any = 0.5,
    direction: Any = 1.0,
    time: Any = 1.0,
    order: int = 4,
) -> Iterator[State]:
    """AMED-Plugin on iPNDM: :func:`jaxdiff.solvers.ipndm` on the grid with the middles put in, the
    second half of every step scaled. Order 1 is the plug-in on Euler's method.

    Arguments and evaluations as for :func:`amed`; the order, 1 to 4, grows by half steps.
    """
    if not 1 <= order <= 4:
        raise ValueError(f"amed_ipndm has orders 1 to 4, not {order}")
    step = functools.partial(amed_ipndm_step, order=order)
    return march(step, D, y, levels, _told(levels, middles, direction, time))


def amed_ipndm_step(
    D: D,
    y: State,
    past: Past,
    levels: Sequence[Scalar],
    i: int,
    ask: Callable[[], Told],
    order: int = 4,
) -> tuple[State, Past]:
    """One step of :func:`amed_ipndm`; the past is slopes, newest first."""
    s, r = levels[i : i + 2]
    past = ((y - D(y, s)) / s, *past)[:order]
    if is_zero(r):
        return y + (r - s) * _adams_bashforth(past), past
    ratio, direction, time = ask()
    m = middle(s, r, ratio)
    y = y + (m - s) * _adams_bashforth(past)
    past = (inner_slope(D, y, m, time), *past)[:order]
    return y + direction * (r - m) * _adams_bashforth(past), past


def _adams_bashforth(past: Past) -> State:
    return weighted(ADAMS_BASHFORTH[len(past) - 1], past)


def amed_dpmpp(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    middles: Any = 0.5,
    direction: Any = 1.0,
    time: Any = 1.0,
    order: int = 2,
    prediction: Prediction = "data",
    lower_final: bool = True,
    second: Literal["midpoint", "exact"] = "midpoint",
    reference: bool = False,
) -> Iterator[State]:
    """AMED-Plugin on DPM-Solver++ or DPM-Solver multistep: :func:`jaxdiff.solvers.dpmpp` on the
    grid with the middles put in, what the second half of every step adds to (r/m) y (data) or y
    (noise) scaled.

    Arguments and evaluations as for :func:`amed`, and options of ``dpmpp``, whose steps are the
    half steps here.
    """
    check_order("amed_dpmpp", order, prediction)
    if second not in ("midpoint", "exact"):
        raise ValueError(f"amed_dpmpp has second 'midpoint' and 'exact', not {second!r}")
    options = {"order": order, "prediction": prediction, "lower_final": lower_final}
    step = functools.partial(amed_dpmpp_step, **options, second=second, reference=reference)
    return march(step, D, y, levels, _told(levels, middles, direction, time))


def amed_dpmpp_step(
    D: D,
    y: State,
    past: Past,
    levels: Sequence[Scalar],
    i: int,
    ask: Callable[[], Told],
    order: int = 2,
    prediction: Prediction = "data",
    lower_final: bool = True,
    second: Literal["midpoint", "exact"] = "midpoint",
    reference: bool = False,
) -> tuple[State, Past]:
    """One step of :func:`amed_dpmpp`; the past is pairs of -log level and prediction, newest
    first.
    """
    s, r = levels[i : i + 2]
    halves = 2 * (len(levels) - 1) - is_zero(levels[-1])

    def half(number: int, y: State, past: Past, output: State, s: Scalar, r: Scalar, c: Scalar):  # noqa: ANN202
        predicted = output if prediction == "data" else (y - output) / s
        past = ((-log(s), predicted), *past)[:order]
        used = list(past[: step_order(number, halves, order, lower_final)])
        derivatives = [c * d for d in differences(log(s) - log(r), used, reference)]
        return _exponential(y, s, r, derivatives, prediction, second), past

    output = D(y, s)
    if is_zero(r):
        return output, past
    ratio, direction, time = ask()
    m = middle(s, r, ratio)
    y, past = half(2 * i, y, past, output, s, m, 1.0)
    output = denoised_inside(D, y, m, time)
    return half(2 * i + 1, y, past, output, m, r, direction)


def _exponential(
    y: State, s: Scalar, r: Scalar, derivatives: list[State], prediction: Prediction, second: str
) -> State:
    """The exponential step, sample by sample where one of the levels is."""
    if np.ndim(s) == np.ndim(r) == 0:
        return exponential_step(y, s, r, derivatives, prediction, second)
    each = lambda y, s, r, d: exponential_step(y, s, r, d, prediction, second)  # noqa: E731
    s, r = (jnp.broadcast_to(jnp.reshape(x, -1).astype(y.dtype), y.shape[:1]) for x in (s, r))
    return jax.vmap(each)(y, s, r, derivatives)


def epd(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    ratios: Any = (1 / 3, 2 / 3),
    weights: Any = None,
    directions: Any = 1.0,
    times: Any = 1.0,
    order: int = 1,
) -> Iterator[State]:
    """EPD-Solver (arXiv 2507.14797): K middles that do not depend on one another.

    1 + K evaluations per step, the K of which can be made at once; one in a step to level 0. Order
    2 if the weights sum to 1, the mean ratio is 1/2 and the factors are 1; K = 1 is :func:`amed`.

    Args:
        ratios: of the K middles in a step, each in (0, 1): K numbers, or K for every step.
        weights: of the slopes there, likewise; 1/K by default.
        directions: factors 1 + o_k of the slopes, one number or likewise.
        times: factors 1 + delta_k of the levels told to the network, one number or likewise. As in
            the published code, the slope is divided by the state's own level.
        order: the middle states are reached by iPNDM steps of this order, over the slopes that
            steps begin with: 1 is EPD-Solver, 4 its plug-in on iPNDM.

    Raises:
        ValueError: for ratios not within (0, 1), or numbers that do not fit the ratios or the grid.
    """
    if not 1 <= order <= 4:
        raise ValueError(f"epd has orders 1 to 4, not {order}")
    told, past = _points(len(levels) - 1, ratios, weights, directions, times), ()
    for (s, r), (own, gains, factors) in zip(pairwise(levels), told, strict=True):
        past = ((y - D(y, s)) / s, *past)[:order]
        slope = _adams_bashforth(past)
        if is_zero(r):
            y = y + (r - s) * past[0]
        else:
            inner = [middle(s, r, a) for a in own]
            pairs = zip(inner, factors, strict=True)
            slopes = [inner_slope(D, y + (m - s) * slope, m, t) for m, t in pairs]
            y = y + (r - s) * weighted(gains, slopes)
        yield y


def _told(levels: Sequence[Scalar], *options: Any) -> Callable[[int], Told]:
    """What each step is told, of options that are one number or one per step."""
    steps = len(levels) - 1
    columns = [_each(option, steps, name) for option, name in zip(options, _NAMES, strict=True)]
    _check_ratios(columns[0])
    return [Told(*row) for row in zip(*columns, strict=True)].__getitem__


_NAMES = ("middles", "direction", "time")


def _each(option: Any, steps: int, name: str) -> list[Scalar]:
    if not isinstance(option, (list, tuple)) and np.ndim(option) == 0:
        return [option] * steps
    entries = [jnp.asarray(x) if np.ndim(x) else x for x in option]
    if len(entries) != steps:
        raise ValueError(f"{name} has {len(entries)} entries for a grid of {steps} steps")
    return entries


def _check_ratios(ratios: Sequence[Scalar]) -> None:
    for a in ratios:
        if not is_traced(a) and not 0 < a < 1:
            raise ValueError(f"the ratio of a middle must lie within (0, 1); one is {a}")


def _points(
    steps: int, ratios: Any, weights: Any, directions: Any, times: Any
) -> list[tuple[list[Scalar], list[Scalar], list[Scalar]]]:
    """Ratios, weights times directions, and times of every step."""
    rows = _rows(ratios, steps, "ratios")
    counts = [len(row) for row in rows]
    for row in rows:
        _check_ratios(row)
    given = {"weights": weights, "directions": directions, "times": times}
    if weights is None:
        given["weights"] = [[1 / k] * k for k in counts]
    columns = []
    for name, option in given.items():
        flat = not isinstance(option, (list, tuple)) and np.ndim(option) == 0
        columns.append([[option] * k for k in counts] if flat else _rows(option, steps, name))
        if [len(row) for row in columns[-1]] != counts:
            raise ValueError(f"{name} must have as many entries in every step as ratios: {counts}")
    gains = [[w * c for w, c in zip(*pair, strict=True)] for pair in zip(*columns[:2], strict=True)]
    return list(zip(rows, gains, columns[2], strict=True))


def _rows(option: Any, steps: int, name: str) -> list[list[Scalar]]:
    """One row of numbers for every step: given, or the same for all."""
    entries = list(option)
    nested = [isinstance(x, (list, tuple)) or np.ndim(x) > 0 for x in entries]
    rows = [list(row) for row in entries] if all(nested) else [entries] * steps
    if len(rows) != steps or not all(rows):
        raise ValueError(f"{name} must be some numbers, or some for each of {steps} steps")
    return rows
