"""What lies beside images in a folder, a zip or a tar: captions, numbers, and pictures to pairs.

Captions and numbers are those of the first of these that there is:

- ``metadata.jsonl``, a line {"file_name": name, "text": caption, ...} for each image, names
  relative to where it lies (the image folders of Hugging Face);
- ``dataset.json`` (the zips of EDM and StyleGAN) whose keys besides "labels" are lists
  [[name, value], ...], as {"captions": [[name, caption], ...]};
- NAME.json, {"text": caption, ...}, or NAME.txt, the caption, beside every image NAME.

The caption is "text", else "caption" or "prompt" ("captions", "prompts" in a dataset.json). Other
entries are conditions of their own name if every image has a number, numbers of one shape, or a
list of texts, and are named among the notes otherwise. Lists of texts, and "boxes" (each left,
upper, right, lower), may be of different lengths: what is missing is "", and a box without an area.
"label" is a class where nothing else says one.
"""

import pathlib
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.data import tree as trees
from jaxdiff.data.conditions import CLASSES
from jaxdiff.files import parse_json

LINES, INDEX = "metadata.jsonl", trees.INDEX
CAPTIONS = ("text", "caption", "prompt")
SHOWN = 5
Rows = dict[str, dict[str, Any]]


class Found(NamedTuple):
    """Rows by the images' names, which files they are of, and that in words."""

    rows: Rows
    files: frozenset[str]
    how: str


def find(tree: trees.Tree, where: str) -> Found:
    """Return what lies beside the images of a tree. Raises ValueError where there is nothing."""
    lines = [name for name in tree.files if name.rpartition("/")[2] == LINES]
    if lines:
        rows: Rows = {}
        for name in lines:
            more = _lines(tree, name, f"{where}: {name}")
            if twice := sorted(rows.keys() & more):
                raise ValueError(f"{where}: {name} has {twice[0]}, which another {LINES} has, too")
            rows |= more
        return Found(rows, frozenset(lines), _how(", ".join(lines), rows, tree))
    for name in (name for name in tree.files if name.rpartition("/")[2] == INDEX):
        if rows := _index(tree, name, f"{where}: {name}"):
            return Found(rows, frozenset(), _how(name, rows, tree))
    files = {name: name for name in tree.files}
    rows, used = {}, set()
    for image in trees.images(tree):
        for suffix in (".json", ".txt"):
            beside = f"{stem(image)}{suffix}"
            if beside in files and beside.rpartition("/")[2] != INDEX:
                rows[image] = _one(tree, beside, f"{where}: {beside}")
                used.add(beside)
                break
    if not rows:
        raise ValueError(
            f"{where} has no captions: neither a {LINES}, nor a {INDEX} with some, nor a .txt or "
            ".json beside the images"
        )
    return Found(rows, frozenset(used), "captions by the files beside the images")


def _how(source: str, rows: Rows, tree: trees.Tree) -> str:
    """Return where captions come from, and how many are of no image."""
    none = len({*rows} - {*tree.files})
    return f"captions by {source}" + f", {none} of no image" * bool(none)


def conditions(
    found: Found, names: Sequence[str], where: str
) -> tuple[dict[str, Any], list[Any] | None, tuple[str, ...]]:
    """Return the conditions of the images of these names, their classes if there are some, and
    notes on what is not read.

    Raises ValueError, naming the image, for one without a caption where others have one.
    """
    if missing := [name for name in names if name not in found.rows]:
        raise ValueError(f"{where}: {_listed(missing)} has nothing beside it ({found.how})")
    rows = [found.rows[name] for name in names]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    made: dict[str, Any] = {}
    if (caption := next((k for k in CAPTIONS if k in keys), None)) is not None:
        texts = [row.get(caption) for row in rows]
        if wrong := [n for n, t in zip(names, texts, strict=True) if not isinstance(t, str)]:
            raise ValueError(f"{where}: {_listed(wrong)} has no text as its {caption!r}")
        made["text"] = texts
    labels, notes = None, []
    for key in keys:
        values = [row.get(key) for row in rows]
        if key == caption:
            continue
        if key == "label":
            labels = values
        elif (listed := lists_of_texts(values)) is not None:
            made[key] = listed
        elif (array := (lists_of_boxes if key == "boxes" else numbers)(values)) is None:
            notes.append(f"{key} is not read: it is not numbers of one shape for every image")
        elif why := _unusable(key, array):
            notes.append(f"{key} is not read: {why}")
        else:
            made[key] = array
    if not made and labels is None:
        raise ValueError(f"{where}: there is neither a caption nor a number among {keys}")
    return made, labels, (found.how, *notes)


def pairs(names: Sequence[str], others: Sequence[str], where: str) -> list[str]:
    """Return which of the others belongs to each image: of the same path but for its suffix, or of
    the same last name where that is the only one.

    Raises ValueError, naming them, for images without a partner or with several.
    """
    by_path: dict[str, list[str]] = {}
    by_name: dict[str, list[str]] = {}
    for other in others:
        by_path.setdefault(stem(other), []).append(other)
        by_name.setdefault(stem(other).rpartition("/")[2], []).append(other)
    chosen, lone = [], []
    for name in names:
        own = stem(name)
        there = by_path.get(own) or by_name.get(own.rpartition("/")[2], [])
        if len(there) > 1:
            raise ValueError(f"{where} has several pictures for {name}: {_listed(there)}")
        lone += [] if there else [name]
        chosen += there
    if lone:
        raise ValueError(f"{where} has no picture for {_listed(lone)}")
    return chosen


def stem(name: str) -> str:
    """Return a path without the suffix of its last part."""
    return str(pathlib.PurePosixPath(name).with_suffix(""))


def numbers(values: Sequence[Any]) -> np.ndarray | None:
    """Return numbers, or lists of them, as an array; None where they are anything else."""
    try:
        array = np.array(values)
    except ValueError:  # lists of different lengths
        return None
    return array if array.dtype.kind in "biuf" else None


def lists_of_boxes(values: Sequence[Any]) -> np.ndarray | None:
    """Return lists of boxes as an array (n, k, 4), shorter ones with boxes of zeros behind; None
    where they are anything else.
    """
    each = [numbers(value) if isinstance(value, list) else None for value in values]
    some = [np.zeros((0, 4)) if a is not None and not a.size else a for a in each]
    known = [a for a in some if a is not None and a.ndim == 2 and a.shape[1] == 4]
    if len(known) < len(values):
        return None
    made = np.zeros((len(known), max(map(len, known)), 4), np.float32)
    for row, own in zip(made, known, strict=True):
        row[: len(own)] = own
    return made


def lists_of_texts(values: Sequence[Any]) -> np.ndarray | None:
    """Return lists of texts as an array (n, k), shorter ones with "" behind; None where they are
    anything else.
    """
    listed = all(isinstance(v, list) and all(isinstance(t, str) for t in v) for v in values)
    most = max(map(len, values), default=0) if listed else 0
    return np.array([v + [""] * (most - len(v)) for v in values], object) if most else None


def _unusable(key: str, array: np.ndarray) -> str:
    """Return why numbers beside images are no condition, such as those of a key of a data base."""
    if key == CLASSES:
        return "classes are given by labels"
    if array.dtype.kind == "f":
        return "" if np.isfinite(array).all() else "not all of its numbers are finite"
    least, most = int(array.min()), int(array.max())
    return "" if -(2**31) <= least <= most < 2**31 else "its whole numbers are beyond 32 bits"


def _lines(tree: trees.Tree, name: str, where: str) -> Rows:
    folder, rows = name.removesuffix(LINES), {}
    for i, line in enumerate(_text(tree.read(name), where).splitlines()):
        if not line.strip():
            continue
        row = parse_json(line, f"{where}, line {i + 1},")
        own = row.pop("file_name", None) if isinstance(row, dict) else None
        if not isinstance(own, str):
            raise ValueError(f'{where}, line {i + 1} has no "file_name"')
        place = posixpath.normpath(folder + own)
        if place in rows:
            raise ValueError(f"{where} has {own} twice")
        rows[place] = row
    return rows


def _index(tree: trees.Tree, name: str, where: str) -> Rows:
    made = parse_json(tree.read(name), where)
    folder, rows = name.removesuffix(INDEX), {}
    for key, listed in made.items() if isinstance(made, Mapping) else ():
        if key == "labels" or not isinstance(listed, list):
            continue
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in listed):
            raise ValueError(f"{where}: {key!r} must be a list of pairs [name, value]")
        own = key.removesuffix("s") if key.removesuffix("s") in CAPTIONS else key
        for image, value in listed:
            row = rows.setdefault(f"{folder}{image}", {})
            if own in row:
                raise ValueError(f"{where}: {key!r} has {image} twice")
            row[own] = value
    return rows


def _one(tree: trees.Tree, name: str, where: str) -> dict[str, Any]:
    if name.endswith(".txt"):
        return {"text": _text(tree.read(name), where).strip()}
    made = parse_json(tree.read(name), where)
    if not isinstance(made, dict):
        raise ValueError(f'{where} must be a dictionary, {{"text": caption}}')
    return made


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not a text in UTF-8: {error}") from error


def _listed(names: Iterable[str]) -> str:
    each = [*names]
    return ", ".join(each[:SHOWN]) + (f" and {len(each) - SHOWN} more" * (len(each) > SHOWN))
