"""A report as one HTML file with its pictures inside, and its numbers as JSON beside it.

The page loads nothing: pictures are data URIs, the style is inline, there is no script, and a
content security policy says so to the browser. Both files appear whole or not at all.
"""

from __future__ import annotations

import base64
import errno
import html
import io
import json
import math
import os
import urllib.parse
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxdiff.report.terminal import Best, Row, align_points, best_cells, cell_text, is_numeric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 192  # twice the 96 CSS pixels of an inch: crisp on screens of high density
FIGURE_SPACE, PUNCTUATION_SPACE = "\u2007", "\u2008"  # as wide as a digit, as wide as a point

CSS = """
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #1d1f21; --soft: #63686e;
  --line: #dcdedf; --link: #0b5fa5; --frame: #e6e7e8; }
@media (prefers-color-scheme: dark) { :root { --page: #16181a; --ink: #e4e6e8; --soft: #9ba1a7;
  --line: #34383c; --link: #7fb8ec; --frame: #16181a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.25rem 4rem; max-width: 60rem; background: var(--page);
  color: var(--ink); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 0.75rem; }
p { margin: 0 0 0.9rem; max-width: 44rem; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 0.15em; }
header p { margin: 0.5rem 0 0; color: var(--soft); font-size: 1.05rem; }
nav { margin: 1.75rem 0 0; padding: 0.9rem 0; border-block: 1px solid var(--line); }
nav ol { margin: 0; padding: 0 0 0 1.4rem; columns: 2 18rem; }
nav li::marker { color: var(--soft); }
section { margin-top: 3rem; }
figure { margin: 1.25rem 0 1.75rem; }
figcaption { margin-top: 0.6rem; max-width: 44rem; color: var(--soft); font-size: 0.9rem;
  line-height: 1.5; }
.scroll { overflow-x: auto; }
.paper { background: #fff; border: 1px solid var(--frame); border-radius: 6px; padding: 0.75rem; }
.paper img { display: block; margin: 0 auto; max-width: none; }
table { border-collapse: collapse; font-size: 0.925rem; line-height: 1.35; }
th { font-weight: 600; text-align: left; vertical-align: bottom; }
thead { border-bottom: 1.5px solid var(--ink); }
th, td { padding: 0.3rem 1.4rem 0.3rem 0; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums lining-nums; }
tbody tr + tr { border-top: 1px solid var(--line); }
tbody + tbody { border-top: 1.5px solid var(--soft); color: var(--soft); }
footer { margin-top: 3.5rem; padding-top: 0.9rem; border-top: 1px solid var(--line);
  color: var(--soft); font-size: 0.9rem; }
@media print { body { max-width: none; padding: 0; } section { break-inside: avoid; }
  .paper { border: 0; padding: 0; overflow: visible; }
  .paper img { max-width: 100%; height: auto; } }
"""


class Picture(NamedTuple):
    """A figure, the sentence below it, and what it shows in words for who cannot see it."""

    figure: Figure
    caption: str
    alt: str


class Table(NamedTuple):
    """A table of strings and numbers; ``best`` and ``references`` as in ``format_table``."""

    headers: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    best: Best | None = None
    references: int = 0


class Section(NamedTuple):
    """A heading, paragraphs of plain text, pictures and tables, shown in this order."""

    heading: str
    text: Sequence[str] = ()
    figures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


def write_page(
    path: str | os.PathLike[str],
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    numbers: Mapping[str, Any],
) -> Path:
    """Write ``path`` (.html) and, with the ending .json, the numbers beside it; return ``path``.

    Args:
        path: where the page goes; missing folders are made.
        title: plain text, as all text in the page.
        subtitle: one line below the title.
        sections: in order; they make the list of contents.
        numbers: what JSON can hold (mappings, sequences, strings, numbers, booleans, None), and
            NumPy arrays and scalars.

    Raises:
        ValueError: a number is NaN or infinite (the message names its key), an alternative text is
            missing, or a table does not fit together.
        TypeError: a value in ``numbers`` is of no kind that JSON has, or ``text`` is one string.
        OSError: the files cannot be written; neither is then left in part.
    """
    page = Path(path)
    if page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"the page's name must end in .html: {page}")
    beside = page.with_suffix(".json")
    made = _page(title, subtitle, sections, beside.name)
    _write_together({beside: _json(numbers), page: made})
    return page


def write_numbers(path: str | os.PathLike[str], numbers: Mapping[str, Any]) -> Path:
    """Write numbers as JSON, as :func:`write_page` does beside a page, whole or not at all; return
    ``path``. For numbers that took long, before a page that may fail is made: one that is not
    finite does not cost the others, but is null there, with a warning. Else raises as it does.
    """
    lost: list[str] = []
    _write_together({Path(path): _json(numbers, lost)})
    if lost:
        some = ", ".join(lost[:3]) + ", ..." * (len(lost) > 3)
        warnings.warn(f"not finite, and null in {path}: {some}", stacklevel=2)
    return Path(path)


def _json(numbers: Mapping[str, Any], lost: list[str] | None = None) -> str:
    return json.dumps(_plain(numbers, "numbers", lost), indent=1, allow_nan=False) + "\n"


def _page(title: str, subtitle: str, sections: Sequence[Section], numbers: str) -> str:
    contents = "\n".join(
        f'<li><a href="#section-{n}">{html.escape(s.heading)}</a></li>'
        for n, s in enumerate(sections, 1)
    )
    nav = f'<nav aria-label="Contents">\n<ol>\n{contents}\n</ol>\n</nav>\n' if sections else ""
    body = "\n".join(_section(n, section) for n, section in enumerate(sections, 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
<p>{html.escape(subtitle)}</p>
</header>
{nav}<main>
{body}
</main>
<footer>All numbers of this page: \
<a href="{urllib.parse.quote("./" + numbers)}">{html.escape(numbers)}</a></footer>
</body>
</html>
"""


def _section(number: int, section: Section) -> str:
    if isinstance(section.text, str):
        raise TypeError(f"the text of {section.heading!r} must be a list of paragraphs, not one")
    parts = [f'<section id="section-{number}">', f"<h2>{html.escape(section.heading)}</h2>"]
    parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
    parts += [_picture(picture, section.heading) for picture in section.figures]
    parts += [_table(table) for table in section.tables]
    return "\n".join([*parts, "</section>"])


def _picture(picture: Picture, heading: str) -> str:
    if not picture.alt.strip() or not picture.caption.strip():
        raise ValueError(f"every picture of {heading!r} needs a caption and an alternative text")
    width, height = (round(96 * inches) for inches in picture.figure.get_size_inches())
    return (
        '<figure>\n<div class="paper scroll" tabindex="0" role="group" '
        f'aria-label="{html.escape(picture.caption)}">'
        f'<img src="{_data_uri(picture.figure)}" width="{width}" height="{height}" '
        f'alt="{html.escape(picture.alt)}"></div>\n'
        f"<figcaption>{html.escape(picture.caption)}</figcaption>\n</figure>"
    )


def _data_uri(figure: Figure) -> str:
    """Return the figure as PNG, or as SVG if it is of lines only and smaller so."""
    kinds = {"image/png": _encode(figure, "png")}
    if not any(axes.images for axes in figure.axes):
        kinds["image/svg+xml"] = _encode(figure, "svg")
    kind = min(kinds, key=lambda k: len(kinds[k]))
    return f"data:{kind};base64,{base64.b64encode(kinds[kind]).decode('ascii')}"


def _encode(figure: Figure, kind: str) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    # equal figures give equal bytes: no date, no random identifiers
    fixed: Any = {"svg.hashsalt": "jaxdiff", "savefig.bbox": None, "savefig.transparent": False}
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(fixed):
        figure.savefig(buffer, format=kind, dpi=DPI, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def _table(table: Table) -> str:
    marked = best_cells(table.headers, table.rows, table.best, table.references)
    columns = [[row[c] for row in table.rows] for c in range(len(table.headers))]
    numeric = [is_numeric(column) for column in columns]
    classes = [' class="number"' if n else "" for n in numeric]
    texts = [
        align_points(column, FIGURE_SPACE, PUNCTUATION_SPACE) if n else [*map(cell_text, column)]
        for column, n in zip(columns, numeric, strict=True)
    ]

    def cell(r: int, c: int) -> str:
        text = html.escape(texts[c][r])
        return f"<td{classes[c]}>{f'<b>{text}</b>' if (r, c) in marked else text}</td>"

    def body(rows: range) -> str:
        lines = ("".join(cell(r, c) for c in range(len(columns))) for r in rows)
        return "<tbody>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</tbody>\n"

    head = "".join(
        f'<th scope="col"{k}>{html.escape(h)}</th>'
        for h, k in zip(table.headers, classes, strict=True)
    )
    split = len(table.rows) - table.references
    bodies = "".join(body(rows) for rows in (range(split), range(split, len(table.rows))) if rows)
    caption = f"<figcaption>{html.escape(table.caption)}</figcaption>\n" if table.caption else ""
    return (
        '<figure>\n<div class="scroll" tabindex="0" role="group" '
        f'aria-label="{html.escape(table.caption or "Table")}">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n{bodies}</table>\n</div>\n{caption}</figure>"
    )


def _plain(value: Any, name: str, lost: list[str] | None = None) -> Any:
    """``value`` in Python's own types; ``name`` says in errors where it stands. With ``lost``, a
    number that is not finite is None, and its name is put there.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        if not math.isfinite(value) and lost is not None:
            return lost.append(name)
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}: numbers of a report must be finite, or None")
        return float(value)
    if isinstance(value, Mapping):
        return {_key(k, name): _plain(v, f"{name}[{k!r}]", lost) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(v, f"{name}[{n}]", lost) for n, v in enumerate(value)]
    raise TypeError(f"{name} is a {type(value).__name__}, which JSON cannot hold")


def _key(key: Any, name: str) -> str:
    if not isinstance(key, str | Integral) or isinstance(key, bool):
        raise TypeError(f"the keys of {name} must be strings or integers, not {key!r}")
    return str(key)


def _write_together(texts: Mapping[Path, str]) -> None:
    """Write whole files beside their places first, and move them there only when all are whole."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in texts}
    opened: list[Path] = []
    try:
        for path, part in parts.items():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder has this name")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "w", encoding="utf-8", newline="\n") as file:
                opened.append(part)
                file.write(texts[path])
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            os.replace(part, path)
    except OSError as error:
        places = " and ".join(map(str, texts))
        reason = f"cannot write the report {places}: {error.strerror or error}"
        raise OSError(error.errno, reason) from error
    finally:
        for part in opened:
            part.unlink(missing_ok=True)
