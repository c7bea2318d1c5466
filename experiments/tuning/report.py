"""Report of the rows of tuned samplers: lines, a Markdown page, a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxdiff.report.style import COLOURS, DASHES, INK, MARKERS, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
BASELINE = "baseline"
BRIGHT = tuple(colour for colour in COLOURS if colour != "#1d1f21")  # black is the baseline's
WITHIN = 5  # evaluations that the aim is for

LEGEND = """\
Errors on noise that was neither tuned nor chosen on: on the exact problems root mean square per
coordinate, to where the exact flow takes the same noise (standard deviation of the data: 0.5); on
the digits the Frechet distance to digits that were set aside. In brackets: seconds of tuning,
compilation and the baselines' ranking included. Bold: the least of a column. "-": the
method cannot have that many evaluations. EPD makes two evaluations of every step at once: so many
calls one after another stand behind its error. Not every method makes this error small, by which
the baseline is chosen: `bns` descends by the mean logarithm of the squared distance, its paper's
PSNR (`--choices log false` takes the distance itself), `gits` searches by the sum of errors of
single steps, `ays` and `elbo` by bounds of the likelihood; those may stand above the baseline.
"""


def line(row: Row) -> str:
    """Return a row for the terminal."""
    if row["error"]:
        return f"  {row['error']}"
    value = row["error_of"] if row["error_of"] is not None else row["mmd2"]
    what = "error" if row["error_of"] is not None else "squared MMD"
    return f"  {what} {value:.4g} in {row['seconds']:.0f} s: {row['name']}"


def by_problem(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by problem, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["problem"], []).append(row)
    return found


def errors(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """Errors by method and number of evaluations, of finished rows."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if not row["error"] and row["error_of"] is not None:
            found.setdefault(row["method"], {})[row["evaluations"]] = row["error_of"]
    return found


def markdown(rows: Sequence[Row], metadata: dict[str, Any]) -> str:
    """Return one table per problem with what its numbers mean."""
    machines = sorted({row["machine"] for row in rows})
    text = [
        "# Tuned samplers against baselines", "", f"Made by `{metadata['command']}`.",
        f"jax {metadata['jax']}, {metadata['device']}; rows made on: {'; '.join(machines)}.", "",
        *_versions(rows), "", LEGEND,
    ]  # fmt: skip
    for name, own in by_problem(rows).items():
        text += [f"## {name}", "", *_table(own), ""]
        text += (
            [] if name == "digits" else [*_aim(own), ""]
        )  # a Frechet distance of real data is not 0
    return "\n".join(text)


def _versions(rows: Sequence[Row]) -> list[str]:
    """Return which rows were made by which code, and when: methods change, and rows stay."""
    codes: dict[str, list[Row]] = {}
    done = [row for row in rows if not row["error"]]
    for row in sorted(done, key=lambda row: row["made"]):
        codes.setdefault(row["code"], []).append(row)
    most, text = max(codes, key=lambda code: len(codes[code]), default=None), []
    for code, own in codes.items():
        days = dict.fromkeys(row["made"][:10] for row in (own[0], own[-1]))
        others = "all other rows" if len(codes) > 1 else "all rows"
        which = others if code == most else ", ".join(_places(own, done))
        text.append(f"- Made by code {code}, {' to '.join(days)}: {which}.")
    return text


def _places(own: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Some of the rows in words: methods, and their problems and evaluations if not all are."""
    found = []
    for method in dict.fromkeys(row["method"] for row in own):
        mine, every = ([r for r in some if r["method"] == method] for some in (own, rows))
        text = f"`{method}`"
        if len(mine) < len(every):
            places = by_problem(mine)
            counts = {name: sorted(r["evaluations"] for r in r_) for name, r_ in places.items()}
            text += " on " + " and ".join(
                f"{name} at {' '.join(map(str, numbers))}" for name, numbers in counts.items()
            )
        found.append(text)
    return found


def _table(rows: list[Row]) -> list[str]:
    counts = sorted({row["evaluations"] for row in rows})
    cells = {(row["method"], row["evaluations"]): row for row in rows}
    known = errors(rows)
    least = {n: min((e[n] for e in known.values() if n in e), default=math.nan) for n in counts}
    text = ["| method | " + " | ".join(map(str, counts)) + " |", "|---" * (len(counts) + 1) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        shown = [_cell(cells.get((method, n)), least[n]) for n in counts]
        text.append(f"| `{method}` | " + " | ".join(shown) + " |")
    names = [cells[BASELINE, n]["name"] for n in counts if (BASELINE, n) in cells]
    best = "; ".join(f"{n}: {name}" for n, name in zip(counts, names, strict=False))
    return [*text, "", f"The best baselines, by evaluations: {best}."]


def _cell(row: Row | None, least: float) -> str:
    if row is None or row["error"]:
        return "-"
    if row["error_of"] is None:
        return f"MMD² {row['mmd2']:.1e} ({row['seconds']:.0f} s)"
    value = f"{row['error_of']:.2g}" if row["error_of"] < 1 else f"{row['error_of']:.2f}"
    value = f"**{value}**" if row["error_of"] == least else value
    calls = "" if row["calls"] == row["evaluations"] else f", {row['calls']} calls"
    return f"{value} ({row['seconds']:.0f} s{calls})"


def _aim(rows: list[Row]) -> list[str]:
    known = {(r["method"], r["evaluations"]): r for r in rows if not r["error"]}
    shown = []
    for n in sorted({n for _, n in known}):
        others = [r for (m, k), r in known.items() if k == n and m != BASELINE]
        others = [r for r in others if r["error_of"] is not None]
        if (BASELINE, n) in known and others:
            best = min(others, key=lambda r: r["held_out"])
            gain = known[BASELINE, n]["error_of"] / best["error_of"]
            shown.append(f"{n}: {gain:.1f} ({best['method']})")
    if not shown:
        return []
    return [
        "How many times less the error is of the sampler that does best on held-out noise, by "
        f"evaluations: {', '.join(shown)}. The aim is at least 3 at up to {WITHIN} evaluations."
    ]


@styled
def figure(rows: Sequence[Row]) -> Figure:
    """Error against evaluations: a panel per problem, a line per method; axes are logarithmic, but
    for errors within a factor of ten.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panels = {name: errors(own) for name, own in by_problem(rows).items()}
    methods = list(dict.fromkeys(m for panel in panels.values() for m in panel))
    made = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    every = made.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, panel) in zip(every, panels.items(), strict=True):
        for k, method in enumerate(methods):
            points = sorted(panel.get(method, {}).items())
            look = {"color": INK, "lw": 2.2} if method == BASELINE else {
                "color": BRIGHT[k % len(BRIGHT)], "ls": DASHES[k % len(DASHES)]}  # fmt: skip
            axes.plot(*zip(*points, strict=True) if points else ([], []), label=method,
                      marker=MARKERS[k % len(MARKERS)], ms=4, **look)  # fmt: skip
        counts = sorted({n for errors_ in panel.values() for n in errors_})
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.xaxis.set_minor_formatter(NullFormatter())
        found = [e for errors_ in panel.values() for e in errors_.values()]
        if found and max(found) > 10 * min(found):
            axes.set_yscale("log")
            subs = (1.0, 2.0, 5.0) if max(found) < 200 * min(found) else (1.0,)
            axes.yaxis.set_major_locator(LogLocator(subs=subs))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.set_title(title)
        axes.set_xlabel("network evaluations")
        if title == "digits" or axes is every[0]:
            axes.set_ylabel("Fréchet distance" if title == "digits" else "error on fresh noise")
    made.legend(*every[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    return made
