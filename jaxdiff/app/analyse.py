"""The command ``jaxdiff analyse``: the numbers first, printed and saved; then the page."""

import platform
import time
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff import grids
from jaxdiff.app import config as configs
from jaxdiff.app import config_file, effects, ends, geometry, jacobians, step_errors
from jaxdiff.app.models import Model
from jaxdiff.app.options import check
from jaxdiff.app.published import to_pictures
from jaxdiff.app.subjects import (
    data_for,
    guidable,
    label_of,
    levels_of,
    loaded,
    noise_for,
    place_of,
    subjects_of,
)
from jaxdiff.files import check_writable

SHOWN = 12


def analyse(config: configs.Analyse, progress: bool = True) -> str:
    """Analyse a model: measure, save the numbers and print them, write the page; return where it
    is.

    Raises ValueError for options that do not go together and for models and data that do not, and
    OSError for a place that cannot be written: before anything is sampled.
    """
    from jaxdiff.report.analysis import analysis_page, in_words
    from jaxdiff.report.page import write_numbers

    check(config)
    out = Path(place_of(config))
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out names a page, which ends in .html, not {out}")
    for path in (out, out.with_suffix(".json")):
        check_writable(path)
    model, students = loaded(config, progress)
    numbers, shown = measured(config, model, students, progress)
    beside = write_numbers(out.with_suffix(".json"), numbers)
    print(in_words(numbers), flush=True)
    try:
        return f"\nreport: {analysis_page(out, numbers, shown).resolve()}"
    except Exception as error:  # of whatever draws it
        warnings.warn(f"the page could not be made: {error}", stacklevel=2)
        return f"\nnumbers: {beside}"


def measured(
    config: configs.Analyse,
    model: Model,
    students: dict[str, Model],
    progress: bool,
    only: Collection[str] | None = None,
) -> tuple[dict[str, Any], Any]:
    """Return the numbers of the report, or of some of its parts ``only``, and what it shows."""
    from tqdm import tqdm

    step_errors.check_nfe(config.nfe, config.num_steps)
    label, low_high = label_of(model, config), levels_of(model, config)
    levels = grids.karras(config.num_steps, *low_high, zero=False)
    noise, data = noise_for(config, model.shape), data_for(model, config, progress)
    paths: dict[str, geometry.Followed] = {}
    subjects = subjects_of(model, data, label, config.count)
    study = geometry.Study(subjects, noise, levels, data, paths)
    numbers: dict[str, Any] = {
        "config": config_file.to_dict(config), "model": str(config.run or config.problem),
        "null models of": f"Null models of {data.shown}.", "levels": levels.tolist(), "advice": [],
        "machine": {"jax": jax.__version__, "device": str(jax.devices()[0]),
                    "platform": platform.platform()},
    }  # fmt: skip
    seconds, kept = {}, {}
    parts = _parts(config, model, students, study, label, numbers, kept)
    parts = {name: part for name, part in parts.items() if only is None or name in only}
    with tqdm(total=len(parts) + len(study.subjects), disable=not progress, unit="part") as bar:
        for name, one in study.subjects.items():
            bar.set_description(f"trajectories of the {name}")
            began = time.perf_counter()
            paths[name] = geometry.euler_path(one, levels, noise)
            if not np.isfinite(np.asarray(paths[name].path.states)).all():
                raise FloatingPointError(f"the trajectories of the {name} are not finite")
            seconds[f"trajectories of the {name}"] = time.perf_counter() - began
            bar.update()
        for name, part in parts.items():
            bar.set_description(name)
            began = time.perf_counter()
            numbers[name] = part()
            seconds[name] = time.perf_counter() - began
            bar.update()
    numbers["seconds"] = seconds
    return numbers, _shown(model, study, kept) if only is None else None


def _parts(
    config: configs.Analyse,
    model: Model,
    students: dict[str, Model],
    study: geometry.Study,
    label: int | None,
    numbers: dict[str, Any],
    kept: dict[str, Any],
) -> dict[str, Callable[[], Any]]:
    """Return what is measured once there are trajectories, by name, in order. Beside what each
    returns there is advice in ``numbers`` and what is shown in ``kept``.
    """

    def bends() -> Any:
        for name, one in study.subjects.items():
            bent = geometry.bends(one, study.paths[name].path, torsion=name != geometry.FINITE)
            numbers["paths"][name] |= bent
        return {"trajectories": min(geometry.BENT, config.count)}

    def local_error() -> Any:
        found, advice = step_errors.local_error(study, config.nfe)
        numbers["advice"] += advice
        return found

    def latent() -> Any:
        found, kept["interpolated"] = ends.latent(study)
        return found

    def copies() -> Any:
        found, kept["near"] = ends.copies(study)
        return found

    given = (study.noise, study.levels, label)
    parts: dict[str, Callable[[], Any]] = {
        "paths": lambda: {name: geometry.statistics(path) for name, path in study.paths.items()},
        "bends": bends,
        "convergence": lambda: geometry.convergence(study, config.metric, config.seed),
        "optimal": lambda: geometry.optimal(study),
        "jacobian": lambda: jacobians.jacobians(study, config.seed),
        "local error": local_error, "latent": latent, "copies": copies,
    }  # fmt: skip
    if students:
        parts["distillation"] = lambda: effects.distillation(model, students, *given)
    if guidable(model) and config.guidance:
        parts["guidance"] = lambda: effects.guidance(model, config.guidance, *given)
    return parts


def _shown(model: Model, study: geometry.Study, kept: dict[str, Any]) -> Any:
    """Return the pictures of the page, if samples are images."""
    from jaxdiff.report.analysis import Shown

    if model.arrays or len(model.shape) != 3:
        return Shown()

    def pictures(values: Any) -> np.ndarray:
        return np.clip(to_pictures(model.source, np.asarray(values)), -1.0, 1.0)

    shown = {name: pictures(path.end[:SHOWN]) for name, path in study.paths.items()}
    between = {mode: pictures(images[0]) for mode, images in kept["interpolated"].items()}
    columns = next(images[1] for images in kept["interpolated"].values())
    near = kept["near"][geometry.MODEL]
    closest = np.argsort(near.distance)[:SHOWN]
    return Shown(
        ends=shown, interpolated=between, columns=columns,
        copies=(pictures(study.paths[geometry.MODEL].end[closest]),
                pictures(study.data.values[near.index[closest]])),
        distances=near.distance[np.argsort(near.distance)],
        held_out=kept["near"][ends.OTHERS].distance,
    )  # fmt: skip
