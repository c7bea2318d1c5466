"""How rows of scenes are read: a line for the terminal, a Markdown page, a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.scenes import points, render
from jaxdiff.report.style import COLOURS, INK, SOFT, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
DRAWN = ("particles", "scene", "images")  # kept for the figure, not told in the table
TRACED = "blobs fitted to digits"
ENOUGH = 60  # pictures that a Frechet distance is given of
FINE = 96  # pixels that a scene is drawn with for the eye

LEGEND = """\
Points. **distance**: sliced Wasserstein distance to exact samples in floors, a floor being that of
as many exact samples; below 1, particles are spread more evenly than independent samples.
**shares**: least and largest fraction of the particles nearest to a mode, relative to the mode's
own; **spread**: least and largest standard deviation about a mode, likewise. **ends**: groups of
particles that are more than 0.1 apart.

Digits. **class**: how often a classifier, trained on real digits, sees the class asked for.
**Frechet**: distance to digits that were set aside, by its features; as many other real digits have
the floor. **diversity**: root mean square distance between two pictures of one class, relative to
real digits, and to the teacher's own samples with the same guidance. **contrast**: standard
deviation of all pixels, relative to real digits.
"""


def named(method: str, weight: float = 1.0, alone: bool = False, annealed: bool = False) -> str:
    """What a choice is called."""
    name = method if method == "teacher" else method.upper()
    name += f", guidance {weight:g}" if weight != 1 else ""
    name += ", one scene of a class" if alone else ""
    return name + (", levels annealed" if annealed else "")


def line(row: Row) -> str:
    """A row for the terminal."""
    if row["error"]:
        return f"  failed: {row['error']}"
    told = _points(row) if row["problem"] == "points" else _digits(row, None)
    return "  " + ", ".join(f"{name} {value}" for name, value in told.items() if value)


def _points(row: Row) -> dict[str, str]:
    span = lambda values: f"{min(values):.2f} to {max(values):.2f}"  # noqa: E731
    return {
        "distance": f"{row['sliced'] / row['floor']:.2f}",
        "shares": span(row["shares"]),
        "spread": span(row["spread"]),
        "ends": f"{row['ends']}" if row["method"].startswith("SDS") else "",
        "seconds": f"{row['seconds']:.0f}",
    }


def _digits(row: Row, own: float | None) -> dict[str, str]:
    several = row["diversity"] > 0
    told = row["count"] >= ENOUGH
    return {
        "class": f"{row['class']:.2f}",
        "Frechet": f"{row['frechet']:.2f}" if told else "",
        "floor": f"{row['floor']:.2f}" if told else "",
        "diversity": f"{row['diversity']:.2f}" if several else "",
        "of the teacher's": f"{row['diversity'] / own:.2f}" if several and own else "",
        "contrast": f"{row['contrast']:.2f}",
        "seconds": f"{row['seconds']:.0f}",
    }


def markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """Both tables with what their columns mean."""
    machines = sorted({row["machine"] for row in rows})
    text = [
        "# Scenes drawn by score distillation",
        "",
        f"Made by `{about['command']}`.",
        f"jax {about['jax']}, {about['device']}; rows made on: {'; '.join(machines)}.",
        "",
        LEGEND,
    ]
    whole = [row for row in rows if not row["error"]]
    if at := [row for row in whole if row["problem"] == "points"]:
        one = at[0]
        text += [
            "## Points", "",
            f"{one['count']} particles, {one['steps']} updates, seed {one['seed']}.", "",
            *_table([(r["method"], _points(r)) for r in at]), "",
        ]  # fmt: skip
    if at := [row for row in whole if row["problem"] == "digits"]:
        one = at[0]
        own = {r["weight"]: r["diversity"] for r in at if r["method"].startswith("teacher")}
        cells = [(r["method"], _digits(r, own.get(r.get("weight", 1.0)))) for r in at]
        text += [
            "## Digits", "",
            f"{one['scenes']} scenes of a class, {one['blobs']} blobs each, {one['steps']} "
            f"updates, adapters of rank {one['rank']}, seed {one['seed']}.", "",
            *_table(cells), "",
        ]  # fmt: skip
    for row in (r for r in rows if r["error"]):
        text.append(f"- {row['problem']}, {row['method']} failed: {' '.join(row['error'].split())}")
    return "\n".join(text).rstrip() + "\n"


def _table(rows: list[tuple[str, dict[str, str]]]) -> list[str]:
    head = ["", *rows[0][1]]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for name, cells in rows:
        lines.append("| " + " | ".join([name, *(cell or "-" for cell in cells.values())]) + " |")
    return lines


@styled
def figure(rows: Sequence[Row]) -> Figure:
    """Panels of points above rows of pictures, of the rows there are.

    Raises ValueError if no row has anything to draw.
    """
    from matplotlib.figure import Figure

    done = [row for row in rows if not row["error"]]
    at = [row for row in done if row["problem"] == "points"]
    strips = _strips([row for row in done if row["problem"] == "digits"])
    if not at and not strips:
        raise ValueError("there is no finished row to draw")
    shown = at[:4]
    panel, tile = WIDTH / (len(shown) + 1), (WIDTH - LEFT) / 10
    top = panel + 0.35 if at else 0.05
    heights = [tile * len(tiles) + BETWEEN for _, _, tiles in strips]
    made = Figure(figsize=(WIDTH, top + sum(heights) + 0.05))
    down = made.get_figheight()
    place = lambda x, y, w, h: (x / WIDTH, (down - y - h) / down, w / WIDTH, h / down)  # noqa: E731
    if at:
        given = points.problem()
        exact = {"method": "exact samples", "particles": _exact(given, at[0])}
        for n, row in enumerate([exact, *shown]):
            axes = made.add_axes(place(n * panel + 0.04, 0.3, panel - 0.08, panel - 0.08))
            _panel(axes, row, given)
    y = top
    for (name, note, tiles), height in zip(strips, heights, strict=True):
        axes = made.add_axes(place(LEFT, y, WIDTH - LEFT, height - BETWEEN))
        _sheet(axes, tiles)
        middle = (down - y - (height - BETWEEN) / 2) / down
        made.text(0.004, middle + 0.004, name, va="bottom", size=9.5, weight="bold", color=INK)
        made.text(0.004, middle - 0.002, note, va="top", size=8, color=SOFT, linespacing=1.4)
        y += height
    return made


LEFT, BETWEEN = 1.72, 0.1  # inches


def _exact(given: points.Problem, row: Row) -> np.ndarray:
    import jax

    return np.asarray(given.samples(jax.random.key(row["seed"] + 7), row["count"]))


def _panel(axes: Axes, row: Row, given: points.Problem) -> None:
    """Particles on contours of what moves each of them alone: for SDS its landscape, else of the
    density.
    """
    reach = 1.45
    at = np.linspace(-reach, reach, 72)
    x, y = np.meshgrid(at, at)
    flat = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    if row.get("method", "").startswith("SDS"):
        choice = points.CHOICES[row["method"]]
        height = np.asarray(points.landscape(flat, given.model, choice))
        edges = height.min() + (np.quantile(height, 0.9) - height.min()) * np.geomspace(0.003, 1, 9)
    else:
        height = -np.exp(np.asarray(given.model.log_density(flat, 0.0)))
        edges = height.min() * np.array([0.9, 0.7, 0.5, 0.3, 0.15, 0.05])
    axes.contour(x, y, height.reshape(x.shape), edges, colors=SOFT, linewidths=0.5, alpha=0.6)
    z = np.asarray(row["particles"])
    sds = row["method"].startswith("SDS")
    colour = COLOURS[3] if sds else COLOURS[0] if row["method"].startswith("VSD") else INK
    axes.scatter(*z.T, s=14 if sds else 1.6, c=colour, alpha=0.8 if sds else 0.5, lw=0, zorder=3)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    axes.set_title(row["method"])
    axes.spines[:].set_visible(True)


def _strips(rows: Sequence[Row]) -> list[tuple[str, str, np.ndarray]]:
    """Names, notes and tiles (rows, 10, h, w) of what is shown of digits."""
    made = []
    for row in rows:
        count = 1 if row.get("alone") else SHOWN.get(row["method"].split(",")[0], 2)
        images = _pictures(row)[: 10 * count, :, :, 0]
        several = f", diversity {row['diversity']:.2f}" if row["diversity"] else ""
        note = f"class {row['class']:.2f}{several}"
        if row["count"] >= ENOUGH:
            note += f"\nFrechet {row['frechet']:.2f}"
        name = row["method"].replace(", ", "\n")
        made.append((name, note, images.reshape(-1, 10, *images.shape[1:])))
    return made


SHOWN = {"teacher": 2, "VSD": 3}


def _pictures(row: Row) -> np.ndarray:
    if "images" in row:
        return np.asarray(row["images"])
    scene = {name: np.asarray(leaf, np.float32)[:40] for name, leaf in row["scene"].items()}
    return np.asarray(render.pictures(scene, FINE, 1))


def _sheet(axes: Axes, tiles: np.ndarray) -> None:
    """Pictures in rows as one, dark ink on white, with white lines between them."""
    from matplotlib.colors import LinearSegmentedColormap

    rows, columns, size, _ = tiles.shape
    scale = FINE // size
    big = tiles.repeat(scale, axis=2).repeat(scale, axis=3)
    edge = ((0, 0), (0, 0), (3, 3), (3, 3))
    big = np.pad(big, edge, constant_values=np.nan)
    whole = big.transpose(0, 2, 1, 3).reshape(rows * big.shape[2], -1)
    shades = LinearSegmentedColormap.from_list("ink", ["#f1f2f0", INK])
    shades.set_bad("white")
    axes.imshow(whole, cmap=shades, vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
