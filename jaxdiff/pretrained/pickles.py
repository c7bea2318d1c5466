"""Pickles read as data: containers, numbers, tensors and records, and not one call of their code.

A pickle names functions that are to be called. Here a name stands for a constructor of
this module, which makes plain data, or the file is refused:

    torch tensors and parameters        :class:`Tensor`, read on demand
    modules and other known classes     :class:`Record`: the class's name and its state
    modules of a TorchScript archive    the same; their programs, beside data.pkl, are not read
    NumPy arrays, numbers, dtypes       NumPy's own, of numbers alone
    dictionaries, lists, sets, texts    Python's own

EDM's and EDM2's snapshots hold the source text of their classes, which is not even kept.

PyTorch's files come in two forms, which are both read: a zip archive of ``data.pkl`` beside one
member per storage, and, older, a row of pickles followed by the bytes of the storages. Storages are
mapped into memory, so a file larger than the memory may be opened; the checksums of an archive's
members are therefore not compared.
"""

import mmap
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.files import check_file, open_archive, read_member
from jaxdiff.pretrained.opcodes import MANY, Machine
from jaxdiff.pretrained.stand_ins import (
    Name,
    Record,
    Storage,
    Stored,
    Tensor,
    bytes_of,
    known_names,
    record,
    shown,
)

LARGEST_PICKLE = 1 << 28  # bytes of an archive's data.pkl, which holds no tensor's numbers
DEEPEST = 100  # modules within each other
MOST_MODULES = 20_000
MAGIC = 0x1950A86A20F9469CFC6C
MARK = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")  # how a pickle says it
SCRIPTED = "__torch__"  # where TorchScript has its classes
KNOWN = known_names()
MODULES = re.compile(r"torch\.nn\.modules\.[\w.]+")


def _find(module: str, name: str) -> Name:
    """Return what a name stands for. ValueError for one that is not known."""
    if (module, name) in KNOWN:
        return KNOWN[module, name]
    if MODULES.fullmatch(module) and name.isidentifier():
        return record(name)
    if module.split(".")[0] == SCRIPTED and name.isidentifier():
        return record(f"{SCRIPTED}.{name}")
    raise ValueError(
        f"it calls {module:.100}.{name:.100}, which is not data and is never run. If you trust "
        "it, load it with the library that wrote it and save its tensors as .safetensors"
    )


def _find_outside(module: str, name: str) -> Name:
    """Return what a name stands for outside of the bytes of a tensor, which may hold no others."""
    if (module, name) == ("torch.storage", "_load_from_bytes"):
        return Name(lambda data: _old(memoryview(bytes_of(data)), _find))
    return _find(module, name)


def _none(pid: Any) -> Storage:
    raise ValueError("it refers to a storage outside of it")


def _finished(made: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """Put arrays in the place of what was made to fill them, in containers and records.

    done: what was seen before, since a pickle may hold one object in many places, or in itself.
    """
    if isinstance(made, memoryview):
        return bytes(made)
    if not isinstance(made, (Stored, dict, list, Record, tuple)):
        return made
    if id(made) in done:
        return done[id(made)][1]
    done[id(made)] = (made, made)
    if isinstance(made, Stored):
        done[id(made)] = (made, made.array)
        return made.array
    if isinstance(made, dict):
        for key in made:
            made[key] = _finished(made[key], done)
    elif isinstance(made, list):
        made[:] = [_finished(x, done) for x in made]
    elif isinstance(made, Record):
        made.state = _finished(made.state, done)
    elif type(made) is tuple:
        first, made = made, tuple(_finished(x, done) for x in made)
        done[id(first)] = (first, made)
    return made


def _load(
    view: memoryview, place: int, storages: Callable[[Any], Any] = _none, find: Any = _find
) -> tuple[Any, int]:
    """Return the next object of a row of pickles, and where it ends."""
    machine = Machine(view, place, find, storages, allowed=4 * len(view) + MANY)
    try:
        return _finished(machine.run(), {}), machine.place
    except Exception as error:  # a damaged pickle raises as many types as there are
        raise ValueError(f"{type(error).__name__}: {error}") from error


class _Storages:
    """The storages that a pickle refers to, by key, each made when it is first met."""

    def __init__(self) -> None:
        self.found: dict[str, Storage] = {}

    def __call__(self, pid: Any) -> Storage | Name:
        parts: list[Any] = list(pid) if type(pid) is tuple else []
        if len(parts) == 4 and parts[0] == "module" and isinstance(parts[1], Name):
            return parts[1]  # a class with the text of its source, in modules of the older form
        if len(parts) not in (5, 6) or parts[0] != "storage":
            raise ValueError(f"a persistent object, {shown(pid)}, that is not a storage")
        kind, key, count, view = parts[1], parts[2], parts[4], parts[5:]
        if not isinstance(kind, Name) or kind.dtype is None or any(x is not None for x in view):
            raise ValueError(f"a storage of {shown(kind)}, or within another one")
        if type(key) is not str or type(count) is not int or count < 0:
            raise ValueError(f"a storage called {shown(key)} of {shown(count)} numbers")
        made = self.found.setdefault(key, Storage(kind.dtype, count))
        if (made.dtype, made.count) != (kind.dtype, count):
            raise ValueError(f"a storage {shown(key)} that is two different ones")
        return made


def _old(view: memoryview, find: Any) -> Any:
    """Return the object of the older form: pickles, then per storage its length and its bytes."""
    place = 0
    for expected in (MAGIC, 1001):
        said, place = _load(view, place)
        if type(said) is not int or said != expected:
            raise ValueError("it is not of PyTorch's older form")
    order, place = _load(view, place)
    if isinstance(order, dict) and order.get("little_endian", True) is not True:
        raise ValueError("its numbers are big-endian, which is not read")
    storages = _Storages()
    made, place = _load(view, place, storages, find)
    keys, place = _load(view, place)
    texts = isinstance(keys, list) and all(type(key) is str for key in keys)
    if not texts or sorted(keys) != sorted(storages.found):
        raise ValueError("its list of storages is not that of its tensors")
    for storage in (storages.found[key] for key in keys):
        count = struct.unpack_from("<q", view, place)[0] if place + 8 <= len(view) else -1
        end = place + 8 + storage.count * storage.dtype.itemsize
        if count != storage.count or end > len(view):
            raise ValueError(f"it is cut off: a storage of {storage.count} numbers is not whole")
        storage.data, place = view[place + 8 : end], end
    return made


def _zipped(path: Path, mapped: memoryview) -> Any:
    """Return the object of the newer form, a zip archive with a member per storage."""
    with open_archive(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        names = [n for n in members if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(names) != 1 or members[names[0]].file_size > LARGEST_PICKLE:
            raise ValueError("it has no data.pkl, or several, so that it is no file of PyTorch's")
        root, storages = names[0].removesuffix("data.pkl"), _Storages()
        order = f"{root}byteorder"
        if order in members and read_member(archive, path, order) != b"little":
            raise ValueError("its numbers are big-endian, which is not read")
        pickled = memoryview(read_member(archive, path, names[0]))
        made, _ = _load(pickled, 0, storages, _find_outside)
        for key, storage in storages.found.items():
            info, size = members.get(f"{root}data/{key}"), storage.count * storage.dtype.itemsize
            if info is None or info.file_size < size:
                raise ValueError(f"it is cut off: storage {key!r:.40} is missing or too short")
            storage.data = _member(archive, path, info, mapped)
    return made


def _member(
    archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo, mapped: memoryview
) -> memoryview:
    """Return the bytes of a member: mapped where they are stored as they are."""
    if info.compress_type != zipfile.ZIP_STORED:
        return memoryview(read_member(archive, path, info.filename))
    fixed = bytes(mapped[info.header_offset : info.header_offset + 30])
    if len(fixed) < 30 or fixed[:4] != b"PK\x03\x04":
        raise ValueError(f"its member {info.filename!r:.60} does not start where it should")
    start = info.header_offset + 30 + sum(struct.unpack_from("<HH", fixed, 26))
    if start + info.file_size > len(mapped):
        raise ValueError(f"it is cut off within {info.filename!r:.60}")
    return mapped[start : start + info.file_size]


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Return the object in a pickle, or in a file of PyTorch's of either form, as plain data.

    Nothing of the file is executed; see the module's text for what its objects become. Raises
    OSError, and ValueError, naming the file, for one that is damaged or calls anything else.
    """
    path = Path(path)
    check_file(path)
    with open(path, "rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ValueError(f"{path} is empty") from error
    view = memoryview(mapped)
    try:
        if zipfile.is_zipfile(path):
            return _zipped(path, view)
        if MARK in mapped[:16]:
            return _old(view, _find_outside)
        return _load(view, 0, find=_find_outside)[0]
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def state_dict(record: Record) -> dict[str, Any]:
    """Return the tensors of a module of PyTorch's by their names, as its ``state_dict()`` has them.

    Raises ValueError for a record that is not of a module.
    """
    walk = _Walk()
    scripted = isinstance(record, Record) and record.name.startswith(f"{SCRIPTED}.")
    (walk.scripted if scripted else walk.module)(record)
    return walk.found


def _kind(made: Any) -> str:
    return repr(made) if isinstance(made, Record) else f"a {type(made).__name__}"


class _Walk:
    """A walk through a module and its parts, of which a file may hold one in many places."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.visits = 0

    def enter(self, depth: int) -> None:
        self.visits += 1
        if depth > DEEPEST or self.visits > MOST_MODULES:
            raise ValueError(f"modules {DEEPEST} deep within each other, or over {MOST_MODULES}")

    def module(self, record: Any, prefix: str = "", depth: int = 0) -> None:
        """Collect the tensors of a module of PyTorch's."""
        self.enter(depth)
        state = record.state if isinstance(record, Record) else None
        if not isinstance(state, dict) or "_modules" not in state:
            raise ValueError(f"{prefix:.60}{_kind(record)} is not a module of PyTorch's")
        transient = state.get("_non_persistent_buffers_set") or set()
        parts = [state.get(key) or {} for key in ("_parameters", "_buffers", "_modules")]
        if not isinstance(transient, (set, list)) or not all(isinstance(p, dict) for p in parts):
            raise ValueError(f"{prefix}{record!r} has other attributes than PyTorch's modules")
        own = {**parts[0], **parts[1]}
        kept = {k: v for k, v in own.items() if v is not None and k not in transient}
        self.found.update({f"{prefix}{k}": v for k, v in kept.items()})
        for name, part in parts[2].items():
            if part is not None:
                self.module(part, f"{prefix}{name}.", depth + 1)

    def scripted(self, record: Record, prefix: str = "", depth: int = 0) -> None:
        """Collect the tensors of a TorchScript module, whose attributes and parts are together."""
        self.enter(depth)
        for name, value in record.state.items() if isinstance(record.state, dict) else ():
            if isinstance(value, Record):
                self.scripted(value, f"{prefix}{name}.", depth + 1)
            elif isinstance(value, (Tensor, np.ndarray)):
                self.found[f"{prefix}{name}"] = value
