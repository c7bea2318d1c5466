"""The page that ``jaxdiff analyse`` writes: how a model samples, beside null models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.report import analysis_effects as effects
from jaxdiff.report.analysis_effects import Shown
from jaxdiff.report.geometry import Curve, Panel, boomerang, panels
from jaxdiff.report.images import apart, side_by_side
from jaxdiff.report.page import Picture, Section, Table, write_page
from jaxdiff.report.terminal import format_table

QUANTITIES = (
    "peak deviation of x", "+- over paths", "at level", "peak deviation / chord",
    "peak deviation of D", "at level (D)", "|D| first", "|D| last", "|x - end| first",
    "|D - last D| first", "|eps| first", "|eps| last",
    "least cos(eps, x - end)", "shape left when turned onto the mean", "path / chord",
    "first component of a path",
    "top 2 of a path's rest", "top 2 of all paths' rest",
    "share of steps with |D| rising", "share of steps with |x - end| falling",
)  # fmt: skip


def in_words(numbers: Mapping[str, Any]) -> str:
    """Return the table of all models, and the advice, for the terminal."""
    table = summary(numbers)
    return "\n\n".join([format_table(table.headers, table.rows), *numbers["advice"]])


def analysis_page(path: Path, numbers: Mapping[str, Any], shown: Shown) -> Path:
    """Write the page, and numbers beside it; return the path of the page."""
    parts = {
        "summary": _summary, "paths": _paths, "subspace": _subspace, "convergence": _convergence,
        "optimal": _optimal, "jacobian": effects.jacobian, "local error": effects.local_error,
        "latent": effects.latent, "copies": effects.copies, "distillation": effects.distillation,
        "guidance": effects.guidance,
    }  # fmt: skip
    known = {"summary", "subspace"} | set(numbers)
    sections = [
        made for name, make in parts.items() if name in known for made in make(numbers, shown)
    ]
    title = f"How {numbers['model']} samples"
    return write_page(path, title, numbers["null models of"], sections, numbers)


def summary(numbers: Mapping[str, Any]) -> Table:
    """Return the quantities of every model, one row each."""
    models = numbers["paths"]
    rows = [[q, *(models[name]["summary"][q] for name in models)] for q in QUANTITIES]
    caption = f"Means over {numbers['config']['count']} trajectories on the same noise."
    return Table(["quantity", *models], rows, caption)


def _summary(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    text = [
        "Every model is solved from the same noises by the same steps of Euler's method. What a "
        "Gaussian shows as well needs no network: second-order statistics of the data explain it. "
        "What the finite data set shows is what the best possible fit of the training data does, "
        "which is to recall them.",
        *numbers["advice"],
    ]
    figures = []
    if shown.ends is not None:
        ends = {name: apart(images) for name, images in shown.ends.items()}
        count = min(4, *(len(images) for images in ends.values()))
        picture = side_by_side(ends, 2, count // 2)
        alt = "Ends of trajectories, a block per model."
        figures.append(Picture(picture, "Equal places: the same noise.", alt))
    return [Section("What a network adds", text, figures, [summary(numbers)])]


def _over_levels(numbers: Mapping[str, Any], key: str, title: str, **look: Any) -> Panel:
    """Return a panel of one statistic over the levels, all models."""
    curves = {}
    for name, one in numbers["paths"].items():
        if key in one:
            curves[name] = Curve(one[key]["levels"], one[key]["mean"], one[key]["std"])
    return Panel(title, curves, **look)


def _paths(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    models = numbers["paths"]
    points = {name: np.asarray(one["boomerang"]) for name, one in models.items()}
    three = Section(
        "The boomerang",
        [
            "Every trajectory relative to its end, along its chord and along the first two "
            "principal directions of what is left of itself, their signs fixed. The chord's axis "
            "is far longer than the others: a path is nearly straight."
        ],
        [Picture(boomerang(points), f"{points[next(iter(points))].shape[1]} trajectories of each "
                 "model, the same noises; the grey points are the starts.",
                 "Curves that leave the chord and come back to it, alike in all models.")],
    )  # fmt: skip
    drawn = [
        _over_levels(numbers, "deviation", "distance of x from its chord"),
        _over_levels(numbers, "denoised deviation", "distance of D from its chord"),
        _over_levels(numbers, "norm of x", "|x|", log="xy"),
        _over_levels(numbers, "norm of D", "|D|"),
        _over_levels(numbers, "norm of eps", "|eps| = |x - D| / level"),
        _over_levels(numbers, "cosine", "cos(eps, x - end)"),
    ]
    bends = [
        _over_levels(numbers, "curvature", "curvature of x", log="xy"),
        _over_levels(numbers, "torsion", "torsion of x", log="xy"),
    ]
    drawn += [panel for panel in bends if panel.curves]
    text = (
        "Bands are one standard deviation over trajectories. |eps|^2 is how many dimensions are "
        "still noise. Curvature and torsion are exact, from derivatives of the ODE, where "
        "they are more than rounding: the isotropic Gaussian has neither, and the finite data set "
        "no torsion where it has one neighbour."
    )
    figure = panels(drawn, 2, list(models))
    caption = "Sampling runs from left to right."
    picture = Picture(figure, caption, "Statistics of trajectories over the noise level.")
    shape = Section("Deviation, norms and direction", [text], [picture])
    return [three, shape]


def _subspace(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    models = numbers["paths"]
    drawn = []
    for key, title in (("per sample", "one path"), ("pooled", "all paths together")):
        curves = {
            name: Curve(np.arange(1, 1 + len(one["share"][key])), np.cumsum(one["share"][key]))
            for name, one in models.items()
        }
        drawn.append(
            Panel(f"share of variance, {title}", curves, "components", log="", levels=False)
        )
    lost = {
        name: Curve(np.arange(1, 1 + len(one["reconstruction error"])), one["reconstruction error"])
        for name, one in models.items()
    }
    drawn.append(
        Panel("relative error by so many, all paths", lost, "components", log="", levels=False)
    )
    text = (
        "Principal components of what is left of the states when the chord is taken away. One path "
        "lies in a plane beside its chord; that all paths together lie in few dimensions is "
        "another claim, and far from true."
    )
    caption = "Cumulative shares, and what so many components miss."
    alt = "Shares of variance against the number of components."
    picture = Picture(panels(drawn, 3, list(models)), caption, alt)
    return [Section("How many dimensions", [text], [picture])]


def _convergence(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    order, found = list(numbers["paths"]), numbers["convergence"]
    drawn = [
        _over_levels(numbers, "distance to end", "|x - end|", log="xy"),
        _over_levels(numbers, "denoised distance to end", "|D - last D|", log="xy"),
    ]
    for key, title in (("x", "state x"), ("D", "denoised output D")):
        curves = {name: Curve(one["levels"], one[key]) for name, one in found["models"].items()}
        drawn.append(Panel(f"{found['metric']} to data: {title}", curves, log="xy"))
    text = [
        "To stop at a level and return D(x) is the ODE jump. Its curve is that of D: where it lies "
        "below that of x, stopping there with a jump is better than stopping as one is.",
        f"{found['metric']} is of {found['samples']} samples, number by number, to {found['real']} "
        f"of the data; as many data score {found['real data']:.3g}.",
    ]
    caption = "Distances to the end of the same path, and to data."
    alt = "Distances fall with the level, those of D before those of x."
    picture = Picture(panels(drawn, 2, order), caption, alt)
    return [Section("Denoised outputs arrive first", text, [picture])]


def _optimal(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    found = numbers["optimal"]
    titles = {
        "on the model's path": "|D(x) - D*(x)|, x of the model",
        "on the optimal path": "|D(x*) - D*(x*)|, x* of the finite data set",
        "of both": "|D(x) - D*(x*)|", "states": "|x - x*|",
    }  # fmt: skip
    models = {n: one for n, one in found["models"].items() if "states" in one}
    drawn = [
        Panel(title, {n: Curve(found["levels"], one[key]) for n, one in models.items()})
        for key, title in titles.items()
    ]
    neighbours = {"finite data set": Curve(found["levels"], found["effective neighbours"])}
    drawn.append(Panel("effective neighbours in D*", neighbours, log="xy"))
    text = (
        "D* is the optimal denoiser of the finite data set, x* its path from the same noise. Where "
        "the Gaussian deviates as the model does, the deviation says that D* has collapsed onto "
        "single data (the last panel falls to 1), and nothing of the model."
    )
    order = [*numbers["paths"]]
    picture = Picture(panels(drawn, 2, order), "Means over trajectories.",
                      "Distances to the optimal denoiser over the noise level.")  # fmt: skip
    rises = {name: one["density rises"] for name, one in found["models"].items()}
    rows = [[name, one["jump"], one["step"], one["ratio"]] for name, one in rises.items()]
    caption = (
        "Share of states at which the kernel density of the data, its bandwidth the level, is "
        "higher at D(x) and at the next state; and the largest mean of |D - D*| / |D* - x|, below "
        "1 of which the first must be so. Of levels from 0.1 on."
    )
    table = Table(["model", "higher at D", "higher at the next", "ratio"], rows, caption)
    return [Section("Against the optimal denoiser", [text], [picture], [table])]
