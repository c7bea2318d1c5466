"""Files of tensors: names, shapes and dtypes at once, numbers on demand.

Read are ``.safetensors``, PyTorch's ``.pt``, ``.pth``, ``.bin``, ``.th``, ``.ckpt`` (by
:mod:`jaxdiff.pretrained.pickles`, nothing of them is run), NumPy's ``.npz``, flax's ``.msgpack``
(names are the paths of leaves, "params/Dense_0/kernel"), and sharded files with their
``*.index.json``. Files are mapped into memory: numbers are read tensor by tensor.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.files import check_file, naming, open_archive, read_array, read_json
from jaxdiff.pretrained import safetensors
from jaxdiff.pretrained.pickles import (
    DEEPEST,
    MOST_MODULES,
    Record,
    Tensor,
    read_pickle,
    state_dict,
)
from jaxdiff.typing import Params

PICKLES = (".pt", ".pth", ".bin", ".th", ".ckpt", ".pkl", ".pickle")
Reader = Callable[[], np.ndarray]


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of a file by name, read on demand, and the file's metadata.

    ``shapes`` and ``dtypes`` are known without reading. ``metadata`` holds what else the file says:
    the header's texts of a safetensors file, the remaining entries of a checkpoint.
    """

    def __init__(
        self,
        readers: Mapping[str, tuple[tuple[int, ...], np.dtype, Reader]],
        metadata: Mapping[str, Any] | None = None,
        source: str = "",
    ) -> None:
        """Take shape, dtype and reader of each tensor."""
        self._readers, self.metadata, self.source = dict(readers), dict(metadata or {}), source
        self.shapes = {name: entry[0] for name, entry in self._readers.items()}
        self.dtypes = {name: entry[1] for name, entry in self._readers.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        """Read a tensor."""
        return self._readers[name][2]()

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._readers)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._readers)

    def __repr__(self) -> str:
        """Return one short line."""
        return f"Tensors({self.source}: {len(self)} tensors)"

    def renamed(self, rename: Callable[[str], str | None]) -> "Tensors":
        """Return the tensors under other names, without those for which ``rename`` gives None."""
        pairs = {rename(name): entry for name, entry in self._readers.items()}
        kept = {name: entry for name, entry in pairs.items() if name is not None}
        return Tensors(kept, self.metadata, self.source)

    def below(self, prefix: str) -> "Tensors":
        """Return the tensors whose names begin with ``prefix``, without it."""
        return self.renamed(lambda n: n.removeprefix(prefix) if n.startswith(prefix) else None)


def tensors_of(values: Mapping[str, Any], metadata: Any = None, source: str = "") -> Tensors:
    """Return the tensors among the values of a dictionary (arrays, or :class:`Tensor`)."""
    kept = {
        name: (tuple(value.shape), value.dtype, lambda value=value: np.asarray(value))
        for name, value in values.items()
        if isinstance(name, str) and isinstance(value, (Tensor, np.ndarray))
    }
    return Tensors(kept, metadata, source)


def open_tensors(path: str | os.PathLike[str], part: str | None = None) -> Tensors:
    """Open a file of tensors, or the index of a sharded one.

    part: the entry of a checkpoint that holds them ("ema"), if it has several. By default that of
    "ema", "ema_state_dict", "state_dict", "model_state_dict", "model", whichever is there first.

    Raises:
        OSError: if there is no such file.
        ValueError: naming the file, if it is damaged, of an unknown kind, or has no tensors.
    """
    path = Path(path)
    if path.suffix == ".json" and ".index." in path.name:
        return _sharded(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix == ".msgpack":
        check_file(path)
        return _msgpack(path)
    if path.suffix in PICKLES:
        return tensors_in(read_pickle(path), str(path), part)
    raise ValueError(
        f"{path}: tensors are read from .safetensors, {', '.join(PICKLES)}, .npz and .msgpack files"
    )


ENTRIES = ("ema", "ema_state_dict", "state_dict", "model_state_dict", "model")


def tensors_in(made: Any, source: str, part: str | None = None) -> Tensors:
    """Return the tensors of a pickle's object: a dictionary of them, a module, or a checkpoint with
    such an entry (:func:`open_tensors` says which). Of dictionaries within dictionaries, as flax
    has parameters, the names are joined by dots.
    """
    rest: dict[Any, Any] = {}
    if part is None and isinstance(made, dict) and not any(name in made for name in ENTRIES):
        with naming(source):
            made = _joined(made)
    if isinstance(made, dict) and (part is not None or not _has_tensors(made)):
        held = [n for n in ENTRIES if n in made]
        full = [n for n in held if isinstance(made[n], Record) or _has_tensors(made[n])]
        name = part or next(iter(full or held), None)
        if name not in made:
            there = ", ".join(str(key)[:40] for key in itertools.islice(made, 20))
            raise ValueError(f"{source} has no entry {name!r}; it has {there}")
        rest = {k: v for k, v in made.items() if k != name and not _has_tensors(v)}
        made = made[name]
    with naming(source):
        values = state_dict(made) if isinstance(made, Record) else made
    if not _has_tensors(values):
        raise ValueError(f"{source} holds no tensors by name")
    rest |= {k: v for k, v in values.items() if not isinstance(v, (Tensor, np.ndarray))}
    return tensors_of(values, rest, source)


def _joined(made: dict[Any, Any], depth: int = 0, visits: Any = None) -> dict[Any, Any]:
    """Return a dictionary without the dictionaries of tensors in it, whose names are joined.

    visits: counts dictionaries, of which a file may hold one in many places.
    """
    visits = itertools.count() if visits is None else visits
    if depth > DEEPEST or next(visits) > MOST_MODULES:
        raise ValueError(f"dictionaries {DEEPEST} deep within each other, or over {MOST_MODULES}")
    found: dict[Any, Any] = {}
    for key, value in made.items():
        inner = _joined(value, depth + 1, visits) if isinstance(value, dict) else {}
        if _has_tensors(inner):
            found.update({f"{key}.{name}": v for name, v in inner.items()})
        else:
            found[key] = value
    return found


def _has_tensors(made: Any) -> bool:
    return isinstance(made, dict) and any(
        isinstance(v, (Tensor, np.ndarray)) for v in made.values()
    )


def _safetensors(path: Path) -> Tensors:
    entries, metadata = safetensors.read_header(path)
    readers = {
        name: (*entry[:2], functools.partial(safetensors.read_tensor, path, entry))
        for name, entry in entries.items()
    }
    return Tensors(readers, metadata, str(path))


def _npz(path: Path) -> Tensors:
    with open_archive(path) as archive:
        names = [n.removesuffix(".npy") for n in archive.namelist()]
        made = {name: read_array(archive, path, name) for name in names}
    return tensors_of(made, None, str(path))


def _msgpack(path: Path) -> Tensors:
    """Open what flax's ``to_bytes`` wrote. It is held whole."""
    from flax.serialization import msgpack_restore

    try:
        made = msgpack_restore(path.read_bytes())
    except OSError:
        raise
    except Exception as error:  # msgpack, NumPy and struct each have their own types
        raise ValueError(f"{path} is not a msgpack file of flax, or damaged: {error}") from error
    arrays = _paths(made) if isinstance(made, dict) else {}
    if not arrays:
        raise ValueError(f"{path} holds no arrays by name")
    return tensors_of(arrays, None, str(path))


def _paths(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= _paths(value, f"{prefix}{name}/")
        elif isinstance(value, (np.ndarray, np.generic)):
            found[f"{prefix}{name}"] = np.asarray(value)
    return found


def tree_of(tensors: Mapping[str, Any]) -> Params:
    """Return the nested dictionaries that names with slashes say: of a ``.msgpack`` file the
    parameters as flax has them.

    Raises ValueError for a name that is both a leaf and a branch.
    """
    tree: dict[str, Any] = {}
    for name in sorted(tensors):
        *branches, leaf = name.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r} is below a tensor: {branch!r} is both")
        node[leaf] = tensors[name]
    return tree


def _leads_away(path: Path) -> bool:
    """Return whether a file is a link to one that is neither beside it nor, as Hugging Face's
    caches have it (snapshots/COMMIT/NAME -> ../../blobs/HASH), of the same model.
    """
    target, folder = path.resolve(), path.parent.resolve()
    blobs = [parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots"]
    return not any(target.is_relative_to(place) for place in (folder, *blobs))


def _sharded(index: Path) -> Tensors:
    """Open the shards that an index names, each in the index's own folder."""
    said = read_json(index)
    places = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise ValueError(f"{index} is not the index of a sharded file: it has no weight_map")
    readers: dict[str, Any] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard or "\0" in shard or shard in ("", ".", ".."):
            raise ValueError(f"{index} names the shard {shard[:80]!r}, which is not beside it")
        if shard.endswith(".json"):
            raise ValueError(f"{index} names the shard {shard[:80]!r}, the index of another file")
        if _leads_away(index.with_name(shard)):
            raise ValueError(f"{index} names {shard[:80]!r}, a symbolic link to somewhere else")
        opened = open_tensors(index.with_name(shard))
        missing = {n for n, p in places.items() if p == shard} - set(opened)
        if missing:
            raise ValueError(f"{index.with_name(shard)} lacks {sorted(missing)[0][:80]!r}")
        readers |= {n: e for n, e in opened._readers.items() if places.get(n) == shard}
    known = said.get("metadata")
    return Tensors(readers, known if isinstance(known, dict) else None, str(index))
