"""How rows of the gym are read: lines for the terminal, a Markdown page, a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.gym.ruler import NFES
from experiments.gym.train import FLOORS, NEARER
from jaxdiff.report.style import BAND, COLOURS, INK, MARKERS, SOFT, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
Numbers = dict[int, float]  # by NFE
MODES, MOMENTS = 0.25, 0.02
KNOWN = {"modes": MODES, "mean": MOMENTS, "std": MOMENTS}  # what is known of exact samples: the aim

LEGEND = f"""\
Every method starts from one pretrained network and distils the problem's exact denoiser. Distances
are means over 4 sets of 4096 samples, each against as many exact ones.

- **floor**: sliced Wasserstein distance to exact samples, divided by the floor, which is that of
  exact samples to exact samples. 1 cannot be told from exact; the aim is at most {FLOORS:g} at the
  method's own best number of evaluations (NFE), in bold. A star: by the student of an earlier
  stage, as the last one does not sample in so many.
- **Euler**: how many times nearer the method is than Euler's method with the exact denoiser and the
  same NFE, on the best of five grids. The aim is at least {NEARER:g} at NFE 1.
- **MMD**: squared maximum mean discrepancy (Gaussian kernel, median bandwidth) at the best NFE,
  divided by its floor; below 1, or negative, is as good as exact.
- **flow**: root mean square distance of each sample at NFE 1 to where the exact probability flow
  takes its noise, and how many times less that is than Euler's; of the methods that promise to
  follow the flow and draw no noise.
- **modes**, of a mixture: the largest relative error of a mode's weight at the best NFE; its floor
  is given above the table. The aim is at most {MODES:g}.
- **mean, std**, of a Gaussian: the error of the mean, relative to the whole standard deviation, and
  the root mean square of the relative errors of the standard deviations along the principal axes,
  at the best NFE. The aim is at most {MOMENTS:g} for both. Rows of earlier versions lack them.
- **seconds**: of the method, with compilation and pairs, which are told apart beside it; the
  pretrained start, common to all, is not in it. **cost**: of an update, in multiplications relative
  to score matching with the same network; the exact teacher is nearly free here.
- **updates**: fewer for methods whose update is so dear that as many as the others make would take
  more than a minute on two cores.
"""


def lines(row: Row) -> list[str]:
    """A row for the terminal."""
    if row["error"]:
        return [f"{row['method']}: failed: {row['error']}"]
    parts = f"compiling {row['compile_seconds']:.0f}, pairs {row['pair_seconds']:.0f}"
    text = [
        f"{row['method']}: {row['seconds']:.0f} s ({parts}; start {row['start_seconds']:.0f}), "
        f"{row['parameters']} parameters, {row['updates']} updates of cost {row['cost']:.2f}"
    ]
    for nfe, found in row["nfe"].items():
        line = (
            f"  NFE {nfe}: sliced {found['sliced']:.4f}, {found['sliced/floor']:.2f} floors, "
            f"{found['euler/sliced']:.1f} x nearer than Euler; MMD^2 {found['mmd2']:.1e}"
        )
        line += "".join(f"; {name} {found[name]:.3f}" for name in KNOWN if name in found)
        if "to_flow" in found:
            line += f"; off the flow {found['to_flow']:.3f} ({found['euler/to_flow']:.1f} x nearer)"
        text.append(line)
    return [*text, f"  aims: {aims(row)}"]


def aims(row: Row) -> str:
    """In words, which aims a row reaches."""
    words = {True: "reached", False: "missed", None: "not applicable"}
    text = ", ".join(f"{name} {words[value]}" for name, value in reached(row).items())
    return f"{text} (best NFE {row['best']})"


def by_problem(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by problem, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["problem"], []).append(row)
    return found


def markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """One table per problem with what its columns mean."""
    whole = [r for r in rows if not r["error"]]
    reached = sum(not missed(r) for r in whole)
    slow = sum(r["seconds"] > 60 for r in whole)
    machines = sorted({r["machine"] for r in rows})
    text = [
        "# Every method of distillation against exact answers",
        "",
        f"Made by `{about['command']}`.",
        f"jax {about['jax']}, {about['device']}; rows made on: {'; '.join(machines)}.",
        "",
        LEGEND,
        f"{len(rows)} rows, of which {len(whole)} finished, {reached} reach all aims and "
        f"{len(whole) - slow} took at most a minute.",
    ]
    if len({r["code"] for r in rows}) > 1:
        text.append("Rows were made by several versions of the code.")
    for name, own in by_problem(rows).items():
        text += ["", f"## {name}", "", *_table(own)]
    return "\n".join(text) + "\n"


def _table(rows: list[Row]) -> list[str]:
    whole = [r for r in rows if not r["error"]]
    head = ["method", *[f"floor, NFE {n}" for n in NFES], *[f"Euler, NFE {n}" for n in NFES]]
    known = "mean, std" if any("mean" in r["floor"] for r in whole) else "modes"
    head += ["MMD", "flow", known, "updates", "seconds", "cost", "aims"]
    text = []
    if whole:
        one = max(whole, key=lambda row: len(row["floor"]))  # rows of earlier versions know less
        floor, euler = one["floor"], one["euler"]
        numbers = ", ".join(f"{euler[n]['sliced']:.3f} at NFE {n}" for n in euler)
        text += [
            f"{one['dimension']} dimensions, seed {one['seed']}, updates of 128 samples. "
            f"Floor: sliced Wasserstein {floor['sliced']:.4f} (standard deviation of a "
            f"set {one['floor_spread']:.4f}), squared MMD {floor['mmd2']:.1e}"
            + "".join(f", {name} {floor[name]:.3f}" for name in KNOWN if name in floor)
            + f". Euler's method: {numbers}.",
            "",
        ]
    text += ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 2) + "|---|"]
    text += ["| " + " | ".join(_cells(row, len(head))) + " |" for row in rows]
    short = [row for row in whole if missed(row)]
    reasons = [f"- `{row['method']}`: {row['weakness'] or 'reason not known'}." for row in short]
    return text + (["", "What misses an aim, and why:", "", *reasons] if reasons else [])


def reached(row: Row) -> dict[str, bool | None]:
    """Whether each aim is reached, or None where it says nothing."""
    best = row["nfe"][row["best"]]
    aims = {"Euler": row["nearer_than_euler"], "floor": row["near_floor"]}
    for name, most in KNOWN.items():
        if name in best:
            aims[name] = best[name] <= most
    return aims


def missed(row: Row) -> list[str]:
    """The aims that a row misses."""
    return [name for name, value in reached(row).items() if value is False]


def _cells(row: Row, count: int) -> list[str]:
    if row["error"]:
        reason = " ".join(row["error"].split()).replace("|", "\\|")
        return [f"`{row['method']}`", *["-"] * (count - 2), f"failed: {reason}"]
    found, best = row["nfe"], row["nfe"][row["best"]]
    cells = [f"`{row['method']}`"]
    for name in ("sliced/floor", "euler/sliced"):
        for nfe in NFES:
            value = _number(found[nfe][name]) if nfe in found else "-"
            own_best = name == "sliced/floor" and nfe == row["best"]
            value = f"**{value}**" if own_best else value
            cells.append(f"{value} *" if nfe in row["earlier"] and nfe in found else value)
    cells.append(_number(best["mmd2/floor"]))
    at_one = found.get(1, {})
    follows = "to_flow" in at_one
    cells.append(f"{at_one['to_flow']:.3f} ({at_one['euler/to_flow']:.1f} x)" if follows else "-")
    cells.append(", ".join(f"{best[name]:.3f}" for name in KNOWN if name in best) or "-")
    parts = f"{row['compile_seconds']:.0f} compiling, {row['pair_seconds']:.0f} pairs"
    cells += [f"{row['updates']}", f"{row['seconds']:.0f} ({parts})", f"{row['cost']:.2f}"]
    short = missed(row)
    return [*cells, f"misses {' and '.join(short)}" if short else "all"]


def _number(x: float) -> str:
    return f"{x:.2f}" if abs(x) < 10 else f"{x:.0f}"


def figure(rows: Sequence[Row]) -> Figure:
    """Distance in floors at each NFE: a panel per problem, a line per method, Euler's on top.

    Raises ValueError if no row has numbers.
    """
    panels: dict[str, dict[str, Numbers]] = {}
    for row in (r for r in rows if not r["error"]):
        floor, name = row["floor"]["sliced"], "sliced/floor"
        euler = {n: found["sliced"] / floor for n, found in row["euler"].items()}
        panel = panels.setdefault(row["problem"], {"Euler's method": euler})
        panel[row["method"]] = {n: found[name] for n, found in row["nfe"].items()}
    label = "sliced Wasserstein distance to exact samples, in floors; dashed: the aim"
    return dots(panels, label, floor=1.0, aim=FLOORS, first=1)


@styled
def dots(
    panels: dict[str, dict[str, Numbers]],
    label: str,
    floor: float,
    aim: float | None = None,
    first: int = 0,
) -> Figure:
    """Numbers by NFE on a logarithmic axis: a panel per problem, a line per name, a dot per NFE.

    Names are in the order of their best number (its geometric mean over the panels), but for the
    ``first`` ones. ``floor`` is the edge of a grey band, ``aim`` a dashed line. Raises ValueError
    without panels.
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
        axes.axvspan(1e-6, floor, color=BAND, zorder=0, lw=0)
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
        axes.set_xlim(min(0.6 * floor, *values) / 1.1, max(values) * 1.2)
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
