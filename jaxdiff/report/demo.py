"""The page that ``jaxdiff demo`` writes: what was made, how good it is, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxdiff.report.best_curves import best_against_nfe, ranked
from jaxdiff.report.curves import training_curves
from jaxdiff.report.images import nearest_neighbours, side_by_side, trajectory_strip
from jaxdiff.report.page import Picture, Section, Table, write_page
from jaxdiff.report.terminal import Best, format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUALITY = "Frechet distance"
BEST: Best = {QUALITY: "min", "MMD^2": "min", "sliced Wasserstein": "min"}


class Shown(NamedTuple):
    """Pictures for the page. All images are (n, h, w, c) in [-1, 1].

    real: real images of classes 0, 1, ... in turn. samples: by name of the sampler, of classes in
    turn too. states, denoised, levels, nodes: a trajectory. losses: (step, loss) by name of the
    training. nearest: for the samples nearest to a training image, the sample and that image.
    distances, held_out: to the nearest training image, of samples and of held-out images.
    """

    real: np.ndarray
    samples: Mapping[str, np.ndarray]
    states: np.ndarray
    denoised: np.ndarray
    levels: np.ndarray
    nodes: np.ndarray
    losses: Mapping[str, Sequence[tuple[int, float]]]
    nearest: tuple[np.ndarray, np.ndarray]
    distances: np.ndarray
    held_out: np.ndarray


def in_words(numbers: dict[str, Any]) -> str:
    """Return the table and the sentence of the page, for the terminal."""
    table = _table(numbers)
    text = format_table(table.headers, table.rows, table.best, table.references)
    return f"{text}\n\n{_closed(numbers['student'])}"


def demo_page(folder: Path, numbers: dict[str, Any], shown: Shown) -> Path:
    """Write report.html and report.json; return the path of the page."""
    sections = [
        _experiment(numbers),
        _samples(shown),
        _quality(numbers, _table(numbers), next(iter(numbers["scores"].values()))[QUALITY]),
        _trajectory(shown),
        _copies(numbers, shown),
        _training(numbers, shown),
    ]
    return write_page(
        folder / "report.html",
        _headline(numbers["student"]),
        f"jaxdiff demo on {numbers['machine']['device']}, jax {numbers['machine']['jax']}, seed "
        f"{numbers['config']['seed']}",
        sections,
        numbers,
    )


def _table(numbers: dict[str, Any]) -> Table:
    scores = numbers["scores"]
    names = list(next(iter(scores.values())))
    real = [next(iter(scores.values()))[k]["real_data"] for k in names]
    rows = [
        [name, each["nfe"], *(each["scores"][k]["value"] for k in names)]
        for name, each in _with_nfe(scores)
    ]
    rows.append(["real digits", None, *(one["value"] for one in real)])
    rows.append(["+- over draws", None, *(one["std"] for one in real)])
    return Table(["sampler", "NFE", *names], rows, best=BEST, references=2)


def _with_nfe(scores: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, {"nfe": int(name.rsplit(" ", 1)[1]), "scores": each})
        for name, each in scores.items()
    ]


def _closed(student: dict[str, Any]) -> str:
    share = student["share of the gap closed at 1"]
    closes = (
        "That is no better than one step of Euler's method: there is no gap to close."
        if share is None
        else f"The student closes {100 * share:.1f} % of the gap."
    )
    return (
        f"Frechet distance at 1 evaluation: Euler {student['Euler at 1']:.3g}, student "
        f"{student['student at 1']:.3g}; the teacher at 35 has {student['teacher']:.3g}. {closes}"
    )


def _headline(student: dict[str, float]) -> str:
    return (
        f"Digits in one evaluation: Fréchet distance {student['student at 1']:.3g}, where the "
        f"teacher's 35 have {student['teacher']:.3g} and one Euler step {student['Euler at 1']:.3g}"
    )


def _experiment(numbers: dict[str, Any]) -> Section:
    """Return what was done, one row for each fact."""
    rows = [[name, value] for name, value in numbers["experiment"].items()]
    text = (
        "A class-conditional score network of scikit-learn's handwritten digits (8 by 8 pixels) is "
        "the teacher. It is sampled by many solvers, and distilled into a student that needs one "
        "evaluation or two. All are scored on digits that neither has seen."
    )
    return Section("The experiment", [text], [], [Table(["", ""], rows)])


def _samples(shown: Shown) -> Section:
    blocks = {"real": shown.real, **shown.samples}
    first = ("real", "teacher, NFE 35", "student, NFE 1")
    others = ("real", *(name for name in blocks if name not in first))
    digits, rows = [str(k) for k in range(10)], min(6, *(len(b) // 10 for b in blocks.values()))
    figures = [
        side_by_side({name: blocks[name] for name in group}, rows, 10, digits)
        for group in (first, others)
    ]
    text = "The numbers above the columns are the classes; the same noise is in every block."
    alt = "Blocks of digits: real ones and those of each sampler, classes 0 to 9 in columns."
    captions = [
        "The student's single evaluation gives digits of the classes requested, somewhat less "
        "varied than the teacher's.",
        "One Euler step returns the mean of the class, which is no sample.",
    ]
    pictures = [Picture(f, caption, alt) for f, caption in zip(figures, captions, strict=True)]
    return Section("Samples", [text], pictures)


def quality_figure(numbers: dict[str, Any]) -> Figure:
    """Return the scores of a demo's solvers and student against network evaluations, drawn."""
    student = numbers["student"]
    points = {"student": (1, student["student at 1"])}
    if "student at 2" in student:
        points["student, 2"] = (2, student["student at 2"])
    real_data = next(iter(numbers["scores"].values()))[QUALITY]["real_data"]["value"]
    return best_against_nfe(_curves(numbers["sweep"]), real_data, points)


def _curves(sweep: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return pairs (nfe, score) by solver."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in sweep:
        curves.setdefault(row["solver"], []).append((row["nfe"], row[QUALITY]))
    return curves


def _quality(numbers: dict[str, Any], table: Table, score: dict[str, Any]) -> Section:
    sweep = numbers["sweep"]
    real_data = score["real_data"]
    protocol = (
        f"Frechet distance between the features of {score['samples']} samples and of "
        f"{score['reference']}; features: the last "
        "hidden layer of a small classifier trained on half of the training digits (it recognises "
        f"{100 * numbers['classifier accuracy on held-out digits']:.1f} % of the held-out "
        "digits). The grey band ends at the mean score of "
        f"draws of {real_data['samples']} real digits of the other half "
        f"({real_data['value']:.3g} +- {real_data['std']:.2g}). Seed {score['seed']}. "
        "Numbers on so few 8 by 8 images compare samplers with each other, not with anything "
        "published."
    )
    best = min(sweep, key=lambda r: r[QUALITY])
    words = (
        f"The best of the sweep is {best['solver']} at NFE {best['nfe']} with {best[QUALITY]:.3g}."
    )
    caption = (
        f"{', '.join(ranked(_curves(sweep))[:5])} are the best over all numbers of evaluations, "
        f"from the first; the others are grey. {words}"
    )
    alt = "One curve per solver; students are big marks."
    return Section(
        "Quality against network evaluations",
        [_closed(numbers["student"]), protocol, *_metrics(numbers), _speed(sweep)],
        [Picture(quality_figure(numbers), caption, alt)],
        [table],
    )


MEANINGS = {
    "Frechet distance": "between Gaussians of the features; lower is better",
    "MMD^2": "kernel distance of the features; lower is better, and about 0 for real images",
    "sliced Wasserstein": "between features along random directions; lower is better",
    "precision": "share of samples near a real image; higher is better",
    "recall": "share of real images near a sample; higher is better: variety",
    "agreement": "share of samples that the classifier reads as the class requested",
}


def _metrics(numbers: dict[str, Any]) -> list[str]:
    """Return one line for each metric: what it says, and how real images vary in it."""
    lines = []
    for name, score in next(iter(numbers["scores"].values())).items():
        real = score["real_data"]
        spread = "" if real["std"] is None else f" +- {real['std']:.2g}"
        lines.append(f"{name}: {MEANINGS[name]}. Real digits: {real['value']:.3g}{spread}.")
    return lines


def _speed(sweep: list[dict[str, Any]]) -> str:
    each = float(np.median([row["seconds_per_image"] / row["nfe"] for row in sweep]))
    return (
        f"One evaluation takes {1e3 * each:.2g} ms per image here (median over all samplers, "
        "compilation excluded)."
    )


def _trajectory(shown: Shown) -> Section:
    figure = trajectory_strip(shown.states, shown.denoised, shown.levels, shown.nodes)
    text = (
        "From noise to digit in 18 Euler steps. Upper rows: the state y, shown as y / sqrt(1 + "
        "level^2). Lower rows: the "
        "denoiser's output there, the mean of all digits that the state could still become."
    )
    alt = "From high to low noise level, states turn into digits and denoised outputs sharpen."
    return Section(
        "A sampling trajectory", [text], [Picture(figure, "Levels above the columns.", alt)]
    )


def _copies(numbers: dict[str, Any], shown: Shown) -> Section:
    copies = numbers["copies"]
    rows = [[name, d["median"], d["smallest"]] for name, d in copies.items()]
    figure = nearest_neighbours(*shown.nearest, shown.distances, shown.held_out)
    text = (
        "Distance from each image to the nearest training image (Euclidean, over the 64 pixels in "
        "[-1, 1]). If the model "
        "copied training images, its samples would lie nearer to them than digits do that were "
        "set aside."
    )
    alt = "The samples nearest to training images above those, and a histogram of distances."
    table = Table(["images", "median distance", "smallest"], rows, references=1)
    return Section(
        "Are the samples copies?",
        [text],
        [Picture(figure, "Teacher, 35 evaluations.", alt)],
        [table],
    )


def _training(numbers: dict[str, Any], shown: Shown) -> Section:
    figure = training_curves(shown.losses)
    seconds = numbers["seconds"]
    rows = [[part, time] for part, time in seconds.items()]
    text = (
        "The losses are of different kinds and are not to be compared with each other."
        if len(shown.losses) > 1
        else "The teacher comes with the package; the student is trained here."
    )
    return Section(
        "Training and time",
        [text],
        [Picture(figure, "Losses.", "Training losses against the step.")],
        [Table(["part", "seconds"], rows)],
    )
