"""Index of formulas: a page of all solvers, methods and tuners, with file and paper.

    python -m experiments.index > docs/methods.md

It is made of the lists that the command line is made of, and of their docstrings.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxdiff.classify import OFFLINE, ONLINE_METHODS
from jaxdiff.distill import block_knowledge, okddip, semckd, simkd
from jaxdiff.recipes import FAMILIES
from jaxdiff.recipes.tuning import TUNERS
from jaxdiff.solvers import SOLVERS

ROOT = Path(__file__).parents[1]
PAPER = re.compile(r"\b(\d{4}\.\d{5})\b")


def place(function: Callable[..., Any]) -> str:
    """Return a link to the file of a function, at its line."""
    function = inspect.unwrap(function)  # a range that guards it lies in another file
    path = Path(inspect.getsourcefile(function) or "").relative_to(ROOT)
    line = inspect.getsourcelines(function)[1]
    return f"[{path}](../{path}#L{line})"


def papers(function: Callable[..., Any]) -> str:
    """Links to the papers that a function's docstring names, or else its module's first."""
    own = PAPER.findall(inspect.getdoc(function) or "")
    module: Any = inspect.getmodule(function)
    found = own or PAPER.findall(module.__doc__ or "")[:1]
    return ", ".join(
        f"[{number}](https://arxiv.org/abs/{number})" for number in dict.fromkeys(found)
    )


def summary(function: Callable[..., Any]) -> str:
    """Return the first sentence of a function's docstring."""
    first = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
    plain = re.sub(r":\w+:`(?:[\w.]+\.)?(\w+)`", r"`\1`", first)
    return (
        re.split(r"(?<=[a-z)])(?<!\beq)(?<!\beqs)(?<!\bal)\. ", plain)[0]
        .rstrip(".")
        .replace("|", "\\|")
    )


def rows(functions: dict[str, Callable[..., Any]]) -> Iterator[str]:
    """Yield a row for each, by name."""
    yield "| name | what it is | file | papers |"
    yield "|---|---|---|---|"
    for name, function in functions.items():
        yield f"| `{name}` | {summary(function)} | {place(function)} | {papers(function)} |"
    yield ""


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Every solver, method and tuner: its file and its paper\n"
    yield "Made by `python -m experiments.index > docs/methods.md`. A file opens with formulas.\n"
    yield "## Solvers\n"
    yield from rows({known.name: known.solver for known in SOLVERS})
    for family, recipes in FAMILIES.items():
        yield f"## Distillation: {family.replace('_', ' ')}\n"
        yield from rows({name: recipe.of[0] for name, recipe in recipes.items()})
    yield "## Distillation into smaller networks\n"
    yield from rows({f.__name__: f for f in (block_knowledge, simkd, semckd, okddip)})
    yield "## Distillation of classifiers\n"
    yield from rows(OFFLINE)
    yield "### Without a teacher\n"
    yield from rows(ONLINE_METHODS)
    yield "## Tuning of samplers\n"
    yield from rows({name: tuner.makes for name, tuner in TUNERS.items()})


if __name__ == "__main__":
    print("\n".join(page()))
