"""Lists of the items of a kind, one line each: name, what it is, and where its paper is."""

import inspect
import json
import re
import shutil
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxdiff.app.config import List

PAPER = re.compile(r"\b\d{4}\.\d{4,5}\b")


def solvers() -> Mapping[str, Any]:
    """Return every solver by name."""
    from jaxdiff.solvers import SOLVERS

    return {entry.name: entry.solver for entry in SOLVERS}


def methods() -> Mapping[str, Any]:
    """Return the first function of every recipe of distillation."""
    from jaxdiff.recipes import RECIPES

    return {name: recipe.of[0] if recipe.of else recipe.stages for name, recipe in RECIPES.items()}


def tuners() -> Mapping[str, Any]:
    """Return the plan of every recipe of tuning."""
    from jaxdiff.recipes.tuning import TUNERS

    return {name: tuner.makes for name, tuner in TUNERS.items()}


def functions(*modules: str) -> Callable[[], Mapping[str, Any]]:
    """Return the public functions of modules of :mod:`jaxdiff`."""

    def found() -> Mapping[str, Any]:
        import jaxdiff

        made: dict[str, Any] = {}
        for name in modules:
            module: types.ModuleType = getattr(jaxdiff, name)
            for key, value in sorted(vars(module).items()):
                own = inspect.isfunction(value) and value.__module__.startswith(module.__name__)
                if own and not key.startswith("_"):
                    made[key] = value
        return made

    return found


def networks() -> Mapping[str, Any]:
    """Return the networks of :mod:`jaxdiff.networks`."""
    from jaxdiff import networks

    known = {name: getattr(networks, name) for name in networks.__all__}
    return {
        name: found for name, found in sorted(known.items())
        if inspect.isclass(found) and hasattr(found, "apply")  # a linen module
    }  # fmt: skip


def adapters() -> Mapping[str, Any]:
    """Return the adapters of :mod:`jaxdiff.adapt`, and its functions that are of a paper."""
    from jaxdiff import adapt

    made: dict[str, Any] = {
        name: value for name, value in sorted(vars(adapt).items())
        if inspect.isclass(value) and hasattr(value, "apply") and value is not adapt.Adapter
    }  # fmt: skip
    for name, function in functions("adapt")().items():
        if _paper(function) and not name.startswith(("load_", "save_")):
            made[name] = function
    return made


KINDS: dict[str, Callable[[], Mapping[str, Any]]] = {
    "solvers": solvers,
    "grids": functions("grids"),
    "methods": methods,
    "tuners": tuners,
    "guidance": functions(
        "guidance", "blending", "posterior", "corrections", "processes", "editing", "attention"
    ),
    "metrics": functions("metrics"),
    "networks": networks,
    "adapters": adapters,
}
OTHERS = ("models", "presets")  # with lines of their own


def rows(kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, summary and the paper's arXiv number, "" for none, of everything of a kind.

    Raises ValueError for a kind that there is not.
    """
    if kind == "models":
        from jaxdiff.pretrained.cards import CARDS

        for name, card in CARDS.items():
            shape = "x".join(map(str, card.shape))
            yield name, f"{shape}, {card.prediction} of {card.process}; {card.licence}", ""
        return
    if kind == "presets":
        from jaxdiff.app.presets import PRESETS

        yield from ((name, text.rstrip("."), "") for name, (text, _) in PRESETS.items())
        return
    if kind not in KINDS:
        known = ", ".join([*KINDS, *OTHERS])
        raise ValueError(f"there is no list of {kind!r}; there are {known}")
    for name, function in KINDS[kind]().items():
        yield name, plain(inspect.getdoc(function) or ""), _paper(function)


def _paper(item: Any) -> str:
    """Return the first number in an item's docstring, or else in its module's; "" for none."""
    module = inspect.getmodule(item)
    own = PAPER.search(inspect.getdoc(item) or "") or PAPER.search(inspect.getdoc(module) or "")
    return own[0] if own else ""


def plain(text: str) -> str:
    """Return the summary of a docstring, without marks and without the paper's number."""
    summary = " ".join(text.partition("\n\n")[0].split())
    summary = re.sub(r" \(arXiv \d{4}\.\d{4,5}\)|,? arXiv \d{4}\.\d{4,5}", "", summary)
    return re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", lambda m: m[1] or m[2], summary)


def listing(config: List) -> str:
    """Return the lines of ``jaxdiff list``, as wide as the terminal; or JSON."""
    found = list(rows(config.kind))
    if config.json:
        keys = ("name", "summary", "arxiv")
        return json.dumps([dict(zip(keys, row, strict=True)) for row in found], indent=1)
    wide, first = shutil.get_terminal_size((100, 24)).columns, max(len(row[0]) for row in found)
    lines = []
    for name, summary, paper in found:
        room = max(20, wide - first - 2 - (len(paper) + 2 if paper else 0))
        short = summary if len(summary) <= room else summary[: room - 3].rstrip() + "..."
        lines.append(f"{name:{first}}  {short:{room}}  {paper}".rstrip())
    return "\n".join(lines)
