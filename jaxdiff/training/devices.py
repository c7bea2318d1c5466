"""Where the training step runs: state and batch on devices, by jit with shardings or by pmap.

By jit: a mesh with axes ``data`` and ``model``; the batch is split along ``data``, the state is
replicated or sharded (each large leaf along ``data``, as in ZeRO-3 1910.02054 and FSDP), and the
compiler inserts the communication. By pmap: one replica of the state per device, gradients averaged
with pmean. Both give the single-device numbers to rounding for losses that are means over the
batch.

Two traps, avoided here. A mesh made without axis types is explicit and refuses ordinary reshapes,
so the types are Auto. Placing an array on several devices aliases its buffer on the first, so
donating the copy deletes the original: whoever calls ``enter`` gives the state up.

Random numbers: under jit a sharded draw equals the single-device draw. Under pmap every device
folds its index into the key, so shards draw different noise, and not that of one device; a loss
that must give the same numbers there takes its noise from the batch.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "devices"  # the name that pmapped steps average over

Step = Callable[..., tuple[Any, Any]]
Rule = Callable[[Any], NamedSharding]
Devices: TypeAlias = Sequence[Any]  # of jax.Device


class Runner(NamedTuple):
    """How to run a step ``step(state, batch, frozen, active=, axis_name=)`` on some devices.

    enter: place a state (given up by the caller). feed: place a batch of numpy arrays. run:
    ``run(state, batch, active)``, which consumes the state. leave: bring a state or metrics back.
    """

    enter: Callable[[Any], Any]
    feed: Callable[[Mapping[str, Any]], Any]
    run: Callable[[Any, Any, tuple[str, ...]], tuple[Any, Any]]
    leave: Callable[[Any], Any]


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
    """Every leaf whole on every device."""
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


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> Any:
    """Split every array's first axis along ``data``; each process brings its own part.

    Raises ValueError naming an array whose first axis does not divide.
    """
    parts, processes = mesh.shape["data"], jax.process_count()
    _check_divisible(batch, max(parts // processes, 1))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    place = functools.partial(jax.make_array_from_process_local_data, sharding)
    return jax.tree.map(lambda x: place(_canonical(x)), batch)


def by_jit(step: Step, frozen: Any, mesh: Mesh, rule: Rule | None = None) -> Runner:
    """Run ``step`` by jit over ``mesh``, state and frozen trees placed by ``rule`` (replicated)."""
    rule = rule or replicated(mesh)
    frozen = jax.device_put(frozen, jax.tree.map(rule, frozen))
    compiled: dict[tuple[str, ...], Callable[..., Any]] = {}

    def run(state: Any, batch: Any, active: tuple[str, ...]) -> tuple[Any, Any]:
        if active not in compiled:
            out = (jax.tree.map(lambda x: x.sharding, state), NamedSharding(mesh, PartitionSpec()))
            one = functools.partial(step, active=active, axis_name=None)
            compiled[active] = jax.jit(one, donate_argnums=0, out_shardings=out)
        return compiled[active](state, batch, frozen)

    def enter(state: Any) -> Any:
        return jax.device_put(state, jax.tree.map(rule, state))

    return Runner(enter, functools.partial(shard_batch, mesh=mesh), run, lambda tree: tree)


def replicate(tree: Any, devices: Devices) -> Any:
    """Give every leaf a leading axis of one copy per device."""
    copy = jax.pmap(lambda index, tree: tree, in_axes=(0, None), devices=devices)
    return copy(np.arange(len(devices)), tree)


def unreplicate(tree: Any) -> Any:
    """Return the first device's copy of a replicated tree."""
    return _first(jax.tree.map(lambda x: x.addressable_shards[0].data, tree))


@jax.jit
def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)


def split_batch(batch: Mapping[str, Any], parts: int) -> Any:
    """Reshape every array from (parts * n, ...) to (parts, n, ...), as pmap takes it.

    Raises ValueError naming an array whose first axis does not divide.
    """
    _check_divisible(batch, parts)
    return jax.tree.map(lambda x: np.reshape(x, (parts, -1, *np.shape(x)[1:])), batch)


def by_pmap(step: Step, frozen: Any, devices: Devices) -> Runner:
    """Run ``step`` by pmap on local ``devices``; it averages over the axis name it is given."""
    frozen = replicate(frozen, devices)

    @functools.cache
    def compiled(active: tuple[str, ...]) -> Callable[..., Any]:
        one = functools.partial(step, active=active, axis_name=AXIS)
        return jax.pmap(one, axis_name=AXIS, donate_argnums=0, devices=devices)

    def run(state: Any, batch: Any, active: tuple[str, ...]) -> tuple[Any, Any]:
        return compiled(active)(state, batch, frozen)

    def enter(state: Any) -> Any:
        return replicate(state, devices)

    return Runner(enter, functools.partial(split_batch, parts=len(devices)), run, unreplicate)


def _canonical(x: Any) -> np.ndarray:
    """The array in the dtype jax would give it (float32 for float64, unless x64 is on)."""
    x = np.asarray(x)
    return x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)


def _check_divisible(batch: Mapping[str, Any], parts: int) -> None:
    for path, x in jax.tree_util.tree_flatten_with_path(batch)[0]:
        if np.ndim(x) == 0 or np.shape(x)[0] % parts:
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has shape {np.shape(x)}; its first axis is the "
                f"batch and must divide over {parts} devices"
            )
