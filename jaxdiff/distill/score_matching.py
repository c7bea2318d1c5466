"""Denoising score matching: how a teacher is trained, as a method of one player.

    E_{x0, s, eps} w(s) |D(x0 + s eps, s) - x0|^2,      log s ~ N(mean, std^2)

whose minimiser is D = E[x0 | y]; w = 1/c_out^2 makes the network's own error count equally at all
levels (Karras et al., arXiv 2206.00364, section 5; their values are the defaults). With labels, a
tenth of them is dropped during training so that one network is both the conditional and the
unconditional model (arXiv 2207.12598).
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxdiff import grids, solvers
from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import bind, drawn, mean_loss
from jaxdiff.distill.parts.level_distributions import LevelDistribution, log_normal
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student, trained
from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.prediction import edm_weight
from jaxdiff.ranges import Number, Positive, in_range
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Key, Params


def score_matching_loss(
    D: Callable[..., Array], x0: Array, level: Array, eps: Array, weight: Array
) -> Array:
    """Weight |D(x0 + level eps, level) - x0|^2 per sample (mean over its numbers), shape
    (batch,).
    """
    return weight * squared(D(perturb(x0, level, eps), level), x0)


@in_range
def score_matching(
    student: Student,
    *,
    mean: Number = -1.2,
    std: Positive = 1.2,
    weight: Callable[..., Array] = edm_weight,
    levels: LevelDistribution | None = None,
) -> Method:
    """Train a denoiser by denoising score matching.

    Args:
        student: what is trained; Adam with learning rate 1e-3, and a tenth of the conditions
            dropped, by default.
        mean, std: of log level in training, where no ``levels`` are given.
        weight: function ``weight(level, sigma_data)`` of the squared error of x0
            (:mod:`jaxdiff.prediction`, :mod:`jaxdiff.distill.parts.weightings`).
        levels: how levels are drawn (:mod:`jaxdiff.distill.parts.level_distributions`).

    Returns:
        The method, whose one player trains the denoiser.

    Sampled by ``sampler(state, table=None, ema=None)``, with 18 Heun steps by default.
    """
    dropped = 0.1 if student.label_drop is None else student.label_drop
    trainee = student._replace(label_drop=dropped)
    draw = (levels or log_normal(mean, std)).draw

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        x0 = batch["image"]
        key_level, key_noise, key_label, key_dropout = jax.random.split(key, 4)
        level = draw(key_level, x0)
        eps = jax.random.normal(key_noise, x0.shape, x0.dtype)
        _, own = bind(trainee, batch, key_label, key_dropout)
        D = own(trainee.denoiser(params))
        return mean_loss(score_matching_loss(D, x0, level, eps, weight(level, student.sigma_data)))

    def sampler(state: Any, table: Table | None = None, ema: str | None = None) -> Sampler:
        return Sampler(trained(student, state, ema), default_table() if table is None else table)

    return Method(
        init=lambda key: {"student": drawn(student.params, key)},
        players={"student": Player(loss, student.optimiser or optax.adam(1e-3), ema=student.ema)},
        sampler=sampler,
        check=student.check,
    )


def default_table() -> Table:
    """EDM's deterministic sampler at 35 evaluations."""
    return table(solvers.heun, grids.karras(18))
