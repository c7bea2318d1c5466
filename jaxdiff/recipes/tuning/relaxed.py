"""Levels and weights against a relaxed teacher, whose starts may move: LD3, S4S and S4S-Alt."""

import math
from collections.abc import Hashable
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.distance import Distance
from jaxdiff.ranges import Below1, Count, Fraction, NotNegative, Positive, Range
from jaxdiff.recipes.tuning.task import (
    Descent,
    Task,
    Tuner,
    adam,
    descent,
    pairs_per_update,
    start_of,
)
from jaxdiff.sampling.table import Table
from jaxdiff.training.tune import held_out
from jaxdiff.tuning.baselines import Baseline
from jaxdiff.tuning.learned.family import of_grid, of_weights
from jaxdiff.tuning.learned.method import Ball, Turns

Reach = Annotated[float, Range(0.0, 0.5, above=True)]


def ld3(
    task: Task,
    *,
    reach: Reach = 0.5,
    radius: NotNegative = 0.001,
    start_rate: Positive = 12.0,
    **options: Any,
) -> Descent:
    """LD3 (arXiv 2405.15506): levels, offsets of the conditioning levels, starts within a ball.

    As the authors' code, for N evaluations and samples of d numbers: levels by RMSprop, by default
    at 0.005; offsets by plain descent once the levels have had two of seven rounds alone, within
    half the least gap, none at both ends; gradients of both clipped; starts moved where their own
    loss falls.

    Unlike there, the loss is the task's distance in units of its mean at the start, where the paper
    has LPIPS; of a bare squared distance offsets hardly move, and errors on a mixture are 1.6 to
    2.9 times as large. Levels start from the best baseline, not from a uniform grid. Updates
    have the task's number and batch, not seven rounds of single pairs; the levels' rate goes to
    zero by a cosine, not by 0.8 after each five worse validations with the best numbers put back,
    and the other rates stay. Held-out starts do not move, and so the starts' rate is not halved
    when they no longer do. Offsets and their bound are of log levels (in the authors' mode for
    these the bound is, by a slip, of the raw numbers).

    reach: of offsets, as a share of the least gap of log levels. radius: of the starts' ball, in
    units of d/nfe^2 for samples of d numbers; 0 keeps them. start_rate: of the starts' gradient
    descent, in units of 1/nfe.
    """
    base = start_of(task)
    family = of_grid(
        base.solver, base.levels, offsets=True, reach=reach, first=base.analytic, **base.options
    )  # fmt: skip
    return descent(
        task, family, base.table(), distance=relative(task, base.table()),
        optimiser=in_phases(task, **options), ball=relaxed(task, radius, start_rate),
    )  # fmt: skip


def relative(task: Task, start: Table) -> Distance:
    """Return the task's distance in units of its mean at the start: plain descent at LD3's rates is
    for LPIPS, which is some tenths whatever the data.
    """
    mean = held_out(task.denoiser, task.pairs, task.distance, **task.placing)(start) ** 2 or 1.0
    return lambda a, b: task.distance(a, b) / mean


def in_phases(
    task: Task,
    *,
    level_rate: Positive = 0.25,
    momentum: Below1 = 0.9,
    clip: Positive = 1.0,
    alone: Fraction = 2 / 7,
    offset_rate: NotNegative = 0.1,
) -> optax.GradientTransformation:
    """LD3's optimisers: levels by RMSprop, its rate going to zero by a cosine; then offsets, too,
    by plain descent.

    level_rate: rate of levels, in units of the task's. momentum: of RMSprop. clip: largest norm of
    the gradient, of levels and of offsets. alone: share of the updates in which offsets rest.
    offset_rate: rate of offsets, in units of 1/nfe; 0 for none.
    """
    first = math.ceil(alone * task.num_updates)
    rate = optax.cosine_decay_schedule(level_rate * task.rate, task.num_updates)
    late = lambda step: jnp.where(step < first, 0.0, offset_rate / task.nfe)  # noqa: E731
    each: dict[Hashable, optax.GradientTransformation] = {
        "levels": optax.chain(
            optax.clip_by_global_norm(clip),
            optax.scale_by_rms(decay=0.99, eps_in_sqrt=False),  # as PyTorch has it
            optax.trace(momentum),
            optax.scale_by_learning_rate(rate),
        ),
        "offsets": optax.chain(optax.clip_by_global_norm(clip), optax.sgd(late)),
    }
    return optax.multi_transform(each, lambda numbers: {name: name for name in numbers})


def relaxed(task: Task, radius: float = 0.001, rate: float = 12.0) -> Ball | None:
    """Return the ball of LD3's relaxed teacher, of its radius; None for a radius of 0."""
    size = int(np.prod(task.pairs["start"].shape[1:]))
    count, batch = len(task.pairs["start"]), pairs_per_update(task)
    return Ball(count, batch, radius * size / task.nfe**2, rate / task.nfe) if radius else None


def s4s(
    task: Task,
    *,
    window: Count | None = None,
    keep_start: bool = True,
    radius: NotNegative = 0.001,
    start_rate: Positive = 12.0,
    **options: Any,
) -> Descent:
    """S4S (arXiv 2502.17423): weights of the last outputs on the best baseline grid, from
    those of a multistep solver, the teacher relaxed.

    The authors published no code. The ball and its descent are LD3's, with the loss in units of its
    mean at the start (:func:`ld3`), where the paper has LPIPS; the weights' optimiser is that of
    all methods here, Adam with a rate that goes to zero by a cosine.

    window: how many of the last outputs have free weights; the solver's order by default.
    keep_start: leave the weights of the start as the solver has them. radius: of the starts' ball,
    in units of d/nfe^2 for samples of d numbers; 0 keeps them. start_rate: of the starts' gradient
    descent, in units of 1/nfe.
    """
    base = start_of(task)
    free = {"window": _window(base, window), "keep_start": keep_start}
    family = of_weights(base.table(), **free, sigma_data=task.sigma_data)
    return descent(
        task, family, base.table(), distance=relative(task, base.table()),
        optimiser=adam(task, **options), ball=relaxed(task, radius, start_rate),
    )  # fmt: skip


def s4s_alt(
    task: Task,
    *,
    window: Count | None = None,
    rounds: Count = 10,
    reach: Reach = 0.5,
    radius: NotNegative = 0.001,
    start_rate: Positive = 12.0,
    level_rate: Positive = 0.25,
    momentum: Below1 = 0.9,
    clip: Positive = 1.0,
    alone: Fraction = 2 / 7,
    offset_rate: NotNegative = 0.1,
    **options: Any,
) -> Descent:
    """S4S-Alt (arXiv 2502.17423): LD3's numbers and S4S's in turn, each by its own method's
    optimiser, the teacher relaxed. The levels begin: weights that were fitted to a bad grid lead
    away from a good one. What :func:`ld3` and :func:`s4s` say of their papers holds here, too.

    window: how many of the last outputs have free weights; the solver's order by default. rounds:
    turns of each. reach: of offsets, as a share of the least gap of log levels. radius: of the
    starts' ball, in units of d/nfe^2 for samples of d numbers; 0 keeps them. start_rate: of the
    starts' gradient descent, in units of 1/nfe. level_rate: rate of levels, in units of the task's.
    momentum: of RMSprop. clip: largest norm of the gradient, of levels and of offsets. alone: share
    of the levels' updates in which offsets rest. offset_rate: rate of offsets, in units of 1/nfe; 0
    for none.
    """
    base = start_of(task)
    grid = of_grid(
        base.solver, base.levels, offsets=True, reach=reach, first=base.analytic, **base.options
    )  # fmt: skip
    free = {"window": _window(base, window), "keep_start": True}
    family = of_weights(grid, **free, sigma_data=task.sigma_data)
    length = max(1, task.num_updates // (2 * rounds))
    turns = Turns((("levels", "offsets"), ("denoised",)), length)
    half = task._replace(num_updates=-(-task.num_updates // 2))
    levels = in_phases(
        half, level_rate=level_rate, momentum=momentum, clip=clip, alone=alone,
        offset_rate=offset_rate,
    )  # fmt: skip
    return descent(
        task, family, base.table(), distance=relative(task, base.table()), turns=turns,
        optimiser={"levels": levels, "denoised": adam(half, **options)},
        ball=relaxed(task, radius, start_rate),
    )  # fmt: skip


def _window(base: Baseline, given: int | None) -> int:
    return base.options.get("order", 1) if given is None else given


TUNERS: dict[str, Tuner] = {
    "ld3": Tuner(ld3, (in_phases,)),
    "s4s": Tuner(s4s, (adam,)),
    "s4s_alt": Tuner(s4s_alt, (adam,)),
}
