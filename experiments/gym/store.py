"""Parts that long-running tables share: names on the command line, and rows on disk, which are kept
and found again by their settings.
"""

import argparse
import datetime
import difflib
import functools
import hashlib
import json
import os
import pathlib
import platform
from collections.abc import Callable, Sequence
from typing import Any

import jax

import jaxdiff
from jaxdiff.files import read_json, write_text

Row = dict[str, Any]


def chosen(text: str, known: Sequence[str], what: str) -> list[str]:
    """Return the names in a list "a,b", or all. ValueError for one that is not known."""
    names = list(known) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ValueError(f"no {what} {name!r}{hint} There are: all, {', '.join(known)}")
    return list(dict.fromkeys(names))


def writable(path: pathlib.Path) -> pathlib.Path:
    """Return the path of a table, its folder made. ValueError or OSError if it cannot be one."""
    if path.suffix != ".json" or path.is_dir():
        raise ValueError(f"--json names a file that ends in .json, not {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def add_options(parser: argparse.ArgumentParser, folder: str, what: str = "rows are") -> None:
    """Add the options that all tables have: --out, --json and --fresh."""
    add = parser.add_argument
    add("--out", type=pathlib.Path, default=pathlib.Path(folder), metavar="FOLDER",
        help=f"where {what} kept ({folder})")  # fmt: skip
    add("--json", type=pathlib.Path, metavar="FILE",
        help="the table; .md and .png beside it (table.json in --out)")  # fmt: skip
    add("--fresh", action="store_true", help="make rows anew that were made before")
    add("--current", action="store_true",
        help="make rows anew that other code made, so that all are by one version")  # fmt: skip


def make_places(options: argparse.Namespace) -> None:
    """Make the folder of rows and that of the table. ValueError or OSError if they cannot be."""
    options.json = writable(options.json or options.out / "table.json")
    options.out.mkdir(parents=True, exist_ok=True)


@functools.cache
def code() -> str:
    """Return a digest of the code that makes rows, as it is when it is first requested."""
    folders = pathlib.Path(jaxdiff.__path__[0]), pathlib.Path(__file__).parent
    sources = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def stamp() -> dict[str, str]:
    """When, where and with what code a row is made."""
    return {
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "machine": f"{platform.machine()}, {_cores()} of {os.cpu_count()} cores, "
        f"{jax.devices()[0].platform}",
        "jax": jax.__version__,
        "code": code(),
    }


def _cores() -> int:
    """Return how many cores this process may use."""
    own = getattr(os, "sched_getaffinity", None)
    return os.cpu_count() or 1 if own is None else len(own(0))


def metadata(command: str) -> dict[str, str]:
    """Return what a table says of where it comes from."""
    return {
        "command": command,
        "jax": jax.__version__,
        "device": str(jax.devices()[0]),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def place(folder: pathlib.Path, settings: Row) -> pathlib.Path:
    """Return the file of the row with these settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    return folder / f"{settings['problem']}-{settings['method']}-{digest}.json"


def keep(folder: pathlib.Path, settings: Row, row: Row) -> None:
    """Store a row."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(place(folder, settings), json.dumps({"settings": settings, "row": row}, indent=1))


def kept(folder: pathlib.Path, settings: Row) -> Row | None:
    """Return the row made with these settings before; None without one, if it failed or is
    damaged.
    """
    path = place(folder, settings)
    if not path.exists():
        return None
    try:
        found = read_json(path)
        row = found["row"]
        if found["settings"] != settings or row["error"]:
            return None
        numbered(row)
    except (ValueError, KeyError, TypeError):
        return None
    return row


def numbered(row: Row) -> Row:
    """Return a row as JSON gives it, whose keys are strings, with numbers of evaluations."""
    for name in {"nfe", "euler"} & set(row):
        row[name] = {int(k): v for k, v in row[name].items()}
    return row


def obtain(
    folder: pathlib.Path,
    settings: Row,
    make: Callable[[], Row],
    title: str,
    fresh: bool = False,
    current: bool = False,
) -> Row:
    """Return the row with these settings: the one kept, or that of ``make()``, which is then kept.

    A row that could not be made says why in "error", is None otherwise; it is tried again next
    time. ``fresh``: do not use what is kept; ``current``: nor what other code made.
    """
    before, now = None if fresh else kept(folder, settings), stamp()
    same = before is not None and before["code"] == now["code"]
    if before is not None and (same or not current):
        other = "" if same else " by other code (--current makes it anew)"
        print(f"{title}: made {before['made']}{other}", flush=True)
        return before
    print(title, flush=True)
    try:
        found = {"error": None, **make()}
    except Exception as error:  # of any method, which must not take the others with it
        found = {"error": f"{type(error).__name__}: {error}"}
    row = settings | found | now
    keep(folder, settings, row)
    jax.clear_caches()  # the next row needs other programs
    return row
