"""Parts of the page of ``jaxdiff analyse``: steps, interpolations, copies, students, guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.report.geometry import Curve, Panel, panels
from jaxdiff.report.images import apart, nearest_neighbours, side_by_side
from jaxdiff.report.page import Picture, Section, Table
from jaxdiff.report.terminal import Best


class Shown(NamedTuple):
    """Pictures for the page; None where samples are no images. All are (n, h, w, c) in [-1, 1].

    ends: by model, where the same noises end. interpolated: by mode, the images between two noises,
    pair after pair. copies: of each of some samples, and the data next to them; distances: of all
    samples to the data; held_out: of held-out data.
    """

    ends: Mapping[str, np.ndarray] | None = None
    interpolated: Mapping[str, np.ndarray] | None = None
    columns: int = 1
    copies: tuple[np.ndarray, np.ndarray] | None = None
    distances: np.ndarray | None = None
    held_out: np.ndarray | None = None


def local_error(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    """Return the section: where the error of samplers is made."""
    found = numbers["local error"]
    sections = []
    titles = (
        "one step of Euler's from the accurate path",
        f"solvers of {found['nfe']} evaluations",
    )
    for title, group in zip(titles, (found["models"], found["solvers"]), strict=True):
        curves = {name: Curve(one["levels"], one["error"]) for name, one in group.items()}
        sections.append(Panel(title, curves, "level", "distance from the accurate path", log="xy"))
    rows = [
        [name, *(one[key] for key in ("nfe", "end", "convex", "least"))]
        for name, one in found["solvers"].items()
    ]
    best: Best = {"distance of the ends": "min"}
    caption = (
        "Mean distance to the accurate ends; share of steps that go towards a convex combination "
        "of denoised outputs, and the least weight of one (arXiv 2405.11326, proposition 4.1)."
    )
    head = ["solver", "NFE", "distance of the ends", "convex steps", "least weight"]
    table = Table(head, rows, caption, best)
    levels = [[name, *(f"{s:.3g}" for s in grid)] for name, grid in found["recommended"].items()]
    width = max(len(row) for row in levels) - 1
    grids = Table(["levels by", *(f"{n}" for n in range(width))], levels,
                  f"Levels for {width - 1} steps.")  # fmt: skip
    few = [
        [f"GITS, {name}, of {n}", *(f"{s:.3g}" for s in grid)]
        for name, one in found["of a few"].items()
        for n, grid in zip(one["counts"], one["levels"], strict=True)
    ]
    caption = "The same, found on the first trajectories alone: all have nearly one shape."
    of_a_few = Table(grids.headers, few, caption)
    picture = Picture(panels(sections, 2), "Left, every step begins on the accurate path; "
                      "right, errors add up.", "Errors of steps over the noise level.")  # fmt: skip
    return [Section("Where the error is made", list(numbers["advice"]), [picture],
                    [table, grids, of_a_few])]  # fmt: skip


def jacobian(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    """Return the section: whether denoised outputs are a gradient, and how steep they are."""
    found = numbers["jacobian"]
    titles = {
        "asymmetry": "|J - J^T| / |J|", "steepness": "largest singular value of J", "trace": "tr J"
    }  # fmt: skip
    drawn = []
    for key, title in titles.items():
        each = {name: one[key] for name, one in found["models"].items() if key in one}
        curves = {n: Curve(one["levels"], one["mean"], one["std"]) for n, one in each.items()}
        drawn.append(Panel(title, curves))
    text = (
        "J = dD/dx. The outputs of an optimal denoiser are a gradient, and its J symmetric; how "
        "far a network's is from that says how far its outputs are from those of any density. "
        "The largest singular value is the local Lipschitz constant of D. "
        "tr J is how many dimensions the denoiser keeps."
    )
    probes = found["probes"]
    how = "exact" if probes is None else f"by {probes} random probes each"
    caption = (
        f"Means over {found['samples']} trajectories, {how}, along each model's own path; the "
        "largest singular value by power iteration, from below. J of the finite data set is "
        "symmetric by its form, and 0 where it has one neighbour."
    )
    alt = "Asymmetry, largest singular value and trace of the Jacobian over the noise level."
    picture = Picture(panels(drawn, 3, list(numbers["paths"])), caption, alt)
    return [Section("Is it a gradient?", [text], [picture])]


def latent(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    """Return the section: what lies between two noises."""
    found = numbers["latent"]
    drawn = []
    for key, title in (
        ("noise", "|z| / sqrt(d)"),
        ("end", "standard deviation of the end's numbers"),
    ):
        curves = {
            f"{model}, {mode}": Curve(found["fractions"], one[key])
            for model, modes in found["models"].items()
            for mode, one in modes.items()
        }
        drawn.append(
            Panel(title, curves, "from the first noise to the second", log="", levels=False)
        )
    text = (
        "What lies between two noises. A straight line between them shrinks the noise, to "
        "1/sqrt(2) of its norm in the middle, and leaves what the model was trained on; the "
        "sphere, and weights whose squares sum to 1, keep it."
    )
    alt = "Norms of noises and spread of their ends along interpolations."
    figures = [Picture(panels(drawn, 2), "Means over pairs of noises.", alt)]
    if shown.interpolated is not None:
        for mode, images in shown.interpolated.items():
            rows = len(images) // shown.columns
            picture = side_by_side({mode: apart(images)}, rows, shown.columns)
            figures.append(Picture(picture, f"{mode}: from one noise to another.",
                                   "Rows of images from one noise to another."))  # fmt: skip
    return [Section("Between two noises", [text], figures)]


def copies(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    """Return the section: how near samples are to the data."""
    found = numbers["copies"]
    rows = [[name, one["median"], one["smallest"], one["copies"]] for name, one in found.items()]
    caption = "A copy is nearer to one of the data than a third of its distance to the second."
    table = Table(["samples of", "median distance", "smallest", "share of copies"], rows, caption,
                  references=1)  # fmt: skip
    text = (
        "Distance of the ends of trajectories to the nearest of the data, over all their numbers."
    )
    figures = []
    if shown.copies is not None and shown.distances is not None and shown.held_out is not None:
        samples, beside = (apart(images) for images in shown.copies)
        figure = nearest_neighbours(samples, beside, shown.distances, shown.held_out)
        caption = "The model's samples that are nearest to the data."
        figures.append(Picture(figure, caption, "Samples above the data nearest to them."))
    return [Section("Are samples copies?", [text], figures, [table])]


def distillation(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    """Return the section: what students do to denoised outputs."""
    found = numbers["distillation"]
    curves = {name: Curve(one["levels"], one["mean"]) for name, one in found["models"].items()}
    drawn = [Panel("|D(x) - end|, on the teacher's path", curves, log="xy")]
    between = {
        f"{name}, {mode}": Curve(found["latent"]["fractions"], one["end"])
        for name, modes in found["latent"]["models"].items()
        for mode, one in modes.items()
    }
    title = "spread of students' outputs between two noises"
    drawn.append(Panel(title, between, "from the first to the second", log="", levels=False))
    text = (
        "Distance of what each model returns at a state of the teacher's path to the path's end. "
        "The teacher returns the mean of all data that the state could still become; a student "
        "that has learnt the flow returns the end at once."
    )
    rows = [[name, one["mean"][0], one["share"]] for name, one in found["models"].items()]
    table = Table(["model", "at the highest level", "of the teacher's, all levels"], rows)
    picture = Picture(panels(drawn, 2, height=3.2), "Means over trajectories.",
                      "Distances to the end, of teacher and students.")  # fmt: skip
    return [Section("What distillation does", [text], [picture], [table])]


def guidance(numbers: Mapping[str, Any], shown: Shown) -> list[Section]:
    """Return the section: what guidance does to trajectories."""
    found = numbers["guidance"]
    titles = {"deviation": "distance of x from its chord", "norm of D": "|D|"}
    drawn = []
    for key, title in titles.items():
        curves = {n: Curve(one[key]["levels"], one[key]["mean"]) for n, one in found.items()}
        drawn.append(Panel(title, curves))
    bent = {n: one["curvature"] for n, one in found.items() if "curvature" in one}
    if bent:
        curves = {n: Curve(one["levels"], one["mean"]) for n, one in bent.items()}
        drawn.append(Panel("curvature of x", curves, log="xy"))
    names = ("peak deviation of x", "at level", "|D| last", "path / chord")
    rows = [[name, *(one["summary"][q] for q in names)] for name, one in found.items()]
    text = "The same noises and classes with classifier-free guidance of several weights."
    picture = Picture(panels(drawn, 3), "Means over trajectories.",
                      "Deviation, norms and curvature for several guidance weights.")  # fmt: skip
    return [Section("Guidance", [text], [picture], [Table(["weight", *names], rows)])]
