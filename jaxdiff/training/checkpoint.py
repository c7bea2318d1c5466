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
from jaxdiff.training.leaves import (
    Leaf,
    by_path,
    check_same,
    data_of,
    is_sound,
    leaf_record,
    nested,
    restored,
    storable_data,
    typed,
    with_pieces,
)
from jaxdiff.typing import Params


class Restored(NamedTuple):
    """A checkpoint read back: its step, its state and the ``meta`` it was saved with."""

    __repr__ = short

    step: int
    state: Any
    meta: dict[str, Any]


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

    folder, leaves = Path(folder).absolute(), by_path(state)
    record = _sealed(
        with_pieces([leaf_record(path, x) for path, x in leaves.items()], leaves), meta
    )
    data = {path: storable_data(x) for path, x in leaves.items() if np.size(x)}
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
        check_same(leaves, like, folder / str(own))
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
    leaves = {name: np.asarray(x) for name, x in by_path(hosts.whole(params)).items()}
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
                name: restored(read_array(archive, path, f"params.{name}"), dtype)
                for name, dtype in stored.values()
            }
        arrays = {name: jnp.array(x) for name, x in leaves.items()}
        tree = nested(arrays) if like is None else None
    except OSError:
        raise
    except Exception as error:  # json, numpy and jax each have their own types
        raise ValueError(f"{path} is damaged or not a parameter file: {error}") from error
    if like is None:
        return tree, meta
    check_same([leaf_record(name, x) for name, x in leaves.items()], like, Path(path))
    values = [arrays[name] for name in by_path(like)]
    return jax.tree.unflatten(jax.tree.structure(like), values), meta


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

    shapes = jax.eval_shape(lambda tree: jax.tree.map(data_of, tree), like)
    empty = {path: np.zeros(x.shape, x.dtype) for path, x in by_path(shapes).items()}
    target = {path: x for path, x in empty.items() if x.size}
    data = {**empty, **_read(folder, step, state=ocp.args.StandardRestore(target))}
    for leaf in leaves:
        if not is_sound(leaf, np.asarray(data[leaf.path])):
            raise ValueError(f"leaf {leaf.path} differs from its checksum")
    values = [typed(data[path], x) for path, x in by_path(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), values)


def _warn(folder: Path, step: int, error: Exception) -> str:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    warnings.warn(
        f"passed over the damaged checkpoint {folder / str(step)}: {reason}", stacklevel=3
    )
    return f"step {step}: {reason}"
