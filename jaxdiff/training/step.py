"""One training step, a pure function of (state, batch).

For the players k that are due (step mod every_k = 0), in the method's order:
    loss_k(params_k; context, batch, key_k),  key_k = fold_in(fold_in(base key, step), k)
    params_k <- params_k + optimiser_k(gradient),   ema_k <- b ema_k + (1 - b) params_k.
With ``gradient_accumulation`` the gradient is the mean of those of so many parts of the batch, one
after the other. A player's state besides its parameters (:class:`jaxdiff.method.WithState`) is what
its loss returned, averaged as the gradient is. Where a loss or a gradient is not finite, no update
is made: the state stays as it was.

With ``norms`` the metrics have "player/gradient_norm", the Euclidean norm of a player's gradient
before its optimiser changes it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.brief import short
from jaxdiff.method import Batch, Context, Loss, Method, Player, WithState
from jaxdiff.training import ema
from jaxdiff.typing import Array, Key, Params

SKIPPED = "skipped"  # the metric that counts steps that updated nothing
NORM = "gradient_norm"


class State(NamedTuple):
    """All that a run is: what a checkpoint holds.

    step: steps made, int32. params, opt_state: by player. ema: by player, then name. key: the base
    key, which never changes; keys of a step are folded from it. skipped: how many of the steps
    updated nothing, as something was not finite, int32. network_state: by player, of those whose
    network has state besides its parameters.
    """

    __repr__ = short

    step: Array
    params: dict[str, Params]
    opt_state: dict[str, Any]
    ema: dict[str, dict[str, Params]]
    key: Key
    skipped: Array
    network_state: dict[str, Any] = {}


def init_state(method: Method, key: Key) -> State:
    """Return the state before the first step; no leaf shares a buffer with the method's own trees.

    Raises ValueError if ``method.init`` gives parameters for other names than the players', or a
    period is not positive, TypeError for state that cannot be averaged.

    Args:
        method: whose ``init`` gives the parameters.
        key: typed key of the initialisation and of the run.

    Returns:
        The state at step 0.
    """
    init_key, base = jax.random.split(key)
    given = method.init(init_key)
    if set(given) != set(method.players):
        raise ValueError(
            f"init gives parameters of {sorted(given)}; the players are {sorted(method.players)}"
        )
    params = {n: x.value if isinstance(x, WithState) else x for n, x in given.items()}
    network_state = {n: x.state for n, x in given.items() if isinstance(x, WithState)}
    _check_floats(network_state)
    players = method.players.items()
    if late := [name for name, player in players if player.every < 1]:
        raise ValueError(f"the periods of {late} are below 1")

    @jax.jit
    def own(params: dict[str, Params], network_state: dict[str, Any]) -> Any:
        opt_state = {name: player.optimiser.init(params[name]) for name, player in players}
        averages = {n: {e: ema.start(params[n]) for e in player.ema} for n, player in players}
        # Copies: the step donates every buffer, once, and optimisers may keep the parameters.
        whole = params, opt_state, averages, network_state
        return jax.tree.map(lambda x: jnp.array(x, copy=True), whole)

    params, opt_state, averages, network_state = own(params, network_state)
    step, skipped = (jnp.zeros((), jnp.int32) for _ in range(2))
    return State(step, params, opt_state, averages, base, skipped, network_state)


def _check_floats(network_state: Any) -> None:
    for path, x in jax.tree_util.tree_flatten_with_path(network_state)[0]:
        dtype = jnp.result_type(x)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"state{jax.tree_util.keystr(path)} is {dtype}: state must be floating point, for "
                "it is averaged over devices and parts of a batch"
            )


def due(method: Method, step: int) -> tuple[str, ...]:
    """Return the names of the players that step number ``step`` updates.

    Args:
        method: its players have periods.
        step: number of the step, from 0.

    Returns:
        Names of players, in the method's order.
    """
    return tuple(
        name
        for name, player in method.players.items()
        if step % player.every == 0 and (player.turn is None or player.turn(step))
    )


def update(
    method: Method,
    state: State,
    batch: Batch,
    active: tuple[str, ...],
    axis_name: str | None = None,
    gradient_accumulation: int = 1,
    unroll: bool = False,
) -> tuple[State, dict[str, Array]]:
    """Make one step: update the ``active`` players, in the method's order. Pure.

    Args:
        method: players and losses.
        state: before the step.
        batch: arrays by name, batch first.
        active: names of the players that are updated.
        axis_name: of the pmap axis that gradients and metrics are averaged over; each of its
            devices then has its own key.
        gradient_accumulation: parts that the batch is taken in; part i is its rows i, i +
            gradient_accumulation, ... and has a key of its own.
        unroll: without a loop over the parts, as XLA needs it on CPU.

    Returns:
        The next state and the metrics, "player/loss" and "player/name".
    """
    return _update(method, state, batch, active, axis_name, gradient_accumulation, unroll)[:2]


def guarded_update(
    method: Method, state: State, batch: Batch, active: tuple[str, ...], skip: bool, *how: Any
) -> tuple[State, dict[str, Array]]:
    """:func:`update`, unless a loss or a gradient is not finite: then the state stays as it was.

    That is counted in ``skipped``, and with ``skip`` as a step; without, the state then stays for
    good. The metrics have ``skipped``.
    """
    new, metrics, fine = _update(method, state, batch, active, *how)
    if not skip:
        fine = fine & (state.skipped == 0)
    skipped = state.skipped + (~fine).astype(jnp.int32)
    pairs = (new[:4], new.network_state), (state[:4], state.network_state)
    kept, network_state = jax.tree.map(functools.partial(jnp.where, fine), *pairs)
    step, params, opt_state, averages = kept
    step = new.step if skip else step
    after = State(step, params, opt_state, averages, state.key, skipped, network_state)
    return after, {**metrics, SKIPPED: skipped}


def _update(
    method: Method,
    state: State,
    batch: Batch,
    active: tuple[str, ...],
    axis_name: str | None,
    gradient_accumulation: int,
    unroll: bool,
    norms: bool = False,
) -> tuple[State, dict[str, Array], Array]:
    """Return the next state, the metrics, and whether all losses and gradients were finite."""
    key = jax.random.fold_in(state.key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    params, opt_state, averages = dict(state.params), dict(state.opt_state), dict(state.ema)
    network_state, metrics, fine = dict(state.network_state), {}, jnp.array(True)
    for position, (name, player) in enumerate(method.players.items()):
        if name not in active:
            continue
        context = Context(
            state.step, _fixed(params), _fixed(averages), method.frozen, _fixed(network_state),
            axis_name,
        )  # fmt: skip
        loss = _with_state(name, player.loss, network_state.get(name))
        value = functools.partial(jax.value_and_grad(loss, has_aux=True), params[name])
        value = _accumulated(functools.partial(value, context), gradient_accumulation, unroll)
        out, grads = value(batch, jax.random.fold_in(key, position))
        if axis_name is not None:
            out, grads = jax.lax.pmean((out, grads), axis_name)
        loss, (extra, after) = out
        if after is not None:
            network_state[name] = after
        # Known before anything is updated, so that keeping the old numbers is part of one pass.
        fine = fine & jnp.isfinite(loss) & _finite((grads, after))
        params[name], opt_state[name] = _descend(player, params[name], opt_state[name], grads)
        averages[name] = _averaged(player, averages[name], params[name], state.step)
        metrics |= {**{f"{name}/{k}": v for k, v in extra.items()}, f"{name}/loss": loss}
        metrics |= {f"{name}/{NORM}": _norm(grads)} if norms else {}
    new = State(
        state.step + 1, params, opt_state, averages, state.key, state.skipped, network_state
    )
    return new, metrics, fine


def _with_state(name: str, loss: Loss, before: Any) -> Callable[..., Any]:
    """Return the loss with (metrics, state) beside it, None for no state; both checked in
    tracing.
    """

    def checked(*given: Any) -> Any:
        value, aux = loss(*given)
        metrics, after = aux if isinstance(aux, WithState) else (aux, None)
        if (before is None) != (after is None):
            raise ValueError(
                f"player {name!r} has no state: init gives WithState(params, state) where the loss "
                "returns WithState(metrics, state)"
                if before is None
                else f"the loss of player {name!r} returns no state: (loss, WithState(metrics, "
                "state)), the state as it was if it stays"
            )
        known, found = _leaves(before), _leaves(after)
        for path in {**known, **found}:
            if known.get(path) != found.get(path):
                raise ValueError(
                    f"the loss of player {name!r} returns another state: {path} is "
                    f"{found.get(path, 'absent')}, and was {known.get(path, 'absent')}"
                )
        return value, (metrics, after)

    return checked


def _leaves(tree: Any) -> dict[str, str]:
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p): f"{x.dtype}{list(x.shape)}" for p, x in pairs}


def _finite(tree: Any) -> Array:
    """Return whether all numbers are finite, as a sum of squares over the leaves.

    A chain of "and" would do, but XLA on CPU copies that into every selection that depends on it,
    and its programs then grow with the square of the number of leaves; a product it does not copy.
    """
    lost = [jnp.any(~jnp.isfinite(x)).astype(jnp.float32) for x in jax.tree.leaves(tree)]
    return jnp.array(True) if not lost else jnp.dot(jnp.stack(lost), jnp.stack(lost)) == 0


def _norm(grads: Any) -> Array:
    squares = [jnp.sum(jnp.square(jnp.abs(g).astype(float))) for g in jax.tree.leaves(grads)]
    return jnp.sqrt(sum(squares, jnp.zeros((), float)))


def _accumulated(value: Callable[[Batch, Key], Any], parts: int, unroll: bool) -> Any:
    """Return the mean of a function of (batch, key) over parts of the batch, each with its own
    key.
    """
    if parts == 1:
        return value

    def mean(batch: Batch, key: Key) -> Any:
        for path, x in jax.tree_util.tree_flatten_with_path(batch)[0]:
            if x.shape[0] % parts:
                raise ValueError(
                    f"batch{jax.tree_util.keystr(path)} has {x.shape[0]} rows, which do not divide "
                    f"into {parts} parts"
                )
        # (n, parts) and not (parts, n): every part then lies on all devices that hold the batch.
        cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total: Any, inputs: Any) -> tuple[Any, None]:
            part, number = inputs
            one = value(part, jax.random.fold_in(key, number))
            return jax.tree.map(lambda a, b: a + jnp.asarray(b, a.dtype), total, one), None

        numbers = jnp.arange(parts, dtype=jnp.int32)
        shapes = jax.eval_shape(value, jax.tree.map(lambda x: x[0], cut), key)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, _summed(x.dtype)), shapes)
        total, _ = jax.lax.scan(add, zero, (cut, numbers), unroll=unroll)
        return jax.tree.map(lambda x: x / jnp.asarray(parts, x.dtype), total)

    return mean


def _summed(dtype: Any) -> Any:
    """Return the type to add numbers in: their own, or the default for integers and booleans."""
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def _descend(player: Player, params: Params, opt_state: Any, grads: Params) -> tuple[Params, Any]:
    # optax's own arithmetic relies on implicit promotion (decay ** count).
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = player.optimiser.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


def _averaged(
    player: Player, averages: dict[str, Params], params: Params, step: Array
) -> dict[str, Params]:
    n = step // player.every
    return {name: ema.update(averages[name], params, b(n)) for name, b in player.ema.items()}


def _fixed(tree: Any) -> Any:
    return jax.tree.map(jax.lax.stop_gradient, tree)
