"""The tables of a network beside its null models, of the page of experiments.geometry."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdiff.report.terminal import Cell, cell_text

Numbers = Mapping[str, Any]
TITLES = {
    "MNIST": "The model of MNIST that comes with the package",
    "published MNIST": "A published model of MNIST",
    "digits": "A network trained on the digits",
}
WHY = {"published MNIST": " (from higher ones this model's flow leaves the data)"}
PLACES = (80.0, 12.4, 5.8, 2.5, 0.97, 0.32, 0.085, 0.002)  # levels of columns


def learned(name: str, one: Numbers) -> list[str]:
    """Return all tables of one data set with a network."""
    models = one["paths"]
    quantities = next(iter(models.values()))["summary"]
    parts: dict[str, Callable[[], list[str]]] = {
        "jacobian": lambda: _jacobian(one["jacobian"]),
        "local error": lambda: _local_error(one),
        "latent": lambda: _latent(one["latent"]["fractions"], one["latent"]["models"], "model"),
        "distillation": lambda: _distillation(one["distillation"]),
        "guidance": lambda: _guidance(one["guidance"]),
    }
    return [
        f"## {TITLES[name]}\n",
        f"{one['config']['count']} trajectories from level {one['levels'][0]:g}"
        f"{WHY.get(name, '')}.",
        f"{one['null models of']}\n",
        *_table(
            ["quantity", *models],
            [[q, *(m["summary"][q] for m in models.values())] for q in quantities],
        ),
        *(line for part, make in parts.items() if part in one for line in make()),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    escape = lambda cell: cell_text(cell).replace("|", "\\|")  # noqa: E731
    lines = [list(head), *rows]
    made = ["| " + " | ".join(escape(cell) for cell in line) + " |" for line in lines]
    return [made[0], "|---|" + "--:|" * (len(head) - 1), *made[1:], ""]


def _at(levels: Sequence[float]) -> list[int]:
    """Return which of the levels are columns: the nearest to those of ``PLACES`` that they span."""
    known = np.asarray(levels)
    inside = [s for s in PLACES if known[-1] * 0.99 <= s <= known[0] * 1.01]
    return list(dict.fromkeys(int(np.abs(np.log(known / s)).argmin()) for s in inside))


def _over_levels(
    first: str, curves: Mapping[str, Numbers], value: Callable[[str, int], float]
) -> list[str]:
    """Return a table of curves over one set of levels."""
    levels = next(iter(curves.values()))["levels"]
    rows = _at(levels)
    head = [first, *(f"{levels[n]:.3g}" for n in rows)]
    return _table(head, [[name, *(value(name, n) for n in rows)] for name in curves])


def _jacobian(found: Numbers) -> list[str]:
    """Return asymmetry, largest singular value and trace by level."""
    words = {
        "asymmetry": "|J - J^T| / |J|", "steepness": "largest singular value", "trace": "tr J"
    }  # fmt: skip
    curves = {
        f"{words[key]}, {name}": one[key]
        for key in words
        for name, one in found["models"].items()
        if key in one
    }
    how = "exact" if found["probes"] is None else f"by {found['probes']} random probes each"
    return [
        f"J = dD/dx along each model's own path, means over {found['samples']} trajectories,",
        f"{how}; the largest singular value, the local Lipschitz constant of D, by power",
        "iteration, from below. An optimal denoiser's J is symmetric: the Gaussian's ratio is",
        "rounding, and the finite data set's J is 0 where it has one neighbour.\n",
        *_over_levels("at level", curves, lambda name, n: curves[name]["mean"][n]),
    ]


def _local_error(one: Numbers) -> list[str]:
    """Return where solvers leave the accurate path, and the levels that GITS finds."""
    found, rows = one["local error"], []
    for name, solver in found["solvers"].items():
        errors, levels = solver["error"], solver["levels"]
        grown = np.diff([0.0, *errors])
        worst = int(np.argmax(grown))
        start = one["levels"][0] if worst == 0 else levels[worst - 1]
        by_level = ", ".join(f"{s:.3g}: {e:.3g}" for s, e in zip(levels, errors, strict=True))
        worst_step = f"{start:.3g} to {levels[worst]:.3g}"
        rows.append([name, solver["nfe"], by_level, worst_step, solver["end"]])
    grids = [
        [f"{name}, {n}", ", ".join(f"{s:.3g}" for s in grid)]
        for name, few in found["of a few"].items()
        for n, grid in zip(few["counts"], few["levels"], strict=True)
    ]
    head = ["solver", "NFE", "|x - accurate path| by level", "grows most from", "at the end"]
    return [
        *(f"- {line}" for line in one["advice"]),
        "\nWhich part of the path each solver gets wrong, on Karras's levels:\n",
        *_table(head, rows),
        f"GITS for {found['nfe']} steps from a few trajectories (discount 1.15):\n",
        *_table(["from, trajectories", "levels"], grids),
    ]


def _latent(fractions: Sequence[float], models: Numbers, first: str) -> list[str]:
    """Return the spread of ends half-way between two noises, over that at the two."""
    middle = len(fractions) // 2

    def share(curve: Sequence[float]) -> float:
        return curve[middle] / (0.5 * (curve[0] + curve[-1]))

    modes = list(next(iter(models.values())))
    rows = [
        [name, *(share(one[mode][key]) for mode in modes for key in ("noise", "end"))]
        for name, one in models.items()
    ]
    head = [f"{what}, {mode}" for mode in modes for what in ("|noise|", "spread")]
    return [
        "Half-way between two noises, over what it is at the two of them; the spread is the",
        "standard deviation of all numbers of the ends.\n",
        *_table([first, *head], rows),
    ]


def _distillation(found: Numbers) -> list[str]:
    """Return the distance of outputs to the end of the teacher's path, and students' latents."""
    models = found["models"]
    teacher = models["teacher"]["mean"]

    def words(name: str) -> str:
        follows = models[name].get("follows")
        return name.partition(",")[0] + (" (of another flow)" if follows is False else "")

    curves = {words(name): one for name, one in models.items()}
    latent = {words(name): one for name, one in found["latent"]["models"].items()}

    def value(name: str, n: int) -> float:
        mean = curves[name]["mean"][n]
        return mean if name == "teacher" else mean / teacher[n]

    shares = {name: one["share"] for name, one in curves.items() if name != "teacher"}
    said = ", ".join(f"{name.removeprefix('student by ')} {s:.3g}" for name, s in shares.items())
    return [
        "What distillation does: \\|D(x) - end\\| at states of the teacher's path, of the teacher,",
        "and of students over the teacher's. A student whose method matches distributions, or",
        "follows another flow, is not meant to end there.\n",
        *_over_levels("at level", curves, value),
        f"Summed over all levels, over the teacher's: {said}.\n",
        "Students' outputs at the highest level:\n",
        *_latent(found["latent"]["fractions"], latent, "student"),
    ]


def _guidance(found: Numbers) -> list[str]:
    """Return deviation, norms and curvature by weight."""
    names = ("peak deviation of x", "at level", "peak deviation of D", "at level (D)", "|D| last",
             "path / chord")  # fmt: skip
    rows: list[list[Cell]] = []
    for weight, one in found.items():
        bent = one.get("curvature", {"mean": [np.nan], "levels": [np.nan]})
        most = int(np.argmax(bent["mean"]))
        rows.append([weight, *(one["summary"][n] for n in names), bent["mean"][most],
                     bent["levels"][most]])  # fmt: skip
    return _table(["guidance", *names, "largest curvature", "at level (curvature)"], rows)
