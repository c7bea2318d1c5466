"""Files: texts are written whole or not at all; JSON, zip and npz files are read with distrust.

Of what is read nothing is unpacked to disk or unpickled; sizes are checked before anything is read,
members against their checksums; whatever is wrong is a ValueError that names the file.
"""

import contextlib
import errno
import json
import math
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

LARGEST_TEXT = 1 << 26  # bytes of a JSON file
MODEST = 1 << 28  # bytes that an archive may unpack to, however small it is
EXPANSION = 200  # else so many times its own size: neither images nor parameters compress so well


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Provide a file to write that takes the place of ``path`` once it is whole and on the disk, or
    never. Its folder is made if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise OSError now if the file ``path`` could not be written after the work. Of folders that
    are not there yet the nearest that is must be one to make them in; none is made.
    """
    path = Path(path)
    folder = path.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder has this name")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for a pipe, a socket or a device, reading which may wait for ever; OSError
    if there is nothing.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{path} is a pipe, a socket or a device: give a file")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the value in a JSON file. Raises OSError, and ValueError for a file that is not JSON
    or is larger than any that is written here.
    """
    path = Path(path)
    check_file(path)
    if (size := path.stat().st_size) > LARGEST_TEXT:
        raise ValueError(f"{path} has {size} bytes; the limit for JSON is {LARGEST_TEXT}")
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """Return the value that a JSON text is. ValueError, naming ``where``, if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def real_array(values: Any) -> np.ndarray:
    """Lists of lists of numbers as an array. Raises TypeError for anything else among them (NumPy
    takes words and truth values for numbers), ValueError for lists of different lengths.
    """
    _check_numbers(values)
    return np.array(values, np.float64)


def _check_numbers(values: Any) -> None:
    for value in values if isinstance(values, list) else (values,):
        if isinstance(value, list):
            _check_numbers(value)
        elif type(value) not in (int, float):
            raise TypeError(f"{value!r:.60} is not a number")


@contextlib.contextmanager
def open_archive(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """Open a zip or an npz to read its members with the functions of this module.

    Raises OSError, and ValueError for a damaged archive, a name that it has twice, a compression
    that no tool for images or arrays uses (a few bytes of some expand to gigabytes whatever size
    they declare), and declared sizes out of all proportion to the file.
    """
    check_file(path)
    with open(path, "rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # half a dozen types
            kind = "zip" if Path(path).suffix != ".npz" else ".npz"
            raise ValueError(
                f"{path} is not a complete {kind} file (truncated?): {error}"
            ) from error
        with archive:
            _check_archive(archive, path, os.fstat(file.fileno()).st_size)
            _check_count(archive, path, file)
            yield archive


def _check_archive(archive: zipfile.ZipFile, path: str | os.PathLike[str], size: int) -> None:
    known: set[str] = set()
    for info in archive.infolist():
        if info.filename in known:
            raise ValueError(f"{path} has two members with the name {info.filename!r}")
        known.add(info.filename)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"{path}: {info.filename!r} is compressed by method {info.compress_type}; only 0 "
                "(stored) and 8 (deflated) are read"
            )
    total, most = sum(info.file_size for info in archive.infolist()), max(MODEST, EXPANSION * size)
    if total > most:
        raise ValueError(
            f"{path}: refusing to unpack {total} bytes from a file of {size}; the limit is {most}"
        )


def _check_count(archive: zipfile.ZipFile, path: str | os.PathLike[str], file: IO[bytes]) -> None:
    """Check the number of members against the end of the file, as zipfile does not: a
    flipped bit may hide a member in the comment of another one.
    """
    file.seek(-22 - len(archive.comment), os.SEEK_END)
    end, found = file.read(22), len(archive.infolist())
    counted = int.from_bytes(end[10:12], "little")  # in long archives all ones, or a remainder
    if not end.startswith(b"PK\x05\x06") or counted not in (0xFFFF, found % 0x10000):
        raise ValueError(f"{path} is damaged: it should end with the number of its {found} members")


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], name: str) -> Iterator[None]:
    """Raise whatever a damaged member raises as a ValueError that names it."""
    try:
        yield
    except Exception as error:  # zipfile, zlib, struct, PIL and NumPy each have their own types
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: cannot read {name}: {reason}") from error


def check_names(
    archive: zipfile.ZipFile, path: str | os.PathLike[str], names: Iterable[str]
) -> None:
    """Compare the names of members, which have no checksum, with their second copies."""
    for name in names:
        with reading(path, name), archive.open(name):
            pass


def read_member(archive: zipfile.ZipFile, path: str | os.PathLike[str], name: str) -> bytes:
    """Return the bytes of a member. ValueError if they are not of the declared size and
    checksum.
    """
    with reading(path, name):
        declared = archive.getinfo(name).file_size
        with archive.open(name) as stream:
            data = stream.read(declared + 1)  # never more, whatever it expands to
        if len(data) != declared:
            raise ValueError(f"it has {len(data)} bytes, and should have {declared}")
    return data


def read_array(archive: zipfile.ZipFile, path: str | os.PathLike[str], name: str) -> np.ndarray:
    """Return the array ``name`` of an npz. ValueError if it is damaged, or of objects (which would
    have to be unpickled), or if its header claims another size than there is.
    """
    with reading(path, name), archive.open(f"{name}.npy") as stream:
        shape, dtype = _header(stream)
        if dtype.hasobject:
            raise ValueError("it holds pickled objects, which are never loaded")
        claimed = stream.tell() + dtype.itemsize * math.prod(shape)
        declared = archive.getinfo(f"{name}.npy").file_size
        if min(shape, default=0) < 0 or claimed != declared:
            raise ValueError(
                f"its header declares {dtype}{list(shape)}, {claimed} bytes with it, of {declared}"
            )
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)  # to the end: checksummed


@contextlib.contextmanager
def naming(path: Any) -> Iterator[None]:
    """Name the file in what is said of it."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def storable(x: np.ndarray) -> np.ndarray:
    """Itself, or the bits of a dtype that npz does not know (bfloat16)."""
    return x if x.dtype.kind in "biufc" else x.view(f"u{x.dtype.itemsize}")


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"it is of version {version} of the npy format; 1.0 and 2.0 are read")
    shape, _, dtype = readers[version](stream)
    return shape, dtype


def read_array_header(path: str | os.PathLike[str]) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of an .npy. Raises OSError, and ValueError, naming the file, if it is
    damaged, of objects, or not as long as its header says.
    """
    check_file(path)
    with open(path, "rb") as stream, reading(path, "its header"):
        shape, dtype = _header(stream)
        if dtype.hasobject:
            raise ValueError("it holds pickled objects, which are never loaded")
        claimed = stream.tell() + dtype.itemsize * math.prod(shape)
        size = os.fstat(stream.fileno()).st_size
        if min(shape, default=0) < 0 or claimed != size:
            raise ValueError(f"it says {dtype}{list(shape)}, {claimed} bytes with it, of {size}")
    return shape, dtype
