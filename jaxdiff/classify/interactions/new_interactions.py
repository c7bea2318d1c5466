"""New interactions: the pairs that a method scores highest among those not known.

Matrices are read from text files: numbers separated by tabs, commas or spaces, with or without
names of rows and columns (a first line and a first column that are no numbers).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.classify.interactions.cross_validation import Predictor, precision
from jaxdiff.classify.interactions.problem import Problem
from jaxdiff.classify.interactions.scores import check_finite
from jaxdiff.typing import Key

MISSING = ("", "na", "n/a", "null", "none")  # what stands for no number, and is no name


class Matrix(NamedTuple):
    """A matrix with the names of its rows and columns, or None."""

    values: np.ndarray
    rows: tuple[str, ...] | None
    columns: tuple[str, ...] | None


class Interaction(NamedTuple):
    """A pair by its indices, with its score."""

    drug: int
    target: int
    score: float


def new_interactions(
    method: Predictor, whole: Problem, key: Key, count: int = 20
) -> list[Interaction]:
    """Return the pairs not known to interact that score highest, best first, in the problem's
    dtype.

    Args:
        method: ``method(problem, key) -> scores (m, n)``.
        whole: all that is known.
        key: typed key.
        count: how many; at most as many as there are unknown pairs.

    Raises:
        ValueError: for a count out of range, no unknown pair, or scores that are not finite.
    """
    unknown = np.asarray(whole.known) == 0
    if not unknown.any():
        raise ValueError("every pair is known to interact: there is no new one to look for")
    if not 1 <= count <= unknown.sum():
        raise ValueError(f"count must be 1 to {unknown.sum()}, the unknown pairs, not {count}")
    with precision(np.asarray(whole.known).dtype):
        scores = np.asarray(jax.jit(method)(Problem(*map(jnp.asarray, whole)), key))
    check_finite(scores)
    flat = np.where(unknown, scores, -np.inf).ravel()
    best = np.argsort(-flat, kind="stable")[:count]
    rows, columns = np.unravel_index(best, scores.shape)
    found = zip(rows, columns, flat[best], strict=True)
    return [Interaction(int(i), int(j), float(score)) for i, j, score in found]


def read_matrix(path: str | Path) -> Matrix:
    """Return the matrix in a text file. Names may be numbers where the first line begins with none.

    Raises:
        OSError: if it cannot be read.
        ValueError: naming file and line, for rows of different lengths, for what is no number or
            not there, and for NaN or infinity; naming the file, for one that is no text or has
            names alone.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # spreadsheets mark their files
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file (in UTF-8)") from error
    separator = next((s for s in "\t," if s in text), None)
    lines = [(k + 1, line) for k, line in enumerate(text.splitlines()) if line.strip()]
    cells = [(k, _cells(line, separator)) for k, line in lines]
    if not cells:
        raise ValueError(f"{path} has no numbers")
    columns = None
    if not all(map(_is_number, cells[0][1][1:])) or not cells[0][1][0]:
        for k, cell in enumerate(cells[0][1][1:]):
            if cell.lower() in MISSING:
                raise ValueError(f"{path}, line {cells[0][0]}: entry {k + 2} is missing, {cell!r}")
        columns, cells = tuple(cells[0][1]), cells[1:]
    nameless = columns is not None and not columns[0]  # so that the first column has names
    named = bool(cells) and (nameless or not _is_number(cells[0][1][0]))
    rows = tuple(row[0] for _, row in cells) if named else None
    numbers = [_row(path, k, row[1:] if named else row) for k, row in cells]
    if len({len(row) for row in numbers}) != 1:
        lengths = [len(row) for row in numbers]
        odd = next((i for i, n in enumerate(lengths) if n != lengths[0]), 0)
        where = f"line {cells[odd][0]} has {lengths[odd]}" if cells else "there are none"
        raise ValueError(f"{path}: every row must have as many numbers; {where}")
    values = np.array(numbers)
    if not values.size:
        raise ValueError(
            f"{path} has names and no numbers: is it separated by tabs, commas, spaces?"
        )
    if columns is not None and (nameless or (named and len(columns) > values.shape[1])):
        columns = columns[1:]  # of the column of names
    if columns is not None and len(columns) != values.shape[1]:
        raise ValueError(
            f"{path} names {len(columns)} columns and has {values.shape[1]} numbers in a row"
        )
    return Matrix(values, rows, columns)


def check_names(what: str, first: Sequence[str] | None, second: Sequence[str] | None) -> None:
    """Raise ValueError if two files name drugs, or targets, differently or in another order, or a
    file two of them alike.
    """
    for names in (first, second):
        if names is not None and len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise ValueError(f"two {what} are called {twice!r} in one file")
    if first is None or second is None:
        return
    if sorted(first) == sorted(second) and list(first) != list(second):
        raise ValueError(
            f"the files have the same {what} in different orders: sort one as the other"
        )
    if list(first) != list(second) and len(first) == len(second):
        pair = next((a, b) for a, b in zip(first, second, strict=True) if a != b)
        raise ValueError(f"the files name different {what}: {pair[0]!r} and {pair[1]!r}")


def _cells(line: str, separator: str | None) -> list[str]:
    line = line.rstrip("\r\n")
    cells = line.split(separator) if separator else line.split()
    return [cell.strip() for cell in (cells if cells[-1].strip() else cells[:-1])]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _row(path: str | Path, line: int, cells: list[str]) -> list[float]:
    for k, cell in enumerate(cells):
        if not _is_number(cell) or not np.isfinite(float(cell)):
            raise ValueError(f"{path}, line {line}: entry {k + 1}, {cell!r}, is no finite number")
    return [float(cell) for cell in cells]
