"""Conditions in the network, measured, on one page.

    python -m experiments.conditional --folder ../shared/data
    python -m experiments.conditional --parts text
    python -m experiments.conditional --page

Every part is a module beside this one, with a command of its own, which trains small networks and
keeps its rows in ``experiments/results/PART.json``; what is there is not made again. The page is
made of the rows that there are: ``conditional.json``, ``.md``, and ``.png`` of samples.
"""

import argparse
import importlib
import inspect
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.files import write_text

RESULTS = Path("experiments/results")
SAMPLES = Path("runs/conditional-text-samples.npz")
SHOWN = 6  # samples of each kind


class Part(NamedTuple):
    """A module of measurements, what its section is called, and whether it reads data sets."""

    module: str
    title: str
    folder: bool = False


PARTS = (
    Part("text", "Text to image: are samples what the prompt says?"),
    Part("boxes", "Boxes: are samples where a box says?", folder=True),
    Part("control", "Control: do samples keep to the picture shown?", folder=True),
    Part("restoration", "Restoration: how near is a task's own network?", folder=True),
    Part("few_steps", "LCM-LoRA: are few steps an adapter?"),
    Part("personalisation", "Personalisation: is a new symbol learnt, and what is forgotten?"),
)


def main(given: Sequence[str] | None = None) -> int:
    """Measure the parts, and write the page."""
    options = arguments_of(given)
    for part in PARTS if not options.page else ():
        if part.module not in options.parts:
            continue
        folder = ["--folder", str(options.folder)] if part.folder else []
        out = ["--out", str(options.results / f"{part.module}.json")]
        importlib.import_module(f"experiments.conditional.{part.module}").main([*folder, *out])
    write_page(options.results, options.samples)
    return 0


def write_page(results: Path, samples: Path) -> None:
    """Write the numbers of all parts that there are, the page, and the picture of samples."""
    found = {
        part.module: json.loads(path.read_text())
        for part in PARTS
        if (path := results / f"{part.module}.json").exists()
    }
    if not found:
        raise SystemExit(f"{results} has no rows of any part: run it without --page")
    write_text(results / "conditional.json", json.dumps(found, indent=1) + "\n")
    picture = results / "conditional.png"
    if samples.exists():  # or else the picture of before, if there is one
        draw(samples, picture)
    write_text(results / "conditional.md", page(found, picture.exists()))
    print(f"the page: {results / 'conditional.md'}")


def page(found: dict[str, Any], drawn: bool) -> str:
    """Return the page of the parts' numbers, in Markdown."""
    lines = ["# Conditions in the network", "", "Made by `python -m experiments.conditional`.", ""]
    for part in PARTS:
        if part.module not in found:
            continue
        numbers = found[part.module]
        lines += [f"## {part.title}", "", about(part.module), "", *columns(numbers["rows"]), ""]
        lines += [f"Settings: {listed(numbers['settings'])}. Machine: {numbers['machine']}.", ""]
        lines += [f"Note: {'; '.join(numbers['notes'])}.", ""] if numbers.get("notes") else []
    if drawn:
        lines += ["![samples and their prompts](conditional.png)", ""]
    return "\n".join(lines)


def about(module: str) -> str:
    """Return what a part's module says of itself, without its command."""
    text = inspect.getdoc(importlib.import_module(f"experiments.conditional.{module}")) or ""
    kept = [p for p in text.split("\n\n") if not p.startswith("    python")]
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", "\n\n".join(kept))  # roles are of the reference


def columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of rows, whose columns are all that any of them has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[cell(row.get(name)) for name in names] for row in rows]
    head = [" | ".join(names), " | ".join("---" for _ in names)]
    return [f"| {line} |" for line in (*head, *map(" | ".join, cells))]


def cell(value: Any) -> str:
    """Return a cell's text: numbers in four digits."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def listed(settings: dict[str, Any]) -> str:
    """Return settings in words."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())


def draw(samples: Path, path: Path) -> None:
    """Draw some samples of each guidance side by side, a row for each prompt."""
    from matplotlib.figure import Figure

    with np.load(samples) as known:
        kinds = [name.rsplit(", ", 1) for name in known.files if not name.endswith(": prompts")]
        labels = list(dict.fromkeys(label for label, _ in kinds))
        rows = [
            (prompt, combination, [known[f"{label}, {combination}"][i] for label in labels])
            for combination in dict.fromkeys(combination for _, combination in kinds)
            for i, prompt in enumerate(known[f"{labels[0]}, {combination}: prompts"][:SHOWN])
        ]
    figure = Figure(figsize=(3.6 + 0.8 * len(labels), 0.62 * len(rows) + 0.4))
    axes = figure.subplots(len(rows), len(labels), squeeze=False)
    for row, (prompt, combination, images) in zip(axes, rows, strict=True):
        for axis, image in zip(row, images, strict=True):
            axis.imshow((image + 1) / 2, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(f"{prompt} ({combination})", rotation=0, ha="right", va="center", size=7)
    for axis, label in zip(axes[0], labels, strict=True):
        axis.set_title(label, size=7)
    figure.subplots_adjust(left=3.4 / figure.get_figwidth(), right=0.99, bottom=0.01, top=0.94)
    figure.savefig(path, dpi=130)


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m experiments.conditional")
    add, names = parser.add_argument, [part.module for part in PARTS]
    add("--parts", nargs="+", choices=names, default=names)
    add("--page", action="store_true", help="measure nothing: the page of the rows there are")
    add("--folder", type=Path, default=Path("../shared/data"), help="of the data sets")
    add("--results", type=Path, default=RESULTS, help="where rows and page go")
    add("--samples", type=Path, default=SAMPLES, help="those that the text part keeps")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
