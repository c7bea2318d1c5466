"""Report of the rows of scenes: a line for the terminal, a Markdown page, a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from experiments.scenes import points, render
from jaxdiff.report.style import COLOURS, INK, SOFT, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
DRAWN = ("particles", "scene", "images")  # kept for the figure, not in the table
TRACED = "blobs fitted to digits"
ENOUGH = 60  # pictures that a Frechet distance is given of
PAPER = "#f1f2f0"
FINE = 64  # pixels that a scene is drawn with for the eye

LEGEND = """\
Points. **distance**: sliced Wasserstein distance to exact samples divided by the real-data score,
that of as many exact samples; below 1, particles are spread more evenly than independent samples.
**shares**: least and largest fraction of the particles nearest to a mode, relative to the mode's
own; **spread**: least and largest standard deviation about a mode, likewise. **ends**: groups of
particles that are more than 0.1 apart.

Digits. **class**: how often a classifier, trained on real digits, sees the class requested.
**Frechet**: distance to digits that were set aside, by its features; as many other real digits have
the real-data score. **diversity**: root mean square distance between two pictures of one class,
relative to real digits, and to the teacher's own samples with the same guidance. **contrast**:
standard deviation of all pixels, relative to real digits.
"""


def named(method: str, weight: float = 1.0, alone: bool = False, annealed: bool = False) -> str:
    """Return what a choice is called."""
    name = method if method == "teacher" else method.upper()
    name += f", guidance {weight:g}" if weight != 1 else ""
    name += ", one scene of a class" if alone else ""
    return name + (", levels annealed" if annealed else "")


def line(row: Row) -> str:
    """Return a row for the terminal."""
    if row["error"]:
        return f"  failed: {row['error']}"
    values = _points(row) if row["problem"] == "points" else _digits(row, None)
    return "  " + ", ".join(f"{name} {value}" for name, value in values.items() if value)


def _points(row: Row) -> dict[str, str]:
    span = lambda values: f"{min(values):.2f} to {max(values):.2f}"  # noqa: E731
    return {
        "distance": f"{row['sliced'] / row['real_data']:.2f}",
        "shares": span(row["shares"]),
        "spread": span(row["spread"]),
        "ends": f"{row['ends']}" if row["method"] == "sds" else "",
        "seconds": f"{row['seconds']:.0f}",
    }


def _digits(row: Row, own: float | None) -> dict[str, str]:
    several = row["diversity"] > 0
    enough = row["count"] >= ENOUGH
    return {
        "class": f"{row['class']:.2f}",
        "Frechet": f"{row['frechet']:.2f}" if enough else "",
        "real data": f"{row['real_data']:.2f}" if enough else "",
        "diversity": f"{row['diversity']:.2f}" if several else "",
        "of the teacher's": f"{row['diversity'] / own:.2f}" if several and own else "",
        "contrast": f"{row['contrast']:.2f}",
        "seconds": f"{row['seconds']:.0f}",
    }


def markdown(rows: Sequence[Row], metadata: dict[str, Any]) -> str:
    """Both tables with what their columns mean."""
    machines = sorted({row["machine"] for row in rows})
    text = [
        "# Scenes drawn by score distillation",
        "",
        f"Made by `{metadata['command']}`.",
        f"jax {metadata['jax']}, {metadata['device']}; rows made on: {'; '.join(machines)}.",
        "",
        LEGEND,
    ]
    whole = [row for row in rows if not row["error"]]
    if at := [row for row in whole if row["problem"] == "points"]:
        one = at[0]
        text += [
            "## Points", "",
            f"{one['count']} particles, {one['updates']} updates, seed {one['seed']}.", "",
            *_table([(r["name"], _points(r)) for r in at]), "",
        ]  # fmt: skip
    if at := [row for row in whole if row["problem"] == "digits"]:
        one = at[0]
        own = {r["weight"]: r["diversity"] for r in at if r["method"] == "teacher"}
        cells = [(r["name"], _digits(r, own.get(r.get("weight", 1.0)))) for r in at]
        text += [
            "## Digits", "",
            f"{one['scenes']} scenes of a class, {one['blobs']} blobs each, {one['updates']} "
            f"updates, adapters of rank {one['rank']}, seed {one['seed']}.", "",
            *_table(cells), "",
        ]  # fmt: skip
    for row in (r for r in rows if r["error"]):
        text.append(f"- {row['problem']}, {row['name']} failed: {' '.join(row['error'].split())}")
    return "\n".join(text).rstrip() + "\n"


def _table(rows: list[tuple[str, dict[str, str]]]) -> list[str]:
    head = ["", *rows[0][1]]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for name, cells in rows:
        lines.append("| " + " | ".join([name, *(cell or "-" for cell in cells.values())]) + " |")
    return lines


@styled
def figure(rows: Sequence[Row]) -> Figure:
    """Panels of points above pictures: the teacher's and those of SDS to the left, of VSD to the
    right.

    Raises ValueError if no row has anything to draw.
    """
    from matplotlib.figure import Figure

    done = [row for row in rows if not row["error"]]
    clouds = [row for row in done if row["problem"] == "points" and not row["few"]]
    sides = _sides([row for row in done if row["problem"] == "digits"])
    if not clouds and not any(sides):
        raise ValueError("there is no finished row to draw")
    panel = min(WIDTH / (len(clouds) + 1), 2.2)
    top = panel + 0.3 if clouds else 0.0
    down = top + max(sum(_height(tiles) for _, tiles in side) for side in sides) + 0.06
    made = Figure(figsize=(WIDTH, down))

    def place(x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose upper left corner is at (x, y) inches."""
        where = (x / WIDTH, 1 - (y + height) / down, width / WIDTH, height / down)
        return made.add_axes(where)

    given = points.problem()
    exact = [_exact(given, clouds[0])] if clouds else []
    for n, row in enumerate([*exact, *clouds]):
        axes = place(n * panel + 0.03, 0.28, panel - 0.06, panel - 0.06)
        _panel(axes, row, given)
    for side, x in zip(sides, (0.03, WIDTH / 2 + 0.06), strict=True):
        y = top
        for title, tiles in side:
            axes = place(x, y + HEAD, SIDE, len(tiles) * SIDE / 10)
            _sheet(axes, tiles)
            axes.set_title(title, fontsize=8.5, pad=3)
            y += _height(tiles)
    return made


HEAD, SIDE = 0.27, WIDTH / 2 - 0.09  # inches


def _height(tiles: np.ndarray) -> float:
    return HEAD + len(tiles) * SIDE / 10


def _exact(given: points.Problem, row: Row) -> Row:
    import jax

    x = np.asarray(given.samples(jax.random.key(row["seed"] + 7), row["count"]))
    return {"method": "", "name": "exact samples", "particles": x}


def _panel(axes: Axes, row: Row, given: points.Problem) -> None:
    """Particles on contours of what moves each of them alone: for SDS its landscape, else of the
    density.
    """
    reach = 1.45
    at = np.linspace(-reach, reach, 72)
    x, y = np.meshgrid(at, at)
    flat = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    sds = row["method"] == "sds"
    if sds:
        choice = points.CHOICES[row["name"]]
        height = np.asarray(points.landscape(flat, given.model, choice))
        edges = height.min() + (np.quantile(height, 0.9) - height.min()) * np.geomspace(0.003, 1, 9)
    else:
        height = -np.exp(np.asarray(given.model.log_density(jnp.asarray(flat), 0.0)))
        edges = height.min() * np.array([0.9, 0.7, 0.5, 0.3, 0.15, 0.05])
    axes.contour(x, y, height.reshape(x.shape), edges, colors=SOFT, linewidths=0.5, alpha=0.6)
    z = np.asarray(row["particles"])
    colour = {"sds": COLOURS[3], "vsd": COLOURS[0]}.get(row["method"], INK)
    axes.scatter(*z.T, s=14 if sds else 1.6, c=colour, alpha=0.8 if sds else 0.5, lw=0, zorder=3)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    axes.set_title(row["name"])
    axes.spines[:].set_visible(True)


def _sides(rows: Sequence[Row]) -> tuple[list[tuple[str, np.ndarray]], ...]:
    """Titles and tiles (rows, 10, h, w) to the left and to the right."""
    left, right = [], []
    for row in rows:
        first = row.get("weight", 1.0) == 1
        count = {"teacher": 2 * first, "sds": 2 if first else 1, "vsd": 4 if first else 1}
        shown = 1 if row.get("alone") or row.get("annealed") else count.get(row["method"], 0)
        if shown:
            images = _pictures(row)[: 10 * shown, :, :, 0]  # fewer, if there are fewer scenes
            tiles = images.reshape(-1, 10, *images.shape[1:])
            (right if row["method"] == "vsd" else left).append((_title(row), tiles))
    return left, right


def _title(row: Row) -> str:
    parts = [f"class {row['class']:.2f}"]
    parts += [f"diversity {row['diversity']:.2f}"] if row["diversity"] else []
    parts += [f"Frechet {row['frechet']:.1f}"] if row["count"] >= ENOUGH else []
    return f"{row['name']}:  " + ", ".join(parts)


def _pictures(row: Row) -> np.ndarray:
    if "images" in row:
        return np.asarray(row["images"])
    scene = {name: np.asarray(leaf, np.float32)[:40] for name, leaf in row["scene"].items()}
    return np.asarray(render.pictures(scene, FINE, 1))


def _sheet(axes: Axes, tiles: np.ndarray) -> None:
    """Pictures in rows, dark ink on pale paper, with white lines between them."""
    from matplotlib.colors import LinearSegmentedColormap

    rows, columns, size, _ = tiles.shape
    scale = FINE // size
    big = tiles.repeat(scale, axis=2).repeat(scale, axis=3)
    big = np.pad(big, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=np.nan)
    whole = big.transpose(0, 2, 1, 3).reshape(rows * big.shape[2], -1)
    shades = LinearSegmentedColormap.from_list("ink", [PAPER, INK]).with_extremes(bad="white")
    axes.imshow(whole, cmap=shades, vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
