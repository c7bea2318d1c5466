"""Tables of numbers in plain text: three significant digits, aligned at the decimal point.

A column is numeric if its cells are numbers or None. What is best in a column is decided on the
numbers and not on their rounded text; equal numbers share it, and NaN never has it.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Literal, TypeAlias, TypeGuard

Cell: TypeAlias = str | float | int | None
Row: TypeAlias = Sequence[Cell]
Best: TypeAlias = Mapping[str, Literal["min", "max"]]


def format_table(
    headers: Sequence[str], rows: Sequence[Row], best: Best | None = None, references: int = 0
) -> str:
    """Return a plain-text table that reads the same with and without colour.

    Args:
        headers: names of the columns.
        rows: one cell per column: a string, a number, or None for a number that does not exist.
        best: ``{header: "min" or "max"}``: the best number of these columns is marked with ``*``.
        references: how many of the last rows (real against real, say) stand below a rule of their
            own and do not compete for the mark.

    Raises:
        ValueError: rows of another length than the headers, or an unknown column or direction.
    """
    marked = best_cells(headers, rows, best, references)
    columns = [_column(headers, rows, marked, c) for c in range(len(headers))]
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    rule = "  ".join("-" * len(column[0]) for column in columns)
    lines.insert(1, rule)
    if references:
        lines.insert(len(lines) - references, rule)
    if marked:
        lines.append("* best of its column")
    return "\n".join(lines)


def best_cells(
    headers: Sequence[str], rows: Sequence[Row], best: Best | None = None, references: int = 0
) -> set[tuple[int, int]]:
    """(row, column) of the best numbers, after checking the table. Arguments as format_table's."""
    _check(headers, rows, best, references)
    marked: set[tuple[int, int]] = set()
    for header, direction in (best or {}).items():
        c = list(headers).index(header)
        values = {r: rows[r][c] for r in range(len(rows) - references)}
        numbers = {r: float(v) for r, v in values.items() if is_number(v) and math.isfinite(v)}
        if numbers:
            goal = {"min": min, "max": max}[direction](numbers.values())
            marked |= {(r, c) for r, v in numbers.items() if v == goal}
    return marked


def _check(headers: Sequence[str], rows: Sequence[Row], best: Best | None, references: int) -> None:
    if not headers:
        raise ValueError("a table needs at least one column")
    for number, row in enumerate(rows):
        if len(row) != len(headers):
            raise ValueError(f"row {number} has {len(row)} cells for {len(headers)} headers: {row}")
    if not 0 <= references <= len(rows):
        raise ValueError(f"references must be 0 to {len(rows)}, the number of rows: {references}")
    for header, direction in (best or {}).items():
        if list(headers).count(header) != 1:
            raise ValueError(f"best: {header!r} must name one of the columns {list(headers)}")
        if direction not in ("min", "max"):
            raise ValueError(f'best: {header!r} must be "min" or "max", not {direction!r}')


def _column(
    headers: Sequence[str], rows: Sequence[Row], marked: set[tuple[int, int]], c: int
) -> list[str]:
    """Header and cells of one column, all of one width."""
    values = [row[c] for row in rows]
    numeric = is_numeric(values)
    texts = align_points(values) if numeric else [cell_text(v) for v in values]
    if any(column == c for _, column in marked):
        texts = [text + ("*" if (r, c) in marked else " ") for r, text in enumerate(texts)]
    width = max(map(len, [headers[c], *texts]))
    return [text.rjust(width) if numeric else text.ljust(width) for text in [headers[c], *texts]]


def is_number(value: Cell) -> TypeGuard[float]:
    """Return whether a cell is a number (True and False are not)."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_numeric(values: Sequence[Cell]) -> bool:
    """Return whether a column holds numbers, or None, only."""
    return any(map(is_number, values)) and all(v is None or is_number(v) for v in values)


def cell_text(value: Cell) -> str:
    """Three significant digits of a number, all digits of an integer; "-" for None."""
    if value is None:
        return "-"
    if not is_number(value) or isinstance(value, Integral):
        return str(value)
    return _three_digits(float(value))


def _three_digits(x: float) -> str:
    if not math.isfinite(x):
        return str(x)
    if x == 0:
        return "0"
    exponent = int(f"{x:.2e}".partition("e")[2])  # of the rounded number: 9.999 is 10.0
    if not -4 <= exponent < 6:
        return f"{x:.2e}"
    return f"{x:.{max(0, 2 - exponent)}f}"


def align_points(values: Sequence[Cell], digit: str = " ", point: str = " ") -> list[str]:
    """Texts of numbers, filled on the right so that right-aligned they share their decimal point.

    ``digit`` and ``point`` are what fills the place of a missing digit and of a missing point.
    """
    texts = [cell_text(v) for v in values]
    parts = [text.partition(".") for text in texts]
    longest = max((len(fraction) for _, _, fraction in parts), default=0)
    return [
        whole + (dot or point * bool(longest)) + fraction + digit * (longest - len(fraction))
        for whole, dot, fraction in parts
    ]
