"""The one training loop.

One step, for the players k that are due (step mod every_k = 0), in the method's order:
    loss_k(params_k; context, batch, key_k),  key_k = fold_in(fold_in(base key, step), k)
    params_k <- params_k + optimiser_k(gradient),   ema_k <- b ema_k + (1 - b) params_k.
A step is a pure function of (state, batch), and the batch a pure function of the step number, so a
run that was stopped anywhere and resumed gives the numbers of one that was not.

The host decides which players are due and calls one compiled program for each combination: no
control flow is compiled around a gradient, because XLA on CPU computes gradients of convolutions
inside control flow fifty times slower. Frozen trees are arguments of the program, never constants
in it.
"""

import contextlib
import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.method import Batch, Context, Method, Player
from jaxdiff.training import checkpoint as checkpoints
from jaxdiff.training import devices as placement
from jaxdiff.training import ema
from jaxdiff.typing import Array, Key, Params

Log = Callable[[int, dict[str, Any]], None]
Watch = Callable[[int, "State"], bool]


class State(NamedTuple):
    """All that a run is: what a checkpoint holds.

    step: updates made, int32. params, opt_state: by player. ema: by player, then name. key: the
    base key, which never changes; keys of a step are folded from it.
    """

    step: Array
    params: dict[str, Params]
    opt_state: dict[str, Any]
    ema: dict[str, dict[str, Params]]
    key: Key


def init_state(method: Method, key: Key) -> State:
    """Return the state before the first step; no leaf shares a buffer with the method's own trees.

    Raises ValueError if ``method.init`` gives parameters for other names than the players', or a
    period is not positive.
    """
    init_key, base = jax.random.split(key)
    params = method.init(init_key)
    if set(params) != set(method.players):
        raise ValueError(
            f"init gives parameters of {sorted(params)}; the players are {sorted(method.players)}"
        )
    players = method.players.items()
    if late := [name for name, player in players if player.every < 1]:
        raise ValueError(f"the periods of {late} are below 1")

    @jax.jit
    def own(params: dict[str, Params]) -> Any:
        opt_state = {name: player.optimiser.init(params[name]) for name, player in players}
        averages = {n: {e: ema.start(params[n]) for e in player.ema} for n, player in players}
        # Copies: the step donates every buffer, once, and optimisers may keep the parameters.
        return jax.tree.map(lambda x: jnp.array(x, copy=True), (params, opt_state, averages))

    params, opt_state, averages = own(dict(params))
    return State(jnp.zeros((), jnp.int32), params, opt_state, averages, base)


def due(method: Method, step: int) -> tuple[str, ...]:
    """Return the names of the players that step number ``step`` updates."""
    return tuple(name for name, player in method.players.items() if step % player.every == 0)


def update(
    method: Method,
    state: State,
    batch: Batch,
    active: tuple[str, ...],
    axis_name: str | None = None,
) -> tuple[State, dict[str, Array]]:
    """Make one step: update the ``active`` players, in the method's order. Pure.

    axis_name: of the pmap axis that gradients and metrics are averaged over; each of its devices
    then has its own key. Returns the next state and the metrics, "player/loss" and "player/name".
    """
    key = jax.random.fold_in(state.key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    params, opt_state, averages = dict(state.params), dict(state.opt_state), dict(state.ema)
    metrics = {}
    for position, (name, player) in enumerate(method.players.items()):
        if name not in active:
            continue
        context = Context(state.step, _fixed(params), _fixed(averages), method.frozen)
        value = jax.value_and_grad(player.loss, has_aux=True)
        out, grads = value(params[name], context, batch, jax.random.fold_in(key, position))
        if axis_name is not None:
            out, grads = jax.lax.pmean((out, grads), axis_name)
        params[name], opt_state[name] = _descend(player, params[name], opt_state[name], grads)
        averages[name] = _averaged(player, averages[name], params[name], state.step)
        loss, extra = out
        metrics |= {**{f"{name}/{k}": v for k, v in extra.items()}, f"{name}/loss": loss}
    return State(state.step + 1, params, opt_state, averages, state.key), metrics


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


def fit(
    method: Method,
    data: Callable[[int], Mapping[str, Any]],
    *,
    steps: int,
    key: Key | int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: int = 1000,
    keep: int = 3,
    parallel: Literal["jit", "fsdp", "pmap"] = "jit",
    devices: placement.Devices | None = None,
    progress: bool = True,
    log: Log | None = None,
    log_every: int = 50,
    watch: Watch | None = None,
    watch_every: int = 100,
    resume: bool = True,
) -> State:
    """Train until ``steps`` steps are made in all, and return the state.

    data: ``data(step)``, a dictionary of numpy arrays with the batch first; the same for the same
    step. key: a key or a seed. checkpoint: a folder for checkpoints, every ``save_every`` steps and
    at the end, of which ``keep`` stay, and for the history (:func:`read_history`). With ``resume``
    a run found there is continued, for which ``method.init`` is traced, not run. parallel: "jit"
    (parameters on every device), "fsdp" (parameters split over the devices) or "pmap". devices:
    default all (pmap: the local ones). log: called as ``log(step, metrics)`` every ``log_every``
    steps with the latest metrics of each player. watch: called as ``watch(step, state)`` every
    ``watch_every`` steps and after the last, for held-out scores; training ends where it returns
    True. A resumed run calls it for the step that it starts from, too: no step that was due is left
    out, whenever the run was stopped.

    SIGINT and SIGTERM finish the step, save, and leave by KeyboardInterrupt or SystemExit(143); a
    second one leaves at once. Raises ValueError for arguments that do not fit, for a folder that
    holds another run (other network, other key, or ``resume=False``), OSError if the folder cannot
    be written, FloatingPointError when a loss or a parameter is not finite; a checkpoint never
    holds parameters that are not.
    """
    if min(steps, save_every, log_every, watch_every, keep) < 1:
        raise ValueError("steps, save_every, log_every, watch_every and keep must be at least 1")
    if parallel not in ("jit", "fsdp", "pmap"):
        raise ValueError(f'parallel is "jit", "fsdp" or "pmap"; got {parallel!r}')
    key = jax.random.key(key) if isinstance(key, int) else key
    folder = None if checkpoint is None else Path(checkpoint).absolute()
    state = _first_state(method, key, folder, steps, resume)
    runner = _runner(method, parallel, devices)
    n = saved = int(state.step)
    state, latest, pending = runner.enter(state), {}, {}
    look = _Look(watch, watch_every, steps)
    with _signals() as received, _bar(n, steps, progress) as bar:
        report = functools.partial(_report, bar, log, folder, runner.leave, time.monotonic())
        try:
            enough = look.due(n) and look.watch(n, runner.leave(state))
            while n < steps and not received and not enough:
                state, metrics = runner.run(state, runner.feed(data(n)), due(method, n))
                n, latest = n + 1, latest | metrics
                report(pending)
                if n % log_every == 0 or n == steps:
                    pending[n] = latest
                if look.due(n):
                    report(pending)
                    enough = look.watch(n, runner.leave(state))
                if n % save_every == 0:
                    report(pending)
                    saved = _store(runner.leave(state), folder, keep)
                bar.update()
            report(pending)
        except KeyboardInterrupt:
            received.append(signal.SIGINT)
        if state.step.is_deleted():
            raise KeyboardInterrupt(f"stopped inside step {n}; {_kept(folder)}")
        if n != saved:
            _store(runner.leave(state), folder, keep)
    if received:
        _leave(received[0], f"stopped after {n} steps; {_kept(folder)}")
    return runner.leave(state)


def read_history(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the logged metrics of a run, in order.

    Each row has "step", "seconds" since the start and the metrics, "player/name". Raises
    FileNotFoundError if ``folder`` has no history.
    """
    whole_lines = (Path(folder) / HISTORY).read_text().split("\n")[:-1]
    return [json.loads(line) for line in whole_lines]


HISTORY = "history.jsonl"


class _Look(NamedTuple):
    """When a run is watched: every so many steps, and after the last."""

    watch: Any
    every: int
    steps: int

    def due(self, n: int) -> bool:
        return self.watch is not None and n > 0 and (n % self.every == 0 or n == self.steps)


def _runner(method: Method, parallel: str, devices: placement.Devices | None) -> placement.Runner:
    """The step as a function of the frozen trees too, on the devices asked for."""

    def step(
        state: State, batch: Batch, frozen: Any, *, active: tuple[str, ...], axis_name: str | None
    ) -> tuple[State, dict[str, Array]]:
        return update(method._replace(frozen=frozen), state, batch, active, axis_name)

    if parallel == "pmap":
        return placement.by_pmap(step, method.frozen, devices or jax.local_devices())
    mesh = placement.mesh(devices)
    rule = placement.fsdp(mesh) if parallel == "fsdp" else placement.replicated(mesh)
    return placement.by_jit(step, method.frozen, mesh, rule)


def _first_state(method: Method, key: Key, folder: Path | None, steps: int, resume: bool) -> State:
    """A fresh state, or the newest sound one in ``folder``, checked before any compilation."""
    if folder is None:
        return init_state(method, key)
    like = jax.eval_shape(functools.partial(init_state, method), key)
    checkpoints.probe(folder, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like)))
    if checkpoints.latest_step(folder) is None:
        _truncate_history(folder, 0)
        return init_state(method, key)
    if not resume:
        raise ValueError(f"{folder} holds checkpoints and resume is False; choose another folder")
    state = checkpoints.restore(folder, like).state
    base = jax.random.split(key)[1]
    if not np.array_equal(jax.random.key_data(state.key), jax.random.key_data(base)):
        raise ValueError(f"{folder} holds a run with another key; use its key or another folder")
    if state.step > steps:
        raise ValueError(f"{folder} holds a run of {state.step} steps, more than {steps}")
    _truncate_history(folder, int(state.step))
    return state


def _store(state: State, folder: Path | None, keep: int) -> int:
    """Write a checkpoint and return its step; raise FloatingPointError rather than write NaN."""
    step = int(state.step)
    for path, x in jax.tree_util.tree_flatten_with_path((state.params, state.ema))[0]:
        if jnp.issubdtype(x.dtype, jnp.floating) and not np.isfinite(checkpoints.on_host(x)).all():
            name = jax.tree_util.keystr(path[1:], simple=True, separator=".")
            raise FloatingPointError(f"{name} is not finite after {step} steps; {_kept(folder)}")
    if folder is not None:
        checkpoints.save(folder, step, state, keep=keep)
    return step


def _kept(folder: Path | None) -> str:
    if folder is None:
        return "nothing was saved, as no checkpoint folder was given"
    return f"the newest checkpoint is that of step {checkpoints.latest_step(folder)} in {folder}"


def _leave(number: int, message: str) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt(message)
    print(message, file=sys.stderr)
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while inside; the second one interrupts. Main thread only."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bar(first: int, steps: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, initial=first, unit="step", disable=not progress, dynamic_ncols=True)


def _report(
    bar: Any,
    log: Log | None,
    folder: Path | None,
    leave: Callable[[Any], Any],
    start: float,
    pending: dict[int, dict[str, Array]],
) -> None:
    """Fetch, check and write the metrics in ``pending``, by step, and empty it.

    Called after the next step was dispatched, so that the device does not wait for the host.
    """
    while pending:
        step, metrics = pending.popitem()
        row = {name: np.asarray(value).tolist() for name, value in leave(metrics).items()}
        losses = {name: value for name, value in row.items() if name.endswith("/loss")}
        for name, value in losses.items():
            if not np.isfinite(value):
                raise FloatingPointError(f"{name} is {value} after {step} steps; {_kept(folder)}")
        bar.set_postfix(losses, refresh=False)
        row = {"step": step, "seconds": round(time.monotonic() - start, 3), **row}
        if folder is not None:
            with (folder / HISTORY).open("a") as file:
                file.write(json.dumps(row) + "\n")
        if log is not None:
            log(step, row)


def _truncate_history(folder: Path, step: int) -> None:
    """Drop the rows after ``step``, and a last line that was cut short."""
    path = folder / HISTORY
    if path.exists():
        rows = [row for row in read_history(folder) if row["step"] <= step]
        partial = path.with_suffix(".tmp")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        partial.replace(path)
