"""Tuning as a method: the numbers of a table are a player's parameters.

    loss(numbers) = objective(D, build(numbers), batch)

so tuning has the training loop's checkpoints, placement on devices and resume. With ``turns``
groups of numbers are players of their own, updated for a while each (S4S-Alt). With ``ball`` the
starts of the training pairs move too, each within a ball around where it was: what is requested is
then that *some* start nearby ends where the teacher ends, which few evaluations can do better
(LD3's relaxed teacher). A start makes one step of gradient descent and is projected into its ball,

    z' = P(z - rate grad L(z)),     |z' - z_0| <= radius,     z = start/highest level,

and it goes there if its own loss is then less, L(z') < L(z); else it stays.

Source: Tong et al., arXiv 2405.15506 (LD3), section 3.3. Its authors' code requires the new loss
with the numbers that the same update has changed to be less than the old with the old ones; here
both losses are of the new numbers, so that only what the start's own step gains is counted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.arrays import check_fields, check_same_shape
from jaxdiff.denoisers import as_partial
from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.tuning.learned.family import Family, concrete
from jaxdiff.tuning.learned.objective import Objective, each
from jaxdiff.typing import Array, Denoiser, Key, Params


class Ball(NamedTuple):
    """Starts that move. count: of pairs. batch: of them in an update, on all devices. radius: in
    units of the highest level, of the Euclidean norm; LD3's is 0.001 d/nfe^2 for samples of d
    numbers. rate: of gradient descent on a start's own loss in these units; LD3's is 12/nfe.
    """

    count: int
    batch: int
    radius: float
    rate: float


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
    """Return the method that tunes a family for an objective.

    Args:
        denoiser: frozen.
        family: see :mod:`jaxdiff.tuning.learned.family`.
        objective: see :mod:`jaxdiff.tuning.learned.objective`.
        optimiser: of all numbers, or, with turns, also one for each group, by its first name.
        turns: which numbers are tuned in turn; None for all in every update.
        ball: the relaxed teacher; batches then have "index" (batch,), the numbers of their pairs,
            each once, and the objective is a mean over pairs.
        shape: of a sample; needed with a ball.

    Returns:
        The method, whose players train the family's numbers, and the sampler of the tuned table.

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

    high = float(family.build(family.init).levels[0])

    def near(batch: Batch, moved: Array) -> Batch:
        return {**batch, "start": batch["start"] + high * moved}

    def loss_of(group: str) -> Callable[..., tuple[Array, Metrics]]:
        def loss(own: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
            table = family.build(numbers({**context.params, group: own}))
            if ball is not None:
                batch = near(batch, context.params["starts"][batch["index"]])
            return objective(context.frozen, table, batch, key), {}

        return loss

    def loss_of_starts(
        own: Params, context: Context, batch: Batch, key: Key
    ) -> tuple[Array, Metrics]:
        assert ball is not None
        table, rows = family.build(numbers(context.params)), own[batch["index"]]

        def losses(moved: Array) -> Array:
            return each(objective)(context.frozen, table, near(batch, moved), key)

        change, before = descended(losses, jax.lax.stop_gradient(rows), ball)
        # A loss whose gradient in each start is what that start is to lose: descent of rate 1.
        pull = -jnp.sum(change * rows) * (ball.batch / len(rows))
        return jnp.mean(before) + pull - jax.lax.stop_gradient(pull), {}

    init: dict[str, Any] = {
        group: {k: family.init[k] for k in names} for group, names in groups.items()
    }
    players = {
        group: Player(loss_of(group), optimisers[group], turn=turns and _turn(turns, number))
        for number, group in enumerate(groups)
    }
    if ball is not None:
        players["starts"] = Player(loss_of_starts, optax.sgd(1.0))
        init["starts"] = jnp.zeros((ball.count, *shape))

    def sampler(state: Any) -> Sampler:
        return Sampler(denoiser, concrete(family, numbers(state.params)))

    def check(batch: Batch) -> None:
        check_fields(batch, "tuning", "start", *(() if ball is None else ("index",)))
        if "image" in batch:
            check_same_shape(batch, "tuning", "start", "image")
        if ball is not None:
            _check_index(batch["index"], ball.count)

    return Method(lambda key: init, players, sampler, as_partial(denoiser), check)


def _check_index(index: Any, count: int) -> None:
    numbers = np.asarray(index)
    if not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 0 or numbers.max() >= count:
        raise ValueError(
            f'batch "index" should hold the pairs\' numbers, 0 to {count - 1}, whose starts move; '
            f"it has {numbers.min()} to {numbers.max()}, {numbers.dtype}"
        )
    if len(np.unique(numbers)) != len(numbers):
        raise ValueError(
            "a pair is in this batch twice, and its start cannot move twice at once: draw batches "
            "by pair_batches(pairs, batch, seed, distinct=True)"
        )


def _turn(turns: Turns, number: int) -> Callable[[int], bool]:
    return lambda step: step // turns.length % len(turns.groups) == number


def descended(losses: Callable[[Array], Array], moved: Array, ball: Ball) -> tuple[Array, Array]:
    """Return one step of projected descent of every row's own loss.

    losses: from rows (batch, *shape) to their losses (batch,). Returns what each row changes by, 0
    where its loss would not fall, and the losses before.
    """
    total = lambda rows: (jnp.sum(found := losses(rows)), found)  # noqa: E731
    slope, before = jax.grad(total, has_aux=True)(moved)
    tried = within(moved - ball.rate * slope, ball.radius)
    falls = losses(tried) < before
    rows = falls.reshape(-1, *[1] * (moved.ndim - 1))
    return jnp.where(rows, tried - moved, 0.0 * slope), before  # a slope that is NaN stays seen


def within(rows: Array, radius: float) -> Array:
    """Rows projected into a Euclidean ball around 0."""
    size = jnp.sqrt(jnp.sum(rows**2, axis=tuple(range(1, rows.ndim)), keepdims=True))
    return rows * (radius / jnp.maximum(size, radius))
