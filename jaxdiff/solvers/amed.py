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
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np

from jaxdiff.solvers.intermediate import (
    PerStep,
    check_ratios,
    inner_slope,
    intermediate_level,
    is_number,
)
from jaxdiff.solvers.scalar import D, Scalar, State, is_zero


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
    return march(amed_step, D, y, levels, step_numbers(levels, ratios, direction, time))


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
    return march(amed_dpm2_step, D, y, levels, step_numbers(levels, ratios, direction, time))


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


def step_numbers(levels: Sequence[Scalar], *options: PerStep) -> Callable[[int], StepNumbers]:
    """Return the numbers of each step, of options that are one number or one per step."""
    num_steps = len(levels) - 1
    columns = [
        per_step(option, num_steps, name) for option, name in zip(options, _NAMES, strict=True)
    ]
    check_ratios(columns[0])
    return [StepNumbers(*row) for row in zip(*columns, strict=True)].__getitem__


_NAMES = ("ratios", "direction", "time")


def per_step(option: PerStep, num_steps: int, name: str) -> list[Scalar]:
    """Return an option as one entry per step; ValueError for another number of entries."""
    if is_number(option):
        return [option] * num_steps
    entries = [jnp.asarray(x) if np.ndim(x) else x for x in cast(Iterable[Scalar], option)]
    if len(entries) != num_steps:
        raise ValueError(f"{name} has {len(entries)} entries for a grid of {num_steps} steps")
    return entries
