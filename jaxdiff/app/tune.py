"""Tuned samplers: what is behind ``jaxdiff tune`` and the tables of ``experiments.tuning``."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdiff.app import config as configs
from jaxdiff.app import folder as folders
from jaxdiff.app import options
from jaxdiff.app import samplers as choosing
from jaxdiff.app.conditions import check_class_condition
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.options import placed
from jaxdiff.app.sample import saved
from jaxdiff.app.tune_tasks import blank, images_of, of_problem, of_run, with_levels
from jaxdiff.data.dataset import Dataset
from jaxdiff.files import check_writable, read_json, write_text
from jaxdiff.recipes.choices import chosen
from jaxdiff.recipes.tuning import TUNERS, Task
from jaxdiff.recipes.tuning.solve import Result, check, solve
from jaxdiff.sampling.table import Table
from jaxdiff.training import hosts
from jaxdiff.training.checkpoint import fingerprint
from jaxdiff.training.tune import FILE
from jaxdiff.tuning.learned.flatten import flatten

EARLY = 4  # of the updates: the share after which the best is expected


def tune(config: configs.Tune, progress: bool = True) -> str:
    """Tune samplers of a run or of an exact problem; write them and return what there is to say.

    Raises ValueError for choices that do not go together, before anything is computed, and for a
    folder of samplers of another model, of other data or with other settings.
    """
    options.check(config)
    _check(config)
    model = load_model(config.run, config.checkpoint, progress) if config.run else None
    config = with_levels(config, model)
    if model is not None:
        if model.tokenizer is None:
            check_class_condition(model, "tune")
    if model is not None and model.student:
        raise ValueError(f"{config.run} is a student, which has its own sampler; tune its teacher")
    for nfe in config.nfe:
        own = chosen(config.method, TUNERS[config.method], config.choices)
        check(blank(config)._replace(nfe=nfe), config.method, own)
    problem = None if config.problem is None else of_problem(config)
    check_writable(Path(config.out) / "tune.json")
    data = None if model is None else images_of(config, model, progress)
    with folders.held(config.out):
        _begin(config, _known(config, model, data))
        made, source = problem or of_run(config, model, data, progress)
        return _tuned(config, made, source, progress)


def _tuned(config: configs.Tune, made: Task, source: dict[str, Any], progress: bool) -> str:
    """Tune samplers one after the other, as :func:`tune` does."""
    from jaxdiff.report.terminal import format_table

    rows, nearest, lines = [], None, []
    for nfe in sorted(set(config.nfe)):
        folder = Path(config.out) / f"nfe-{nfe}"
        metadata = source | {"nfe": nfe, "settings": _settings(config)}
        metadata |= {"guidance": config.guidance, "method": config.method}
        metadata |= {"choices": config.choices or None}
        metadata |= {} if nearest is None else {"nearest": int(nearest.nfe)}
        result = solve(
            made._replace(nfe=nfe, nearest=nearest), config.method, choices=config.choices,
            folder=folder / "run",
            metadata=metadata, progress=progress, patience=config.patience, **placed(config),
        )  # fmt: skip
        nearest = result.tuned.table
        if hosts.is_main_process():
            write(result, folder, metadata)
        scores = (result.baseline_score, result.tuned.score)
        rows.append([nfe, result.baseline_name, *scores, f"{result.seconds:.0f} s"])
        if result.best is result.baseline:
            lines.append(f"NFE {nfe}: nothing better found; the table is the baseline's")
        lines += _hint(config, nfe, result)
    head = ["NFE", "best baseline", "its score", f"{config.method}'s", "in"]
    last = f"{config.out}/nfe-{rows[-1][0]}/{FILE}"
    lines += [
        f"score, on held-out noise: {result.scored_by} ({config.distance})",
        f"tables: {config.out}/nfe-N/{FILE}, and table.png beside each",
    ]
    if config.run:
        lines.append(f"next: jaxdiff sample --run {config.run} --table {last}")
    return "\n".join([format_table(head, rows), *lines])


def _hint(config: configs.Tune, nfe: int, result: Result) -> list[str]:
    """Return advice where a descent was at its best early, and none otherwise."""
    step = result.tuned.step
    if TUNERS[config.method].searches or not 0 < step <= config.updates // EARLY:
        return []
    return [
        f"NFE {nfe}: best after update {step} of {config.updates}: a lower --rate than "
        f"{config.rate:g}, or a larger --batch, may do better"
    ]


def write(result: Result, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write the better table with all there is to know of it; then the figure of both, without
    which the table is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcome: dict[str, Any] = {
        "baseline": result.baseline_name,
        "baseline_held_out": result.baseline_score,
    }
    if result.best is result.baseline:
        outcome |= {"tuned": False, "held_out": result.baseline_score, "score": result.scored_by}
        best = result.baseline.with_metadata(**metadata, **outcome)
    else:
        best = result.tuned.table.with_metadata(
            **metadata, **outcome, tuned=True, score=result.scored_by
        )
    best.save(folder / FILE)
    shown = {"baseline": result.baseline, str(metadata["method"]): result.tuned.table}
    saved(lambda: _figure(shown), folder / "table.png", dpi=130)


def _figure(shown: Mapping[str, Any]) -> Any:
    """Return the levels and weights of tables, by name."""
    from jaxdiff.report.samplers import levels_and_weights

    flats = {k: flatten(made) for k, made in shown.items() if isinstance(made, Table)}
    return levels_and_weights({k: (f.nodes, f.denoised) for k, f in flats.items()})


def _check(config: configs.Tune) -> None:
    if (config.run is None) == (config.problem is None):
        raise ValueError("tune either a run (--run DIR) or an exact problem (--problem mixture-2d)")
    if config.order is not None and config.solver is None:
        raise ValueError("an order goes with a solver: give --solver, too")
    if TUNERS[config.method].kernel and config.distance == "huber":
        raise ValueError(
            f"{config.method} tunes for the kernel distance to data, of numbers or of features"
        )
    if config.problem and (config.guidance is not None or config.distance == "features"):
        raise ValueError("an exact problem has neither guidance nor a classifier's features")
    if config.problem:
        known = "an exact problem has its own solution"
        options.refuse(config, known, "checkpoint", "data", "teacher_steps")
    if TUNERS[config.method].searches:
        why = f"{config.method} searches, and makes no updates of the training loop"
        options.refuse(config, why, "updates", "rate", "batch", "patience", "remat")
    _check_features(config)
    if config.solver is not None:
        choosing.check_order(choosing.SOLVERS[config.solver], config.order)


def _check_features(config: configs.Tune) -> None:
    tuner = TUNERS[config.method]
    own = chosen(config.method, tuner, config.choices)
    without = config.problem is not None or config.guidance is not None
    if tuner.features is not None and own.get(tuner.features, True) and without:
        raise ValueError(
            f"{config.method} reads its network's features, which an exact problem and a guided "
            f"model do not have: --choices {tuner.features} false predicts from the levels alone"
        )


def _begin(config: configs.Tune, known: dict[str, Any]) -> None:
    """Keep the settings in the folder; refuse a folder that was begun with others."""
    path, own = Path(config.out) / "tune.json", _settings(config) | known
    if path.exists():
        there = read_json(path)
        if not isinstance(there, dict):
            raise ValueError(f"{path} is damaged: it should hold the settings of jaxdiff tune")
        for name in ("run", "checkpoint"):  # known by the parameters, where these were kept
            (own if "model" in there else there).pop(name, None)
        other = [k for k in own if there.get(k) != own[k]]
        if other:
            listed = "; ".join(f"{k}: {there.get(k)!r} there, {own[k]!r} here" for k in other)
            raise ValueError(f"{config.out} was tuned otherwise ({listed}). Give another folder.")
    hosts.wait_for_all("configuration read")
    if hosts.is_main_process():
        write_text(path, json.dumps(_settings(config) | known, indent=1))


def _known(config: configs.Tune, model: Model | None, data: Dataset | None) -> dict[str, Any]:
    """Return the choices, and what a run's parameters and data are known again by, wherever they
    lie.
    """
    known: dict[str, Any] = {"choices": config.choices or None}
    known |= {} if model is None else {"model": fingerprint(model.params)}
    return known | ({} if data is None else {"images": data.fingerprint()})


def _settings(config: configs.Tune) -> dict[str, Any]:
    free = ("out", "nfe", "parallel", "devices", "data", "choices")
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
