"""Figures of images, each a ``matplotlib.figure.Figure`` that belongs to no global state.

Images are (n, H, W, C) in [-1, 1] with C of 1 or 3, shown pixel by pixel; values beyond the range
are clipped, and pixels that are NaN or infinite are magenta, so that they are seen.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.report.style import (
    COLOURS,
    EDGE,
    GAP,
    INK,
    MAGENTA,
    PIXELS,
    SOFT,
    TILE,
    WIDTH,
    styled,
)
from jaxdiff.report.terminal import cell_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def image_grid(images: ArrayLike, columns: int, titles: Sequence[str] | None = None) -> Figure:
    """Images (n, H, W, C) row by row, ``columns`` in a row, each with its title above it if given.

    Raises ValueError if the shape is another or the titles are not n.
    """
    tiles = as_pixels(images, "images")
    if titles is not None and len(titles) != len(tiles):
        raise ValueError(f"{len(tiles)} images need as many titles, got {len(titles)}")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(tiles))
    above = 0.2 if titles is not None else 0.0
    rows = math.ceil(len(tiles) / columns)
    sheet = lay_out(_fold(tiles, rows, columns), [GAP + above] * (rows - 1), top=above)
    for n, title in enumerate(titles or ()):
        sheet.above(title, sheet.centres[n % columns], sheet.tops[n // columns])
    return sheet.figure


@styled
def side_by_side(
    images: Mapping[str, ArrayLike],
    rows: int,
    columns: int,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Blocks of ``rows`` x ``columns`` images next to each other, each under its name.

    ``images``: by name, each (n, H, W, C) of which the first rows x columns are shown, row by row.
    Give all of them in one order of classes, so that equal places hold equal classes.
    ``titles``: of the columns of every block, such as the classes.

    Raises ValueError if a block is too small or of other image sizes than the first, or the titles
    are not as many as columns.
    """
    blocks = {name: as_pixels(block, name) for name, block in images.items()}
    if not blocks or min(rows, columns) < 1:
        raise ValueError("side_by_side needs blocks of at least one row and one column")
    for name, block in blocks.items():
        if len(block) < rows * columns:
            raise ValueError(f"{name} has {len(block)} images for {rows} x {columns} places")
    if titles is not None and len(titles) != columns:
        raise ValueError(f"{columns} columns need as many titles, got {len(titles)}")
    _same_size(blocks)
    folded = [_fold(block[: rows * columns], rows, columns) for block in blocks.values()]
    gaps = (([GAP] * (columns - 1) + [0.28]) * len(blocks))[:-1]
    block = columns * _tile_width(gaps) + sum(gaps[: columns - 1])
    names = [textwrap.fill(name, max(1, int(block / 0.09))) for name in blocks]
    above = 0.17 if titles is not None else 0.0
    top = 0.06 + above + 0.18 * max(name.count("\n") + 1 for name in names)
    sheet = lay_out(np.concatenate(folded, axis=1), [GAP] * (rows - 1), gaps, top=top)
    for n, name in enumerate(names):
        left = sheet.centres[n * columns] - sheet.width / 2
        sheet.above(name, left, -above, ha="left", size=9.5, weight="bold", color=INK)
    for n, title in enumerate([*(titles or ())] * len(blocks)):
        sheet.above(title, sheet.centres[n], 0.0, color=SOFT)
    return sheet.figure


def beside_real(samples: ArrayLike, real: ArrayLike | None, columns: int = 10) -> Figure:
    """Samples (n, H, W, C) beside real images, as many rows of each, or alone where there are no
    real ones of their size, or too few for a row.
    """
    made = apart(samples)
    other = None if real is None else apart(real)
    if other is None or other.shape[1:] != made.shape[1:] or min(len(made), len(other)) < columns:
        return image_grid(made, columns)
    rows = min(len(made), len(other)) // columns
    return side_by_side({"samples": made, "real images": other}, rows, columns)


@styled
def trajectory_strip(
    states: ArrayLike,
    denoised: ArrayLike,
    levels: ArrayLike,
    nodes: ArrayLike,
    columns: int = 11,
) -> Figure:
    """Return a few samples on their way from noise to data: every state above its denoised output.

    A state y = x0 + s eps at level s is shown as y / sqrt(1 + s^2), which keeps its scale. Below
    it stands the last output D(y, s) at this level; where the denoiser was not evaluated (at level
    0, or an analytic first step), the place is empty. Of a longer trajectory every k-th state is
    shown, the first and the last always.

    Args:
        states: (T, n, H, W, C), the start and every accepted state.
        denoised: (N, n, H, W, C), every output of the denoiser.
        levels: (T,), the levels of the states.
        nodes: (N,), the levels of the evaluations.
        columns: the most states to show.

    Raises:
        ValueError: if the shapes do not fit together, or columns is below 2.
    """
    y, d = np.asarray(states, np.float64), np.asarray(denoised, np.float64)
    s, at = np.asarray(levels, np.float64), np.asarray(nodes, np.float64)
    _check_trajectory(y, d, s, at, columns)
    chosen = np.unique(np.linspace(0, len(s) - 1, min(columns, len(s))).round().astype(int))
    shown = as_pixels((y / np.sqrt(1 + s**2).reshape(-1, 1, 1, 1, 1))[chosen], "states", 5)
    outputs = np.zeros_like(shown)
    for column, row in enumerate(chosen):
        (same,) = np.nonzero(np.isclose(at, s[row], rtol=1e-3, atol=0))
        if len(same):
            outputs[column] = as_pixels(d[same[-1]], "denoised")
    pairs = np.stack([shown, outputs]).transpose(2, 0, 1, 3, 4, 5)  # sample, kind, column, ...
    samples = len(pairs)
    gaps = ([0.03, 0.2] * samples)[:-1]
    sheet = lay_out(pairs.reshape(2 * samples, *pairs.shape[2:]), gaps, left=1.3, top=0.42)
    for column, row in enumerate(chosen):
        sheet.above(f"{s[row]:.3g}", sheet.centres[column], 0.0)
    sheet.above("noise level s", sheet.centres[0] - sheet.width / 2, -0.2, ha="left", color=SOFT)
    for n in range(samples):
        sheet.beside("state / √(1 + s²)", 2 * n)
        sheet.beside("denoised", 2 * n + 1)
    return sheet.figure


@styled
def nearest_neighbours(
    generated: ArrayLike,
    nearest_training: ArrayLike,
    distances: ArrayLike,
    held_out_distances: ArrayLike,
) -> Figure:
    """Are samples copies of training images? Neighbours in pairs, and distances against real ones.

    Args:
        generated: (n, H, W, C), the samples to look at, preferably those nearest to the training
            set.
        nearest_training: (n, H, W, C), the training image nearest to each.
        distances: (m,), m >= n, from samples to their nearest training image; the first n belong
            to the images.
        held_out_distances: (k,), from real images outside of the training set to it, in one unit.

    Raises:
        ValueError: if the shapes do not fit together or a distance is negative or not finite.
    """
    tiles = {
        "generated": as_pixels(generated, "generated"),
        "nearest in training": as_pixels(nearest_training, "nearest_training"),
    }
    _same_size(tiles)
    n = len(tiles["generated"])
    if len(tiles["nearest in training"]) != n:
        raise ValueError(f"{n} generated and {len(tiles['nearest in training'])} training images")
    of_samples = _distances(distances, "distances", n)
    of_held_out = _distances(held_out_distances, "held_out_distances", 1)
    below = 2.7
    sheet = lay_out(np.stack([*tiles.values()]), [GAP], left=1.45, bottom=below, wide=True)
    for row, name in enumerate(tiles):
        sheet.beside(name, row)
    for x, distance in zip(sheet.centres, of_samples, strict=False):
        sheet.under(cell_text(float(distance)), x, sheet.tops[1] + sheet.height)
    sheet.under("distance", 0.0, sheet.tops[1] + sheet.height, ha="right", dx=-0.12)
    _histogram(sheet, below - 0.55, of_samples, of_held_out)
    return sheet.figure


class _Sheet(NamedTuple):
    """Tiles on a figure, in inches from the upper left corner of the first one."""

    figure: Figure
    axes: Axes
    centres: np.ndarray  # (columns,) centres
    tops: np.ndarray  # (rows,) upper edges
    width: float
    height: float

    def above(self, text: str, x: float, y: float, **style: Any) -> None:
        self._text(text, x, y - 0.06, style, ha="center", va="bottom", color=INK)

    def under(self, text: str, x: float, y: float, dx: float = 0.0, **style: Any) -> None:
        self._text(text, x + dx, y + 0.06, style, ha="center", va="top", color=SOFT)

    def beside(self, text: str, row: int) -> None:
        middle = self.tops[row] + self.height / 2
        self._text(text, -0.12, middle, {}, ha="right", va="center", color=SOFT)

    def _text(self, text: str, x: float, y: float, style: dict[str, Any], **defaults: Any) -> None:
        look: dict[str, Any] = {"size": 8.5, **defaults, **style}
        self.axes.text(x, y, text, **look)


def lay_out(
    tiles: np.ndarray,
    row_gaps: Sequence[float],
    column_gaps: Sequence[float] | None = None,
    left: float = 0.0,
    top: float = 0.0,
    bottom: float = 0.0,
    wide: bool = False,
) -> _Sheet:
    """Lay out RGBA tiles (rows, columns, H, W, 4) as one picture with margins in inches."""
    from matplotlib.figure import Figure

    rows, columns, h, w, _ = tiles.shape
    gaps = [GAP] * (columns - 1) if column_gaps is None else column_gaps
    width = _tile_width(gaps, left)
    scale = math.ceil(PIXELS * width / w)
    density = scale * w / width
    big = tiles.repeat(scale, axis=2).repeat(scale, axis=3)
    down = _starts(rows, scale * h, row_gaps, density)
    across = _starts(columns, scale * w, gaps, density)
    canvas = np.zeros((down[-1] + scale * h, across[-1] + scale * w, 4), np.uint8)
    for row, y in zip(big, down, strict=True):
        for tile, x in zip(row, across, strict=True):
            canvas[y : y + scale * h, x : x + scale * w] = tile
    inner = np.array(canvas.shape[1::-1]) / density
    size = (WIDTH if wide else inner[0] + left + 2 * EDGE, inner[1] + top + bottom + 2 * EDGE)
    figure = Figure(figsize=size)
    place = ((left + EDGE) / size[0], (bottom + EDGE) / size[1], *(inner / size))
    axes = figure.add_axes(place)
    axes.imshow(canvas, extent=(0, inner[0], inner[1], 0), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return _Sheet(figure, axes, across / density + width / 2, down / density, width, width * h / w)


def _tile_width(gaps: Sequence[float], left: float = 0.0) -> float:
    """Width of a tile, as many in a row as there are gaps and one more."""
    return min(TILE, (WIDTH - left - 2 * EDGE - sum(gaps)) / (len(gaps) + 1))


def _starts(count: int, size: int, gaps: Sequence[float], density: float) -> np.ndarray:
    """First pixels of ``count`` tiles of ``size`` pixels with gaps in inches between them."""
    pixels = (np.asarray(gaps, np.float64) * density).astype(int)  # down: never wider than given
    return np.concatenate([[0], np.cumsum(pixels)]) + size * np.arange(count)


def as_pixels(images: ArrayLike, name: str, ndim: int = 4) -> np.ndarray:
    """Images (..., H, W, 1 or 3) in [-1, 1] as opaque RGBA bytes (..., H, W, 4)."""
    x = np.asarray(images)
    if x.ndim != ndim or x.shape[-1] not in (1, 3) or not x.size:
        want = "(T, n, H, W, C)" if ndim == 5 else "(n, H, W, C)"
        raise ValueError(f"{name} must be images {want} with C 1 or 3, got shape {x.shape}")
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name} must be floating point numbers in [-1, 1], got {x.dtype}")
    finite = np.isfinite(x).all(axis=-1, keepdims=True)
    scaled = np.round((np.clip(np.where(finite, x, 0), -1, 1) + 1) * 127.5).astype(np.uint8)
    colour = np.where(finite, scaled, np.array(MAGENTA, np.uint8))
    return np.concatenate([colour, np.full((*x.shape[:-1], 1), 255, np.uint8)], axis=-1)


def apart(images: ArrayLike) -> np.ndarray:
    """Images (n, H, W, C) as they can be drawn: where C is not 1 or 3, the channels side by side,
    each grey, (n, H, C W, 1).
    """
    x = np.asarray(images)
    if x.ndim != 4 or x.shape[-1] in (1, 3):
        return x
    n, height, width, channels = x.shape
    return np.moveaxis(x, -1, 2).reshape(n, height, channels * width, 1)


def _fold(tiles: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Tiles (n, ...) as (rows, columns, ...), the missing ones transparent."""
    missing = np.zeros((rows * columns - len(tiles), *tiles.shape[1:]), np.uint8)
    return np.concatenate([tiles, missing]).reshape(rows, columns, *tiles.shape[1:])


def _same_size(blocks: Mapping[str, np.ndarray]) -> None:
    sizes = {name: block.shape[1:3] for name, block in blocks.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"images must all have one height and width: {sizes}")


def _check_trajectory(
    y: np.ndarray, d: np.ndarray, s: np.ndarray, at: np.ndarray, columns: int
) -> None:
    if s.ndim != 1 or y.shape[:1] != s.shape:
        raise ValueError(f"states {y.shape} need one level each, got levels {s.shape}")
    if at.ndim != 1 or d.shape[:1] != at.shape:
        raise ValueError(f"denoised {d.shape} need one node each, got nodes {at.shape}")
    if d.shape[1:] != y.shape[1:]:
        raise ValueError(f"denoised {d.shape} and states {y.shape} are of different samples")
    if not (np.isfinite(s).all() and np.isfinite(at).all()):
        raise ValueError("levels and nodes must be finite")
    if columns < 2:
        raise ValueError(f"columns must be at least 2, got {columns}")


def _distances(values: ArrayLike, name: str, least: int) -> np.ndarray:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or len(x) < least:
        raise ValueError(f"{name} must be (m,) with m at least {least}, got shape {x.shape}")
    if not np.isfinite(x).all() or (x < 0).any():
        raise ValueError(f"{name} must be finite and not negative")
    return x


def _histogram(sheet: _Sheet, height: float, samples: np.ndarray, held_out: np.ndarray) -> None:
    total = sheet.figure.get_size_inches()[1]
    axes = sheet.figure.add_axes((0.02, 0.45 / total, 0.96, (height - 0.45) / total))
    edges = np.histogram_bin_edges(np.concatenate([samples, held_out]), 40)
    sets = {"held-out real": (held_out, SOFT), "generated": (samples, COLOURS[0])}
    for name, (values, colour) in sets.items():
        median = float(np.median(values))
        axes.hist(
            values,
            bins=edges.tolist(),
            weights=np.full(len(values), 1 / len(values)),
            histtype="stepfilled",
            facecolor=(colour, 0.22),
            edgecolor=colour,
            lw=1.6,
            label=f"{name} to training, median {cell_text(median)}",
        )
        axes.axvline(median, color=colour, lw=1.2)
    axes.set_xlabel("distance to the nearest training image")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper right")
