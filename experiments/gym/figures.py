"""Figures of methods by their number of evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.gym.reference_metrics import NFES
from experiments.gym.train import MOST
from jaxdiff.report.style import BAND, COLOURS, INK, MARKERS, SOFT, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
Numbers = dict[int, float]  # by NFE


def figure(rows: Sequence[Row]) -> Figure:
    """Distance over the real-data score at each NFE: a panel per problem, a line per method,
    Euler's on top; of several seeds the mean.

    Raises ValueError if no row has numbers.
    """
    panels: dict[str, dict[str, Numbers]] = {}
    for row in (r for r in rows if not r["error"]):
        real_data, name = row["real_data"]["sliced"], "sliced/real_data"
        euler = {n: found["sliced"] / real_data for n, found in row["euler"].items()}
        panel = panels.setdefault(row["problem"], {"Euler's method": euler})
        several = [r for r in rows if not r["error"] and r["method"] == row["method"]
                   and r["problem"] == row["problem"]]  # fmt: skip
        panel[row["method"]] = {
            n: sum(r["nfe"][n][name] for r in several) / len(several)
            for n in row["nfe"] if all(n in r["nfe"] for r in several)
        }  # fmt: skip
    label = "sliced Wasserstein distance to exact samples over the real-data score; dashed: the aim"
    return dots(panels, label, real_data=1.0, aim=MOST, first=1)


@styled
def dots(
    panels: dict[str, dict[str, Numbers]],
    label: str,
    real_data: float,
    aim: float | None = None,
    first: int = 0,
) -> Figure:
    """Numbers by NFE on a logarithmic axis: a panel per problem, a line per name, a dot per NFE.

    Names are in the order of their best number (its geometric mean over the panels), but for the
    ``first`` ones. ``real_data`` is the edge of a grey band, ``aim`` a dashed line. Raises
    ValueError without panels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not panels:
        raise ValueError("there is no finished row to draw")
    place = _order(panels, first)
    made = Figure(figsize=(WIDTH, 1.5 + 0.23 * len(place)), layout="constrained")
    every = made.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, panel) in zip(every, panels.items(), strict=True):
        values = [v for numbers in panel.values() for v in numbers.values()]
        axes.axvspan(1e-6, real_data, color=BAND, zorder=0, lw=0)
        if aim is not None:
            axes.axvline(aim, color=SOFT, lw=1, ls=(0, (4, 3)), zorder=1)
        for name, numbers in panel.items():
            ends = [min(numbers.values()), max(numbers.values())]
            axes.plot(ends, [place[name]] * 2, color=SOFT, lw=0.8, zorder=2)
        for i, nfe in enumerate(NFES):
            there = [(numbers[nfe], place[n]) for n, numbers in panel.items() if nfe in numbers]
            look = {"color": COLOURS[i], "marker": MARKERS[i], "ms": 7.5 - i, "mec": "white"}
            x, y = [x for x, _ in there], [y for _, y in there]
            axes.plot(x, y, ls="none", label=f"NFE {nfe}", zorder=3 + i, mew=0.5, **look)
        axes.set_xscale("log")
        axes.set_xlim(min(0.6 * real_data, *values) / 1.1, max(values) * 1.2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title)
    every[0].set_yticks([*place.values()], [*place], color=INK)
    every[0].set_ylim(len(place) - 0.4, -0.6)
    made.supxlabel(label, fontsize=9)
    made.legend(*every[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(NFES))
    return made


def _order(panels: dict[str, dict[str, Numbers]], first: int) -> dict[str, int]:
    scores: dict[str, list[float]] = {}
    for panel in panels.values():
        for name, numbers in panel.items():
            scores.setdefault(name, []).append(math.log(min(numbers.values())))
    names = list(scores)
    rest = sorted(names[first:], key=lambda name: sum(scores[name]) / len(scores[name]))
    return {name: i for i, name in enumerate([*names[:first], *rest])}
