"""The report: what is drawn is what was given, and a page stands on its own."""

import base64
import html.parser
import io
import json
import math
import re
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image
from sklearn.datasets import load_digits

from jaxdiff.report import curves as plots
from jaxdiff.report import images as pictures
from jaxdiff.report import page, style, terminal
from jaxdiff.report.best_curves import GREY, best_against_nfe, ranked
from jaxdiff.report.page import Picture, Section, Table, write_numbers, write_page
from jaxdiff.report.terminal import format_table

# terminal


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6.1234, "6.12"),
        (9.999, "10.0"),
        (0.9996, "1.00"),
        (145.0, "145"),
        (1234.6, "1235"),
        (999999.9, "1.00e+06"),
        (0.0012345, "0.00123"),
        (0.0001, "0.000100"),
        (1.234e-5, "1.23e-05"),
        (-0.5, "-0.500"),
        (0.0, "0"),
        (35, "35"),
        (1234567, "1234567"),
        (np.int64(7), "7"),
        (np.float32(0.25), "0.250"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (None, "-"),
        (True, "True"),
        ("heun", "heun"),
    ],
)
def test_cells_have_three_significant_digits(value, text):
    assert terminal.cell_text(value) == text


HEADERS = ["sampler", "NFE", "distance", "precision"]
ROWS = [
    ["euler", 10, 6.1234, 0.71],
    ["heun", 35, 0.351, 0.86],
    ["student", 1, 145.0, None],
    ["real against real", None, 0.31, 0.9],
]


def test_table_is_aligned_at_the_points_with_its_best_marked():
    table = format_table(HEADERS, ROWS, {"distance": "min", "precision": "max"}, references=1)
    assert table.splitlines() == [
        "sampler            NFE  distance  precision",
        "-----------------  ---  --------  ---------",
        "euler               10    6.12       0.710",
        "heun                35    0.351*     0.860*",
        "student              1  145          -",
        "-----------------  ---  --------  ---------",
        "real against real    -    0.310      0.900",
        "* best of its column",
    ]


def test_points_stand_below_each_other():
    values = [12.345, 0.00123, 145.0, 7, None, -3.2, 1e9]
    texts = terminal.align_points(values)
    width = max(map(len, texts))
    at = [text.rjust(width).index(".") for text in texts if "." in text]
    assert len(at) == 4 and len(set(at)) == 1
    assert texts[2] == "145" + " " * 7 and texts[2].rjust(width)[at[0]] == " "


@pytest.mark.parametrize(
    ("values", "direction", "marked"),
    [
        ([3.0, 1.0, 2.0], "min", {1}),
        ([3.0, 1.0, 2.0], "max", {0}),
        ([1.0, 1.0, 2.0], "min", {0, 1}),
        ([1.001, 1.002, 2.0], "min", {0}),
        ([math.nan, None, 2.0], "min", {2}),
        ([math.inf, -math.inf, 2.0], "max", {2}),
        ([None, None, None], "min", set()),
    ],
)
def test_best_is_decided_on_finite_numbers(values, direction, marked):
    rows = [[v] for v in values]
    assert terminal.best_cells(["a"], rows, {"a": direction}) == {(r, 0) for r in marked}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b"], [[1]]), "row 0 has 1 cells for 2 headers"),
        (([], []), "at least one column"),
        ((["a"], [[1]], {"b": "min"}), "'b' must name one of"),
        ((["a", "a"], [[1, 2]], {"a": "min"}), "'a' must name one of"),
        ((["a"], [[1]], {"a": "low"}), "not 'low'"),
        ((["a"], [[1]], None, 2), "references must be 0 to 1"),
    ],
)
def test_bad_tables_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        format_table(*arguments)


# figures


def canvas(figure):
    """The figure as drawn, (height, width, 3) in 0..255."""
    drawn = FigureCanvasAgg(figure)
    drawn.draw()
    return np.asarray(drawn.buffer_rgba())[..., :3].astype(int)


def colours_at(figure, x, y):
    """Colours at points (in inches from the first tile's corner) of a sheet of images."""
    drawn = canvas(figure)
    across, up = figure.axes[0].transData.transform(np.stack([x, y], -1).reshape(-1, 2)).T
    return drawn[(len(drawn) - up).astype(int), across.astype(int)].reshape(*np.shape(x), 3)


def tile_colours(figure, rows, columns, step=style.TILE + style.GAP):
    x, y = np.meshgrid(np.arange(columns) * step, np.arange(rows) * step)
    return colours_at(figure, x + style.TILE / 2, y + style.TILE / 2)


def flat(*values, size=4):
    """One-coloured images."""
    return np.ones((len(values), size, size, 1)) * np.reshape(values, (-1, 1, 1, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_shown_with_its_value(rng, channels):
    image = rng.uniform(-1.2, 1.2, (1, 8, 8, channels)).astype(np.float32)
    figure = pictures.image_grid(image, 1)
    middle = (np.arange(8) + 0.5) * style.TILE / 8
    shown = colours_at(figure, *np.meshgrid(middle, middle))
    expected = (np.clip(image[0], -1, 1) + 1) * 127.5
    assert np.abs(shown - expected).max() < 1


def test_lost_pixels_are_seen():
    image = np.zeros((1, 4, 4, 3))
    image[0, 1, 2, 0] = np.nan
    shown = pictures.as_pixels(image, "x")[0, ..., :3]
    assert tuple(shown[1, 2]) == style.MAGENTA
    assert (shown == style.MAGENTA).all(axis=-1).sum() == 1


def test_grid_fills_rows_first_and_leaves_the_rest_empty():
    figure = pictures.image_grid(flat(-1, 0, 1, -1, 0), 3)
    grey = tile_colours(figure, 2, 3)[..., 0]
    assert np.abs(grey - [[0, 128, 255], [0, 128, 255]]).max() <= 1


def test_blocks_stand_in_one_order():
    images = {"real": flat(-1, -0.5, 0, 0.5), "student": flat(-0.9, -0.4, 0.1, 0.6)}
    figure = pictures.side_by_side(images, rows=2, columns=2)
    left = np.array([0, 1, 2, 3]) * style.TILE + [0, style.GAP, style.GAP + 0.28, 0]
    left[3] = left[2] + style.TILE + style.GAP
    x, y = np.meshgrid(left, np.arange(2) * (style.TILE + style.GAP))
    shown = colours_at(figure, x + style.TILE / 2, y + style.TILE / 2)[..., 0] / 127.5 - 1
    expected = [[-1, -0.5, -0.9, -0.4], [0, 0.5, 0.1, 0.6]]
    assert np.abs(shown - expected).max() < 0.01
    assert [text.get_text() for text in figure.axes[0].texts] == ["real", "student"]


def test_samples_stand_beside_real_images_of_their_size():
    names = lambda figure: [t.get_text() for t in figure.axes[0].texts]  # noqa: E731
    both = pictures.beside_real(REAL, REAL[:13], 5)
    assert names(both) == ["samples", "real images"]
    for other in (None, REAL[:4], np.zeros((20, 4, 4, 1), np.float32)):
        assert names(pictures.beside_real(REAL, other, 5)) == []


def test_trajectory_is_scaled_and_matched_to_its_levels():
    levels, nodes = np.array([10.0, 1.0, 0.0]), np.array([10.0, 1.0, 1.0])  # a corrected node at 1
    values = np.array([-0.5, 0.0, 0.5])
    states = np.stack([flat(v) * np.sqrt(1 + s**2) for v, s in zip(values, levels, strict=True)])
    denoised = np.stack([flat(v) for v in (0.25, 0.9, -0.75)])
    figure = pictures.trajectory_strip(states, denoised, levels, nodes)
    step = style.TILE + style.GAP
    x, y = np.meshgrid(np.arange(3) * step, [0, style.TILE + 0.03])
    shown = colours_at(figure, x + style.TILE / 2, y + style.TILE / 2)[..., 0] / 127.5 - 1
    assert np.abs(shown - [[-0.5, 0, 0.5], [0.25, -0.75, 1.0]]).max() < 0.01  # 1.0: white paper
    titles = [text.get_text() for text in figure.axes[0].texts]
    assert titles[:3] == ["10", "1", "0"]


def test_long_trajectories_keep_their_ends():
    levels = np.linspace(20, 0, 41)
    states = np.zeros((41, 1, 4, 4, 1))
    figure = pictures.trajectory_strip(states, states[:-1], levels, levels[:-1], columns=5)
    assert [t.get_text() for t in figure.axes[0].texts][:5] == ["20", "15", "10", "5", "0"]


CURVES = {
    "euler": [(3, 50.0), (10, 5.0), (35, 1.0)],
    "heun": [(35, 0.4), (5, 20.0), (3, math.nan)],
}


def quality(**options):
    figure = plots.quality_against_nfe(CURVES, 0.31, {"student": (1, 160.0)}, **options)
    return figure, figure.axes[0]


def labels_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_curves_show_their_points_in_order_of_nfe():
    _, axes = quality()
    lines = {line.get_label().split("\n")[0]: line for line in axes.lines}
    assert np.array_equal(lines["euler"].get_xydata(), CURVES["euler"])
    assert np.array_equal(lines["heun"].get_xydata(), [(5, 20.0), (35, 0.4)])
    assert labels_of(axes) == ["student", " ", "euler", "heun\n(not finite at 3)"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_every_nfe_has_its_tick_and_every_point_is_in_view():
    figure, axes = quality()
    canvas(figure)
    assert list(axes.get_xticks()) == [1, 3, 5, 10, 35]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "3", "5", "10", "35"]
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    assert left < 1 and right > 35 and low < 0.31 and high > 160


def test_the_score_of_real_data_is_drawn_at_its_score():
    _, axes = quality()
    assert any(np.array_equal(line.get_ydata(), [0.31, 0.31]) for line in axes.lines)
    (band,) = [patch for patch in axes.patches if patch.get_height() > 0]
    assert band.get_y() + band.get_height() == pytest.approx(0.31)
    assert "real data against real data 0.310" in [text.get_text() for text in axes.texts]


def test_the_best_stand_out_with_their_names_and_the_rest_is_grey():
    curves = {f"s{n}": [(3, 2.0 + n), (9, 1.0 + n)] for n in (4, 0, 2, 1, 3)}
    curves |= {"far": [(3, 900.0), (9, 1.1)], "lost": [(3, math.nan), (9, 0.5)]}
    assert ranked(curves) == ["s0", "s1", "s2", "s3", "s4", "far", "lost"]
    axes = best_against_nfe(curves, 0.8, {"student": (1, 1.5)}, best=2).axes[0]
    named = [text.get_text() for text in axes.texts]
    assert {"s0", "s1", "student"} <= {*named} and not {"s2", "far", "lost"} & {*named}
    grey = [line for line in axes.lines if line.get_color() == GREY]
    assert len(grey) == 5
    low, high = axes.get_ylim()
    assert low < 0.8 and high == pytest.approx(1.15 * 3.0)  # s1's first score is the highest


def test_scores_that_have_no_logarithm_are_on_a_linear_axis():
    figure = plots.quality_against_nfe({"a": [(1, 5.0), (2, -0.1)]})
    assert figure.axes[0].get_yscale() == "linear"


def test_curves_differ_in_colour_and_without():
    looks = [plots._curve(n) for n in range(36)]
    assert len({(look["marker"], look["ls"]) for look in looks}) == 36
    grey = np.array([to_rgb(colour) for colour in style.COLOURS]) @ [0.299, 0.587, 0.114]
    assert np.abs(grey - np.roll(grey, 1)).min() > 0.15


def test_training_curves_show_the_losses_and_their_mean():
    points = [(n, 2.0 + 0.01 * n) for n in range(200)]
    figure = plots.training_curves({"teacher": points, "student": [(1, 9.0), (2, math.inf)]})
    first, second = figure.axes
    raw, smooth = (line.get_xydata() for line in first.lines)
    assert np.array_equal(raw, points)
    assert np.allclose(smooth[2:-2], points[2:-2], atol=1e-12)  # a mean keeps straight lines
    assert first.get_yscale() == "linear" and "mean of 5" in first.get_ylabel()
    assert second.get_title(loc="left") == "student (1 not finite)"


def test_running_mean_keeps_a_constant_to_its_ends():
    assert np.allclose(plots.running_mean(np.full(30, 3.0), 7), 3.0, atol=1e-14)


def test_falling_losses_are_on_a_logarithmic_axis():
    figure = plots.training_curves({"a": [(n, 10.0**-n) for n in range(5)]})
    assert figure.axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    ("scale", "unit"), [(1.0, "seconds"), (1e-3, "milliseconds"), (1e-6, "microseconds")]
)
def test_times_are_bars_in_a_unit_that_reads_well(scale, unit):
    axes = plots.seconds_per_image({"a": 2 * scale, "b": 5 * scale}).axes[0]
    assert np.allclose([bar.get_width() for bar in axes.patches], [2, 5])
    assert axes.get_xlabel() == f"{unit} per image"


def test_times_against_nfe_are_curves():
    axes = plots.seconds_per_image({"a": [(2, 0.002), (1, 0.001)]}).axes[0]
    assert np.allclose(axes.lines[0].get_xydata(), [(1, 1), (2, 2)])
    assert axes.get_ylabel() == "milliseconds per image"


def test_neighbours_stand_below_each_other_with_their_distances():
    figure = pictures.nearest_neighbours(
        flat(-0.5, 0.5), flat(-0.6, 0.4), [0.123, 4.0, 5.0, 6.0], [3.0, 4.0, 8.0]
    )
    shown = tile_colours(figure, 2, 2)[..., 0] / 127.5 - 1
    assert np.abs(shown - [[-0.5, 0.5], [-0.6, 0.4]]).max() < 0.01
    sheet, histogram = figure.axes
    assert {"0.123", "4.00"} <= {text.get_text() for text in sheet.texts}
    assert labels_of(histogram) == [
        "held-out real to training, median 4.00",
        "generated to training, median 4.50",
    ]
    assert [line.get_xdata()[0] for line in histogram.lines] == [4.0, 4.5]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: pictures.image_grid(np.zeros((2, 4, 4)), 1), r"\(n, H, W, C\)"),
        (lambda: pictures.image_grid(np.zeros((2, 4, 4, 2)), 1), "C 1 or 3"),
        (lambda: pictures.image_grid(np.zeros((1, 4, 4, 1), np.uint8), 1), "uint8"),
        (lambda: pictures.image_grid(flat(0), 0), "columns must be at least 1"),
        (
            lambda: pictures.image_grid(flat(0), 1, ["a", "b"]),
            "1 images need as many titles, got 2",
        ),
        (lambda: pictures.side_by_side({}, 1, 1), "at least one row"),
        (lambda: pictures.side_by_side({"a": flat(0)}, 1, 2), "a has 1 images for 1 x 2 places"),
        (
            lambda: pictures.side_by_side({"a": flat(0), "b": flat(0, size=5)}, 1, 1),
            "one height and width",
        ),
        (
            lambda: pictures.trajectory_strip(flat(0)[None], flat(0)[None], [1.0, 0.0], [1.0]),
            "one level each",
        ),
        (
            lambda: pictures.trajectory_strip(flat(0)[None], flat(0)[None], [1.0], [1.0, 0.0]),
            "one node each",
        ),
        (
            lambda: pictures.trajectory_strip(flat(0)[None], flat(0, 1)[None], [1.0], [1.0]),
            "different samples",
        ),
        (
            lambda: pictures.trajectory_strip(flat(0)[None], flat(0)[None], [math.inf], [1.0]),
            "must be finite",
        ),
        (lambda: plots.quality_against_nfe({}), "no point to draw"),
        (lambda: pictures.side_by_side({"a": flat(0)}, 1, 1, ["0", "1"]), "1 columns need as many"),
        (lambda: plots.quality_against_nfe({"a": [(0, 1.0)]}), "a: the number of evaluations"),
        (lambda: plots.training_curves({}), "at least one curve"),
        (lambda: plots.training_curves({"a": [(1, math.nan)]}), "'a' has no finite loss"),
        (lambda: plots.seconds_per_image({}), "at least one time"),
        (lambda: plots.seconds_per_image({"a": math.nan}), "finite and not negative"),
        (lambda: plots.seconds_per_image({"a": 1.0, "b": [(1, 1.0)]}), "not both"),
        (
            lambda: pictures.nearest_neighbours(flat(0, 1), flat(0), [1.0, 2.0], [1.0]),
            "2 generated and 1 training",
        ),
        (lambda: pictures.nearest_neighbours(flat(0), flat(0), [-1.0], [1.0]), "distances must be"),
        (lambda: pictures.nearest_neighbours(flat(0), flat(0), [1.0], []), "held_out_distances"),
    ],
)
def test_bad_input_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def digits():
    images, labels = load_digits(return_X_y=True)
    first = np.stack([np.flatnonzero(labels == k)[:2] for k in range(10)], 1).ravel()
    return (images[first].reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)


REAL = digits()
LEVELS = np.array([80.0, 5.0, 0.5, 0.0], np.float32)
STATES = np.stack([REAL[:2] * np.sqrt(1 + s**2) for s in LEVELS])
DISTANCES = np.linspace(1, 3, 50)
LONG = "a name of a solver that is longer than its place, costing $5 to $10"
FIGURES = {
    "grid": lambda: pictures.image_grid(REAL, 10, [str(n % 10) for n in range(20)]),
    "blocks": lambda: pictures.side_by_side({"real": REAL, LONG: REAL, "student": REAL}, 2, 5),
    "trajectory": lambda: pictures.trajectory_strip(STATES, STATES[:-1], LEVELS, LEVELS[:-1]),
    "quality": lambda: plots.quality_against_nfe({**CURVES, LONG: [(4, 3.0)]}, 0.3),
    "best": lambda: best_against_nfe({**CURVES, LONG: [(4, 3.0)]}, 0.3, {"student": (1, 2.0)}),
    "classes": lambda: pictures.side_by_side({"real": REAL, LONG: REAL}, 2, 5, list("01234")),
    "training": lambda: plots.training_curves({n: [(0, 1.0), (9, 0.1)] for n in "abcd"}),
    "bars": lambda: plots.seconds_per_image({LONG: 0.01, "b": 0.02}),
    "times": lambda: plots.seconds_per_image({"a": [(1, 0.01), (9, 0.1)]}),
    "neighbours": lambda: pictures.nearest_neighbours(REAL[:12], REAL[:12], DISTANCES, DISTANCES),
}


@pytest.mark.parametrize("name", FIGURES)
def test_all_text_is_legible_and_no_figure_is_too_wide(name):
    figure = FIGURES[name]()
    canvas(figure)
    assert figure.get_size_inches()[0] <= style.WIDTH + 0.01
    hidden = {id(tick.label1) for axes in figure.axes for tick in _hidden_ticks(axes)}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    texts = [text for text in texts if id(text) not in hidden]
    boxes = np.array([text.get_window_extent().extents for text in texts])
    assert len(boxes) and (boxes >= -0.5).all()
    assert (boxes[:, 2:] <= np.array(figure.bbox.size) + 0.5).all()
    apart = np.maximum(
        boxes[:, None, :2] - boxes[None, :, 2:], boxes[None, :, :2] - boxes[:, None, 2:]
    )
    overlaps = np.argwhere(np.triu((apart < -0.5).all(axis=-1), 1))
    assert not len(overlaps), [(texts[i].get_text(), texts[j].get_text()) for i, j in overlaps]
    assert not any("$" in text.get_text() and text.get_parse_math() for text in texts)


def _hidden_ticks(axes):
    """Ticks outside of the limits have labels that are never drawn."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        yield from (t for t in axis.get_major_ticks() if not low <= t.get_loc() <= high)
        if not axes.axison:
            yield from axis.get_major_ticks()


@pytest.mark.slow
def test_drawing_touches_no_global_state():
    code = (
        "import sys, jaxdiff.report as r\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import matplotlib\n"
        "matplotlib.rcParams['font.size'] = 30\n"
        "settings = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams\n"
        "                    if 'backend' not in k}\n"  # reading it would choose one
        "before = settings()\n"
        "figure = r.seconds_per_image({'a': 1.0})\n"
        "r.page._data_uri(figure)\n"
        "assert settings() == before\n"
        "assert figure.axes[0].xaxis.label.get_size() == 9\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# page


class Reader(html.parser.HTMLParser):
    """Elements of a page, refusing whatever is not properly nested."""

    VOID = ("meta", "img", "br", "link", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"attribute given twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"wrongly nested {tag}"

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else None, data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def inside(self, tag):
        return [data for name, data in self.text if name == tag]


NUMBERS = {"scores": {"heun": [np.float64(0.5), 2], 35: np.arange(3)}, "seed": 0, "real_data": None}


def sections():
    pictures = [Picture(FIGURES["blocks"](), 'Real & "student"', "<three> blocks")]
    pictures.append(Picture(FIGURES["times"](), "Times", "one line"))
    table = Table(HEADERS, ROWS, "Scores", {"distance": "min"}, references=1)
    return [
        Section("First <b>", ["A <script>alert(1)</script> & more.", "Second."], pictures),
        Section("Second", tables=[table]),
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "made" / "my report.html"
    assert write_page(path, "Title <1>", "Sub & title", sections(), NUMBERS) == path
    return path


@pytest.fixture
def reader(written):
    return Reader(written.read_text(encoding="utf-8"))


def test_page_is_well_formed(reader, written):
    assert written.read_text(encoding="utf-8").startswith("<!DOCTYPE html>\n")
    for tag in ("html", "head", "title", "body", "h1", "main", "nav"):
        assert len(reader.all(tag)) == 1, tag
    assert reader.all("html")[0]["lang"] == "en"
    assert reader.inside("h1") == ["Title <1>"] == reader.inside("title")
    assert reader.inside("h2") == ["First <b>", "Second"]
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    anchors = [a["href"][1:] for a in reader.all("a") if a["href"].startswith("#")]
    assert anchors == ids == ["section-1", "section-2"]


def test_text_is_escaped(reader):
    assert not reader.all("script")
    assert "A <script>alert(1)</script> & more." in reader.inside("p")
    assert 'Real & "student"' in reader.inside("figcaption")


def test_page_loads_nothing_from_outside(reader, written):
    for _, attrs in reader.elements:
        for name in ("src", "srcset", "data", "poster", "background", "action", "style"):
            assert attrs.get(name, "data:").startswith("data:")
    others = [a["href"] for a in reader.all("a") if not a["href"].startswith("#")]
    assert [urllib.parse.unquote(href) for href in others] == ["./my report.json"]
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in reader.elements}
    (style,) = reader.inside("style")
    assert "url(" not in style and "@import" not in style
    policy = next(m["content"] for m in reader.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "http" not in re.sub(r"base64,[^\"]*|http-equiv", "", written.read_text("utf-8"))


def test_pictures_are_inside_with_words(reader):
    images = reader.all("img")
    assert [image["alt"] for image in images] == ["<three> blocks", "one line"]
    kinds = [re.fullmatch(r"data:(.*);base64,(.*)", image["src"]).groups() for image in images]
    assert [kind for kind, _ in kinds] == ["image/png", "image/svg+xml"]
    picture = Image.open(io.BytesIO(base64.b64decode(kinds[0][1])))
    assert picture.width == pytest.approx(2 * int(images[0]["width"]), abs=2)
    assert picture.height == pytest.approx(2 * int(images[0]["height"]), abs=2)
    assert b"<svg" in base64.b64decode(kinds[1][1])


def test_table_is_right_aligned_with_its_best_in_bold(reader):
    assert reader.inside("b") == ["0.351"]
    assert reader.inside("th") == HEADERS
    assert ["class" in cell for cell in reader.all("th")] == [False, True, True, True]
    assert len(reader.all("tbody")) == 2 and len(reader.all("tr")) == 5
    cells = [data for tag, data in reader.text if tag in ("td", "b") and data.strip()]
    assert cells[:4] == ["euler", "10", "6.12" + page.FIGURE_SPACE, "0.710"]


def test_numbers_lie_beside_the_page(written):
    numbers = json.loads(written.with_suffix(".json").read_text())
    assert numbers == {"scores": {"heun": [0.5, 2], "35": [0, 1, 2]}, "seed": 0, "real_data": None}
    assert sorted(p.name for p in written.parent.iterdir()) == ["my report.html", "my report.json"]


def test_equal_reports_are_equal_bytes(written, tmp_path):
    path = tmp_path / "my report.html"
    again = write_page(path, "Title <1>", "Sub & title", sections(), NUMBERS)
    assert again.read_bytes() == written.read_bytes()


@pytest.mark.parametrize(
    ("numbers", "error", "message"),
    [
        ({"a": {"b": [1.0, math.nan]}}, ValueError, r"numbers\['a'\]\['b'\]\[1\] is nan"),
        ({"a": np.array([1, np.inf])}, ValueError, r"numbers\['a'\]\[1\] is inf"),
        ({"a": np.float32("-inf")}, ValueError, r"numbers\['a'\] is -inf"),
        ({"a": {1, 2}}, TypeError, r"numbers\['a'\] is a set"),
        ({"a": {(1, 2): 3}}, TypeError, r"the keys of numbers\['a'\]"),
    ],
)
def test_numbers_that_json_cannot_hold_are_named(numbers, error, message, tmp_path):
    with pytest.raises(error, match=message):
        write_page(tmp_path / "a.html", "t", "s", [], numbers)
    assert not list(tmp_path.iterdir())


def test_a_number_that_is_not_finite_does_not_cost_the_others(tmp_path):
    path = tmp_path / "a.json"
    with pytest.warns(UserWarning, match=r"null in .*a.json: numbers\['b'\]\[1\]"):
        write_numbers(path, {"a": 1.5, "b": [2, np.nan]})
    assert json.loads(path.read_text()) == {"a": 1.5, "b": [2, None]}


@pytest.mark.parametrize(
    ("section", "error", "message"),
    [
        (Section("A", "one string"), TypeError, "'A' must be a list of paragraphs"),
        (Section("A", tables=[Table(["a"], [[1, 2]])]), ValueError, "2 cells for 1 headers"),
    ],
)
def test_bad_sections_are_refused(section, error, message, tmp_path):
    with pytest.raises(error, match=message):
        write_page(tmp_path / "a.html", "t", "s", [section], {})
    assert not list(tmp_path.iterdir())


def test_pictures_need_words(tmp_path):
    section = Section("A", figures=[Picture(plots.seconds_per_image({"a": 1.0}), "b", " ")])
    with pytest.raises(ValueError, match="'A' needs a caption and an alternative text"):
        write_page(tmp_path / "a.html", "t", "s", [section], {})


def test_page_must_be_named_html(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.html"):
        write_page(tmp_path / "a.json", "t", "s", [], {})


def test_page_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "a.html").mkdir()
    with pytest.raises(IsADirectoryError, match="cannot write the report .*a.json and .*a.html"):
        write_page(tmp_path / "a.html", "t", "s", [], {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_page_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write the report"):
        write_page(tmp_path / "file" / "a.html", "t", "s", [], {})


def test_a_full_disk_leaves_the_old_report_and_nothing_partial(tmp_path):
    resource = pytest.importorskip("resource")
    path = write_page(tmp_path / "a.html", "old", "s", [], {"a": 1})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # the numbers fit, the page does not
    try:
        with pytest.raises(OSError, match="cannot write the report .*a.html: File too large"):
            write_page(path, "new", "s", [], {"a": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
