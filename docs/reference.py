"""The pages of the reference, made from the package's public names: each name once.

A name is public where its package exports it; one that is found in two places stands where it is
found first. Its entry is its docstring.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from docs.sources import write

PARTS = {  # as they are reached from jaxdiff, each a page
    "jaxdiff": "Sampling: what stands at the top",
    "process": "Processes",
    "prediction": "Predictions",
    "denoisers": "Denoisers",
    "exact": "Exact models",
    "grids": "Grids of noise levels",
    "solvers": "Solvers",
    "gaussian_start": "Gaussian start",
    "guidance": "Guidance",
    "threshold": "Thresholding",
    "blending": "Noise blending",
    "operators": "Operators of measurements",
    "posterior": "Guidance by measurements",
    "corrections": "Corrections",
    "processes": "Revised processes",
    "editing": "Editing",
    "attention": "Attention",
    "networks": "Networks",
    "pretrained": "Published weights",
    "data": "Data",
    "distill": "Distillation",
    "adapt": "Adapters",
    "autoencoding": "Autoencoders",
    "tuning": "Tuning of samplers",
    "classify": "Classifiers",
    "training": "Training",
    "metrics": "Metrics",
    "analysis": "Analysis of trajectories",
}


class Name(NamedTuple):
    """A public name: how it is called, and what it is."""

    full: str
    item: Any

    @property
    def directive(self) -> str:
        """Return the directive of autodoc that documents it."""
        if inspect.isclass(self.item):
            return "autoclass"
        return "autofunction" if inspect.isroutine(inspect.unwrap(self.item)) else "autodata"


def module_of(part: str) -> Any:
    """Return a part of the package, or None where the package has no such part."""
    import jaxdiff

    return jaxdiff if part == "jaxdiff" else getattr(jaxdiff, part, None)


def public(part: str) -> Iterator[Name]:
    """Yield what a part exports of its own making."""
    module = module_of(part)
    prefix = "jaxdiff" if part == "jaxdiff" else f"jaxdiff.{part}"
    package = hasattr(module, "__path__")
    for name in sorted(n for n in dir(module) if not n.startswith("_")):
        item = getattr(module, name)
        home = getattr(item, "__module__", None) or ""
        own = home.startswith("jaxdiff") if package else home == module.__name__
        if own and not inspect.ismodule(item) and documented(item):
            yield Name(f"{prefix}.{name}", item)


def documented(item: Any) -> bool:
    """Whether a value says for itself what it is; names of types and constants do not."""
    if inspect.isclass(item):
        return bool(item.__doc__)
    return inspect.isroutine(inspect.unwrap(item))


def names() -> dict[str, list[Name]]:
    """Return the public names of every part, each in one of them."""
    seen, found = set(), {}
    for part in PARTS:
        if module_of(part) is None:
            continue
        new = {id(n.item): n for n in public(part)}  # a second name of the same thing is left out
        found[part] = [name for key, name in new.items() if key not in seen]
        seen |= set(new)
    return {
        part: sorted(own, key=lambda name: (inspect.isclass(name.item), name.full))
        for part, own in found.items()
        if own
    }


LITERAL = re.compile(r"(``.+?``|:[\w:]+:`[^`]+`|`[^`\n]+`_*)")


def escape(line: str) -> str:
    """Return a line in which asterisks, bars and trailing underscores stand for themselves."""
    pieces = LITERAL.split(line)
    pieces[::2] = [re.sub(r"([*|`\\]|(?<=\w)_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)


def summary(item: Any) -> str:
    """Return the first sentence of a docstring, in one line of reStructuredText."""
    text = " ".join((inspect.getdoc(item) or "").split("\n\n")[0].split())
    text = re.split(r"(?<=[a-z)`])(?<!\beq)(?<!\beqs)(?<!\bal)\. ", text)[0].rstrip(".")
    return escape(re.sub(r":\w+:`~?(?:jaxdiff\.[\w.]*\.)?([^`]*)`", r"``\1``", text))


def introduction(module: Any) -> str:
    """Return the sentences that a module opens with, up to its first list or table."""
    paragraphs = inspect.cleandoc(module.__doc__ or "").split("\n\n")
    plain = []
    for paragraph in paragraphs:
        if re.search(r"^\s{2,}\S|^\|", paragraph, re.M) or paragraph.endswith(("::", "=")):
            break
        plain.append(paragraph)
    if plain and plain[-1].endswith((",", ":")):
        plain.pop()  # it leads to what is left out
    return escape(qualified("\n\n".join(plain), module))


def page(part: str, own: list[Name]) -> Iterator[str]:
    """Yield the lines of a part's page."""
    title = PARTS[part]
    yield from (title, "=" * len(title), "")
    if part != "jaxdiff":
        yield from (f"``jd.{part}``", "", introduction(module_of(part)), "")
    yield from (f".. py:currentmodule:: {module_of(part).__name__}", "")
    yield from (".. list-table::", "   :widths: 30 70", "")
    for name in own:
        yield f"   * - :py:obj:`~{name.full}`"
        yield f"     - {summary(name.item)}"
    yield ""
    for name in own:
        members = ["   :members:"] if inspect.isclass(name.item) else []
        yield from (f".. {name.directive}:: {name.full}", *members, "")


def index(parts: list[str]) -> Iterator[str]:
    """Yield the lines of the reference's first page."""
    yield from ("Reference", "=========", "")
    yield "Every public name once, under the part of ``jaxdiff`` (``import jaxdiff as jd``) that"
    yield from ("exports it.", "", ".. toctree::", "   :maxdepth: 1", "")
    yield from (f"   {part}" for part in parts)


def write_pages(folder: Path) -> set[Path]:
    """Write the reference's pages into a folder; return their paths."""
    found = names()
    texts = {part: page(part, own) for part, own in found.items()} | {"index": index(list(found))}
    for name, lines in texts.items():
        write(folder / f"{name}.rst", "\n".join([*lines, ""]))
    return {folder / f"{name}.rst" for name in texts}


def public_name(item: Any) -> str | None:
    """Return the name that an object is documented under, None if it is not."""
    return _by_identity().get(id(item))


def public_names() -> list[str]:
    """Return the names of the reference."""
    return list(_by_identity().values())


def _by_identity(known: dict[int, str] = {}) -> dict[int, str]:  # noqa: B006
    if not known:
        known.update({id(n.item): n.full for own in names().values() for n in own})
    return known


def imported(path: str) -> Any:
    """Return the object of a dotted path, of a module that a function hides by its name, too.

    Raises:
        AttributeError: where there is none.
    """
    pieces = path.split(".")
    for at in range(1, len(pieces) + 1):
        try:
            found = importlib.import_module(".".join(pieces[:at]))
            for piece in pieces[at:]:
                found = getattr(found, piece)
        except (ImportError, AttributeError):
            continue
        return found
    raise AttributeError(f"there is no {path}")


ROLE = re.compile(r"(:(?:py:)?(?:func|class|meth|data|attr|exc|obj):)`~?([\w.]+)`")


RAISED = re.compile(r"^( {4})([A-Z]\w+):", re.M)  # in a section "Raises"


def qualified(text: str, module: Any) -> str:
    """Return a docstring whose roles have whole paths where they name something of its module."""

    def whole(found: re.Match[str]) -> str:
        role, name = found.groups()
        known = getattr(module, name.partition(".")[0], None)
        if name.startswith("jaxdiff.") or known is None or inspect.ismodule(known):
            return found[0]
        return f"{role}`{name} <{module.__name__}.{name}>`"

    def raised(found: re.Match[str]) -> str:
        return f"{found[1]}{module.__name__}.{found[2]}:" if hasattr(module, found[2]) else found[0]

    return RAISED.sub(raised, ROLE.sub(whole, text))
