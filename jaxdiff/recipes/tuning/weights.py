"""All weights and levels of a table: bespoke non-stationary solvers, the generalised solver."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.distance import Distance
from jaxdiff.ranges import Count
from jaxdiff.recipes.tuning.task import Descent, Task, Tuner, adam, descent, start_of
from jaxdiff.tuning.learned.family import of_grid, of_weights


def bns(task: Task, *, log: bool = True, window: Count | None = None, **options: Any) -> Descent:
    """Bespoke non-stationary solvers (arXiv 2403.01329): all weights and levels, by Adam, for the
    mean over pairs of the logarithm of their distance, of a squared one their PSNR.

    The weights are of the start and of all denoised outputs, which span what those of the start and
    of all velocities do. Unlike in the paper they start from the best baseline, not from Euler
    or midpoint with another noise scale, Adam's rate goes to zero by a cosine, and the best table
    is chosen by the mean distance. That is not what the logarithm makes small: with it on a mixture
    at 4 and 8 evaluations PSNR is 0.4 and 0.7 dB better, the root of the mean 1.5 and 2 times as
    large as with log false.

    log: descend by the logarithm. window: how many of the last outputs have free weights; all by
    default.
    """
    base = start_of(task)
    grid = of_grid(base.solver, base.levels, first=base.analytic, **base.options)
    family = of_weights(grid, window=window, sigma_data=task.sigma_data)
    distance = logarithm(task.distance) if log else task.distance
    return descent(task, family, base.table(), distance=distance, optimiser=adam(task, **options))


def logarithm(distance: Distance) -> Distance:
    """Return the logarithm of a distance, with gradient 0 where that is 0."""
    least = float(np.finfo(np.float32).tiny)
    return lambda a, b: jnp.log(jnp.maximum(distance(a, b), least))


def gs(task: Task, *, window: Count | None = None, offsets: bool = True, **options: Any) -> Descent:
    """Generalised solver (arXiv 2510.17699, its distillation part): all weights, levels and
    conditioning levels, as corrections of a solver on the learned levels.

    The weights of the start and of all denoised outputs span those of past states, too, which the
    authors' code has. Unlike there the numbers start from the best baseline, not from
    DPM-Solver++ on levels uniform in time, the distance is the task's and not LPIPS, and Adam's
    rate goes to zero by a cosine, where there it stays at 1e-3, with gradients clipped at norm 1,
    and an average of the numbers (decay 0.999) is what samples.

    window: how many of the last outputs have free weights; all by default. offsets: let the level
    that the network is conditioned on differ from the state's own.
    """
    base = start_of(task)
    grid = of_grid(base.solver, base.levels, offsets=offsets, first=base.analytic, **base.options)
    family = of_weights(grid, window=window, sigma_data=task.sigma_data)
    return descent(task, family, base.table(), optimiser=adam(task, **options))


TUNERS: dict[str, Tuner] = {
    "bns": Tuner(bns, (adam,)),
    "gs": Tuner(gs, (adam,)),
}
