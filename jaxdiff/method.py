"""A method is a few losses: players, each with a loss, an optimiser and a period.

Score matching, distillation, classifier distillation and sampler tuning are all described by these
three records and run by the one loop in :mod:`jaxdiff.training.loop`. No method has a loop or an
optimiser step of its own.

A network may carry state besides its parameters, the running averages of batch norm. Then ``init``
gives ``WithState(params, state)`` for its player, and the loss reads the state in its context and
returns the next one with its metrics:

    def loss(params, context, batch, key):
        variables = {"params": params, **context.network_state["net"]}
        logits, after = module.apply(
            variables, batch["image"], train=True, axis_name=context.axis_name,
            mutable=["batch_stats"],
        )
        return cross_entropy(logits, batch["label"]), WithState({}, after)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax
from jax.tree_util import Partial, all_leaves

from jaxdiff.brief import short
from jaxdiff.typing import Array, Key, Params

Metrics = Mapping[str, Array]
Batch = Mapping[str, Array]


def is_init(params: Any) -> bool:
    """Return whether parameters are given by a function ``init(key)`` that draws them, and are not
    a tree of them, which may have a ``__call__`` too (a module of equinox).
    """
    return callable(params) and (isinstance(params, Partial) or all_leaves([params]))


class Context(NamedTuple):
    """The inputs of a loss that it takes no gradient of.

    step: number of updates made so far, an int32 scalar (traced, so that schedules never retrace).
    params: parameters of all players by name, behind stop_gradient.
    ema: moving averages, ``ema[player][name]``.
    frozen: the method's frozen trees (a teacher's parameters, a feature network's).
    network_state: of the players that have state besides their parameters, by name.
    axis_name: of the pmap axis that the batch is split over, None where the loss sees all of it.
        Given to batch norm as its own, every device normalises by the whole batch; without, each by
        its part.
    """

    __repr__ = short

    step: Array
    params: Mapping[str, Params]
    ema: Mapping[str, Mapping[str, Params]]
    frozen: Any
    network_state: Mapping[str, Any] = {}
    axis_name: str | None = None


class WithState(NamedTuple):
    """A player's parameters from ``init``, or the metrics of its loss, with its network's state.

    state: a tree of floats. What losses return is averaged as metrics are, over the parts of an
    accumulated batch, each of which starts from the same state, and over the devices of pmap: the
    mean of their means, and of their variances, which leaves out how far their means are apart.
    """

    __repr__ = short

    value: Any
    state: Any


Loss = Callable[[Params, Context, Batch, Key], tuple[Array, Metrics | WithState]]
Decay = Callable[[Array], Array]


class Player(NamedTuple):
    """One set of parameters with its own loss.

    loss: ``loss(params, context, batch, key) -> (scalar, metrics)``, or ``(scalar,
        WithState(metrics, state))`` for a player with state.
    optimiser: an optax transformation.
    every: the player is updated in steps whose number is a multiple of this.
    turn: ``turn(step)`` says in which of these steps it is; None for all.
    ema: moving averages to keep, by name; each a function of the player's step giving the decay
        (see :mod:`jaxdiff.training.ema`). State is not averaged: it is that of the last update.
    """

    __repr__ = short

    loss: Loss
    optimiser: optax.GradientTransformation
    every: int = 1
    ema: Mapping[str, Decay] = {}
    turn: Callable[[int], bool] | None = None


class Method(NamedTuple):
    """Everything the training loop needs to know.

    init: ``init(key) -> {player name: parameters}``, ``WithState(parameters, state)`` for a player
        that has state.
    players: by name, updated in this order within a step; a later player sees the earlier ones' new
        parameters.
    sampler: ``sampler(state, **options)`` makes the trained model's sampler.
    frozen: trees handed to every loss as ``context.frozen``.
    check: ``check(batch)`` raises for a batch that the method cannot take, as it is on the host.
    """

    __repr__ = short

    init: Callable[[Key], dict[str, Params | WithState]]
    players: Mapping[str, Player]
    sampler: Callable[..., Any]
    frozen: Any = None
    check: Callable[[Batch], None] | None = None
