"""Denoising score matching: how a teacher is trained, as a method of one player.

    E_{x0, s, eps} w(s) |D(x0 + s eps, s) - x0|^2,      log s ~ N(mean, std^2)

whose minimiser is D = E[x0 | y]; w = 1/c_out^2 makes the network's own error count equally at all
levels (Karras et al., arXiv 2206.00364, section 5; their values are the defaults). With labels, a
tenth of them is dropped during training so that one network is both the conditional and the
unconditional model (arXiv 2207.12598).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxdiff import grids, solvers
from jaxdiff.distance import squared
from jaxdiff.distill.levels import log_normal_levels
from jaxdiff.distill.primitives import drop_labels, perturb
from jaxdiff.method import Batch, Context, Decay, Method, Metrics, Player
from jaxdiff.prediction import denoiser, edm_weight
from jaxdiff.process import EDM, Process
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Key, Network, Params

_KARRAS = EDM()


def score_matching_loss(
    D: Callable[..., Array], x0: Array, level: Array, eps: Array, weight: Array
) -> Array:
    """Weight |D(x0 + level eps, level) - x0|^2 per sample (mean over its numbers), shape
    (batch,).
    """
    return weight * squared(D(perturb(x0, level, eps), level), x0)


def score_matching(
    network: Network,
    init: Callable[[Key], Params],
    *,
    prediction: str = "edm",
    process: Process = _KARRAS,
    sigma_data: float = 0.5,
    mean: float = -1.2,
    std: float = 1.2,
    weight: Callable[..., Array] = edm_weight,
    classes: int | None = None,
    label_drop: float = 0.1,
    optimiser: optax.GradientTransformation | None = None,
    ema: dict[str, Decay] | None = None,
) -> Method:
    """Train a denoiser by denoising score matching.

    Args:
        network: ``network(params, x, label, cond, key=...)``.
        init: ``init(key) -> params``.
        prediction, process, sigma_data: how the network is made a denoiser
            (:func:`jaxdiff.prediction.denoiser`).
        mean, std: of log level in training.
        weight: function ``weight(level, sigma_data)``.
        classes: number of classes, if the data have labels; the class of this number means no
            label.
        label_drop: fraction of labels replaced by it.
        optimiser: Adam with learning rate 1e-3 by default.
        ema: averages to keep, by name (:mod:`jaxdiff.training.ema`).
    """

    def wrap(params: Params) -> jax.tree_util.Partial:
        return denoiser(
            network, params, prediction=prediction, process=process, sigma_data=sigma_data
        )

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        x0 = batch["image"]
        key_level, key_noise, key_label, key_dropout = jax.random.split(key, 4)
        level = log_normal_levels(key_level, x0, mean, std)
        eps = jax.random.normal(key_noise, x0.shape, x0.dtype)
        labels = drop_labels(key_label, batch.get("label"), label_drop, classes)
        D = wrap(params)
        each = score_matching_loss(
            lambda y, s: D(y, s, labels, key=key_dropout), x0, level, eps, weight(level, sigma_data)
        )
        value = jnp.mean(each)
        return value, {"loss": value}

    return Method(
        init=lambda key: {"model": init(key)},
        players={"model": Player(loss, optimiser or optax.adam(1e-3), ema=ema or {})},
        sampler=lambda state, **options: trained_sampler(wrap, state, **options),
    )


def trained_sampler(
    wrap: Callable[[Params], jax.tree_util.Partial],
    state: object,
    table: Table | None = None,
    ema: str | None = None,
    player: str = "model",
) -> Sampler:
    """Sampler of a trained player: its parameters, or the average named ``ema``, in a table (18
    Heun steps by default).
    """
    params = state.params[player] if ema is None else state.ema[player][ema]  # type: ignore[attr-defined]
    return Sampler(wrap(params), default_table() if table is None else table)


def default_table() -> Table:
    """EDM's deterministic sampler at 35 evaluations."""
    return table(solvers.heun, grids.karras(18))
