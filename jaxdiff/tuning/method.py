"""Tuning as a method: the numbers of a table are a player's parameters.

    loss(numbers) = objective(D, build(numbers), batch)

so tuning has the training loop's checkpoints, placement on devices and resume. With ``turns``
groups of numbers are players of their own, updated for a while each (S4S-Alt). With ``ball`` the
starts of the training pairs move too, each within a ball around where it was: what is asked for is
then that *some* start nearby ends where the teacher ends, which few evaluations can do better
(LD3's relaxed teacher).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.prediction import as_partial
from jaxdiff.sampling.sample import Sampler
from jaxdiff.tuning.family import Family, concrete
from jaxdiff.tuning.objective import Objective
from jaxdiff.typing import Array, Denoiser, Key, Params


class Ball(NamedTuple):
    """Starts that move. count: of pairs. batch: of them in an update, on all devices. radius: in
    units of the highest level, of the Euclidean norm; the paper's is 0.001 d/nfe^2 for samples of
    d numbers. rate: of their gradient descent.
    """

    count: int
    batch: int
    radius: float
    rate: float = 0.1


class Turns(NamedTuple):
    """Numbers that are tuned in turn. groups: of names of the family's numbers, each in one of
    them. length: updates of one group before the next has its turn.
    """

    groups: Sequence[Sequence[str]]
    length: int


def tuning(
    denoiser: Denoiser,
    family: Family,
    objective: Objective,
    *,
    optimiser: optax.GradientTransformation | Mapping[str, optax.GradientTransformation],
    turns: Turns | None = None,
    ball: Ball | None = None,
    shape: tuple[int, ...] = (),
) -> Method:
    """The method that tunes a family for an objective.

    Args:
        denoiser: frozen. family: see :mod:`jaxdiff.tuning.family`. objective: see
            :mod:`jaxdiff.tuning.objective`.
        optimiser: of all numbers, or, with turns, also one for each group, by its first name.
        turns: which numbers are tuned in turn; None for all in every update.
        ball: the relaxed teacher; batches then have "index" (batch,), the pairs' numbers.
        shape: of a sample; needed with a ball.

    Raises:
        ValueError: for a family without numbers, or turns or optimisers of other numbers.
    """
    if not family.init:
        raise ValueError("this family has nothing to tune")
    groups = {"table": (*family.init,)}
    if turns is not None:
        groups = {names[0]: tuple(names) for names in turns.groups}
        if sorted(n for names in groups.values() for n in names) != sorted(family.init):
            raise ValueError(f"the turns are {groups}; the numbers are {sorted(family.init)}")
    optimisers = optimiser if isinstance(optimiser, Mapping) else dict.fromkeys(groups, optimiser)
    if set(optimisers) != set(groups):
        raise ValueError(f"optimisers are for {sorted(optimisers)}; the groups: {sorted(groups)}")

    def numbers(params: Mapping[str, Params]) -> dict[str, Array]:
        return {k: v for group in groups for k, v in params[group].items()}

    def near(batch: Batch, moved: Array) -> Batch:
        return {**batch, "start": batch["start"] + moved[batch["index"]]}

    def loss_of(group: str) -> Callable[..., tuple[Array, Metrics]]:
        def loss(own: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
            table = family.build(numbers({**context.params, group: own}))
            if ball is not None:
                batch = near(batch, context.params["starts"])
            return objective(context.frozen, table, batch, key), {}

        return loss

    def loss_of_starts(
        own: Params, context: Context, batch: Batch, key: Key
    ) -> tuple[Array, Metrics]:
        assert ball is not None
        table = family.build(numbers(context.params))
        value = objective(context.frozen, table, near(batch, own), key)
        return ball.batch * value, {}  # each start has the gradient of its own distance

    init: dict[str, Any] = {
        group: {k: family.init[k] for k in names} for group, names in groups.items()
    }
    players = {
        group: Player(loss_of(group), optimisers[group], turn=turns and _turn(turns, number))
        for number, group in enumerate(groups)
    }
    if ball is not None:
        high = float(family.build(family.init).levels[0])
        descent = optax.chain(optax.sgd(ball.rate), within(ball.radius * high))
        players["starts"] = Player(loss_of_starts, descent)
        init["starts"] = jnp.zeros((ball.count, *shape))

    def sampler(state: Any) -> Sampler:
        return Sampler(denoiser, concrete(family, numbers(state.params)))

    return Method(lambda key: init, players, sampler, as_partial(denoiser))


def _turn(turns: Turns, number: int) -> Callable[[int], bool]:
    return lambda step: step // turns.length % len(turns.groups) == number


def within(radius: float) -> optax.GradientTransformation:
    """Keep every row of the parameters within a Euclidean ball around 0: projected descent."""

    def update(updates: Params, params: Params) -> Params:
        moved = params + updates
        size = jnp.sqrt(jnp.sum(moved**2, axis=tuple(range(1, moved.ndim)), keepdims=True))
        return moved * (radius / jnp.maximum(size, radius)) - params

    return optax.stateless(update)
