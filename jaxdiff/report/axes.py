"""Axes of scores against network evaluations, and the band of what real data score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.report.style import BAND, SOFT, Points
from jaxdiff.report.terminal import cell_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def real_data_band(axes: Axes, real_data: float) -> None:
    """Draw grey below the score of real data: differences there mean nothing."""
    from matplotlib.patheffects import withStroke

    low, high = axes.get_ylim()
    axes.axhspan(low, real_data, color=BAND, zorder=0, lw=0)
    axes.set_ylim(low, high)
    axes.annotate(
        f"real data against real data {cell_text(float(real_data))}",
        (0.27, real_data),  # between students (left) and converged solvers (right)
        xycoords=("axes fraction", "data"),
        xytext=(0, -4),
        textcoords="offset points",
        ha="left",
        va="top",
        size=8.5,
        color=SOFT,
        path_effects=[withStroke(linewidth=2.5, foreground=BAND)],
    )


def nfe_axis(axes: Axes, nfe: Iterable[float]) -> None:
    """Logarithmic, a tick at every number that occurs, labelled where there is room."""
    values, counts = np.unique(np.asarray([*nfe], np.float64), return_counts=True)
    axes.set_xscale("log")
    low, high = values[0] / 1.12, values[-1] * 1.12
    axes.set_xlim(low, high)
    apart = 0.032 * math.log(high / low)
    labelled: list[float] = []
    for value in values[np.argsort(-counts, kind="stable")]:  # the most frequent come first
        if all(abs(math.log(value / other)) >= apart for other in labelled):
            labelled.append(value)
    axes.set_xticks(values, [f"{value:g}" if value in labelled else "" for value in values])
    axes.minorticks_off()
    axes.set_xlabel("network evaluations (NFE)")


def score_axis(axes: Axes, values: ArrayLike) -> None:
    """Plain numbers as labels; logarithmic if that is possible and the values call for it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    plain = FuncFormatter(lambda value, _: f"{value:.10g}")
    if x.size and x.min() > 0 and x.max() > 3 * x.min():
        axes.set_yscale("log")
        subs = (1.0, 2.0, 5.0) if x.max() < 1e3 * x.min() else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(plain)


def check_nfe(curves: Mapping[str, Points]) -> None:
    """Raise ValueError for curves without a point, and for an nfe below 1."""
    if not any(len(points) for points in curves.values()):
        raise ValueError("there is no point to draw")
    for name, points in curves.items():
        for nfe, _ in points:
            if not (math.isfinite(nfe) and nfe >= 1):
                raise ValueError(f"{name}: the number of evaluations must be 1 or more, not {nfe}")


def finite(points: Points) -> np.ndarray:
    """Pairs (n, 2) with the non-finite second numbers left out."""
    pairs = np.asarray([*points], np.float64).reshape(-1, 2)
    return pairs[np.isfinite(pairs[:, 1])]
