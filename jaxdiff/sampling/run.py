"""The scan that runs a table: windows of recent states, denoised outputs and noises, the rows of
weights over them, and one evaluation after another.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.denoisers import as_partial
from jaxdiff.noise import draw, index_of
from jaxdiff.sampling.checks import as_states, check_run
from jaxdiff.sampling.correction import as_correction, check_correction, row_correction
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key


class Windows(NamedTuple):
    """The most recent states, denoised outputs and noises, newest first; or the weights of each."""

    states: Any
    denoised: Any
    noises: Any


def first_windows(weights: Windows, start: Array) -> Windows:
    """Return the windows before the first row: the start, and zeros."""
    lengths, zero = [w.shape[2] for w in weights], jnp.zeros_like(start)
    states = (start, *[zero] * lengths[0])[: lengths[0]]
    return Windows(states, (zero,) * lengths[1], (zero,) * lengths[2])


def make_rows(
    windows: Windows,
    weights: Windows,
    noises: list[Array],
    fix: Callable[[int, Array], Array] | None = None,
) -> tuple[Windows, list[Array]]:
    """Take in new noises, then make the states that precede one evaluation, each as
    ``fix(row, state)`` leaves it.
    """
    rows, lengths = weights.states.shape[0], [w.shape[1] for w in weights]
    recent = (*reversed(noises), *windows.noises)[: lengths[2]]
    windows, made = windows._replace(noises=recent), []
    for row in range(rows):
        state = _combine(windows, weights, row)
        made.append(state if fix is None else fix(row, state))
        windows = windows._replace(states=(made[-1], *windows.states)[: lengths[0]])
    return windows, made


def _combine(windows: Windows, weights: Windows, row: int) -> Array:
    """One row: products and sums, not a matrix product, whose precision a GPU would lower."""
    blocks = zip(weights, windows, strict=True)
    terms = [w[row, k] * v for w, window in blocks for k, v in enumerate(window)]
    return functools.reduce(jnp.add, terms)


def _evaluate(
    denoiser: Partial,
    cond: Cond,
    windows: Windows,
    weights: Windows,
    levels: tuple[Array, Array | None],
    noises: list[Array],
    fix: Callable[[int, Array], Array] | None,
) -> tuple[Windows, tuple[list[Array], Array]]:
    """One evaluation: the rows before it, and its output taken into the window."""
    windows, made = make_rows(windows, weights, noises, fix)
    level, target = levels
    output = evaluate(denoiser, made[-1], level, target, cond)
    kept = (output, *windows.denoised)[: weights.denoised.shape[1]]
    return windows._replace(denoised=kept), (made, output)


def evaluate(
    denoiser: Callable[..., Array], y: Array, level: Array, target: Array | None, cond: Cond
) -> Array:
    """Return the denoised output in the dtype of the states. Raises ValueError, TypeError unless it
    is an array of real numbers of their shape.
    """
    return as_states(call(denoiser, y, level, target, cond), y)


def call(
    denoiser: Callable[..., Array], y: Array, level: Array, target: Array | None, cond: Cond
) -> Array:
    """Return the denoised output, or for a map between two levels what its jump to ``target``
    needs.
    """
    if target is None:
        return denoiser(y, level, cond)
    return denoiser(y, level, cond, target=target)


def checked_run(
    denoiser: Denoiser,
    t: Table,
    start: Array,
    cond: Cond,
    key: Key | None,
    index: Array | None,
    noise: Array | None,
    correct: Correct | None,
    unroll: int | bool,
    remat: bool,
    whole: bool,
) -> Any:
    """Run a table once its arguments are known to fit: the last state, or the ``whole`` run as
    states, their levels, denoised outputs and theirs. Arguments as of
    :func:`jaxdiff.sampling.sample.sample`.
    """
    noise = check_run(denoiser, t, start, key, index, noise, cond)
    if whole and t.count is not None:
        raise ValueError(
            "a padded table does not know its accepted states: use the table it was made from"
        )
    if correct is not None:
        check_correction(t, key)
    numbers, D, fix = index_of(start, index), as_partial(denoiser), as_correction(correct)
    return _run(D, t, start, cond, key, numbers, noise, fix, unroll, remat, whole)


@functools.partial(jax.jit, static_argnames=("unroll", "remat", "whole"))
def _run(
    denoiser: Partial,
    t: Table,
    start: Array,
    cond: Cond,
    key: Key | None,
    index: Array,
    noise: Array | None,
    correct: Partial | None,
    unroll: int | bool,
    remat: bool,
    whole: bool,
) -> Any:
    dtype, shape, number = start.dtype, start.shape, t.nodes.shape[0]
    weights = Windows(*(jnp.asarray(a, dtype) for a in (t.states, t.denoised, t.noises)))
    nodes = jnp.asarray(t.nodes, dtype)
    targets = None if t.targets is None else jnp.asarray(t.targets, dtype)
    keys = None if key is None else jax.vmap(lambda i: jax.random.fold_in(key, i))(index)

    corrections = None if correct is None else row_correction(correct, t, keys, dtype)

    def fix(n: Array | int) -> Any:
        return None if corrections is None else functools.partial(corrections, n)

    def drawn(n: Array | int) -> list[Array]:
        if noise is not None:
            return list(noise[n])
        return [draw(keys, n, q, shape[1:], dtype) for q in range(t.slots)]  # type: ignore[arg-type]

    def step(windows: Windows, inputs: Any) -> tuple[Windows, Any]:
        n, own, levels = inputs
        windows, out = _evaluate(denoiser, cond, windows, own, levels, drawn(n), fix(n))
        return windows, out if whole else None

    def at(n: Array | int | slice) -> Windows:
        return jax.tree.map(lambda w: w[n], weights)

    step = jax.checkpoint(step) if remat else step
    windows = first_windows(weights, start)
    if t.count is None:
        last, order = number, jnp.arange(number, dtype=jnp.int32)
        inputs = (order, at(slice(number)), (nodes, targets))
        windows, out = lax.scan(step, windows, inputs, unroll=unroll)
    else:
        last, out = t.count, None
        body = lambda n, windows: step(windows, (n, at(n), (nodes[n], None)))[0]  # noqa: E731
        windows = lax.fori_loop(0, last, body, windows)
    _, made = make_rows(windows, at(last), drawn(last), fix(last))
    if not whole:
        return made[-1]
    rows, outputs = out  # type: ignore[misc]
    states = jnp.concatenate([jnp.stack(rows, 1).reshape(-1, *shape), jnp.stack(made)])
    accepted = states[jnp.array(t.accepted, jnp.int32)]
    levels = jnp.asarray(t.levels, dtype)
    return jnp.concatenate([start[None], accepted]), levels, outputs, nodes
