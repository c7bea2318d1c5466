"""Figures of sampling trajectories, each a ``matplotlib.figure.Figure`` of no global state.

Noise levels run from left to right as sampling does, from high to low, on a logarithmic axis; a
level of 0 stands one step beyond the lowest of the others. A model has one colour and one marker
on the whole page.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.report.style import COLOURS, DASHES, LETTERS, MARKERS, SOFT, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEEN = 1e-6  # of the largest value: what lies below on a logarithmic axis is rounding


class Curve(NamedTuple):
    """Values (n,) over places (n,), with a band of one standard deviation (n,) if there is one."""

    x: ArrayLike
    y: ArrayLike
    spread: ArrayLike | None = None


class Panel(NamedTuple):
    """Curves by name on one pair of axes. log: which axes are logarithmic, of "x" and "y";
    ``levels``: the horizontal axis is of noise levels.
    """

    title: str
    curves: Mapping[str, Curve]
    xlabel: str = "noise level"
    ylabel: str = ""
    log: str = "x"
    levels: bool = True


@styled
def panels(
    drawn: Sequence[Panel], columns: int = 2, order: Sequence[str] = (), height: float = 2.7
) -> Figure:
    """Return panels of curves, ``columns`` in a row, with one legend above.

    Args:
        drawn: the panels. Points that are not finite are left out.
        columns: in a row.
        order: names in the order in which colours are given; by default that of their appearance.
        height: of a row, in inches.

    Raises:
        ValueError: without a panel, for a panel without a finite point, or a curve whose parts are
            not of one length.
    """
    from matplotlib.figure import Figure

    if not drawn or columns < 1:
        raise ValueError("panels needs at least one panel and one column")
    names = list(dict.fromkeys([*order, *(name for panel in drawn for name in panel.curves)]))
    columns = min(columns, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(WIDTH, height * rows + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    lines: dict[str, Any] = {}
    for one, panel in zip(axes, drawn, strict=False):
        lines = _draw(one, panel, names) | lines
    for spare in axes[len(drawn) :]:
        spare.remove()
    shown = [name for name in names if name in lines]
    figure.legend(
        [lines[name] for name in shown], [textwrap.fill(name, LETTERS) for name in shown],
        loc="outside upper left", ncols=min(4, len(shown)),
    )  # fmt: skip
    return figure


def _draw(axes: Axes, panel: Panel, names: Sequence[str]) -> dict[str, Any]:
    """Draw one panel; return its lines by name."""
    lines = {}
    for name, curve in panel.curves.items():
        x, y, spread = _finite(panel, name, curve)
        if not len(x):
            continue
        look = _look(names.index(name))
        (lines[name],) = axes.plot(x, y, **look)
        if spread is not None:
            low = np.maximum(y - spread, y.min() * 0.1) if "y" in panel.log else y - spread
            axes.fill_between(x, low, y + spread, color=look["color"], alpha=0.13, lw=0)
    if not lines:
        raise ValueError(f"{panel.title}: there is no finite point to draw")
    if "x" in panel.log:
        axes.set_xscale("log")
    if "y" in panel.log:
        axes.set_yscale("log")
        top = max(line.get_ydata().max() for line in lines.values())
        axes.set_ylim(bottom=max(axes.get_ylim()[0], SEEN * top))
    if panel.levels:
        axes.invert_xaxis()
    axes.set_title(panel.title)
    axes.set_xlabel(panel.xlabel)
    axes.set_ylabel(panel.ylabel)
    return lines


def _look(n: int) -> dict[str, Any]:
    """Return the look of the n-th name: small markers, as curves have many points."""
    return {
        "color": COLOURS[n % len(COLOURS)],
        "marker": MARKERS[n % len(MARKERS)],
        "ls": DASHES[n // len(COLOURS) % len(DASHES)],
        "ms": 3.2,
        "lw": 1.4,
    }


def _finite(
    panel: Panel, name: str, curve: Curve
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return a curve's finite points in the order of their places; a level of 0 moved to where it
    can be seen.
    """
    x, y = np.asarray(curve.x, np.float64), np.asarray(curve.y, np.float64)
    spread = None if curve.spread is None else np.asarray(curve.spread, np.float64)
    if x.ndim != 1 or x.shape != y.shape or (spread is not None and spread.shape != x.shape):
        raise ValueError(f"{panel.title}, {name}: {x.shape} places and {y.shape} values")
    if "x" in panel.log and panel.levels and (x == 0).any() and (x > 0).sum() > 1:
        low, next_low = np.sort(x[x > 0])[:2]
        x = np.where(x == 0, low * low / next_low, x)
    good = np.isfinite(x) & np.isfinite(y)
    good &= (y > 0) if "y" in panel.log else True
    good &= (x > 0) if "x" in panel.log else True
    return x[good], y[good], None if spread is None else spread[good]


@styled
def boomerang(paths: Mapping[str, ArrayLike], elevation: float = 22.0) -> Figure:
    """Return trajectories in three dimensions, a panel for every model, all on the same axes.

    Args:
        paths: by model, coordinates (T, n, 3): along the chord, and along the two principal
            directions of what is left.
        elevation: of the view, in degrees.

    Raises:
        ValueError: without paths, or for another shape, or coordinates that are not finite.
    """
    from matplotlib.figure import Figure

    points = {name: np.asarray(path, np.float64) for name, path in paths.items()}
    if not points:
        raise ValueError("boomerang needs the paths of at least one model")
    for name, path in points.items():
        if path.ndim != 3 or path.shape[2] != 3 or not np.isfinite(path).all():
            raise ValueError(f"{name}: paths must be finite and (T, n, 3), got {path.shape}")
    columns = min(len(points), 2)
    rows = math.ceil(len(points) / columns)
    figure = Figure(figsize=(WIDTH, 3.9 * rows))
    whole = np.concatenate([path.reshape(-1, 3) for path in points.values()])
    low, high = whole.min(axis=0), whole.max(axis=0)
    room = 0.05 * np.where(high > low, high - low, 1.0)
    for n, (name, path) in enumerate(points.items()):
        axes: Any = figure.add_subplot(rows, columns, n + 1, projection="3d")
        for k in range(path.shape[1]):
            axes.plot(*path[:, k].T, color=COLOURS[n % len(COLOURS)], lw=0.8, alpha=0.6)
        axes.scatter(*path[0].T, color=SOFT, s=4)
        for axis, a, b in zip("xyz", low - room, high + room, strict=True):
            getattr(axes, f"set_{axis}lim")(a, b)
        axes.set_title(textwrap.fill(name, LETTERS), loc="center")
        axes.set_xlabel("chord")
        axes.set_ylabel("component 1")
        axes.set_zlabel("component 2")
        axes.tick_params(labelsize=7, pad=1)
        axes.locator_params(nbins=4)
        axes.view_init(elevation, -60)
        axes.set_box_aspect(None, zoom=0.9)
    figure.subplots_adjust(left=0.02, right=0.93, bottom=0.05, top=0.95, wspace=0.1, hspace=0.1)
    return figure
