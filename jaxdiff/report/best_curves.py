"""Many solvers in one figure: the best stand out, with their names at their lines.

Solvers are ranked by the geometric mean of their scores, each relative to the best score at its
number of evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxdiff.report.axes import check_nfe, finite, nfe_axis, real_data_band, score_axis
from jaxdiff.report.style import COLOURS, FAINT, INK, SOFT, STUDENTS, WIDTH, Points, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#c3c7ca"
CAP = 1.15  # the highest score shown, in units of the highest of what stands out


def ranked(curves: Mapping[str, Points]) -> list[str]:
    """Return the names of curves, pairs (nfe, score), from the best to the worst. A curve with a
    score that is not finite and positive comes last.
    """
    least: dict[float, float] = {}
    for points in curves.values():
        for nfe, score in points:
            if math.isfinite(score):
                least[nfe] = min(score, least.get(nfe, math.inf))

    def height(name: str) -> float:
        scores = [(least.get(nfe, 0.0), score) for nfe, score in curves[name]]
        if any(not math.isfinite(s) or s <= 0 or best <= 0 for best, s in scores):
            return math.inf
        return float(np.mean([math.log(s / best) for best, s in scores]))

    return sorted(curves, key=height)


@styled
def best_against_nfe(
    curves: Mapping[str, Points],
    real_data: float | None = None,
    points: Mapping[str, tuple[float, float]] | None = None,
    *,
    best: int = 5,
    ylabel: str = "Fréchet distance to the data (lower is better)",
) -> Figure:
    """Draw scores against network evaluations: the best solvers in colour, named at their lines,
    all others grey; scores far above those are beyond the axis.

    Args:
        curves: by solver, pairs (nfe, score).
        real_data: score of real data against real data, the edge of a grey band.
        points: by student, one pair (nfe, score), a big marker with its name.
        best: how many solvers stand out.
        ylabel: name of the score.

    Returns:
        The figure.

    Raises:
        ValueError: if there is nothing to draw, or an nfe is below 1.
    """
    from matplotlib.figure import Figure

    points = points or {}
    check_nfe({**curves, **{name: [point] for name, point in points.items()}})
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    axes = figure.subplots()
    names = ranked(curves)
    for name in reversed(names[best:]):
        axes.plot(*_sorted(curves[name]).T, color=GREY, lw=1.0, marker="o", ms=3, zorder=2)
    shown = [(name, _sorted(curves[name])) for name in names[:best]]
    for n, (name, pairs) in enumerate(shown):
        axes.plot(*pairs.T, color=COLOURS[n % len(COLOURS)], marker="o", label=name, zorder=4)
    for n, (name, point) in enumerate(points.items()):
        look = {"marker": STUDENTS[n % len(STUDENTS)], "ms": 15, "mec": INK, "ls": "none"}
        axes.plot(*point, color=COLOURS[(3 + n) % len(COLOURS)], label=name, zorder=5, **look)
    every = [pair for curve in curves.values() for pair in curve] + [*points.values()]
    nfe_axis(axes, [nfe for nfe, _ in every])
    standing = [score for _, pairs in shown for score in pairs[:, 1]]
    standing += [score for _, score in points.values()]
    low = [] if real_data is None else [real_data]
    score_axis(axes, standing + low)
    axes.set_ylim(min(standing + low) / 1.2, CAP * max(standing))
    axes.set_ylabel(ylabel)
    axes.grid(axis="x", color=FAINT)
    if real_data is not None and math.isfinite(real_data):
        axes.axhline(real_data, color=SOFT, lw=1.1, zorder=1)
        real_data_band(axes, real_data)
    _names(axes, shown, points)
    return figure


def _sorted(points: Points) -> np.ndarray:
    pairs = finite(points)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def _names(
    axes: Axes,
    shown: list[tuple[str, np.ndarray]],
    points: Mapping[str, tuple[float, float]],
) -> None:
    """Put the names at the ends of the lines, apart from each other, and beside the markers."""
    low, high = axes.get_ylim()
    log = axes.get_yscale() == "log"
    to = (lambda y: math.log(y / low) / math.log(high / low)) if log else None
    place = to or (lambda y: (y - low) / (high - low))
    ends = sorted((place(pairs[-1, 1]), n) for n, (_, pairs) in enumerate(shown))
    floor = 0.0
    for height, n in ends:
        name, _ = shown[n]
        height = max(height, floor)
        floor = height + 0.045
        axes.annotate(
            name, (1.01, height), xycoords="axes fraction", va="center", size=9,
            color=COLOURS[n % len(COLOURS)], annotation_clip=False,
        )  # fmt: skip
    for name, (nfe, score) in points.items():
        axes.annotate(
            name, (nfe, score), xytext=(10, 6), textcoords="offset points", size=9, color=INK
        )
