"""BibTeX of the papers that a solver, table, method, recipe or any function is of.

Docstrings say where an item is from: in their summary and under "Source" they name papers by
their arXiv numbers. Titles and first authors of these numbers are in ``papers.tsv`` beside this
file; where an author is not known for certain there is none.
"""

import difflib
import functools
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

NUMBER = re.compile(r"(?<!\d)(\d{4}\.\d{4,5})(?!\d)")
MODULES = (
    "process", "grids", "guidance", "blending", "posterior", "metrics", "networks", "adapt",
)  # fmt: skip
SOURCE = re.compile(r"^Sources?:.*?(?=\n\s*\n|\Z)", re.M | re.S)


def cite(*items: Any) -> str:
    """Return BibTeX entries of the papers that some items are of, each paper once.

    Args:
        items: each a function or class (a solver, method, guidance, grid, metric), a table or
            sampler, a method as made for training, an entry of the lists of solvers, recipes and
            tuners, the name of one of these, or an arXiv number.

    Returns:
        The entries, in the order of the items, separated by blank lines.

    Raises:
        ValueError: for a name that nothing has, and for an item whose docstring names no paper.
        TypeError: for an item that says of nothing what it is, and for none at all.

    >>> print(cite("2302.04867").splitlines()[0])
    @misc{zhao2023unipc,
    """
    if not items:
        raise TypeError("cite takes at least one item: a solver, table, method, its name, ...")
    found: list[str] = []
    for item in items:
        numbers = papers(item)
        if not numbers:
            raise ValueError(f"the docstring of {_named(item)} names no paper by its arXiv number")
        found += numbers
    return "\n\n".join(entry(number) for number in dict.fromkeys(found))


def papers(item: Any) -> list[str]:
    """Return the arXiv numbers of the papers that an item is of, as :func:`cite` takes it.

    Args:
        item: see there.

    Returns:
        The numbers, each once; none where the docstring names none.
    """
    return list(dict.fromkeys(n for known in _documented(item) for n in _numbers(known)))


def entry(number: str) -> str:
    """Return the BibTeX entry of an arXiv number.

    Args:
        number: such as "2302.04867".

    Returns:
        The entry, with what ``papers.tsv`` knows of it.
    """
    author, title = known_papers().get(number, ("", ""))
    year = "20" + number[:2]
    family = re.sub(r"[^a-z]", "", author.partition(",")[0].lower())
    first = next(iter(title.lower().split()), "").replace("+", "p")  # DPM-Solver++: dpmsolverpp
    word = re.sub(r"[^a-z0-9]", "", first)
    key = f"{family}{year}{word}" if family else f"arxiv{number.replace('.', '-')}"
    fields = {
        "title": title and f"{{{title}}}", "author": author, "year": year, "eprint": number,
        "archivePrefix": "arXiv", "url": f"https://arxiv.org/abs/{number}",
    }  # fmt: skip
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{{key},", *lines, "}"])


@functools.cache
def known_papers() -> dict[str, tuple[str, str]]:
    """Return author and title by arXiv number, "" for what is not known.

    Returns:
        A pair of texts for every number in ``papers.tsv``.
    """
    lines = (Path(__file__).parent / "papers.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return {number: (author, title) for number, author, title in rows}


def _named(item: Any) -> str:
    return getattr(item, "__qualname__", None) or repr(item)


def _documented(item: Any) -> Iterator[Any]:
    """Yield what has the docstrings of an item: functions, classes or arXiv numbers."""
    if isinstance(item, str):
        yield from _by_name(item)
    elif hasattr(item, "players"):  # a method: its functions were made by what it is of
        yield from _makers(item)
    elif getattr(item, "of", None) and hasattr(item, "stages"):  # a recipe
        yield from item.of
    elif hasattr(item, "solver") or hasattr(item, "makes"):  # entries of solvers and tuners
        yield getattr(item, "solver", None) or item.makes
    elif hasattr(item, "denoiser") and hasattr(item, "table"):  # a sampler
        yield from _documented(item.table)
    elif hasattr(item, "levels") and hasattr(item, "name"):  # a table, or what takes its place
        yield from _of_table(item)
    elif inspect.isroutine(item) or inspect.isclass(item) or inspect.ismodule(item):
        yield item
    elif hasattr(item, "func"):  # a denoiser, correction or another Partial, of what made it
        module = inspect.getmodule(item.func)
        name = getattr(item.func, "__name__", "").removeprefix("_")
        yield from _documented(getattr(module, name, item.func))
    elif type(item).__module__.startswith("jaxdiff"):
        yield type(item)
    else:
        raise TypeError(f"cite takes a function, table, method or name, not {type(item).__name__}")


def _of_table(table: Any) -> Iterator[Any]:
    """Yield the solver of a table by its name and, of a tuned one, the tuner."""
    names = [table.name, (table.metadata or {}).get("method", "")]
    known = [name for name in names if name in _names()]
    if not known:
        raise ValueError(f"no solver or tuner is called {' or '.join(n for n in names if n)!r}")
    for name in known:
        yield from _by_name(name)


def _names() -> dict[str, Any]:
    from jaxdiff.recipes import RECIPES
    from jaxdiff.recipes.tuning import TUNERS
    from jaxdiff.solvers import SOLVERS

    return {**TUNERS, **RECIPES, **{known.name: known for known in SOLVERS}}


def _of_modules() -> dict[str, Any]:
    """Return functions and classes of the other modules that ``jaxdiff list`` lists, by name."""
    import jaxdiff

    modules = (getattr(jaxdiff, name) for name in MODULES)
    return {
        name: item
        for module in modules
        for name, item in vars(module).items()
        if not name.startswith("_") and (inspect.isfunction(item) or inspect.isclass(item))
    }


def _by_name(name: str) -> Iterator[Any]:
    if NUMBER.fullmatch(name):
        yield name
    elif name in (known := _names()):
        yield from _documented(known[name])
    elif (found := _of_modules().get(name)) is not None:
        yield found
    else:
        every = {known.lower(): known for known in (*_of_modules(), *_names())}
        like = difflib.get_close_matches(name.lower(), every, 1, 0.75)
        raise ValueError(
            f"nothing is called {name!r}"
            + (f"; did you mean {every[like[0]]!r}?" if like else "")
            + " (jaxdiff list solvers, methods, tuners, guidance, adapters, ... has the names)"
        )


def _makers(method: Any) -> Iterator[Any]:
    """Yield the public functions that made a method: those that return one, and within which its
    functions, or what these hold, were defined.
    """
    waiting = [method.init, method.sampler, *(player.loss for player in method.players.values())]
    seen: set[int] = set()
    while waiting:
        function = waiting.pop(0)
        if id(function) in seen or not callable(function):
            continue
        seen.add(id(function))
        waiting += [getattr(function, "func", None), *getattr(function, "args", ())]
        cells = getattr(function, "__closure__", None) or ()
        waiting += [cell.cell_contents for cell in cells if callable(cell.cell_contents)]
        outer, inner, _ = getattr(function, "__qualname__", "").partition(".<locals>")
        module = sys.modules.get(getattr(function, "__module__", ""))
        maker = getattr(module, outer, None)
        if inner and _returns_a_method(maker) and ".parts." not in module.__name__:  # type: ignore
            yield maker


def _returns_a_method(maker: Any) -> bool:
    from jaxdiff.method import Method

    return inspect.isfunction(maker) and inspect.signature(maker).return_annotation is Method


def _numbers(item: Any) -> Iterable[str]:
    """Return the numbers in an item's summary and sources, or else in its text, or else in the
    sources of its module.
    """
    if isinstance(item, str):
        return [item]
    if inspect.ismodule(item):
        return NUMBER.findall(item.__doc__ or "")
    module = inspect.getmodule(item)
    for text in (inspect.getdoc(item) or "", inspect.getdoc(module) or ""):
        summary, sources = text.split("\n\n")[0], " ".join(SOURCE.findall(text))
        if found := NUMBER.findall(f"{summary} {sources}") or NUMBER.findall(text)[:1]:
            return found
    return []
