"""Classes of images: by their folder, by a ``dataset.json``, by a number.

Classes are numbered by name: names that are all integers by value, others as text. Names that look
alike are one: some systems write an accent as a letter of its own (NFD), others do not (NFC).
Values that no image has are no classes, so labels that start at 1 are the classes "1", "2", ...
with indices 0, 1. Of a test part the classes of the train part come first, in the same order.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from jaxdiff.files import parse_json

LARGEST_CLASS = (1 << 20) - 1
SHARD = re.compile(r"((data[-_ ]?)?(batch|chunk|part|shard)[-_ ]?)?\d+([-_]\d+)?", re.IGNORECASE)
PART = re.compile(
    r"(?:(train|training)|(val|valid|validation|dev)|(test|testing))"
    r"([-_ ]?(\d+|set|data|images?|imgs?))?",
    re.IGNORECASE,
)
PARTS = {"train": (1,), "val": (2,), "test": (3, 2)}  # groups of PART, in order of preference


class NoSplit(ValueError):
    """The part that was requested, such as "test", is not there; others are."""


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in their order: by value if all are integers, else as text."""
    names = set(names)
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def nfc(name: str) -> str:
    """Return a name in the composed form of Unicode (NFC)."""
    return unicodedata.normalize("NFC", name)


def numbered(
    values: Sequence[str], first: Iterable[str] = ()
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class indices of images whose classes have these names, and the names; those of ``first``
    come first.
    """
    values, known = [nfc(value) for value in values], in_order(map(nfc, first))
    names = (*known, *in_order(set(values) - set(known)))
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[value] for value in values], np.int64), names


def part_kind(name: str) -> int | None:
    """Return which part a folder of this name is: 1 train, 2 val, 3 test; None for another name."""
    match = PART.fullmatch(name)
    return match and next(i for i in (1, 2, 3) if match[i])


def part_folder(tops: set[str], split: str, where: str) -> str | None:
    """Return which of the folders beside each other is the part ``split`` of the data; None if they
    are no parts. ValueError if parts and others are mixed, NoSplit if there is no such part.
    """
    parts = {top: kind for top in sorted(tops) if (kind := part_kind(top))}
    others = sorted(tops - parts.keys())
    if not parts or (others and not {1} < set(parts.values())):
        return None
    if others:
        raise ValueError(
            f"{where}: {', '.join(parts)} look like parts of a data set, beside "
            f"{', '.join(others)}; give the path of one part, or move the others away"
        )
    for wanted in PARTS[split]:
        found = [top for top in parts if parts[top] == wanted]
        if len(found) > 1:
            raise ValueError(f"{where} has several {split} parts, {', '.join(found)}; give one")
        if found:
            return found[0]
    raise NoSplit(f"{where} has no {split} part; its parts are {', '.join(parts)}")


def check_shards(counts: dict[str, int], where: str) -> tuple[str, ...]:
    """Raise an error that names the two readings where folders may be shards: numbered ones with
    leading zeros (00000, 00001, ...) of the same number of images but for the last, or folders
    called shards. A note if they are numbered and even alone.
    """
    names = in_order(counts)
    wide = {len(name) for name in names}
    padded = len(wide) == 1 and min(wide) >= 3 and names[0].startswith("0")
    full = {counts[name] for name in names[:-1]}
    even = len(full) <= 1 and all(counts[names[-1]] <= count for count in full)
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    if (numbers and padded and even) or all(
        SHARD.fullmatch(name) and not name.isdecimal() for name in names
    ):
        raise ValueError(
            f"{where}: the folders {', '.join(names[:3])}{', ...' * (len(names) > 3)} may be "
            "shards or classes; say which: labels none for shards, labels folders for classes "
            '(--data.labels none, or labels="none")'
        )
    several = numbers and even and len(names) > 1
    return ("numbered folders of equal size: were they shards, labels none",) if several else ()


def check_no_parts_inside(names: Sequence[str], base: str, where: str) -> None:
    """Raise ValueError where every class folder has parts, which would be read as one."""
    inner = [name.removeprefix(base).split("/")[1:-1] for name in names]
    kinds = {part_kind(folders[0]) if folders else None for folders in inner}
    if None not in kinds and len(kinds) > 1:
        raise ValueError(
            f"{where}: the class folders have parts of their own, as {names[0]}; put the classes "
            "into the parts (train/cat, test/cat), or read all with --data.labels folders"
        )


def folder_classes(names: Sequence[str], base: str, where: str) -> list[str] | None:
    """Return the class of every image by its folder in ``base``; None if all lie in ``base``
    itself.
    """
    below = [name.removeprefix(base) for name in names]
    tops = [name.split("/")[0] if "/" in name else "" for name in below]
    if not any(tops):
        return None
    if not all(tops):
        raise ValueError(
            f"{where}: {names[tops.index('')]} lies beside class folders; put every image into "
            "one, or give a dataset.json, or read without labels (--data.labels none)"
        )
    return tops


def json_classes(
    text: bytes, prefix: str, names: Sequence[str], where: str
) -> dict[str, str] | None:
    """Return the class of every image by a ``dataset.json``; None if it has no labels."""
    try:
        table = parse_json(text, where)["labels"]
        if table is None:
            return None
        given = {prefix + str(name): value for name, value in table}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{where} must be {{"labels": [[name, class], ...]}} or {{"labels": null}}: {error!r}'
        ) from error
    if len(given) != len(table):
        raise ValueError(f"{where} has {len(table) - len(given)} names more than once")
    for name in [*names, *given]:
        if name not in given:
            raise ValueError(f"{where} has no label for {name}")
        if type(given[name]) is not int or not 0 <= given[name] <= LARGEST_CLASS:
            raise ValueError(
                f"{where}: the class of {name} must be 0, 1, ..., {LARGEST_CLASS} at most; got "
                f"{given[name]!r:.60}"
            )
    absent = given.keys() - set(names)
    if absent:
        raise ValueError(f"{where} has labels for {len(absent)} absent images, as {min(absent)}")
    return {name: str(value) for name, value in given.items()}


def shared_out(counts: np.ndarray, total: int) -> np.ndarray:
    """``total`` class numbers, each as often as ``counts`` says, by largest remainders; a class's
    are spread evenly, so that the first few have about the same shares.
    """
    counts = np.asarray(counts, np.int64)
    each, remainders = np.divmod(total * counts, counts.sum())
    most = np.argsort(-remainders, kind="stable")[: total - each.sum()]
    each[most] += 1
    classes = np.repeat(np.arange(len(each)), each)
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in each])
    return classes[np.argsort(places, kind="stable")]
