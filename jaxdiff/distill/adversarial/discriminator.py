"""A discriminator of noisy data from noisy samples of a model, for discriminator guidance.

    E_s [ E_p softplus(-l(x + s eps, s)) + E_q softplus(l(x' + s eps, s)) ],

p the data's, q the model's samples'; at the best, l = log p_s/q_s (Kim et al. 2211.17091, eq. 9).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import check_fields, check_same_shape
from jaxdiff.conditioning.correction import discriminator_guidance
from jaxdiff.denoisers import as_partial
from jaxdiff.distill.parts.critic import SOFTPLUS
from jaxdiff.distill.parts.frame import drawn
from jaxdiff.distill.parts.generator import Levels, log_uniform
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.score_matching import default_table
from jaxdiff.method import Batch, Context, Decay, Method, Metrics, Player
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Denoiser, Key, Params

# of a variance-preserving process's time, drawn as beta/sigma^2 from 1e-5 to 1
_LEVELS = log_uniform(1e-3, 152.0)


def discriminator(
    model: Denoiser,
    logits: Callable[..., Array],
    params: Params | Callable[[Key], Params],
    *,
    levels: Levels = _LEVELS,
    optimiser: optax.GradientTransformation | None = None,
    ema: dict[str, Decay] | None = None,
) -> Method:
    """Train a discriminator for discriminator guidance, DG (Kim et al., arXiv 2211.17091).

    Args:
        model: the denoiser whose samples are "sample" in the batches, and which the sampler guides.
        logits: ``logits(params, y, level, cond) -> (batch,)``: a small head on a frozen
            classifier's features in the paper.
        params: where it starts, or ``init(key)``.
        levels: of the noise, uniform in their logarithm by default.
        optimiser: Adam at 3e-4 by default.
        ema: averages to keep, by name.

    Returns:
        The method, whose one player trains the discriminator.

    Batches hold "image", data, and "sample", the model's samples with the labels of the data. The
    player is "student"; ``sampler(state, table=..., weight=...)`` is the guided model's, on 18 Heun
    steps by default.
    Deviations: data and samples have the same noise, which the difference of the two is less noisy
    by; in published code each has its own, and the discriminator a weight decay of 1e-7. That code
    guides by weight 2 in the first of Heun's two evaluations and not in the second, nor below level
    0.045; here by 1 in both, which is as much in a step, at all levels.
    Fails: with few samples it overfits them, and its gradient is noise: stop early. It
    corrects the model's error, not the solver's.
    Cost: a discriminator call with gradient on data and samples per update.
    """

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        key_level, key_noise = jax.random.split(key)
        real, made, cond = batch["image"], batch["sample"], batch.get("label")
        s = levels(key_level, real)
        eps = jax.random.normal(key_noise, real.shape, real.dtype)
        real_logits, made_logits = (
            logits(params, perturb(x, s, eps), s, cond) for x in (real, made)
        )
        value = SOFTPLUS.critic(real_logits, made_logits)
        return value, {"loss": value, "real": jnp.mean(real_logits), "made": jnp.mean(made_logits)}

    def sampler(
        state: Any, table: Table | None = None, ema: str | None = None, weight: float = 1.0
    ) -> Sampler:
        found = state.params["student"] if ema is None else state.ema["student"][ema]
        D = discriminator_guidance(as_partial(model), jax.tree_util.Partial(logits, found), weight)
        return Sampler(D, default_table() if table is None else table)

    return Method(
        init=lambda key: {"student": drawn(params, key)},
        players={"student": Player(loss, optimiser or optax.adam(3e-4), ema=ema or {})},
        sampler=sampler,
        check=_check,
    )


def _check(batch: Batch) -> None:
    check_fields(batch, "discriminator", "image", "sample")
    check_same_shape(batch, "discriminator", "image", "sample")
