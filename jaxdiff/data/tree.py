"""Files below a folder or in a zip, the choice of those that are read, and their classes.

Links are followed, to each folder once in each folder at the top; a link to a folder that holds it
is a loop and is not. Nothing is left out unless it is counted in ``skipped``, and a folder that
cannot be read, or a class folder without images, is an error: it would renumber the classes.
"""

import errno
import os
import pathlib
import stat
from collections import Counter, deque
from collections.abc import Callable, Container, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from jaxdiff.data import labels as classes
from jaxdiff.data.pictures import suffixes
from jaxdiff.data.tally import Tally

INDEX = "dataset.json"
Labels: TypeAlias = Literal["auto", "none", "folders", "json"]
Read: TypeAlias = Callable[[str], bytes]


class Tree(NamedTuple):
    """Names of files and of folders, relative to a folder or in a zip, and how to read a file."""

    path: pathlib.Path
    files: list[str]
    folders: list[str]
    read: Read
    zipped: bool = False


class Chosen(NamedTuple):
    """The images to read, in order; their class indices or None; the names of the classes; and
    what was chosen, in words.
    """

    names: list[str]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    how: tuple[str, ...]


def visible(name: str) -> bool:
    """Return whether no part of a path is hidden, or what macOS adds to zips."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def walk(root: pathlib.Path, skipped: Tally) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders below ``root``. ValueError for one that cannot be read.

    A dangling link without a suffix was a folder, and is listed as one without files.
    """
    files: list[str] = []
    folders: list[str] = []
    seen: set[tuple[str, tuple[int, int]]] = set()
    waiting: deque[tuple[str, tuple[tuple[int, int], ...]]] = deque([("", ())])
    links: deque[tuple[str, tuple[tuple[int, int], ...]]] = deque()
    while waiting or links:  # links last: a folder is read at its own place if it has one
        name, above = (waiting or links).popleft()
        status = os.stat(root / name)
        own = (status.st_dev, status.st_ino)
        if own in above:
            skipped.add("links to a folder that holds them", name)
            continue
        if (name.split("/")[0], own) in seen:
            skipped.add("links to a folder that was read already", name)
            continue
        seen.add((name.split("/")[0], own))
        folders += [name] * bool(name)
        for entry in _entries(root / name):
            below = f"{name}/{entry.name}".lstrip("/")
            kind = _kind(entry)
            if not visible(entry.name):
                skipped.add("hidden", below)
            elif kind == "folder":
                (links if entry.is_symlink() else waiting).append((below, (*above, own)))
            elif kind == "file":
                files.append(below)
            else:
                skipped.add(kind, below)
                folders += [below] * (not pathlib.PurePath(below).suffix)
    return files, folders


def _entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"cannot read the folder {folder}: {error.strerror}") from error


def _kind(entry: os.DirEntry[str]) -> str:
    """Of what a name leads to: file, folder, or the reason for which it is skipped."""
    if entry.is_file(follow_symlinks=False):
        return "file"
    try:
        mode = os.stat(entry.path).st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return "dangling links"
        raise ValueError(f"cannot read {entry.path}: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "neither files nor folders"


def members(names: Sequence[str], skipped: Tally) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders of a zip."""
    files = [n for n in names if not n.endswith("/")]
    for name in files:
        if not visible(name):
            skipped.add("hidden", name)
    shown = [n for n in names if visible(n)]
    parents = {str(p) for n in shown for p in pathlib.PurePosixPath(n).parents} - {"."}
    empty = {n.rstrip("/") for n in shown if n.endswith("/")}
    return [n for n in files if visible(n)], sorted(parents | empty)


def _suffix(name: str) -> str:
    return pathlib.PurePosixPath(name).suffix.lower()


def images(tree: Tree) -> list[str]:
    """Return the names of the images of a tree, in order."""
    return sorted(name for name in tree.files if _suffix(name) in suffixes())


def parts(tree: Tree) -> tuple[str, ...]:
    """Return the parts that the folders of a tree are; "train" alone if they are none."""
    found = []
    for split in classes.PARTS:
        try:
            _, part = _base(tree, images(tree), split)
        except ValueError:  # no such part
            continue
        if part is None:
            return ("train",)
        found.append(split)
    return tuple(found)


def choose(
    tree: Tree, split: str, mode: Labels, skipped: Tally, used: Container[str] = ()
) -> Chosen:
    """Return which images of a tree are read, with which classes: see
    :func:`jaxdiff.data.readers.load`. Files that are ``used`` otherwise are not skipped.

    Raises ValueError naming what is missing, ambiguous or empty.
    """
    known, where = suffixes(), str(tree.path)
    shown = images(tree)
    for name in tree.files:
        told = name.split("/")[-1] == INDEX or name in used
        if _suffix(name) not in known and not told:
            skipped.add(_suffix(name) or "without suffix", name)
    base, part = _base(tree, shown, split)
    if part is None and split != "train":
        raise classes.NoSplit(
            f"{where} has no parts; give the path of the {split} images themselves"
        )
    inside = [n for n in shown if n.startswith(base)]
    notes = () if part is None else (f"split {split}: the folder {part} (of {_tops(shown, part)})",)
    if not inside:
        left = ", ".join(skipped.lines())
        raise ValueError(
            f"{where} holds no images ({', '.join(sorted(known))}){'; skipped: ' * bool(left)}"
            f"{left}"
        )
    indices = [n for n in tree.files if n.split("/")[-1] == INDEX]
    indices = [n for n in indices if part is None or _beside(n, base)]
    if mode in ("none", "folders") and indices:
        notes = (*notes, f"{indices[0]} is not used")
    if mode == "none":
        return Chosen(inside, None, (), (*notes, "labels none, as requested"))
    if mode != "folders" and indices:
        return _by_json(tree, shown, inside, indices, notes)
    if mode == "json":
        raise ValueError(f"{where} has no {INDEX}, which labels json needs")
    return _by_folder(tree, shown, inside, base, part, split, mode, notes)


def _base(tree: Tree, shown: Sequence[str], split: str) -> tuple[str, str | None]:
    """Return the folder that holds all images of the part ``split``, with a slash, and the part's
    name.

    Folders that hold nothing but one folder are gone through: they are no classes.
    """
    base, part = "", None
    while True:
        below = [n.removeprefix(base) for n in shown if n.startswith(base)]
        tops = {n.split("/")[0] for n in below if "/" in n}
        if not tops or not all("/" in n for n in below):
            return base, part
        where = f"{tree.path}/{base}".rstrip("/")
        found = None if part else classes.part_folder(tops, split, where)
        if found is not None:
            base = part = f"{base}{found}/"
        elif len(tops) == 1 and tops == _below(tree.folders, base):
            base += f"{tops.pop()}/"
        else:
            return base, part


def _below(folders: Sequence[str], base: str) -> set[str]:
    """Return the folders in ``base`` itself."""
    return {f.removeprefix(base).split("/")[0] for f in folders if f.startswith(base)} - {""}


def _tops(shown: Sequence[str], part: str) -> str:
    """Return the names of a part and of the folders beside it."""
    above = part[: part.rstrip("/").rfind("/") + 1]
    return ", ".join(classes.in_order(_below(shown, above)))


def _beside(index: str, base: str) -> bool:
    """Return whether an index lies in the folder of the images, above it or in it."""
    folder = index.removesuffix(INDEX)
    return base.startswith(folder) or folder.startswith(base)


def _by_json(
    tree: Tree, shown: list[str], inside: list[str], indices: list[str], notes: tuple[str, ...]
) -> Chosen:
    if len(indices) > 1:
        raise ValueError(f"{tree.path} has more than one {INDEX}: {', '.join(indices)}")
    prefix, where = indices[0].removesuffix(INDEX), f"{tree.path}: {indices[0]}"
    covered = sorted({*inside, *(n for n in shown if n.startswith(prefix))})
    given = classes.json_classes(tree.read(indices[0]), prefix, covered, where)
    if given is None:
        return Chosen(inside, None, (), (*notes, f"{indices[0]} says labels null"))
    names = classes.numbered(list(given.values()))[1]
    found = classes.numbered([given[n] for n in inside], names)
    return Chosen(inside, *found, (*notes, f"labels by {indices[0]}"))


def _by_folder(
    tree: Tree,
    shown: list[str],
    inside: list[str],
    base: str,
    part: str | None,
    split: str,
    mode: Labels,
    notes: tuple[str, ...],
) -> Chosen:
    """Classes by the folders in ``base``. Of a folder, unlike a zip, a single one is a class."""
    where = str(tree.path)
    direct = all("/" not in n.removeprefix(base) for n in inside)
    alone = mode == "folders" or not (tree.zipped or part)
    if direct and alone and base != (part or ""):
        base = base[: base.rstrip("/").rfind("/") + 1]
    tops = classes.folder_classes(inside, base, where)
    if tops is None and mode == "folders":
        raise ValueError(f"{where} has no class folders, which labels folders needs")
    if tops is None:
        return Chosen(inside, None, (), (*notes, "labels none: the images lie in one folder"))
    if mode == "auto":
        classes.check_no_parts_inside(inside, base, where)
        notes = (*notes, *classes.check_shards(Counter(tops), where))
    first = _train_classes(tree, shown) if part and split != "train" else []
    if empty := _below(tree.folders, base) - {*tops, *first}:
        listed = ", ".join(base + name for name in classes.in_order(empty))
        raise ValueError(
            f"{where}: no images in the class folder{'s' * (len(empty) > 1)} {listed} (empty, "
            "of other suffixes, or a dangling link); fill or remove it, so that no class is lost "
            "and the others keep their numbers, or read without labels (--data.labels none)"
        )
    how = f"labels by the folders in {base}" if base else "labels by folders"
    return Chosen(inside, *classes.numbered(tops, first), (*notes, how))


def _train_classes(tree: Tree, shown: list[str]) -> list[str]:
    """Return the class folders of the train part beside another, so that both are numbered
    alike.
    """
    try:
        base, _ = _base(tree, shown, "train")
    except ValueError:  # there is no train part
        return []
    inside = [n.removeprefix(base) for n in shown if n.startswith(base)]
    return sorted({n.split("/")[0] for n in inside if "/" in n})
