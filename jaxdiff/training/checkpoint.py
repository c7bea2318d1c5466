"""Checkpoints that are whole or absent, and that are never silently wrong.

A checkpoint is a folder named after its step, written by orbax under a temporary name and renamed.
It holds the state's leaves by path and a JSON record with every leaf's path, shape, dtype and
CRC-32, itself under a CRC-32. On reading, the record is compared with the state requested (another
network is an error that names the first leaf that differs), the leaves with their CRCs (orbax
restores a flipped bit without complaint), and a damaged checkpoint is passed over for the one
before it, with a warning.

Processes that share a run share the folder, too: each writes its own part, and a leaf that none of
them holds whole has a CRC for every piece. However it was split, it is read whole.

Parameters alone, for inference, go into one npz file, whose members carry CRC-32s of their own.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.brief import short
from jaxdiff.files import open_archive, parse_json, read_array, replacing, storable
from jaxdiff.training import hosts
from jaxdiff.typing import Params


class Restored(NamedTuple):
    """A checkpoint read back: its step, its state and the ``meta`` it was saved with."""

    __repr__ = short

    step: int
    state: Any
    meta: dict[str, Any]


class Leaf(NamedTuple):
    """The record of a leaf. crc: of the whole, or of pieces: (starts, stops, CRC) of each."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    crc: Any = None


def save(
    folder: str | os.PathLike[str],
    step: int,
    state: Any,
    meta: dict[str, Any] | None = None,
    *,
    keep: int = 3,
) -> None:
    """Write ``state``, a pytree of arrays, as the checkpoint of ``step``.

    Returns when it is on disk. Keeps the newest ``keep``. Checkpoints of this and later steps are
    removed first: they belong to a run that was given up for an earlier one. Processes that share a
    run all call it.

    Args:
        folder: of checkpoints, made if need be.
        step: number of the checkpoint.
        state: a pytree of arrays.
        meta: JSON-able data, kept with it.
        keep: number of checkpoints that stay.

    Returns:
        None, when the checkpoint is on disk.

    Raises:
        OSError: if it cannot be written; the earlier ones stay, and nothing partial.
    """
    import orbax.checkpoint as ocp

    folder, leaves = Path(folder).absolute(), _flatten(state)
    record = _sealed(_with_pieces([_leaf(path, x) for path, x in leaves.items()], leaves), meta)
    data = {path: _storable_data(x) for path, x in leaves.items() if np.size(x)}
    items = ocp.args.Composite(state=ocp.args.StandardSave(data), record=ocp.args.JsonSave(record))
    for later in all_steps(folder) if hosts.is_main_process() else ():
        if later >= step:
            shutil.rmtree(folder / str(later))
    hosts.wait_for_all("room for a checkpoint")
    try:
        with _manager(folder, max_to_keep=keep, cleanup_tmp_directories=True) as manager:
            if not manager.save(step, args=items, force=True):
                raise OSError("orbax declined to save")
    except Exception as error:
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"cannot write the checkpoint of step {step} ({error}); the newest in the folder is "
            f"that of step {latest_step(folder)}",
            str(folder),
        ) from error
    finally:
        for partial in folder.glob("*.orbax-checkpoint-tmp*") if hosts.is_main_process() else ():
            shutil.rmtree(partial, ignore_errors=True)


def restore(folder: str | os.PathLike[str], like: Any, step: int | None = None) -> Restored:
    """Read a checkpoint into the structure of ``like`` (arrays or shapes): the newest sound one, or
    that of ``step``.

    Warns of each damaged one passed over. Raises FileNotFoundError if there is none, ValueError if
    none is sound or if the checkpoint is of a state of another structure, shape or dtype.

    Args:
        folder: of checkpoints.
        like: a tree of arrays or shapes.
        step: of the checkpoint; None for the newest sound one.

    Returns:
        The checkpoint's step, state and ``meta``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if none is sound, or the checkpoint is of a state of another structure, shape or
            dtype.
    """
    folder, damages = Path(folder).absolute(), []
    known = all_steps(folder)
    if not known or step not in (None, *known):
        which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        kept = f"; there are those of {', '.join(map(str, known))}" if known else ""
        raise FileNotFoundError(f"{which} in {folder}{kept}")
    for own in reversed(known if step is None else [step]):
        try:
            leaves, meta = _read_record(folder, own)
        except Exception as error:  # damage shows as any of a dozen types
            damages.append(_warn(folder, own, error))
            continue
        _check_same(leaves, like, folder / str(own))
        try:
            return Restored(own, _read_state(folder, own, leaves, like), meta)
        except Exception as error:  # as above
            damages.append(_warn(folder, own, error))
    raise ValueError(f"no sound checkpoint in {folder}: {'; '.join(damages)}")


def all_steps(folder: str | os.PathLike[str]) -> list[int]:
    """Return the steps of the finished checkpoints in ``folder``, in order; [] without a folder."""
    folder = Path(folder)
    names = [p.name for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def latest_step(folder: str | os.PathLike[str]) -> int | None:
    """Return the step of the newest checkpoint, sound or not, or None.

    Args:
        folder: of checkpoints.

    Returns:
        The step, or None where there is no checkpoint.
    """
    return max(all_steps(folder), default=None)


def probe(folder: str | os.PathLike[str], size: int = 0) -> None:
    """Make ``folder`` and check that it can be written and has room for ``size`` bytes.

    Raises OSError, of the kind the system gave, naming the folder.
    """
    folder = Path(folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        message = f"checkpoints cannot be written: {error.strerror}"
        raise OSError(error.errno, message, str(folder)) from error
    free = shutil.disk_usage(folder).free
    if free < size:
        message = f"a checkpoint needs {size / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free"
        raise OSError(errno.ENOSPC, message, str(folder))


def save_params(
    path: str | os.PathLike[str], params: Params, meta: dict[str, Any] | None = None
) -> None:
    """Write parameters and a JSON-able ``meta`` to one npz file, whole or not at all.

    Leaves are keyed by their path, "params.Dense_0.kernel". Processes that share a run all call it,
    and one of them writes. Raises OSError if it cannot be written, ValueError for a name with a NUL
    in it, at which zip files end a name.

    Args:
        path: of the file, ending in .npz.
        params: a pytree of arrays.
        meta: JSON-able data.

    Returns:
        None, when the file is on disk.

    Raises:
        OSError: if it cannot be written.
        ValueError: for a name with a NUL in it, at which zip files end a name.
    """
    path = Path(path).absolute()
    leaves = {name: np.asarray(x) for name, x in _flatten(hosts.whole(params)).items()}
    if cut := [name for name in leaves if "\0" in name]:
        raise ValueError(f"no file can hold the name {cut[0]!r}")
    if not hosts.is_main_process():
        return hosts.wait_for_all(f"{path.name} written")
    record = {"dtypes": {name: str(x.dtype) for name, x in leaves.items()}, "meta": meta or {}}
    arrays = {f"params.{name}": storable(x) for name, x in leaves.items()}
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, record=np.str_(json.dumps(record)), **arrays)
    hosts.wait_for_all(f"{path.name} written")


def load_params(
    path: str | os.PathLike[str], like: Params | None = None
) -> tuple[Params, dict[str, Any]]:
    """Read parameters and ``meta`` written by :func:`save_params`.

    With ``like`` (arrays or shapes) the leaves come in its structure; without, as nested
    dictionaries by path. Raises OSError (FileNotFoundError), and ValueError for a file that is
    damaged or of another network.

    Args:
        path: of the npz file.
        like: arrays or shapes, in whose structure the leaves come; nested dictionaries by path if
            None.

    Returns:
        The parameters, and ``meta``.

    Raises:
        OSError: if the file cannot be read; FileNotFoundError if there is none.
        ValueError: for a file that is damaged or of another network.
    """
    try:
        with open_archive(path) as archive:
            record = parse_json(str(read_array(archive, path, "record")), "record")
            dtypes, meta = _object(record["dtypes"]), _object(record["meta"])
            stored = {f"params.{name}.npy": (name, dtype) for name, dtype in dtypes.items()}
            if {*stored, "record.npy"} != {*archive.namelist()}:
                raise ValueError("its arrays are not those of its record")
            leaves = {
                name: _restored(read_array(archive, path, f"params.{name}"), dtype)
                for name, dtype in stored.values()
            }
        arrays = {name: jnp.array(x) for name, x in leaves.items()}
        nested = _nested(arrays) if like is None else None
    except OSError:
        raise
    except Exception as error:  # json, numpy and jax each have their own types
        raise ValueError(f"{path} is damaged or not a parameter file: {error}") from error
    if like is None:
        return nested, meta
    _check_same([_leaf(name, x) for name, x in leaves.items()], like, Path(path))
    values = [arrays[name] for name in _flatten(like)]
    return jax.tree.unflatten(jax.tree.structure(like), values), meta


def check_fits(params: Params, like: Params, where: str) -> None:
    """Raise ValueError, naming a leaf, for parameters of another structure, shape or dtype."""
    _check_same([_leaf(name, x) for name, x in _flatten(params).items()], like, where)


def fingerprint(tree: Any) -> str:
    """Return a short digest of a tree's arrays, by which a model is known again."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:12]


def _manager(folder: Path, **options: Any) -> Any:
    import orbax.checkpoint as ocp

    # Not asynchronous: the next step overwrites (donates) the buffers that a background writer
    # would read.
    chosen = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, **options)
    return ocp.CheckpointManager(folder, options=chosen)


def _flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path, "params.student.Dense_0.kernel"."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in pairs}
    if len(leaves) < len(pairs):
        raise ValueError("two leaves of the tree have the same path; do not use dots in its names")
    return leaves


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _data(x: Any) -> Any:
    return jax.random.key_data(x) if _is_key(x) else x


def _leaf(path: str, x: Any) -> Leaf:
    """Return the record of a leaf, without CRC for a shape."""
    leaf = Leaf(path, tuple(x.shape), str(x.dtype))
    if isinstance(x, jax.ShapeDtypeStruct):
        return leaf
    data = _data(x)
    whole = np.shape(data) == np.shape(host := on_host(data))
    return leaf._replace(crc=_crc(host)) if whole else leaf


def on_host(x: Any) -> np.ndarray:
    """Return an array's values, or a piece of it where several processes share it."""
    shared = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
    return np.asarray(x.addressable_data(0) if shared else x)


def _crc(x: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def _with_pieces(records: list[Leaf], leaves: dict[str, Any]) -> list[Leaf]:
    """Return the records, leaves that several processes share with the CRCs of all their pieces."""
    shared = [r.path for r in records if r.crc is None]
    if not shared:
        return records
    pieces: dict[str, list[Any]] = {path: [] for path in shared}
    for of_one in hosts.gather({path: _pieces(_data(leaves[path])) for path in shared}):
        for path, found in of_one.items():
            pieces[path] += found
    return [r._replace(crc=pieces[r.path]) if r.path in pieces else r for r in records]


def _pieces(x: jax.Array) -> list[tuple[list[int], list[int], int]]:
    """Return the pieces of an array in this process; of copies in several the first alone."""
    found = []
    for shard in x.addressable_shards:
        if shard.replica_id == 0:
            ends = [at.indices(n)[:2] for at, n in zip(shard.index, x.shape, strict=True)]
            starts, stops = ([end[i] for end in ends] for i in (0, 1))
            found.append((starts, stops, _crc(np.asarray(shard.data))))
    return found


def _sound(leaf: Leaf, x: np.ndarray) -> bool:
    """Return whether an array has the CRCs that were noted."""
    if isinstance(leaf.crc, int):
        return _crc(x) == leaf.crc
    at = lambda starts, stops: tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))  # noqa: E731
    covered = sum(int(np.prod(np.subtract(b, a), dtype=int)) for a, b, _ in leaf.crc)
    return covered == x.size and all(_crc(x[at(a, b)]) == crc for a, b, crc in leaf.crc)


def _storable_data(x: Any) -> Any:
    """Return what orbax takes: arrays of all processes as they are, those of this one alone as
    NumPy's.
    """
    data = _data(x)
    alone = hosts.several() and isinstance(data, jax.Array) and data.is_fully_addressable
    return np.asarray(data) if alone else data


def _sealed(leaves: list[Leaf], meta: dict[str, Any] | None) -> dict[str, Any]:
    body = json.dumps({"leaves": leaves, "meta": meta or {}})
    return {"body": body, "crc": zlib.crc32(body.encode())}


def _read_record(folder: Path, step: int) -> tuple[list[Leaf], dict[str, Any]]:
    import orbax.checkpoint as ocp

    sealed = _read(folder, step, record=ocp.args.JsonRestore())
    if zlib.crc32(sealed["body"].encode()) != sealed["crc"]:
        raise ValueError("its record is damaged")
    body = parse_json(sealed["body"], "its record")
    leaves = [Leaf(str(p), tuple(shape), dtype, crc) for p, shape, dtype, crc in body["leaves"]]
    return leaves, _object(body["meta"])


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.60} is no JSON object")
    return value


def _read(folder: Path, step: int, **item: Any) -> Any:
    import orbax.checkpoint as ocp

    with _manager(folder, create=False) as manager:
        return manager.restore(step, args=ocp.args.Composite(**item))[next(iter(item))]


def _read_state(folder: Path, step: int, leaves: list[Leaf], like: Any) -> Any:
    import orbax.checkpoint as ocp

    shapes = jax.eval_shape(lambda tree: jax.tree.map(_data, tree), like)
    empty = {path: np.zeros(x.shape, x.dtype) for path, x in _flatten(shapes).items()}
    target = {path: x for path, x in empty.items() if x.size}
    data = {**empty, **_read(folder, step, state=ocp.args.StandardRestore(target))}
    for leaf in leaves:
        if not _sound(leaf, np.asarray(data[leaf.path])):
            raise ValueError(f"leaf {leaf.path} differs from its checksum")
    values = [_typed(data[path], x) for path, x in _flatten(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), values)


def _typed(data: np.ndarray, like: Any) -> jax.Array:
    """Return a jax array with a buffer of its own, wrapped as a key where ``like`` is one."""
    array = jnp.array(data, copy=True)
    if not _is_key(like):
        return array
    names: list[Any] = []  # only arrays and tracers have the implementation's name
    jax.eval_shape(lambda key: names.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(array, impl=names[0])


def _check_same(saved: list[Leaf], like: Any, where: str | Path) -> None:
    there = {leaf.path: leaf._replace(crc=None) for leaf in saved}
    here = {path: _leaf(path, x)._replace(crc=None) for path, x in _flatten(like).items()}
    for path in {**here, **there}:
        a, b = there.get(path), here.get(path)
        if a != b:
            raise ValueError(
                f"{where} is of another network or method: {path} is {_shown(a)} there and "
                f"{_shown(b)} here"
            )


def _shown(leaf: Leaf | None) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"


def _warn(folder: Path, step: int, error: Exception) -> str:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    warnings.warn(
        f"passed over the damaged checkpoint {folder / str(step)}: {reason}", stacklevel=3
    )
    return f"step {step}: {reason}"


def _restored(x: np.ndarray, dtype: str) -> np.ndarray:
    """Return the array that :func:`storable` was given. ValueError if it gave another one."""
    if not isinstance(dtype, str):
        raise TypeError(f"{dtype!r:.60} is no dtype")
    whole = jnp.dtype(dtype)
    if x.dtype != storable(np.zeros(0, whole)).dtype:
        raise ValueError(f"it is noted as {dtype} and stored as {x.dtype}")
    return x.view(whole)


def _nested(leaves: dict[str, Any]) -> Any:
    if list(leaves) == [""]:  # the tree is a leaf
        return leaves[""]
    tree: dict[str, Any] = {}
    for path, x in leaves.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path} lies inside of another array; read it with like=")
        if name in node:
            raise ValueError(f"{path} holds other arrays; read it with like=")
        node[name] = x
    return tree
