"""AMED-Solver and its plug-ins (Zhou et al. 2024, arXiv 2312.00094).

In a step from level s to r the slope is taken at a level in between. With eps = (y - D(y, s))/s,

    m = r^a s^(1 - a),     z = y + (m - s) eps,     eps_m = (z - D(z, t m))/m,
    AMED    y_r = y + c (r - s) eps_m,

where the ratio a in (0, 1), the direction factor c and the time factor t, which moves the level
that the network is conditioned on but not the one divided by, are chosen step by step: learned,
because by the mean value theorem some m makes the step exact on a trajectory that lies in a plane.
a = 1/2, c = t = 1 is DPM-Solver-2. A plug-in is another solver with the intermediate levels put
into its grid; its step from m to r is scaled by c and evaluated at t m.

An intermediate level of a step to level 0 would be level 0 itself. Such a step has none: it is one
evaluation, and what the plain solver does with it (y = D(y, s) for all but iPNDM's plug-in).

The numbers may be floats, traced scalars (then a table is differentiable in them) or one per sample
(:mod:`jaxdiff.solvers.intermediate`).
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.solvers.exponential_integrator import (
    Prediction,
    check_prediction,
    differences,
    exponential_step,
    predicted,
)
from jaxdiff.solvers.held import value
from jaxdiff.solvers.intermediate import (
    PerStep,
    check_ratios,
    denoised_inside,
    inner_slope,
    intermediate_level,
    is_number,
)
from jaxdiff.solvers.orders import check_order, step_order
from jaxdiff.solvers.pndm import adams_bashforth
from jaxdiff.solvers.scalar import D, Scalar, State, is_zero, log


class StepNumbers(NamedTuple):
    """The numbers of a step: ratio a, direction factor c, time factor t."""

    ratio: Scalar
    direction: Scalar = 1.0
    time: Scalar = 1.0


Past = tuple[Any, ...]


Step = Callable[..., tuple[State, Past]]
"""``step(D, y, past, levels, i, predict) -> (y, past)``: step i of a grid. ``predict()`` gives the
numbers of the step, and is called after its first evaluation, on whose features it may rest."""


def march(
    step: Step, D: D, y: State, levels: Sequence[Scalar], predict: Callable[[int], StepNumbers]
) -> Iterator[State]:
    """Take all steps of a grid; step i has the numbers ``predict(i)``."""
    past: Past = ()
    for i in range(len(levels) - 1):
        y, past = step(D, y, past, levels, i, functools.partial(predict, i))
        yield y


def amed(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    ratios: PerStep = 0.5,
    direction: PerStep = 1.0,
    time: PerStep = 1.0,
) -> Iterator[State]:
    """AMED-Solver (arXiv 2312.00094). Two evaluations per step, one in a step to level 0.

    Order 2 with all numbers left as they are; with others, order 1 or (c not 1) none: they are
    fitted to a grid.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        ratios: the ratio a of the intermediate level in every step, in (0, 1): one number, or one
            per step.
        direction: the factor c of the direction: one number, or one per step.
        time: the factor t of the level that conditions the network: one number, or one per step.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for a ratio not within (0, 1), or as many numbers as there are no steps.

    Source: Zhou et al., Fast ODE-based Sampling for Diffusion Models in Around 5 Steps, arXiv
    2312.00094.
    """
    return march(amed_step, D, y, levels, _step_numbers(levels, ratios, direction, time))


def amed_step(
    D: D, y: State, past: Past, levels: Sequence[Scalar], i: int, predict: Callable[[], StepNumbers]
) -> tuple[State, Past]:
    """One step of :func:`amed`; the past stays empty."""
    return _midpoint(D, y, levels[i : i + 2], predict, mixed=False), past


def amed_dpm2(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    ratios: PerStep = 0.5,
    direction: PerStep = 1.0,
    time: PerStep = 1.0,
) -> Iterator[State]:
    """DPM-Solver-2 with AMED's numbers; a ratio of 1/2 is :func:`amed`. Arguments and evaluations
    as there.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        ratios: as for :func:`amed`.
        direction: as for :func:`amed`.
        time: as for :func:`amed`.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: as for :func:`amed`.

    Source: Zhou et al., Fast ODE-based Sampling for Diffusion Models in Around 5 Steps, arXiv
    2312.00094.
    """
    return march(amed_dpm2_step, D, y, levels, _step_numbers(levels, ratios, direction, time))


def amed_dpm2_step(
    D: D, y: State, past: Past, levels: Sequence[Scalar], i: int, predict: Callable[[], StepNumbers]
) -> tuple[State, Past]:
    """One step of :func:`amed_dpm2`; the past stays empty."""
    return _midpoint(D, y, levels[i : i + 2], predict, mixed=True), past


def _midpoint(
    D: D, y: State, ends: Sequence[Scalar], predict: Callable[[], StepNumbers], mixed: bool
) -> State:
    """The step by the slope at the intermediate level, ``mixed`` with that at its beginning to
    order 2.
    """
    s, r = ends
    eps = (y - D(y, s)) / s
    if is_zero(r):
        return y + (r - s) * eps
    ratio, direction, time = predict()
    m = intermediate_level(s, r, ratio)
    slope = inner_slope(D, y + (m - s) * eps, m, time)
    if mixed:
        weight = 1 / (2 * ratio)
        slope = weight * slope + (1 - weight) * eps
    return y + direction * (r - s) * slope


def amed_ipndm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    ratios: PerStep = 0.5,
    direction: PerStep = 1.0,
    time: PerStep = 1.0,
    order: int = 4,
) -> Iterator[State]:
    """AMED-Plugin on iPNDM: :func:`jaxdiff.solvers.ipndm` on the grid with the intermediate levels
    put in, the second half of every step scaled. Order 1 is the plug-in on Euler's method.

    Arguments and evaluations as for :func:`amed`; the order, 1 to 4, grows by half steps.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        ratios: as for :func:`amed`.
        direction: as for :func:`amed`.
        time: as for :func:`amed`.
        order: 1 to 4, the most past slopes that are used.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: as for :func:`amed`, or for an order that it does not have.

    Source: Zhou et al., Fast ODE-based Sampling for Diffusion Models in Around 5 Steps, arXiv
    2312.00094.
    """
    check_order("amed_ipndm", order, 4)
    step = functools.partial(amed_ipndm_step, order=order)
    return march(step, D, y, levels, _step_numbers(levels, ratios, direction, time))


def amed_ipndm_step(
    D: D,
    y: State,
    past: Past,
    levels: Sequence[Scalar],
    i: int,
    predict: Callable[[], StepNumbers],
    order: int = 4,
) -> tuple[State, Past]:
    """One step of :func:`amed_ipndm`; the past is slopes, newest first."""
    s, r = levels[i : i + 2]
    past = ((y - D(y, s)) / s, *past)[:order]
    if is_zero(r):
        return y + (r - s) * adams_bashforth(past), past
    ratio, direction, time = predict()
    m = intermediate_level(s, r, ratio)
    y = y + (m - s) * adams_bashforth(past)
    past = (inner_slope(D, y, m, time), *past)[:order]
    return y + direction * (r - m) * adams_bashforth(past), past


def amed_dpmpp(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    ratios: PerStep = 0.5,
    direction: PerStep = 1.0,
    time: PerStep = 1.0,
    order: int = 2,
    prediction: Prediction = "data",
    lower_final: bool = True,
    second: Literal["midpoint", "exact"] = "midpoint",
    reference: bool = False,
) -> Iterator[State]:
    """AMED-Plugin on DPM-Solver++ or DPM-Solver multistep: :func:`jaxdiff.solvers.dpmpp` on the
    grid with the intermediate levels put in, what the second half of every step adds to (r/m) y
    (data) or y (noise) scaled.

    Arguments and evaluations as for :func:`amed`, and options of ``dpmpp``, whose steps are the
    half steps here.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        ratios: as for :func:`amed`.
        direction: as for :func:`amed`.
        time: as for :func:`amed`.
        order: 1 to 3, as for :func:`jaxdiff.solvers.dpmpp`; it grows by half steps.
        prediction: what is interpolated, "data" or "noise".
        lower_final: lower the order in the last half steps.
        second: weight of h M' in a half step of order 2, as for ``dpmpp``.
        reference: at order 3, take h^2 M'' without its factor 2, as for ``dpmpp``.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: as for :func:`amed`, or for a ``second`` that there is not.

    Source: Zhou et al., Fast ODE-based Sampling for Diffusion Models in Around 5 Steps, arXiv
    2312.00094; Lu et al., DPM-Solver++, arXiv 2211.01095.
    """
    check_order("amed_dpmpp", order)
    check_prediction("amed_dpmpp", prediction)
    if second not in ("midpoint", "exact"):
        raise ValueError(f"amed_dpmpp has second 'midpoint' and 'exact', not {second!r}")
    options = {"order": order, "prediction": prediction, "lower_final": lower_final}
    step = functools.partial(amed_dpmpp_step, **options, second=second, reference=reference)
    return march(step, D, y, levels, _step_numbers(levels, ratios, direction, time))


def amed_dpmpp_step(
    D: D,
    y: State,
    past: Past,
    levels: Sequence[Scalar],
    i: int,
    predict: Callable[[], StepNumbers],
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
        past = ((-log(s), predicted(output, y, s, prediction)), *past)[:order]
        used = list(past[: step_order(number, halves, order, lower_final)])
        derivatives = [c * d for d in differences(log(s) - log(r), used, reference)]
        return _exponential(y, s, r, derivatives, prediction, second), past

    output = D(y, s)
    if is_zero(r):
        return output, past
    ratio, direction, time = predict()
    m = intermediate_level(s, r, ratio)
    y, past = half(2 * i, y, past, output, s, m, 1.0)
    output = denoised_inside(D, y, m, time)
    return half(2 * i + 1, y, past, output, m, r, direction)


def _exponential(
    y: State, s: Scalar, r: Scalar, derivatives: list[State], prediction: Prediction, second: str
) -> State:
    """Return the exponential step, sample by sample where one of the levels is."""
    if np.ndim(s) == np.ndim(r) == 0:
        return exponential_step(y, s, r, derivatives, prediction, second)
    each = lambda y, s, r, d: exponential_step(y, s, r, d, prediction, second)  # noqa: E731
    like = value(y)
    s, r = (jnp.broadcast_to(jnp.reshape(x, -1).astype(like.dtype), like.shape[:1]) for x in (s, r))
    return jax.vmap(each)(y, s, r, derivatives)


def _step_numbers(levels: Sequence[Scalar], *options: PerStep) -> Callable[[int], StepNumbers]:
    """Return the numbers of each step, of options that are one number or one per step."""
    num_steps = len(levels) - 1
    columns = [_each(option, num_steps, name) for option, name in zip(options, _NAMES, strict=True)]
    check_ratios(columns[0])
    return [StepNumbers(*row) for row in zip(*columns, strict=True)].__getitem__


_NAMES = ("ratios", "direction", "time")


def _each(option: PerStep, num_steps: int, name: str) -> list[Scalar]:
    if is_number(option):
        return [option] * num_steps
    entries = [jnp.asarray(x) if np.ndim(x) else x for x in cast(Iterable[Scalar], option)]
    if len(entries) != num_steps:
        raise ValueError(f"{name} has {len(entries)} entries for a grid of {num_steps} steps")
    return entries
