"""Placement of work: arrays on devices, by jit with shardings or by pmap.

By jit: a mesh with axes ``data`` and ``model``; the batch is split along ``data``, parameters are
replicated or sharded (each large leaf along ``data``, as in ZeRO-3 1910.02054 and FSDP), and the
compiler inserts the communication. By pmap: one replica of the parameters per device, gradients
averaged with pmean. Both give the single-device numbers to rounding for losses that are means over
the batch, on the devices of one process or of many (:mod:`jaxdiff.training.hosts`).

Two traps, avoided here. A mesh made without axis types is explicit and refuses ordinary reshapes,
so the types are Auto. Placing an array on several devices aliases its buffer on the first, so
donating the copy deletes the original: whoever calls ``enter`` gives the state up.

Random numbers: under jit a sharded draw equals the single-device draw. Under pmap every device
folds its index into the key, so shards draw different noise, and not that of one device; a loss
that must give the same numbers there takes its noise from the batch. Batch norm's statistics are of
the whole batch under jit; under pmap they are if it is given ``context.axis_name``
(:class:`jaxdiff.method.Context`), and otherwise those of each device's part, the running averages
being averaged.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdiff.arrays import check_any_rows, rows_of, take
from jaxdiff.brief import short
from jaxdiff.training import hosts

AXIS = "devices"  # the name that pmapped steps average over
WHOLE = slice(None)  # all rows of a batch

Parallel: TypeAlias = Literal["jit", "fsdp", "pmap"]
Step = Callable[..., tuple[Any, Any]]
Rule = Callable[[Any], NamedSharding]
Devices: TypeAlias = Sequence[Any]  # of jax.Device


class Runner(NamedTuple):
    """Placement of a step ``step(state, batch, frozen, active=, axis_name=)`` on some devices.

    enter: place a state (given up by the caller). feed: ``feed(batch)``, place a batch of numpy
    arrays. rows: ``rows(count)``, the rows of a batch of so many that the devices of this process
    need; ``feed(batch, rows, count)`` places a batch of these alone. run: ``run(state, batch,
    active)``, which consumes the state. leave: bring a state or metrics back.
    """

    __repr__ = short

    enter: Callable[[Any], Any]
    feed: Callable[..., Any]
    rows: Callable[[int], slice]
    run: Callable[[Any, Any, tuple[str, ...]], tuple[Any, Any]]
    leave: Callable[[Any], Any]


def first_devices(count: int | None) -> list[Any] | None:
    """Return the first ``count`` devices; None, for all, if it is None. ValueError if there are
    fewer.
    """
    if count is not None and not 1 <= count <= jax.device_count():
        raise ValueError(f"{count} devices were requested; there are {jax.device_count()}")
    return None if count is None else jax.devices()[:count]


def mesh(devices: Devices | None = None, *, model: int = 1) -> Mesh:
    """Arrange ``devices`` (default: all) as a mesh (data, model).

    ``model`` devices share one piece of the batch. Raises ValueError if ``model`` does not divide
    their number.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % model:
        raise ValueError(f"{len(devices)} devices do not divide into groups of {model}")
    shape = (len(devices) // model, model)
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> Rule:
    """Return every leaf whole on every device."""
    return lambda leaf: NamedSharding(mesh, PartitionSpec())


def fsdp(mesh: Mesh, *, axis: str = "data", smallest: int = 1024) -> Rule:
    """Split each leaf of ``smallest`` elements or more along its longest dimension that divides."""
    parts = mesh.shape[axis]

    def rule(leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        divisible = [i for i, n in enumerate(shape) if n % parts == 0]
        if np.prod(shape, dtype=int) < smallest or not divisible:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(divisible, key=lambda i: shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, axis))

    return rule


def place(tree: Any, rule: Rule) -> Any:
    """Return every leaf where ``rule`` puts it; processes that share the mesh all bring the same
    tree.
    """

    def one(x: Any) -> Any:
        sharding = rule(x)
        known = isinstance(x, jax.Array) and not x.is_fully_addressable
        if sharding.is_fully_addressable or known:
            return jax.device_put(x, sharding)
        if _is_key(x):  # keys cannot be put together of pieces, their numbers can
            data = one(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        # Not device_put, which would have all processes compare their trees, leaf by leaf.
        here = np.asarray(_canonical(x))
        return jax.make_array_from_callback(here.shape, sharding, lambda at: here[at])

    return jax.tree.map(one, tree)


def place_rows(rows: Any, sharding: NamedSharding, first: int = 0, count: int | None = None) -> Any:
    """Arrays split along their first axis; ``rows`` are those from ``first`` on, of ``count``."""

    def one(x: Any) -> jax.Array:
        x = _canonical(x)
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        shape = (count or len(x), *x.shape[1:])
        starts = lambda at: ((at[0].start or 0) - first, (at[0].stop or shape[0]) - first)  # noqa: E731
        return jax.make_array_from_callback(shape, sharding, lambda at: x[slice(*starts(at))])

    return jax.tree.map(one, rows)


def by_jit(step: Step, frozen: Any, mesh: Mesh, rule: Rule | None = None) -> Runner:
    """Run ``step`` by jit over ``mesh``, state and frozen trees placed by ``rule`` (replicated)."""
    rule = rule or replicated(mesh)
    frozen = place(frozen, rule)
    split = NamedSharding(mesh, PartitionSpec("data"))
    compiled: dict[tuple[str, ...], Callable[..., Any]] = {}

    def run(state: Any, batch: Any, active: tuple[str, ...]) -> tuple[Any, Any]:
        if active not in compiled:
            out = (jax.tree.map(lambda x: x.sharding, state), NamedSharding(mesh, PartitionSpec()))
            one = functools.partial(step, active=active, axis_name=None)
            compiled[active] = jax.jit(one, donate_argnums=0, out_shardings=out)
        return compiled[active](state, batch, frozen)

    def rows(count: int) -> slice:
        _check_divides(count, mesh.shape["data"])
        here = [at[0] for at in split.addressable_devices_indices_map((count,)).values() if at]
        return slice(min(s.start or 0 for s in here), max(s.stop or count for s in here))

    def feed(batch: Mapping[str, Any], at: slice = WHOLE, count: int | None = None) -> Any:
        if at == WHOLE:
            _check_divisible(batch, mesh.shape["data"])
        return place_rows(batch, split, at.start or 0, count)

    return Runner(functools.partial(place, rule=rule), feed, rows, run, lambda tree: tree)


def replicate(tree: Any, devices: Devices) -> Any:
    """Give every leaf a leading axis of one copy per device of this process."""
    copy = jax.pmap(lambda index, tree: tree, in_axes=(0, None), devices=devices)
    return copy(np.arange(len(_mine(devices))), tree)


def unreplicate(tree: Any) -> Any:
    """Return the first device's copy of a replicated tree."""
    return _first(jax.tree.map(lambda x: x.addressable_shards[0].data, tree))


@jax.jit
def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)


def by_pmap(step: Step, frozen: Any, devices: Devices) -> Runner:
    """Run ``step`` by pmap on ``devices``; it averages over the axis name it is given."""
    frozen, local = replicate(frozen, devices), _mine(devices)
    split = NamedSharding(Mesh(np.array(local), (AXIS,)), PartitionSpec(AXIS))

    @functools.cache
    def compiled(active: tuple[str, ...]) -> Callable[..., Any]:
        one = functools.partial(step, active=active, axis_name=AXIS)
        return jax.pmap(one, axis_name=AXIS, donate_argnums=0, devices=devices)

    def run(state: Any, batch: Any, active: tuple[str, ...]) -> tuple[Any, Any]:
        return compiled(active)(state, batch, frozen)

    def rows(count: int) -> slice:
        _check_divides(count, len(devices))
        each, first = count // len(devices), list(devices).index(local[0])
        return slice(first * each, (first + len(local)) * each)

    def feed(batch: Mapping[str, Any], at: slice = WHOLE, count: int | None = None) -> Any:
        if at == WHOLE:
            _check_divisible(batch, len(devices))
            batch = jax.tree.map(lambda x: x[rows(len(x))], batch)
        cut = lambda x: np.reshape(x, (len(local), -1, *np.shape(x)[1:]))  # noqa: E731
        return place_rows(jax.tree.map(cut, batch), split)

    return Runner(functools.partial(replicate, devices=devices), feed, rows, run, unreplicate)


def over_batch(
    f: Callable[..., Any],
    frozen: Any = (),
    *,
    parallel: Parallel = "jit",
    devices: Devices | None = None,
    **static: Any,
) -> Callable[[Any], Any]:
    """Run a function of a batch, row by row, on several devices: sampling, solving, scoring.

    Args:
        f: ``f(frozen, batch, **static)``, of trees of arrays with the batch first to the same;
            a row's result may depend on that row alone. A function of a module, not one made anew
            for every call, is compiled once.
        frozen: what every row sees (denoiser, table, key), placed here, once.
        parallel: "jit": parameters on every device, each working on its own rows (by
            ``jax.shard_map``, so that loops of adaptive solvers end device by device). "fsdp":
            parameters split over the devices, gathered where they are used. "pmap".
        devices: default all.
        static: keyword arguments that are hashable constants of the program.

    Returns:
        ``run(batch)``, for a batch of any size: the last row fills it up to a multiple of the
        devices, and what is made of it is cut away. All processes bring the whole batch, and
        receive the whole result. Raises ValueError, naming the array, unless all have one number
        of rows.
    """
    chosen = tuple(jax.devices() if devices is None else devices)
    compiled = _compiled(f, parallel, chosen, tuple(sorted(static.items())))
    known = jax.eval_shape(lambda tree: tree, frozen)
    if parallel == "pmap":
        frozen, local = replicate(frozen, chosen), _mine(chosen)
    else:
        own = mesh(chosen)
        frozen = place(frozen, fsdp(own) if parallel == "fsdp" else replicated(own))
        split = NamedSharding(own, PartitionSpec("data"))

    def run(batch: Any) -> Any:
        count = rows_of(batch, "batch")
        filled = -(-count // len(chosen)) * len(chosen)
        at = np.minimum(np.arange(filled), count - 1)
        batch = batch if filled == count else jax.tree.map(lambda x: x[at], batch)
        if len(chosen) > 1:
            _check_split(f, static, known, batch, filled // len(chosen))
        if parallel == "pmap":
            each, first = filled // len(chosen), chosen.index(local[0])
            rows = np.arange(first * each, (first + len(local)) * each).reshape(len(local), each)
            out = _joined(compiled(frozen, jax.tree.map(lambda x: x[rows], batch)))
        else:
            out = hosts.whole(compiled(frozen, place_rows(batch, split)))
        return out if filled == count else jax.tree.map(lambda x: x[:count], out)

    return run


_split: set[Any] = set()


def _check_split(f: Any, static: dict[str, Any], frozen: Any, batch: Any, rows: int) -> None:
    """Raise ValueError for a function that works for a device's rows and not for the batch."""
    leaves, tree = jax.tree.flatten((frozen, batch))
    shapes = tuple((np.shape(x), str(getattr(x, "dtype", type(x)))) for x in leaves)
    known = (f, tuple(sorted(static.items())), tree, shapes, rows)
    if known not in _split:
        own, count = take(batch, slice(rows)), len(jax.tree.leaves(batch)[0])
        check_any_rows(functools.partial(f, **static), frozen, own, "over_batch", count)
        _split.add(known)


@functools.lru_cache(maxsize=256)
def _compiled(
    f: Callable[..., Any], parallel: str, devices: tuple[Any, ...], static: tuple[Any, ...]
) -> Callable[[Any, Any], Any]:
    check_parallel(parallel)
    one = functools.partial(f, **dict(static))
    if parallel == "pmap":
        return jax.pmap(one, devices=devices)
    if len(devices) == 1:
        return jax.jit(one)
    own, split = mesh(devices), PartitionSpec("data")
    if parallel == "fsdp":
        return jax.jit(one, out_shardings=NamedSharding(own, split))
    in_specs = (PartitionSpec(), split)
    return jax.jit(
        jax.shard_map(one, mesh=own, in_specs=in_specs, out_specs=split, check_vma=False)
    )


def check_parallel(parallel: str) -> None:
    """Raise ValueError for another word than "jit", "fsdp" or "pmap"."""
    if parallel not in ("jit", "fsdp", "pmap"):
        raise ValueError(f'parallel is "jit", "fsdp" or "pmap"; got {parallel!r}')


def _joined(tree: Any) -> Any:
    """Results of pmap with devices and their rows made one axis, in every process."""
    join = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    if not hosts.several():
        return jax.tree.map(join, tree)
    from jax.experimental import multihost_utils

    local = lambda x: join(np.stack([s.data[0] for s in x.addressable_shards]))  # noqa: E731
    return multihost_utils.process_allgather(jax.tree.map(local, tree), tiled=True)


def _mine(devices: Devices) -> list[Any]:
    return [d for d in devices if d.process_index == jax.process_index()]


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _canonical(x: Any) -> Any:
    """Return the array in the dtype jax would give it (float32 for float64, unless x64 is on)."""
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    return x if _is_key(x) else x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)


def _check_divides(count: int, parts: int) -> None:
    if count % parts:
        raise ValueError(f"batches of {count} rows do not divide over {parts} devices")


def _check_divisible(batch: Mapping[str, Any], parts: int) -> None:
    for path, x in jax.tree_util.tree_flatten_with_path(batch)[0]:
        if np.ndim(x) == 0 or np.shape(x)[0] % parts:
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has shape {np.shape(x)}; its first axis is the "
                f"batch and must divide over {parts} devices"
            )
