"""The command ``jaxdiff evaluate``: the numbers first, printed and saved; then the page."""

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app.conditions import check_class_condition
from jaxdiff.app.evaluator import DRAWS, METRICS, Evaluator, make_evaluator, measure
from jaxdiff.app.generate import generate
from jaxdiff.app.given_features import given_evaluator
from jaxdiff.app.image_features import ImageFeatures, image_features
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.options import check, placed
from jaxdiff.app.published import is_published, picture_shape, to_pictures
from jaxdiff.app.references import References, find, labels_for
from jaxdiff.app.samplers import make_sampler
from jaxdiff.app.text import classes_of
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.files import check_writable
from jaxdiff.metrics.protocol import Score
from jaxdiff.metrics.statistics import check_statistics_file, write_statistics
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.training import hosts
from jaxdiff.typing import Cond

SHOWN = 50  # samples in the page


class Scored(NamedTuple):
    """One sampler: its name, evaluations and scores, and some of its samples."""

    name: str
    nfe: int
    scores: dict[str, Score]
    samples: np.ndarray

    @property
    def numbers(self) -> dict[str, Any]:
        """Return what is saved of it."""
        return {"nfe": self.nfe, **{k: s.to_dict() for k, s in self.scores.items()}}


def evaluate(config: configs.Evaluate, progress: bool = True) -> str:
    """Score a run at several step counts: print the table, save it, write the report; return the
    table.

    A place that ``config`` names and that cannot be written is an OSError before any work; in a
    run that cannot be written the table is printed alone, with a warning. So is one whose page
    cannot be made printed and saved.
    """
    check(config)
    features = image_features(config, progress and hosts.is_main_process())
    model = load_model(config.run, config.checkpoint, progress)
    model.check_images("evaluate")
    if model.tokenizer is None:
        check_class_condition(model, "evaluate")
    out, progress = _place(config), progress and hosts.is_main_process()
    samplers = {n: make_sampler(model, config, n) for n in _steps(model, config)}
    real = find(model, config, progress)
    labels, how = labels_for(model, real, config)
    if progress:
        print(f"comparing with {real.shown}", flush=True)
    evaluator = _evaluator(real, config, features, model, progress)
    if config.save_statistics is not None and hosts.is_main_process():
        write_statistics(config.save_statistics, evaluator.statistics())
    # whatever is wrong with the images is found before sampling
    evaluator.real_data_scores(config.count)
    each = _each(model, config, evaluator, samplers, labels, progress)
    table, text = _table(evaluator, each)
    text += f"\n\n{_protocol(evaluator, how)}"
    if not hosts.is_main_process():
        return text
    print(text, flush=True)
    if out is not None:
        numbers = {
            "config": config_file.to_dict(config),
            "reference": evaluator.reference_name,
            "labels": how,
            "scores": {one.name: one.numbers for one in each},
        }
        _save(out, config, evaluator, how, table, each, numbers, _shown(real))
    return text


def _evaluator(
    real: References,
    config: configs.Evaluate,
    features: ImageFeatures | None,
    model: Model,
    progress: bool,
) -> Evaluator:
    """Return what compares samples with real images as the options say."""
    shape, run = picture_shape(model.source, model.shape), _folder(config)
    if features is not None:
        kept = run / f"reference-{config.features}.npz" if run and features.key else None
        return given_evaluator(
            features, real.others, real.reference, config.seed, shape=shape, shown=real.shown,
            kept=kept, progress=progress,
        )  # fmt: skip
    assert isinstance(real.reference, Dataset) and real.others is not None
    return make_evaluator(
        real.others, real.reference, config.features, config.seed, shown=real.shown,
        kept=run and run / "reference.npz", progress=progress, **placed(config),
    )  # fmt: skip


def _folder(config: configs.Evaluate) -> Path | None:
    """Return the folder of the run; None of published weights, beside which nothing is kept."""
    return None if is_published(config.run) else Path(config.run)


def _place(config: configs.Evaluate) -> Path | None:
    """Return where the report goes; None if the run's folder, where it would go by itself, cannot
    be written.
    """
    if config.save_statistics is not None:
        check_statistics_file(config.save_statistics)
        check_writable(config.save_statistics)
    out = Path(config.out or (_folder(config) or Path()) / "evaluation.html")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out names a page, which ends in .html, not {out}")
    try:
        for path in (out, out.with_suffix(".json")):
            check_writable(path)
    except OSError as error:
        if config.out is not None:
            raise
        warnings.warn(
            f"the scores will be printed and not saved ({error}); --out FILE.html saves them "
            "elsewhere",
            stacklevel=3,
        )
        return None
    return out


def _steps(model: Model, config: configs.Evaluate) -> tuple[int | None, ...]:
    if config.table:  # it has its own
        return (None,)
    few = tuple(n for n in (1, 2, 4) if str(n) in model.metadata.get("samplers", {}))
    return config.num_steps or (few if model.student else (5, 10, 20))


def _each(
    model: Model,
    config: configs.Evaluate,
    evaluator: Evaluator,
    samplers: Mapping[int | None, Sampler],
    labels: Cond,
    progress: bool,
) -> list[Scored]:
    """Score every number of steps; one whose samples are not finite is left out with a warning, so
    that the others are not lost. FloatingPointError if all are.
    """
    each: list[Scored] = []
    for i, (num_steps, sampler) in enumerate(samplers.items(), 1):
        try:
            each.append(_scored(model, config, evaluator, sampler, num_steps, labels, progress))
        except FloatingPointError as error:
            if i == len(samplers) and not each:
                raise
            warnings.warn(f"without scores, {num_steps} steps: {error}", stacklevel=3)
    return each


def _scored(
    model: Model,
    config: configs.Evaluate,
    evaluator: Evaluator,
    sampler: Sampler,
    num_steps: int | None,
    labels: Cond,
    progress: bool,
) -> Scored:
    """Sample with one number of steps and score the samples."""
    samples = generate(
        sampler, config.count, model.shape, labels, batch=config.batch, seed=config.seed,
        progress=progress, bounds=model.bounds, **placed(config),
    )  # fmt: skip
    images = to_pictures(model.source, samples)
    classes: Any = classes_of(labels, model.classes)
    nfe = sampler.table.nfe * (2 if config.guidance is not None else 1)
    name = f"{sampler.table.name}, {config.table if num_steps is None else f'{num_steps} steps'}"
    return Scored(name, nfe, measure(evaluator, images, classes), images[:SHOWN])


def _table(evaluator: Evaluator, each: list[Scored]) -> tuple[Any, str]:
    """Return the table of all samplers, with what real images score below them, and its text."""
    from jaxdiff.report.page import Table
    from jaxdiff.report.terminal import format_table

    first = each[0].scores
    real_data = [score.real_data for score in first.values() if score.real_data is not None]
    rows: list[list[Any]] = [
        [one.name, one.nfe, first[METRICS[0]].samples, *(s.value for s in one.scores.values())]
        for one in each
    ]
    if real_data:
        rows.append(["real images", None, real_data[0].samples, *(f.value for f in real_data)])
        rows.append([f"+- over {DRAWS} draws", None, None, *(f.std for f in real_data)])
    below = 2 if real_data else 0
    table = Table(["sampler", "NFE", "images", *first], rows, references=below)
    return table, format_table(table.headers, rows, references=below)


def _protocol(evaluator: Evaluator, how: str) -> str:
    """Return what the numbers are against and of, in words."""
    parts = [f"reference: {evaluator.reference_name}", f"features: {evaluator.name}"]
    if how:
        parts.append(f"samples: {how}")
    if evaluator.real is None:
        parts.append("real images: none but the reference")
    else:
        drawn = f"{len(evaluator.real)} of {evaluator.real_name}"
        parts.append(f"real images: {DRAWS} random draws from {drawn}")
    return "\n".join(parts)


def _save(
    out: Path,
    config: configs.Evaluate,
    evaluator: Evaluator,
    how: str,
    table: Any,
    each: list[Scored],
    numbers: dict[str, Any],
    real: np.ndarray | None,
) -> None:
    """Save the numbers; then make the page, without which they are still there."""
    from jaxdiff.report.page import write_numbers

    beside = write_numbers(out.with_suffix(".json"), numbers)
    try:
        page = functools.partial(_page, evaluator, how, table, each, real=real)
        print(f"\nreport: {page(out, f'Scores of {config.run}', numbers).resolve()}")
    except Exception as error:  # of whatever draws it
        warnings.warn(
            f"the numbers are in {beside}; the page could not be made: {error}", stacklevel=3
        )


def _page(
    evaluator: Evaluator,
    how: str,
    table: Any,
    each: list[Scored],
    out: Path,
    title: str,
    numbers: dict[str, Any],
    real: np.ndarray | None = None,
) -> Path:
    from jaxdiff.report.images import beside_real
    from jaxdiff.report.page import Picture, Section, write_page

    sections = [Section("Scores", _protocol(evaluator, how).split("\n"), [], [table])]
    for one in each:
        words = f"Samples of {one.name}" + ("." if real is None else ", and real images.")
        picture = Picture(beside_real(one.samples, real), words, "Grids of images.")
        sections.append(Section(one.name, [], [picture]))
    return write_page(out, title, evaluator.reference_name, sections, numbers)


def _shown(real: References) -> np.ndarray | None:
    """Return some images of the reference, None of mere statistics."""
    if not isinstance(real.reference, Dataset):
        return None
    return to_float(real.reference.images[:SHOWN])
