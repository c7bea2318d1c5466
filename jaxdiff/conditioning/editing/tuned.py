r"""Prompt-tuning inversion (Dong et al. 2023, arXiv 2305.04441): no prompt of the source is needed.

The picture is inverted without a condition, and the condition of every step is fitted so that the
guided step goes where the inversion came from,

    min over c_i of |y*_(i+1) - step(y_i; w, c_i, null)|^2,

step by step from the top, each begun with the one before, the first with the null. An edit is then
guided by a condition between the fitted one and the target's,

    D(null) + w (D(h target + (1 - h) c_i) - D(null)),    h = 1 the target's own sample.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.arrays import check, null_condition
from jaxdiff.conditioning.editing.null import Rates, fitted_conditions, knots_of, nearest
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser


def prompt_tuning(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray | Array,
    data: Array,
    null: Cond,
    weight: Weight = 7.5,
    *,
    num_updates: int = 10,
    learning_rate: float = 1e-2,
) -> tuple[Array, Cond]:
    """Fit the condition of every step to a picture without a prompt (arXiv 2305.04441).

    Deviation: every step makes all its updates, at one rate.

    Args:
        denoiser: conditional ``D(y, level, cond)``, differentiable in the condition.
        levels: the grid of the Euler (DDIM) solver; data are states at its lowest positive level.
        data: (batch, *shape).
        null: one sample's value of no condition, floating (an embedding).
        weight: of guidance, not 0.
        num_updates: of Adam, in each step.
        learning_rate: of Adam.

    Returns:
        The state at ``levels[0]``, and the conditions, with axes (steps, batch) before a sample's
        own: for :func:`prompt_tuning_guidance`.

    Raises:
        TypeError: for a null that is not floating. ValueError: for no updates, a rate that is not
            positive, or levels or a null that do not fit.
    """
    w = as_weight(weight)
    rows = jax.tree.map(lambda n: jnp.broadcast_to(n, (len(data), *jnp.shape(n))), null)

    def guided(D: Partial, own: Cond, y: Array, s: Array) -> Array:
        plain = D(y, s, rows)
        return plain + weight_at(w, s, y) * (D(y, s, own) - plain)

    rates = Rates(num_updates, learning_rate, 0.0)
    return fitted_conditions("prompt_tuning", denoiser, levels, data, rows, null, guided, rates)


def prompt_tuning_guidance(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray | Array,
    tuned: Cond,
    null: Cond,
    weight: Weight = 7.5,
    share: float | Array = 0.5,
) -> Partial:
    """Return guidance between the fitted condition of the nearest level and the target's.

    Args:
        denoiser: as for :func:`prompt_tuning`.
        levels: the grid.
        tuned: (steps, batch, ...), of :func:`prompt_tuning`.
        null: one sample's value of no condition.
        weight: of guidance.
        share: h of the target, 0 (the picture) to 1.

    Returns:
        ``D'(y, level, cond)``, cond the target's, (batch, ...).

    Raises:
        ValueError: for other than one condition a step, or a share outside [0, 1].
    """
    check("share is in [0, 1]", lambda h: ((h >= 0) & (h <= 1)).all(), share)
    knots = knots_of(levels, tuned, "tuned")
    return Partial(_between, as_partial(denoiser), knots, tuned, null, as_weight(weight), share)


def _between(
    denoiser: Partial, knots: Array, tuned: Cond, null: Cond, weight: Any, share: Array, y: Array,
    level: Array, cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    own = nearest(knots, tuned, y, level, "prompt_tuning_guidance")

    def mixed(target: Array, own: Array) -> Array:
        h = jnp.asarray(share, own.dtype)
        return h * target.astype(own.dtype) + (1 - h) * own

    towards = denoiser(y, level, jax.tree.map(mixed, cond, own), **options)
    plain = denoiser(y, level, null_condition(cond, null), **options)
    return plain + weight_at(weight, level, y) * (towards - plain)
