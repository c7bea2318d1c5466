"""Figures of curves, each a ``matplotlib.figure.Figure`` that belongs to no global state.

Curves differ in colour, in marker and, from the tenth on, in dashes.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.report.axes import check_nfe, finite, nfe_axis, real_data_band, score_axis
from jaxdiff.report.style import (
    COLOURS,
    DASHES,
    INK,
    LETTERS,
    MARKERS,
    SOFT,
    STUDENTS,
    WIDTH,
    Points,
    styled,
)
from jaxdiff.report.terminal import cell_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def quality_against_nfe(
    curves: Mapping[str, Points],
    real_data: float | None = None,
    points: Mapping[str, tuple[float, float]] | None = None,
    ylabel: str = "Fréchet distance to the data (lower is better)",
) -> Figure:
    """Score against number of network evaluations: one curve per solver, students as big markers.

    Both axes are logarithmic; the vertical one is linear if a score is not positive or all lie
    within a factor of three. The legend is in the order of the curves' last scores. A score that
    is not finite (a solver that diverged) is left out of its curve and named in the legend.

    Args:
        curves: by solver, pairs (nfe, score) in any order.
        real_data: score of real data against real data, drawn as the edge of a grey band.
        points: by student, one pair (nfe, score).
        ylabel: name of the score.

    Raises:
        ValueError: if there is nothing to draw, or an nfe is below 1.
    """
    points = points or {}
    check_nfe({**curves, **{name: [point] for name, point in points.items()}})
    figure, axes = _wide_axes(4.8)
    if real_data is not None and math.isfinite(real_data):
        axes.axhline(real_data, color=SOFT, lw=1.1, zorder=1)
    students = [
        axes.plot(*finite([point]).T, ls="none", label=_label(name, [point]), **_student(n))[0]
        for n, (name, point) in enumerate(points.items())
    ]
    solvers = _draw_curves(axes, curves)
    every = [p for c in curves.values() for p in c] + [*points.values()]
    nfe_axis(axes, [nfe for nfe, _ in every])
    score_axis(axes, [score for _, score in every] + ([] if real_data is None else [real_data]))
    axes.set_ylabel(ylabel)
    if real_data is not None and math.isfinite(real_data):
        real_data_band(axes, real_data)
    _legend(axes, students, solvers)
    return figure


@styled
def seconds_per_image(
    seconds: Mapping[str, float] | Mapping[str, Points], xlabel: str | None = None
) -> Figure:
    """Wall-clock seconds per image: bars from {name: seconds}, or curves {name: [(nfe, seconds)]}.

    Raises ValueError if there is nothing to draw or a time is negative or not finite.
    """
    if not seconds:
        raise ValueError("seconds_per_image needs at least one time")
    single: dict[str, float] = {}
    curves: dict[str, Points] = {}
    for name, value in seconds.items():
        if isinstance(value, Sequence | np.ndarray):
            curves[name] = [(float(nfe), float(s)) for nfe, s in value]
        else:
            single[name] = float(value)
    if single and curves:
        raise ValueError("seconds_per_image takes numbers or curves, not both at once")
    times = [*single.values(), *(s for curve in curves.values() for _, s in curve)]
    if not all(math.isfinite(s) and s >= 0 for s in times):
        raise ValueError(f"times must be finite and not negative: {times}")
    factor, unit = _time_unit(max(times, default=1.0))
    label = xlabel or f"{unit} per image"
    if curves:
        return _time_curves({n: [(k, s * factor) for k, s in c] for n, c in curves.items()}, label)
    return _time_bars({name: s * factor for name, s in single.items()}, label)


@styled
def training_curves(curves: Mapping[str, Points]) -> Figure:
    """Losses {name: [(step, loss), ...]}, one panel each: faint as they are, strong as a mean.

    The mean is over a fortieth of the curve. The vertical axis is logarithmic where all losses are
    positive and span more than a factor of three. Losses that are not finite are left out of the
    curve and counted in the panel's title.

    Raises ValueError if there is no curve or one has no finite loss.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("training_curves needs at least one curve")
    across = min(len(curves), 3)
    down = math.ceil(len(curves) / across)
    width = WIDTH if across > 1 else 0.65 * WIDTH
    figure = Figure(figsize=(width, 2.6 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (name, points), colour in zip(
        panels, curves.items(), itertools.cycle(COLOURS), strict=False
    ):
        _training_panel(axes, name, points, colour)
    for axes in panels[len(curves) :]:
        axes.remove()
    return figure


def _training_panel(axes: Axes, name: str, points: Points, colour: str) -> None:
    pairs = finite(points)
    if not len(pairs):
        raise ValueError(f"the training curve {name!r} has no finite loss")
    step, loss = pairs.T
    bad = len(points) - len(pairs)
    window = 2 * (len(loss) // 80) + 1  # odd, so that it is centred
    axes.plot(step, loss, color=colour, lw=0.8, alpha=0.3)
    axes.plot(step, running_mean(loss, window), color=colour, lw=1.8)
    axes.set_title(f"{name} ({bad} not finite)" if bad else name)
    axes.set_xlabel("training step")
    axes.set_ylabel("loss" if window == 1 else f"loss, and mean of {window}")
    axes.margins(x=0.02)
    score_axis(axes, loss)


def running_mean(x: np.ndarray, window: int) -> np.ndarray:
    """Centred mean of ``window`` neighbours; of fewer at the ends."""
    ones = np.ones(window)
    return np.convolve(x, ones, "same") / np.convolve(np.ones(len(x)), ones, "same")


def _time_curves(curves: Mapping[str, Points], label: str) -> Figure:
    check_nfe(curves)
    figure, axes = _wide_axes(3.8)
    lines = _draw_curves(axes, curves)
    nfe_axis(axes, [nfe for curve in curves.values() for nfe, _ in curve])
    score_axis(axes, [s for curve in curves.values() for _, s in curve])
    axes.set_ylabel(label)
    _legend(axes, [], lines)
    return figure


def _time_bars(seconds: Mapping[str, float], label: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.8 * WIDTH, 0.75 + 0.3 * len(seconds)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([*range(len(seconds))], [*seconds.values()], height=0.62, color=COLOURS[0])
    axes.bar_label(
        bars, [cell_text(s) for s in seconds.values()], padding=4, color=INK, fontsize=8.5
    )
    axes.set_yticks([*range(len(seconds))], [textwrap.fill(name, LETTERS) for name in seconds])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    return figure


def _time_unit(longest: float) -> tuple[float, str]:
    """Factor from seconds to the unit in which the longest time reads well, and its name."""
    units = ((1.0, 1.0, "seconds"), (1e-3, 1e3, "milliseconds"), (0.0, 1e6, "microseconds"))
    return next((factor, name) for least, factor, name in units if longest >= least)


def _wide_axes(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _draw_curves(axes: Axes, curves: Mapping[str, Points]) -> list[Any]:
    """Return one line per curve, ordered by the last scores, the highest first."""
    drawn = []
    for n, (name, points) in enumerate(curves.items()):
        pairs = finite(points)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        (line,) = axes.plot(*pairs.T, label=_label(name, points), **_curve(n), zorder=3)
        drawn.append((pairs[-1, 1] if len(pairs) else math.inf, line))
    return [line for _, line in sorted(drawn, key=lambda pair: -pair[0])]


def _curve(n: int) -> dict[str, Any]:
    """Look of the n-th curve. Marker and dashes alone distinguish the first 36."""
    return {
        "color": COLOURS[n % len(COLOURS)],
        "marker": MARKERS[n % len(MARKERS)],
        "ls": DASHES[n // len(MARKERS) % len(DASHES)],
        "mec": "white",
        "mew": 0.6,
        "ms": 6.5,
    }


def _student(n: int) -> dict[str, Any]:
    """Look of the n-th student's point: big, with an edge."""
    colour, marker = COLOURS[(3 + n) % len(COLOURS)], STUDENTS[n % len(STUDENTS)]
    size = 17 if marker == "*" else 12
    return {"color": colour, "marker": marker, "ms": size, "mec": INK, "mew": 0.9, "zorder": 5}


def _label(name: str, points: Points) -> str:
    """Return the name, and at which numbers of evaluations there is no finite score."""
    lost = [f"{nfe:g}" for nfe, score in points if not math.isfinite(score)]
    whole = textwrap.fill(name, LETTERS)
    return f"{whole}\n(not finite at {', '.join(lost)})" if lost else whole


def _legend(axes: Axes, students: Sequence[Any], solvers: Sequence[Any]) -> None:
    """Outside of the axes on the right: students, a gap, solvers."""
    if students and solvers:
        (gap,) = axes.plot([], [], ls="none", label=" ")
        students = [*students, gap]
    style = {"borderaxespad": 0.0, "handlelength": 2.2, "labelspacing": 0.55}
    axes.legend(
        handles=[*students, *solvers], loc="upper left", bbox_to_anchor=(1.02, 1.0), **style
    )
