"""Figures of several runs in one: a panel for each number, a curve for each run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxdiff.report.axes import finite, score_axis
from jaxdiff.report.curves import running_mean
from jaxdiff.report.style import COLOURS, DASHES, WIDTH, Points, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def curves_of_runs(panels: Mapping[str, Mapping[str, Points]], smooth: bool = True) -> Figure:
    """Return curves of runs, {number: {run: [(update, value), ...]}}, a panel each.

    Runs have one colour in all panels. Values that are not finite are left out.

    Args:
        panels: by the number's name, and by run.
        smooth: whether the mean over a fortieth of a curve is strong and the curve itself faint.

    Raises:
        ValueError: if there is no panel, or a panel has nothing to draw.
    """
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("curves_of_runs needs at least one number")
    names = list(dict.fromkeys(run for curves in panels.values() for run in curves))
    across = min(len(panels), 2)
    down = math.ceil(len(panels) / across)
    width = WIDTH if across > 1 else 0.65 * WIDTH
    figure = Figure(figsize=(width, 2.8 * down + 0.4), layout="constrained")
    places = figure.subplots(down, across, squeeze=False).ravel()
    handles = {}
    for axes, (number, curves) in zip(places, panels.items(), strict=False):
        every = []
        for run, points in curves.items():
            pairs = finite(points)
            if not len(pairs):
                continue
            n, (step, value) = names.index(run), pairs.T
            look = {"color": COLOURS[n % len(COLOURS)], "ls": DASHES[n // len(COLOURS) % 4]}
            if smooth:
                axes.plot(step, value, lw=0.7, alpha=0.3, color=look["color"])
                value = running_mean(value, 2 * (len(value) // 80) + 1)
            (handles[run],) = axes.plot(
                step, value, lw=1.8, marker="" if smooth and len(value) > 1 else "o", **look
            )
            every.append(pairs[:, 1])
        if not every:
            raise ValueError(f"{number} has no finite value")
        axes.set_title(number)
        axes.set_xlabel("updates")
        score_axis(axes, np.concatenate(every))
    for axes in places[len(panels) :]:
        axes.remove()
    figure.legend(handles.values(), handles, loc="outside lower left", ncols=3)
    return figure
