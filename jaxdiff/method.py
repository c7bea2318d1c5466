"""A method is a few losses: players, each with a loss, an optimiser and a period.

Score matching, distillation, classifier distillation and sampler tuning are all described by these
three records and run by the one loop in :mod:`jaxdiff.training.loop`. No method has a loop or an
optimiser step of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from jaxdiff.typing import Array, Key, Params

Metrics = Mapping[str, Array]
Batch = Mapping[str, Array]


class Context(NamedTuple):
    """What a loss may read and takes no gradient of.

    step: number of updates made so far, an int32 scalar (traced, so that schedules never retrace).
    params: parameters of all players by name, behind stop_gradient.
    ema: moving averages, ``ema[player][name]``.
    frozen: the method's frozen trees (a teacher's parameters, a feature network's).
    """

    step: Array
    params: Mapping[str, Params]
    ema: Mapping[str, Mapping[str, Params]]
    frozen: Any


Loss = Callable[[Params, Context, Batch, Key], tuple[Array, Metrics]]
Decay = Callable[[Array], Array]


class Player(NamedTuple):
    """One set of parameters with its own loss.

    loss: ``loss(params, context, batch, key) -> (scalar, metrics)``.
    optimiser: an optax transformation.
    every: the player is updated in steps whose number is a multiple of this.
    turn: ``turn(step)`` says in which of these steps it is; None for all.
    ema: moving averages to keep, by name; each a function of the player's step giving the decay
        (see :mod:`jaxdiff.training.ema`).
    """

    loss: Loss
    optimiser: optax.GradientTransformation
    every: int = 1
    ema: Mapping[str, Decay] = {}
    turn: Callable[[int], bool] | None = None


class Method(NamedTuple):
    """Everything the training loop needs to know.

    init: ``init(key) -> {player name: parameters}``.
    players: by name, updated in this order within a step; a later player sees the earlier ones' new
        parameters.
    sampler: ``sampler(state, **options)`` makes the trained model's sampler.
    frozen: trees handed to every loss as ``context.frozen``.
    """

    init: Callable[[Key], dict[str, Params]]
    players: Mapping[str, Player]
    sampler: Callable[..., Any]
    frozen: Any = None
