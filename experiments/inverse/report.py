"""The page and the picture of inverse problems on images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.app.restoration_methods import METHODS
from jaxdiff.report.restoration import restorations

Entry = dict[str, Any]
GREY = 0.0  # of what a method does not take
SHOWN = ("mmps", "pigdm", "dps", "diffpir", "dds", "ddrm", "ddnm_plus", "daps", "red_diff", "tds")
WORDS = {
    "inpaint": "a box of half the height and width is hidden",
    "pixels": "a quarter of the pixels is known",
    "super": "means of 2x2 pixels",
    "blur": "a Gaussian blur of one pixel",
    "projections": "a quarter as many random projections as pixels",
    "jpeg": "JPEG's quantisation at quality 10, which is not linear",
}


def page(result: dict[str, Any], pictured: bool) -> str:
    """Return the page: for every model and noise a table of methods by tasks; ``pictured``, the
    picture.
    """
    s = result["settings"]
    text = [
        "# Six inverse problems on images", "",
        "Made by `python -m experiments.inverse`: the two models that come with the package as "
        f"priors, {s['count']} images of each test set, {s['samples']} samples of each, "
        f"{s['steps']} steps, {s['particles']} particles of the methods that have some. "
        f"{result['machine']}.", "",
        "In a cell: PSNR of single samples / of the mean of a measurement's samples, dB / misfit, "
        "the root mean square of u - A(x), which is to be the noise. A dash is a task that a "
        "method is not for or was not measured on. *evaluations* are of the network, without "
        "gradients through it.", "",
        *[f"- *{task}*: {words}" for task, words in WORDS.items()], "",
    ]  # fmt: skip
    rows = result["rows"]
    for model in dict.fromkeys(r["model"] for r in rows):
        for noise in dict.fromkeys(r["noise"] for r in rows):
            chosen = [r for r in rows if (r["model"], r["noise"]) == (model, noise)]
            if chosen:
                text += [f"## {model}, noise {noise:g}", "", *table(chosen), ""]
    shown = ["![the first image of every task, and samples of some methods](inverse.png)", ""]
    return "\n".join([*text, *shown * pictured])


def table(rows: list[Entry]) -> list[str]:
    """Return the lines of a table of methods by tasks; the best PSNR of a task is bold."""
    tasks = [t for t in WORDS if any(r["task"] == t for r in rows)]
    at = {(r["method"], r["task"]): r for r in rows}
    best = {t: max(r["psnr"] or -np.inf for r in rows if r["task"] == t) for t in tasks}
    lines = [
        "| method | evaluations | " + " | ".join(tasks) + " |",
        "|---" * (len(tasks) + 2) + "|",
    ]
    for name in [n for n in METHODS if any(r["method"] == n for r in rows)]:
        cells = [cell(at.get((name, t)), best[t]) for t in tasks]
        nfe = next(r["nfe"] for r in rows if r["method"] == name)
        lines.append(f"| {name} | {nfe} | " + " | ".join(cells) + " |")
    return lines


def cell(row: Entry | None, best: float) -> str:
    """Return a cell: two PSNRs and the misfit."""
    if row is None:
        return "-"
    if row["psnr"] is None or row["psnr of mean"] is None:
        return "not finite"
    single = f"{row['psnr']:.1f}"
    if row["psnr"] == best:
        single = f"**{single}**"
    return f"{single} / {row['psnr of mean']:.1f} / {row['misfit']:.3f}"


def picture(arrays: Path, models: Sequence[str], tasks: Sequence[str], path: Path) -> None:
    """Draw of every task the first image and two samples of some methods, of the last of the models
    that was measured. Nothing is drawn, and the file is left as it is, where none was.
    """
    made = [(m, t) for m in models for t in tasks if _file(arrays, m, t, "measured").exists()]
    if not made:
        return
    model = made[-1][0]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("truth", *SHOWN)}
    for task in [t for m, t in made if m == model]:
        with np.load(_file(arrays, model, task, "measured")) as file:
            truth = file["truth"][:1]
        rows["truth"].append(truth)
        for name in SHOWN:
            if (found := _file(arrays, model, task, name)).exists():
                with np.load(found) as file:
                    rows[name].append(file["restored"][0, :2])
            else:
                rows[name].append(np.full((2, *truth.shape[1:]), GREY))
    restorations({name: np.stack(row) for name, row in rows.items()}).savefig(path)


def _file(arrays: Path, model: str, task: str, name: str) -> Path:
    """Return the file of a method's restorations, or of what was measured."""
    return arrays / f"{model}-{task}-0.05-{name}.npz"
