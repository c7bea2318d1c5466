"""The page and the picture of smaller denoisers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.report.geometry import Curve, Panel, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUALITY = "Frechet distance"
COSTS = {"parameters": "parameters", "multiplications": "multiplications of one evaluation"}


def summaries(rows: list[dict[str, Any]], data: str) -> list[dict[str, Any]]:
    """Return a row for each method and width of a data set, means over seeds and the distance's
    standard deviation (nan of one seed), the smallest networks first.
    """
    found = []
    rows = [r for r in rows if r["method"].startswith(f"{data}: ")]
    for name in dict.fromkeys(r["method"] for r in rows):
        own = [r for r in rows if r["method"] == name]
        mean = {key: float(np.mean([r[key] for r in own])) for key in
                (QUALITY, "agreement", "parameters", "multiplications", "seconds")}  # fmt: skip
        spread = float(np.std([r[QUALITY] for r in own], ddof=1)) if len(own) > 1 else math.nan
        title = name.removeprefix(f"{data}: ")
        found.append({"method": title, "seeds": len(own), "spread": spread, **mean})
    return sorted(found, key=lambda row: row["parameters"])


def datasets(numbers: dict[str, Any]) -> list[str]:
    """Return the names of the data sets that have rows."""
    return list(dict.fromkeys(r["method"].split(": ")[0] for r in numbers["rows"]))


def line(row: dict[str, Any]) -> str:
    """Return a line of the table."""
    spread = "" if math.isnan(row["spread"]) else f" ± {row['spread']:.2f}"
    return (
        f"| {row['method']} | {row['parameters']:.0f} | {row['multiplications'] / 1e6:.2f} | "
        f"{row[QUALITY]:.2f}{spread} | {100 * row['agreement']:.1f} | {row['seeds']} | "
        f"{row['seconds']:.0f} |"
    )


def page(numbers: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    s, rows, data = numbers["settings"], numbers["rows"], datasets(numbers)
    command = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in s.items())
    seeds = sorted({r["seed"] for r in rows})
    last = {r["method"].rsplit(" ", 1)[1] for r in rows}
    widths = " ".join(map(str, sorted(int(word) for word in last if word.isdigit())))
    lines = [
        "# Denoisers smaller than their teacher\n",
        f"Made by `python -m experiments.bridge --data {' '.join(data)} "
        f"--widths {widths} {command} --seeds {' '.join(map(str, seeds))}`",
        f"on {numbers['machine']}. The teachers are those that come with the package; the number",
        "after a method is the student's width. Parameters and millions of multiplications of one",
        "evaluation of what is sampled, a reused decoder and projectors included; Frechet distance",
        f"of a classifier's features of {s['count']} samples, without guidance and at "
        f"{rows[0]['nfe']} evaluations, to",
        "test images, with the standard deviation over seeds; how often the classifier sees the",
        "class that was requested, in per cent; seconds of training with compilation.\n",
        "![Frechet distance against parameters and multiplications](bridge.png)\n",
    ]
    for name in data:
        real = [r["real"] for r in rows if "real" in r and r["method"].startswith(f"{name}: ")]
        lines += [
            f"## {name}\n",
            f"As many real images, or half of all there are, have {np.mean(real):.2f}.\n",
            "| method | parameters | multiplications | Frechet distance | class | seeds "
            "| seconds |",
            "|---|--:|--:|--:|--:|--:|--:|",
            *(line(row) for row in summaries(rows, name)),
            "",
        ]
    return "\n".join([*lines, *numbers.get("notes", []), ""])


def figure(numbers: dict[str, Any]) -> Figure:
    """Return Frechet distance against both costs, a row per data set, a curve per method."""
    drawn = []
    for data in datasets(numbers):
        found = summaries(numbers["rows"], data)
        kinds = dict.fromkeys(row["method"].rsplit(" ", 1)[0] for row in found)
        for cost, label in COSTS.items():
            curves = {}
            for kind in kinds:
                own = [r for r in found if r["method"].rsplit(" ", 1)[0] == kind]
                x, y, spread = (np.array([r[k] for r in own]) for k in (cost, QUALITY, "spread"))
                known = None if np.isnan(spread).any() else spread
                curves[kind] = Curve(x, y, known)
            drawn.append(Panel(data, curves, label, QUALITY, "xy", levels=False))
    order = ["alone", "output", "output and maps", "output and maps/100", "semckd", "okddip",
             "simkd-0", "simkd-1", "simkd-2", "teacher"]  # fmt: skip
    made = panels(drawn, 2, order, height=3.2)
    for axes in made.axes:  # names of minor ticks would lie over each other
        axes.xaxis.set_minor_formatter("")
    return made
