"""Steps whose loss or gradient is not finite: kept when they stop a run, and made again."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.method import Batch, Method
from jaxdiff.training import checkpoint as checkpoints
from jaxdiff.training import devices as placement
from jaxdiff.training.leaves import on_host
from jaxdiff.training.reporting import (
    newest_checkpoint,
)
from jaxdiff.training.step import State, due, init_state, update
from jaxdiff.typing import Array, Key


def replay(method: Method, folder: str | os.PathLike[str]) -> tuple[State, Batch, dict[str, Array]]:
    """Make the step again that stopped a run for not being finite.

    Returns the state before it, its batch and its metrics. It is one call of
    :func:`jaxdiff.training.step.update`: within ``with jax.debug_nans(True), jax.disable_jit():``
    it ends at the operation that made the first NaN.

    Args:
        method: that of the run.
        folder: of the run.

    Returns:
        The state before the step, its batch and its metrics.

    Raises:
        FileNotFoundError: if no step was kept in ``folder``.
    """
    folder = Path(folder).absolute()
    step = checkpoints.latest_step(folder)
    path = folder / f"nonfinite-{step}.npz"
    if step is None or not path.exists():
        raise FileNotFoundError(f"{folder} does not end in a step that was not finite")
    like = jax.eval_shape(functools.partial(init_state, method), jax.random.key(0))
    state = checkpoints.restore(folder, like).state
    batch, _ = checkpoints.load_params(path)
    return state, batch, update(method, state, batch, due(method, step))[1]


def nonfinite_error(
    method: Method,
    runner: placement.Runner,
    state: State,
    data: Any,
    feed: Callable[[Any], Any],
    folder: Path | None,
    keep: int,
) -> FloatingPointError:
    """Return what to raise for a step that was not finite, once it is kept: the state stands before
    it.
    """
    before = runner.leave(state)
    n, key = int(before.step), jax.random.fold_in(before.key, before.step)
    batch = data(n)
    kept = newest_checkpoint(folder)
    if folder is not None:
        store(before._replace(skipped=jnp.zeros_like(before.skipped)), folder, keep)
        path = folder / f"nonfinite-{n}.npz"
        checkpoints.save_params(path, batch, {"step": n, "key": key_numbers(key)})
        kept = (
            f"the state before it is the checkpoint of step {n} in {folder}, its batch and key are "
            f"in {path.name}: jaxdiff.training.replay makes the step again"
        )
    _, metrics = runner.run(state, feed(batch), due(method, n))  # again, for its numbers
    values = {k: np.asarray(v).tolist() for k, v in runner.leave(metrics).items()}
    losses = {k: v for k, v in values.items() if k.endswith("/loss") and not np.isfinite(v)}
    what = " and ".join(f"{k} is {v}" for k, v in losses.items()) or "a gradient is not finite"
    return FloatingPointError(f"{what} in step {n}; {kept}")


def key_numbers(key: Key) -> list[int]:
    """Return the data of a typed key, as a record of JSON has it."""
    return np.asarray(jax.random.key_data(key)).ravel().tolist()


def store(state: State, folder: Path | None, keep: int) -> int:
    """Write a checkpoint and return its step; raise FloatingPointError rather than write NaN."""
    step = int(state.step)
    trained = state.params, state.ema, state.network_state
    for path, x in jax.tree_util.tree_flatten_with_path(trained)[0]:
        if jnp.issubdtype(x.dtype, jnp.floating) and not np.isfinite(on_host(x)).all():
            name = jax.tree_util.keystr(path[1:], simple=True, separator=".")
            raise FloatingPointError(
                f"{name} is not finite after {step} updates; {newest_checkpoint(folder)}"
            )
    if folder is not None:
        checkpoints.save(folder, step, state, keep=keep)
    return step
