"""The page of smaller denoisers."""

import math
from typing import Any

import numpy as np

QUALITY = "Frechet distance"


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each method and width, means over seeds and the distance's standard
    deviation (nan of one seed), the smallest networks first.
    """
    found = []
    for name in dict.fromkeys(r["method"] for r in rows):
        own = [r for r in rows if r["method"] == name]
        mean = {key: float(np.mean([r[key] for r in own])) for key in
                (QUALITY, "agreement", "parameters", "multiplications", "seconds")}  # fmt: skip
        spread = float(np.std([r[QUALITY] for r in own], ddof=1)) if len(own) > 1 else math.nan
        found.append({"method": name, "seeds": len(own), "spread": spread, **mean})
    return sorted(found, key=lambda row: row["parameters"])


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
    s, rows = numbers["settings"], numbers["rows"]
    command = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in s.items())
    seeds = sorted({r["seed"] for r in rows})
    real = [r["real"] for r in rows if "real" in r]
    lines = [
        "# Denoisers smaller than their teacher\n",
        f"Made by `python -m experiments.bridge {command} --seeds {' '.join(map(str, seeds))}` on",
        f"{numbers['machine']}. Handwritten digits of 8 x 8 pixels; the number after a method is",
        "the student's width. Parameters and millions of multiplications of one evaluation of what",
        "is sampled, a reused decoder and projectors included; Frechet distance of a classifier's",
        f"features of {s['count']} samples, at {rows[0]['nfe']} evaluations, to test images (of as",
        f"many real images, or all there are, {np.mean(real):.2f}); how often the classifier sees",
        "the class that was requested, in per cent; seconds of training with compilation.\n",
        "| method | parameters | multiplications | Frechet distance | class | seeds | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *(line(row) for row in summaries(rows)),
    ]
    return "\n".join([*lines, *numbers.get("notes", []), ""])
