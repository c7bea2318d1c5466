"""Figures of a report, each a ``matplotlib.figure.Figure`` that belongs to no global state.

Images are (n, H, W, C) in [-1, 1] with C of 1 or 3, shown pixel by pixel; values beyond the range
are clipped, and pixels that are NaN or infinite are magenta, so that they are seen. Curves differ
in colour, in marker and, from the tenth on, in dashes. Colours: Okabe and Ito's, distinguishable
with any colour vision (Wong 2011, Nature Methods 8:441), in an order of alternating luminance.
Lengths are inches; figures are at most 9.2 wide, which is 883 CSS pixels.
"""

from __future__ import annotations

import functools
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.report.terminal import cell_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
Points: TypeAlias = Sequence[tuple[float, float]]

WIDTH = 9.2
TILE = 0.62
GAP = 0.05
EDGE = 0.04
LETTERS = 30  # of a name on one line
PIXELS = 192  # per inch, at least
INK, SOFT, FAINT, BAND = "#26292c", "#6b7075", "#e3e5e6", "#eceeef"
MAGENTA = (255, 0, 200)
COLOURS = ("#0072B2", "#E69F00", "#1d1f21", "#D55E00", "#56B4E9", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
STUDENTS = ("*", "p", "h", "8", "d", "H")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names are shown as they are, dollars included
    "axes.edgecolor": "#9a9fa3",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": "#9a9fa3",
    "ytick.color": "#9a9fa3",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in one style, whatever the user's own settings are, and leave those as they were."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return drawn


# images


@_styled
def image_grid(images: ArrayLike, columns: int, titles: Sequence[str] | None = None) -> Figure:
    """Images (n, H, W, C) row by row, ``columns`` in a row, each with its title above it if given.

    Raises ValueError if the shape is another or the titles are not n.
    """
    tiles = _pixels(images, "images")
    if titles is not None and len(titles) != len(tiles):
        raise ValueError(f"{len(tiles)} images need as many titles, got {len(titles)}")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(tiles))
    above = 0.2 if titles is not None else 0.0
    rows = math.ceil(len(tiles) / columns)
    sheet = _sheet(_fold(tiles, rows, columns), [GAP + above] * (rows - 1), top=above)
    for n, title in enumerate(titles or ()):
        sheet.above(title, sheet.centres[n % columns], sheet.tops[n // columns])
    return sheet.figure


@_styled
def side_by_side(images: Mapping[str, ArrayLike], rows: int, columns: int) -> Figure:
    """Blocks of ``rows`` x ``columns`` images next to each other, each under its name.

    ``images``: by name, each (n, H, W, C) of which the first rows x columns are shown, row by row.
    Give all of them in one order of classes, so that equal places hold equal classes.

    Raises ValueError if a block is too small or of other image sizes than the first.
    """
    blocks = {name: _pixels(block, name) for name, block in images.items()}
    if not blocks or min(rows, columns) < 1:
        raise ValueError("side_by_side needs blocks of at least one row and one column")
    for name, block in blocks.items():
        if len(block) < rows * columns:
            raise ValueError(f"{name} has {len(block)} images for {rows} x {columns} places")
    _same_size(blocks)
    folded = [_fold(block[: rows * columns], rows, columns) for block in blocks.values()]
    gaps = (([GAP] * (columns - 1) + [0.28]) * len(blocks))[:-1]
    block = columns * _tile_width(gaps) + sum(gaps[: columns - 1])
    names = [textwrap.fill(name, max(1, int(block / 0.09))) for name in blocks]
    top = 0.06 + 0.18 * max(name.count("\n") + 1 for name in names)
    sheet = _sheet(np.concatenate(folded, axis=1), [GAP] * (rows - 1), gaps, top=top)
    for n, name in enumerate(names):
        left = sheet.centres[n * columns] - sheet.width / 2
        sheet.above(name, left, 0.0, ha="left", size=9.5, weight="bold", color=INK)
    return sheet.figure


@_styled
def trajectory_strip(
    states: ArrayLike,
    denoised: ArrayLike,
    levels: ArrayLike,
    nodes: ArrayLike,
    columns: int = 11,
) -> Figure:
    """A few samples on their way from noise to data: every state above its denoised output.

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
    shown = _pixels((y / np.sqrt(1 + s**2).reshape(-1, 1, 1, 1, 1))[chosen], "states", 5)
    outputs = np.zeros_like(shown)
    for column, row in enumerate(chosen):
        (same,) = np.nonzero(np.isclose(at, s[row], rtol=1e-3, atol=0))
        if len(same):
            outputs[column] = _pixels(d[same[-1]], "denoised")
    pairs = np.stack([shown, outputs]).transpose(2, 0, 1, 3, 4, 5)  # sample, kind, column, ...
    samples = len(pairs)
    gaps = ([0.03, 0.2] * samples)[:-1]
    sheet = _sheet(pairs.reshape(2 * samples, *pairs.shape[2:]), gaps, left=1.3, top=0.42)
    for column, row in enumerate(chosen):
        sheet.above(f"{s[row]:.3g}", sheet.centres[column], 0.0)
    sheet.above("noise level s", sheet.centres[0] - sheet.width / 2, -0.2, ha="left", color=SOFT)
    for n in range(samples):
        sheet.beside("state / √(1 + s²)", 2 * n)
        sheet.beside("denoised", 2 * n + 1)
    return sheet.figure


@_styled
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
        "generated": _pixels(generated, "generated"),
        "nearest in training": _pixels(nearest_training, "nearest_training"),
    }
    _same_size(tiles)
    n = len(tiles["generated"])
    if len(tiles["nearest in training"]) != n:
        raise ValueError(f"{n} generated and {len(tiles['nearest in training'])} training images")
    of_samples = _distances(distances, "distances", n)
    of_held_out = _distances(held_out_distances, "held_out_distances", 1)
    below = 2.7
    sheet = _sheet(np.stack([*tiles.values()]), [GAP], left=1.45, bottom=below, wide=True)
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
    centres: np.ndarray  # (columns,) middles
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

    def _text(self, text: str, x: float, y: float, style: dict[str, Any], **usual: Any) -> None:
        look: dict[str, Any] = {"size": 8.5, **usual, **style}
        self.axes.text(x, y, text, **look)


def _sheet(
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
    pixels = (np.asarray(gaps, np.float64) * density).astype(int)  # down: never wider than asked
    return np.concatenate([[0], np.cumsum(pixels)]) + size * np.arange(count)


def _pixels(images: ArrayLike, name: str, ndim: int = 4) -> np.ndarray:
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


# curves


@_styled
def quality_against_nfe(
    curves: Mapping[str, Points],
    floor: float | None = None,
    points: Mapping[str, tuple[float, float]] | None = None,
    ylabel: str = "Fréchet distance to the data (lower is better)",
) -> Figure:
    """Score against number of network evaluations: one curve per solver, students as big markers.

    Both axes are logarithmic; the vertical one is linear if a score is not positive or all lie
    within a factor of three. The legend is in the order of the curves' last scores. A score that
    is not finite (a solver that diverged) is left out of its curve and named in the legend.

    Args:
        curves: by solver, pairs (nfe, score) in any order.
        floor: score of real data against real data, drawn as the edge of a grey band.
        points: by student, one pair (nfe, score).
        ylabel: name of the score.

    Raises:
        ValueError: if there is nothing to draw, or an nfe is below 1.
    """
    points = points or {}
    _check_nfe({**curves, **{name: [point] for name, point in points.items()}})
    figure, axes = _wide_axes(4.8)
    if floor is not None and math.isfinite(floor):
        axes.axhline(floor, color=SOFT, lw=1.1, zorder=1)
    students = [
        axes.plot(*_finite([point]).T, ls="none", label=_label(name, [point]), **_student(n))[0]
        for n, (name, point) in enumerate(points.items())
    ]
    solvers = _draw_curves(axes, curves)
    every = [p for c in curves.values() for p in c] + [*points.values()]
    _nfe_axis(axes, [nfe for nfe, _ in every])
    _score_axis(axes, [score for _, score in every] + ([] if floor is None else [floor]))
    axes.set_ylabel(ylabel)
    if floor is not None and math.isfinite(floor):
        _floor(axes, floor)
    _legend(axes, students, solvers)
    return figure


@_styled
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


@_styled
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
    pairs = _finite(points)
    if not len(pairs):
        raise ValueError(f"the training curve {name!r} has no finite loss")
    step, loss = pairs.T
    bad = len(points) - len(pairs)
    window = 2 * (len(loss) // 80) + 1  # odd, so that it is centred
    axes.plot(step, loss, color=colour, lw=0.8, alpha=0.3)
    axes.plot(step, _running_mean(loss, window), color=colour, lw=1.8)
    axes.set_title(f"{name} ({bad} not finite)" if bad else name)
    axes.set_xlabel("training step")
    axes.set_ylabel("loss" if window == 1 else f"loss, and mean of {window}")
    axes.margins(x=0.02)
    _score_axis(axes, loss)


def _running_mean(x: np.ndarray, window: int) -> np.ndarray:
    """Centred mean of ``window`` neighbours; of fewer at the ends."""
    ones = np.ones(window)
    return np.convolve(x, ones, "same") / np.convolve(np.ones(len(x)), ones, "same")


def _time_curves(curves: Mapping[str, Points], label: str) -> Figure:
    _check_nfe(curves)
    figure, axes = _wide_axes(3.8)
    lines = _draw_curves(axes, curves)
    _nfe_axis(axes, [nfe for curve in curves.values() for nfe, _ in curve])
    _score_axis(axes, [s for curve in curves.values() for _, s in curve])
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
    """One line per curve, ordered by the last scores, the highest first."""
    drawn = []
    for n, (name, points) in enumerate(curves.items()):
        pairs = _finite(points)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        (line,) = axes.plot(*pairs.T, label=_label(name, points), **_curve(n), zorder=3)
        drawn.append((pairs[-1, 1] if len(pairs) else math.inf, line))
    return [line for _, line in sorted(drawn, key=lambda pair: -pair[0])]


def _curve(n: int) -> dict[str, Any]:
    """Look of the n-th curve. Marker and dashes alone tell the first 36 apart."""
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
    """The name, and at which numbers of evaluations there is no finite score."""
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


def _floor(axes: Axes, floor: float) -> None:
    """Grey below the floor: differences there say nothing."""
    from matplotlib.patheffects import withStroke

    low, high = axes.get_ylim()
    axes.axhspan(low, floor, color=BAND, zorder=0, lw=0)
    axes.set_ylim(low, high)
    axes.annotate(
        f"noise floor: real against real {cell_text(float(floor))}",
        (0.27, floor),  # between students (left) and solvers that have arrived at the floor (right)
        xycoords=("axes fraction", "data"),
        xytext=(0, -4),
        textcoords="offset points",
        ha="left",
        va="top",
        size=8.5,
        color=SOFT,
        path_effects=[withStroke(linewidth=2.5, foreground=BAND)],
    )


def _nfe_axis(axes: Axes, nfe: Iterable[float]) -> None:
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


def _score_axis(axes: Axes, values: ArrayLike) -> None:
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


def _check_nfe(curves: Mapping[str, Points]) -> None:
    if not any(len(points) for points in curves.values()):
        raise ValueError("there is no point to draw")
    for name, points in curves.items():
        for nfe, _ in points:
            if not (math.isfinite(nfe) and nfe >= 1):
                raise ValueError(f"{name}: the number of evaluations must be 1 or more, not {nfe}")


def _finite(points: Points) -> np.ndarray:
    """Pairs (n, 2) with the non-finite second numbers left out."""
    pairs = np.asarray([*points], np.float64).reshape(-1, 2)
    return pairs[np.isfinite(pairs[:, 1])]
