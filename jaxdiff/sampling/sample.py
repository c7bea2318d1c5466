"""Running a sampler table: one scan over network evaluations for every solver.

Noise belongs to the sample: draw q of evaluation n of sample i comes from key
fold_in(fold_in(fold_in(key, i), n), q), so that sample i is the same picture in any batch, on any
number of devices.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdiff.prediction import as_partial
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Denoiser, Key

START = 2**31 - 1  # in place of an evaluation's number: a sample's starting noise


class Trajectory(NamedTuple):
    """A sampling trajectory.

    states: (A + 1, batch, *shape), the start and every accepted state.
    levels: (A + 1,), their noise levels.
    denoised: (N, batch, *shape), every output of the denoiser in order.
    nodes: (N,), the levels it was evaluated at.
    """

    states: Array
    levels: Array
    denoised: Array
    nodes: Array


class Sampler(NamedTuple):
    """A denoiser with the table that samples it: what every trained student, tuned solver and
    teacher comes as.

    latent: how many standard normal numbers, drawn anew for every sample and evaluation, the
    denoiser is told as ``extra``: of a generator whose steps are random in themselves (arXiv
    2112.07804).
    """

    denoiser: Denoiser
    table: Table
    latent: int = 0

    def __call__(
        self,
        key: Key,
        index: Array | Sequence[int] | int,
        shape: Sequence[int],
        cond: Cond = None,
        **options: Any,
    ) -> Array:
        """Samples (len(index), *shape), numbered ``index`` (or 0, 1, ... if it is a count), in
        float32.

        ``options`` go to :func:`sample`.
        """
        numbers = (
            jnp.arange(index, dtype=jnp.int32)
            if isinstance(index, int)
            else jnp.asarray(index, jnp.int32)
        )
        levels, D = jnp.asarray(self.table.levels, jnp.float32), self.denoiser
        start = levels[0] * start_noise(key, numbers, shape)
        if self.latent:
            size = (len(levels), self.latent)
            cond = (start_noise(jax.random.fold_in(key, 1), numbers, size), cond)
            D = jax.tree_util.Partial(_told_latent, as_partial(D), levels)
        key_or_none = key if self.table.stochastic else None
        return sample(D, self.table, start, cond, key=key_or_none, index=numbers, **options)


def _told_latent(D: Any, levels: Array, y: Array, s: Array, cond: Cond = None) -> Array:
    """The denoiser with the latent of the evaluation at level s."""
    latents, label = cond
    return D(y, s, label, extra=latents[:, jnp.argmin(jnp.abs(levels - s))])


def sample(
    denoiser: Denoiser,
    table: Table,
    start: Array,
    cond: Cond = None,
    *,
    key: Key | None = None,
    index: Array | None = None,
    noise: Array | None = None,
    unroll: int | bool = 1,
    remat: bool = False,
) -> Array:
    """Sample with a table.

    Args:
        denoiser: ``D(y, level, cond) -> E[x0 | y]``. As a ``jax.tree_util.Partial`` its parameters
            are arguments of the compiled program; a plain function works too and is compiled anew
            for each new function object.
        table: from :func:`jaxdiff.sampling.trace.table`, a file, or training.
        start: states (batch, *shape) at noise level ``table.levels[0]``, float32 or float64;
            usually ``level * start_noise(key, index, shape)``.
        cond: handed to the denoiser.
        key: typed key for stochastic tables.
        index: (batch,) integers naming the samples; 0, 1, ... by default. The noise of a sample
            depends on ``key`` and its index alone.
        noise: recorded noise (draws, batch, *shape) in the order the solver draws it, instead of
            ``key``.
        unroll: as in ``jax.lax.scan``. On CPU, gradients of convolutions inside a loop are about
            fifty times slower
            than unrolled: pass True there when differentiating.
        remat: recompute each evaluation in the backward pass instead of storing its activations. On
            CPU that saves nothing together with ``unroll=True``
            (experiments/results/tuning_memory.md).

    Returns:
        The last state, of the shape and dtype of ``start``.

    Raises:
        ValueError, TypeError: before anything is compiled, if the arguments do not fit together.
    """
    noise = check_run(table, start, key, index, noise)
    return _run(
        as_partial(denoiser),
        table,
        start,
        cond,
        key,
        _index(start, index),
        noise,
        unroll,
        remat,
        False,
    )


def trajectory(
    denoiser: Denoiser,
    table: Table,
    start: Array,
    cond: Cond = None,
    *,
    key: Key | None = None,
    index: Array | None = None,
    noise: Array | None = None,
    unroll: int | bool = 1,
    remat: bool = False,
) -> Trajectory:
    """Sample and return the whole trajectory. Arguments as in :func:`sample`; a padded table has
    no trajectory.
    """
    noise = check_run(table, start, key, index, noise)
    if table.count is not None:
        raise ValueError(
            "a padded table does not know its accepted states: use the table it was made from"
        )
    return _run(
        as_partial(denoiser),
        table,
        start,
        cond,
        key,
        _index(start, index),
        noise,
        unroll,
        remat,
        True,
    )


def start_noise(
    key: Key, index: Array | Sequence[int] | int, shape: Sequence[int], dtype: Any = jnp.float32
) -> Array:
    """Standard normal noise (len(index), *shape), each sample's own: the start of a trajectory,
    divided by its level.

    Args:
        key: typed key.
        index: (batch,) integers naming the samples, or how many (then 0, 1, ...).
    """
    numbers = (
        jnp.arange(index, dtype=jnp.int32)
        if isinstance(index, int)
        else jnp.asarray(index, jnp.int32)
    )
    return draw(
        jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers), START, 0, tuple(shape), dtype
    )


def draw(
    keys: Key, evaluation: Array | int, slot: int, shape: tuple[int, ...], dtype: Any
) -> Array:
    """Standard normal noise (len(keys), *shape): a sample's draw ``slot`` of an evaluation."""

    def one(key: Key) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, evaluation), slot)
        return jax.random.normal(own, shape, dtype)

    return jax.vmap(one)(keys)


def sample_keys(key: Key, start: Array, index: Array | None) -> Key:
    """Each sample's own key."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(_index(start, index))


def _index(start: Array, index: Array | None) -> Any:
    if index is None:  # by NumPy: a program for it would be a twentieth of one evaluation
        return np.arange(start.shape[0], dtype=np.int32)
    return jnp.asarray(index, jnp.int32)


def check_start(start: Array, index: Array | None) -> None:
    """Complain about a start that is no batch of states, or an index that does not name them."""
    if getattr(start, "ndim", 0) < 1 or jnp.result_type(start) not in (jnp.float32, jnp.float64):
        raise TypeError(
            "start must be a batch of states in float32 or float64 (lower precision belongs "
            "inside the network); "
            f"this has dtype {jnp.result_type(start)} and shape {jnp.shape(start)}"
        )
    if index is not None and jnp.shape(index) != start.shape[:1]:
        raise ValueError(
            f"index must name each of the {start.shape[0]} samples; its shape is {jnp.shape(index)}"
        )


def check_key(name: str, key: Key | None, recorded: Array | None = None) -> None:
    """Complain unless a stochastic sampler has a typed key or recorded noise."""
    if (key is None) == (recorded is None):
        raise ValueError(f"{name} draws noise: give either key= or recorded noise=")
    if key is not None and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError("key must be a typed key, as made by jax.random.key(seed)")


def check_run(
    t: Table, start: Array, key: Key | None, index: Array | None, noise: Array | None
) -> Array | None:
    """Complain about arguments that do not fit a table; recorded noise comes back by evaluation
    and slot.
    """
    if not isinstance(t, Table):
        raise TypeError(
            f"sample needs a table, as made by table(solver, levels); this is {type(t).__name__}"
        )
    check_start(start, index)
    if not t.stochastic:
        return None
    check_key(t.name, key, noise)
    if noise is None:
        return None
    if t.count is not None:
        raise ValueError("recorded noise does not go with a padded table")
    if noise.shape != (len(t.draws), *start.shape):
        raise ValueError(
            f"{t.name} draws {len(t.draws)} noises of shape {start.shape}; recorded: {noise.shape}"
        )
    slots = jnp.zeros((t.states.shape[0] * t.slots, *start.shape), start.dtype)
    slots = slots.at[jnp.array(t.draws, jnp.int32)].set(jnp.asarray(noise, start.dtype))
    return slots.reshape(t.states.shape[0], t.slots, *start.shape)


class Windows(NamedTuple):
    """The most recent states, denoised outputs and noises, newest first; or the weights of each."""

    states: Any
    denoised: Any
    noises: Any


def first_windows(weights: Windows, start: Array) -> Windows:
    """The windows before the first row: the start, and zeros."""
    lengths, zero = [w.shape[2] for w in weights], jnp.zeros_like(start)
    states = (start, *[zero] * lengths[0])[: lengths[0]]
    return Windows(states, (zero,) * lengths[1], (zero,) * lengths[2])


def make_rows(
    windows: Windows, weights: Windows, noises: list[Array]
) -> tuple[Windows, list[Array]]:
    """Take in new noises, then make the states that precede one evaluation."""
    rows, lengths = weights.states.shape[0], [w.shape[1] for w in weights]
    recent = (*reversed(noises), *windows.noises)[: lengths[2]]
    windows, made = windows._replace(noises=recent), []
    for row in range(rows):
        made.append(_combine(windows, weights, row))
        windows = windows._replace(states=(made[-1], *windows.states)[: lengths[0]])
    return windows, made


def _combine(windows: Windows, weights: Windows, row: int) -> Array:
    """One row: products and sums, not a matrix product, whose precision a GPU would lower."""
    blocks = zip(weights, windows, strict=True)
    terms = [w[row, k] * v for w, window in blocks for k, v in enumerate(window)]
    return functools.reduce(jnp.add, terms)


def _evaluate(
    denoiser: Any, cond: Cond, windows: Windows, weights: Windows, levels: Any, noises: Any
) -> tuple[Windows, tuple[list[Array], Array]]:
    """One evaluation: the rows before it, and its output taken into the window."""
    windows, made = make_rows(windows, weights, noises)
    level, target = levels
    output = call(denoiser, made[-1], level, target, cond).astype(made[-1].dtype)
    kept = (output, *windows.denoised)[: weights.denoised.shape[1]]
    return windows._replace(denoised=kept), (made, output)


def call(denoiser: Any, y: Array, level: Array, target: Array | None, cond: Cond) -> Array:
    """The denoised output, or for a map between two levels what its jump to ``target`` needs."""
    if target is None:
        return denoiser(y, level, cond)
    return denoiser(y, level, cond, target=target)


@functools.partial(jax.jit, static_argnames=("unroll", "remat", "whole"))
def _run(
    denoiser: Denoiser,
    t: Table,
    start: Array,
    cond: Cond,
    key: Key | None,
    index: Array,
    noise: Array | None,
    unroll: int | bool,
    remat: bool,
    whole: bool,
) -> Any:
    dtype, shape, number = start.dtype, start.shape, t.nodes.shape[0]
    weights = Windows(*(jnp.asarray(a, dtype) for a in (t.states, t.denoised, t.noises)))
    nodes = jnp.asarray(t.nodes, dtype)
    targets = None if t.targets is None else jnp.asarray(t.targets, dtype)
    keys = None if key is None else jax.vmap(lambda i: jax.random.fold_in(key, i))(index)

    def drawn(n: Array | int) -> list[Array]:
        if noise is not None:
            return list(noise[n])
        return [draw(keys, n, q, shape[1:], dtype) for q in range(t.slots)]  # type: ignore[arg-type]

    def step(windows: Windows, inputs: Any) -> tuple[Windows, Any]:
        n, own, levels = inputs
        windows, out = _evaluate(denoiser, cond, windows, own, levels, drawn(n))
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
    _, made = make_rows(windows, at(last), drawn(last))
    if not whole:
        return made[-1]
    rows, outputs = out  # type: ignore[misc]
    states = jnp.concatenate([jnp.stack(rows, 1).reshape(-1, *shape), jnp.stack(made)])
    accepted = states[jnp.array(t.accepted, jnp.int32)]
    levels = jnp.asarray(t.levels, dtype)
    return Trajectory(jnp.concatenate([start[None], accepted]), levels, outputs, nodes)
