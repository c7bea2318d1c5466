"""``jaxdiff compare``: runs side by side on one page."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app.conditions import takes_text
from jaxdiff.app.data import class_labels, same_classes
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.logs import QUALITY
from jaxdiff.app.models import Model
from jaxdiff.app.options import check
from jaxdiff.app.published import to_pictures, without_pictures
from jaxdiff.app.runs import HEADERS, KEYS, SCORE, losses, row_of, scores_of
from jaxdiff.app.samplers import make_sampler
from jaxdiff.files import check_writable
from jaxdiff.report.page import Picture, Section, Table, write_numbers, write_page
from jaxdiff.report.terminal import format_table
from jaxdiff.training.history import HISTORY, read_history

COLUMNS = 5  # of samples


def compare(config: configs.Compare, progress: bool = True) -> str:
    """Write the numbers of several runs, then their page; return the table of them.

    Raises ValueError for fewer than two runs or one given twice, OSError for a folder that is no
    run and a page that cannot be written.
    """
    check(config)
    folders = {name: Path(name) for name in config.runs}
    if len(folders) < 2 or len(folders) < len(config.runs):
        raise ValueError("give two different runs or more: jaxdiff compare runs/a runs/b")
    options = {name: flat(config_file.to_dict(config_file.load(p))) for name, p in folders.items()}
    out = Path(config.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out names a page, which ends in .html, not {out}")
    for path in (out, out.with_suffix(".json")):
        check_writable(path)
    rows = [row_of(path, path) for path in folders.values()]
    cells = [[row[key] for key in KEYS] for row in rows]
    differ, curves = differences(options), curves_of(folders)
    numbers = {"runs": rows, "options": differ, "curves": curves}
    said = f"{format_table(HEADERS, cells, {SCORE: 'min'})}\n\n{_said(differ)}"
    beside = write_numbers(out.with_suffix(".json"), numbers)
    try:
        sections = [
            Section("Runs", tables=[Table(HEADERS, cells, best={SCORE: "min"})]),
            _options(differ), *_figures(curves), *_scores(folders), *_samples(config, progress),
        ]  # fmt: skip
        write_page(out, "Runs compared", ", ".join(folders), sections, numbers)
    except Exception as error:  # of whatever draws it
        warnings.warn(f"the page could not be made: {error}", stacklevel=2)
        return f"{said}\nthe numbers: {beside}"
    return f"{said}\nthe page: {out}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by their names with dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


def differences(options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the options in which runs differ, {option: {run: value}}; "-" where a run has none."""
    found = {}
    for name in dict.fromkeys(name for own in options.values() for name in own):
        values = {run: _word(own[name]) if name in own else "-" for run, own in options.items()}
        if name not in ("run", "kind") and len(set(values.values())) > 1:
            found[name] = values
    return found


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _options(differ: Mapping[str, Mapping[str, str]]) -> Section:
    if not differ:
        return Section("Options", ["The runs have the same options."])
    runs = list(next(iter(differ.values())))
    rows = [[name, *values.values()] for name, values in differ.items()]
    return Section("Options that differ", tables=[Table(["option", *runs], rows)])


def _said(differ: Mapping[str, Mapping[str, str]]) -> str:
    lines = [f"{name}: {' | '.join(values.values())}" for name, values in differ.items()]
    return "\n".join(["options that differ:", *(f"  {line}" for line in lines or ["none"])])


def curves_of(folders: Mapping[str, Path]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return what was logged, {number: {run: [(update, value), ...]}}: losses, then distances."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for run, folder in folders.items():
        for row in losses(folder):
            _add(found, run, {k: v for k, v in row.items() if k.endswith("/loss")}, row["step"])
    for run, folder in folders.items():
        kept = folder / QUALITY
        for row in read_history(kept) if (kept / HISTORY).exists() else []:
            own = {k: v for k, v in row.items() if k.startswith(f"{QUALITY}/nfe")}
            _add(found, run, own, row["step"])
    return found


def _add(found: dict[str, Any], run: str, values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        if np.isfinite(value):
            found.setdefault(name, {}).setdefault(run, []).append((step, value))


def _figures(curves: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    from jaxdiff.report.compare import curves_of_runs

    distances = {name: own for name, own in curves.items() if name.startswith(QUALITY)}
    lost = {name: own for name, own in curves.items() if name not in distances}
    made = []
    for heading, panels, caption in (
        ("Losses", lost, "Losses as they trained, and their means over a fortieth of the run."),
        (
            "Distances as they trained", distances,
            "Sliced Wasserstein distance of samples to the data, by number of evaluations.",
        ),
    ):  # fmt: skip
        if panels:
            figure = curves_of_runs(panels, smooth=panels is lost)
            alt = f"Curves of {', '.join(panels)} over the updates, one for each run."
            made.append(Section(heading, figures=[Picture(figure, caption, alt)]))
    return made


def _scores(folders: Mapping[str, Path]) -> list[Section]:
    from jaxdiff.report.curves import quality_against_nfe

    found = {run: made for run, folder in folders.items() if (made := scores_of(folder))}
    if not found:
        return []
    caption = "Scores that jaxdiff evaluate found, each run by its own protocol."
    alt = "Frechet distance over the number of network evaluations, a curve for each run."
    return [Section("Scores", figures=[Picture(quality_against_nfe(found), caption, alt)])]


def _samples(config: configs.Compare, progress: bool) -> list[Section]:
    """Return samples of every run that has a model, of the same noise and classes."""
    from jaxdiff.report.images import apart, image_grid, side_by_side

    if not config.count:
        return []
    made, models, without = {}, [], []
    for run in config.runs:
        try:
            images, model = _sampled(run, config, progress)
            made[run] = apart(images)
            models.append(model)
        except (OSError, ValueError, FloatingPointError) as error:
            without.append(f"{run}: {error}")
    if not made:
        return [Section("Samples", ["There are none.", *without])]
    rows = -(-config.count // COLUMNS)
    alike = all(same_classes(models[0], model) for model in models)
    classes = "classes" if alike else "numbers of classes, which are others in each"
    text = f"Samples of the same noise and {classes}, each run by its own sampler."
    if len({images.shape[1:] for images in made.values()}) == 1 and config.count % COLUMNS == 0:
        pictures = [Picture(side_by_side(made, rows, COLUMNS), text, "Samples of each run.")]
    else:
        pictures = [
            Picture(image_grid(images, COLUMNS), f"{run}: {text}", f"Samples of {run}.")
            for run, images in made.items()
        ]
    return [Section("Samples", without, pictures)]


def _sampled(run: str, config: configs.Compare, progress: bool) -> tuple[np.ndarray, Model]:
    model = load_model(run, progress=progress)
    shown = model.pairs or (model.student and model.shown)
    if takes_text(model) or without_pictures(model) or shown:
        raise ValueError(
            "its samples are no images, or need a prompt or a picture: jaxdiff sample or restore "
            "makes them"
        )
    sampler = make_sampler(model, configs.Sample(run), config.num_steps)
    labels = class_labels(config.count, model.classes)
    samples = generate(
        sampler, config.count, model.shape, labels, batch=config.batch, seed=config.seed,
        progress=progress, bounds=model.bounds,
    )  # fmt: skip
    return to_pictures(model.source, samples), model
