"""Tar archives as they are: an index of where each file lies, and files read at their places.

One ``.tar``, or a folder of them, the shards of one set (the layout of WebDataset: ``KEY.jpg``
beside ``KEY.cls`` with its class). Nothing is unpacked; links and devices are skipped.
"""

import os
import pathlib
import tarfile
from collections.abc import Iterable

import numpy as np

from jaxdiff.data import tree as trees
from jaxdiff.data.labels import numbered
from jaxdiff.data.tally import Tally
from jaxdiff.data.zips import LARGEST_FILE, plain
from jaxdiff.files import check_file

CLASS = ".cls"


def shards(path: pathlib.Path) -> list[pathlib.Path]:
    """Return the tar archives at a path: itself, or all files of a folder if they are such."""
    if path.suffix.lower() == ".tar" and path.is_file():
        return [path]
    if not path.is_dir():
        return []
    files = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    return files if files and all(p.suffix.lower() == ".tar" for p in files) else []


def tree_of(path: pathlib.Path, archives: Iterable[pathlib.Path], skipped: Tally) -> trees.Tree:
    """Return the files of some archives, as if they were of one folder.

    Raises ValueError, naming the archive, for a damaged one, unsafe names, and a name that two
    files have.
    """
    places: dict[str, tuple[pathlib.Path, int, int]] = {}
    for archive in archives:
        for name, offset, size in _members(archive, skipped):
            if name in places:
                raise ValueError(f"{archive} has {name!r}, which {places[name][0].name} has, too")
            places[name] = (archive, offset, size)

    def read(name: str) -> bytes:
        archive, offset, size = places[name]
        with open(archive, "rb") as file:
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise ValueError(f"{archive} is cut off within {name!r}")
        return data

    files, folders = trees.members(list(places), skipped)
    return trees.Tree(path, files, folders, read, zipped=True)


def _members(archive: pathlib.Path, skipped: Tally) -> Iterable[tuple[str, int, int]]:
    check_file(archive)
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                parts = member.name.replace("\\", "/").split("/")
                name = plain(member.name)
                if ".." in parts or member.name.startswith("/") or ":" in parts[0]:
                    raise ValueError(f"refusing the unsafe member name {member.name!r}")
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    skipped.add("neither files nor folders", member.name)
                    continue
                if member.size > LARGEST_FILE:
                    raise ValueError(f"{name!r} has {member.size} bytes; limit {LARGEST_FILE}")
                yield name, member.offset_data, member.size
            _check_end(archive, tar)
    except (tarfile.TarError, ValueError) as error:
        raise ValueError(
            f"{archive} is not read: {error} (compressed archives have no places to read at)"
        ) from error


def _check_end(archive: pathlib.Path, tar: tarfile.TarFile) -> None:
    """Refuse an archive that does not end in zeros, which tarfile reads as if it were whole."""
    with open(archive, "rb") as file:
        if os.pread(file.fileno(), tarfile.BLOCKSIZE, tar.offset) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"it is cut off: after {len(tar.getmembers())} files it has no end")


def by_class_files(tree: trees.Tree, found: trees.Chosen) -> trees.Chosen:
    """Return the images with the classes in the files ``KEY.cls`` beside them; as they are where no
    image has one. Raises ValueError where only some have.
    """
    known = {name for name in tree.files if name.endswith(CLASS)}
    beside = [class_file(name) for name in found.names]
    with_class = [name in known for name in beside]
    if not any(with_class):
        return found
    if not all(with_class):
        lone = found.names[with_class.index(False)]
        raise ValueError(f"{tree.path}: {lone} has no class beside it ({class_file(lone)})")
    given = [tree.read(name).decode("utf-8", "strict").strip() for name in beside]
    labels, names = numbered(given)
    return found._replace(
        labels=np.asarray(labels), class_names=names, how=(f"labels by the files {CLASS}",)
    )


def class_file(name: str) -> str:
    """Return the name of the file that has an image's class."""
    return f"{_key(name)}{CLASS}"


def _key(name: str) -> str:
    """Return a name up to the first dot of its last part, as WebDataset has it."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.split('.')[0]}"
