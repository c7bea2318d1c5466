"""``jaxdiff inspect``: what a file or folder is, without running anything in it."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.files import open_archive, read_json

SHOWN = 6  # tensors of a file that nothing else is known of
Facts = dict[str, Any]


def inspect(config: configs.Inspect) -> str:
    """Return what there is to say of a file or folder, as text or JSON.

    Raises OSError if there is nothing at the path, ValueError if it is damaged or unknown.
    """
    facts = facts_of(Path(config.path))
    if config.json:
        return json.dumps(facts, indent=1, default=str)
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {_line(name, value)}" for name, value in facts.items())


def facts_of(path: Path) -> Facts:
    """Return what is known of a file or folder, by name; its "kind" comes first."""
    from jaxdiff.pretrained.opening import card_of

    if (card := card_of(path)) is not None:
        return _card(card)
    path.stat()  # its own error where there is nothing
    for known, describe in _kinds(path):
        if known:
            return describe(path)
    return _weights(path)


def _kinds(path: Path) -> Iterable[tuple[bool, Callable[[Path], Facts]]]:
    """Go through the kinds that names distinguish: whether it is one, and what describes it."""
    yield path.is_dir() and _is_run(path / "config.json"), _run
    yield path.is_dir() and (path / "tune.json").exists(), _tuned
    yield path.suffix == ".json" and not path.name.endswith(".index.json"), _json
    yield path.suffix == ".npz", _npz
    yield path.suffix in (".safetensors", ".bin", ".pt") and _is_adapter(path), _adapter
    yield path.suffix in (".safetensors", ".bin") and _steers(path), _steering
    yield path.suffix == ".safetensors" and _is_gated(path), _gated


def _card(card: Any) -> Facts:
    """Return what the card of a model says; of one that comes with the package, with its file."""
    from jaxdiff.pretrained.opening import found

    said = {k: v for k, v in card._asdict().items() if k != "files" and v}
    if all(file.url for file in card.files):
        urls = [file.url for file in card.files]
        return {"kind": "card of a model whose files are fetched", **said, "files": urls}
    kind = {"kind": "model that comes with the package"}
    return {**kind, **_weights(found(card.name)), **said, **kind}


def _is_run(config: Path) -> bool:
    return config.exists() and {"kind"} <= set(_object(read_json(config)))


def _is_adapter(path: Path) -> bool:
    from jaxdiff.adapt.files import kind_of

    try:
        return bool(kind_of(path))
    except ValueError:  # of another kind, or damaged: the other readers say
        return False


def _steers(path: Path) -> bool:
    from jaxdiff.adapt.steering_files import is_steering

    try:
        return is_steering(path)
    except ValueError:  # damaged: the other readers say
        return False


def _is_gated(path: Path) -> bool:
    from jaxdiff.adapt.box_files import has_boxes

    try:
        return has_boxes(path)
    except ValueError:  # damaged: the other readers say
        return False


def _gated(path: Path) -> Facts:
    from jaxdiff.pretrained.tensors import open_tensors

    numbers = sum(int(np.prod(shape)) for shape in open_tensors(path).shapes.values())
    kind = "gated layers of a U-Net, for boxes (GLIGEN)"
    return {"kind": kind, "bytes": path.stat().st_size, "parameters": numbers}


def _steering(path: Path) -> Facts:
    from jaxdiff.adapt.steering_files import load_steering

    control = load_steering(path)
    return {
        "kind": f"steers a U-Net: {type(control.network).__name__}", "bytes": path.stat().st_size,
        "parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(control.params)),
    }  # fmt: skip


def _adapter(path: Path) -> Facts:
    from jaxdiff.adapt.files import kind_of
    from jaxdiff.pretrained.lora_files import read_changes
    from jaxdiff.pretrained.tensors import open_tensors
    from jaxdiff.pretrained.textual_inversion import read_tokens

    kind, tensors = kind_of(path), open_tensors(path)
    facts: Facts = {"kind": f"adapter: {kind}", "bytes": path.stat().st_size}
    if kind == "lora":
        for part, changes in read_changes(path).items():
            down = [c.factors["down"].shape[0] for c in changes.values() if "down" in c.factors]
            ranks = f", ranks {min(down)} to {max(down)}" if down else ""
            facts[f"changes of {part}"] = f"{len(changes)} layers{ranks}"
    elif kind == "textual-inversion":
        found = {t.token or "(no name)": {k: v.shape for k, v in t.vectors.items()}
                 for t in read_tokens(path)}  # fmt: skip
        facts["tokens"] = found
    else:
        facts["changes"] = f"{len(tensors)} tensors"
    numbers = sum(int(np.prod(shape)) for shape in tensors.shapes.values())
    return facts | {"parameters": numbers}


def _object(given: Any) -> dict[str, Any]:
    return given if isinstance(given, dict) else {}


def _run(path: Path) -> Facts:
    from jaxdiff.app import config_file, folder

    config, _ = config_file.load_known(path)
    made = [(where.name, steps) for where, steps in folder.stage_checkpoints(path)]
    own = type(config).__name__
    facts: Facts = {"kind": f"run of {'distill' if own == 'Distill' else 'train'}"}
    if isinstance(config, configs.Distill):
        facts |= {"method": config.method, "teacher": config.teacher}
    facts |= {"updates": config.updates, "finished": (path / "model.npz").exists()}
    facts["checkpoints"] = {name: steps for name, steps in made if steps} or "none"
    return facts | (_npz(path / "model.npz") if facts["finished"] else {}) | {"kind": facts["kind"]}


def _tuned(path: Path) -> Facts:
    tables = sorted(path.glob("nfe-*/*.json"))
    made = [f"{table.parent.name}: {_json(table)['sampler']}" for table in tables]
    return {"kind": "tuned samplers", "tables": made or "none yet"}


def _json(path: Path) -> Facts:
    from jaxdiff.tuning.learned.steps import load_steps

    said = _object(read_json(path))
    if "_class_name" in said and path.name == "scheduler_config.json":
        from jaxdiff.pretrained.schedulers import read_scheduler

        scheduler = read_scheduler(said)
        facts: Facts = {"kind": "scheduler of diffusers", "says": repr(scheduler)}
        if said.get("use_dynamic_shifting"):
            return facts | {"levels": "shifted by the size of the image"}
        return facts | {"levels of 10": [round(float(x), 4) for x in scheduler.grid(10)]}
    made = load_steps(path)
    known = {k: v for k, v in made.metadata.items() if k in ("source", "model", "guidance")}
    return {"kind": "sampler", "sampler": repr(made), "evaluations": made.nfe, **known}


def _npz(path: Path) -> Facts:
    from jaxdiff.metrics.statistics import is_statistics, read_statistics

    with open_archive(path) as archive:
        names = {n.removesuffix(".npy") for n in archive.namelist()}
    if "record" in names:
        return _model(path)
    if "program" in names:
        from jaxdiff.sampling.export import load_sampler

        return {"kind": "exported sampler", **load_sampler(path).metadata}
    if is_statistics(path):
        found = read_statistics(path)
        return {"kind": "statistics of features", "says": repr(found)}
    return _tensors(path)


def _model(path: Path) -> Facts:
    from jaxdiff.training.checkpoint import fingerprint, load_params

    params, metadata = load_params(path)
    facts: Facts = {"kind": f"model: {metadata.get('kind', 'parameters')}"}
    facts |= {
        k: v
        for k, v in metadata.items()
        if k in ("method", "shape", "classes", "updates", "source")
    }
    return facts | _count(params) | {"fingerprint": fingerprint(params)}


def _count(params: Any) -> Facts:
    leaves = jax.tree.leaves(params)
    kinds = sorted({str(leaf.dtype) for leaf in leaves})
    return {"parameters": int(sum(np.prod(x.shape) for x in leaves)), "dtypes": ", ".join(kinds)}


def _weights(path: Path) -> Facts:
    """Return what published weights are: their numbers are looked at, not kept."""
    from jaxdiff.pretrained.opening import load_pretrained

    shape_only = lambda _, value: jax.ShapeDtypeStruct(value.shape, value.dtype)  # noqa: E731
    try:
        model = load_pretrained(path, put=shape_only)
    except ValueError as error:
        return _tensors(path, str(error))
    facts: Facts = {
        "kind": "published model", "name": model.metadata.get("name"),
        "network": type(model.network).__name__, "shape": model.shape,
        "prediction": model.prediction, "process": type(model.process).__name__,
        "classes": model.classes, "condition": model.cond or "none",
    }  # fmt: skip
    facts |= _count(model.params)
    levels = np.asarray(model.grid(10), np.float64)
    facts["levels"] = f"{levels[levels > 0].min():.4g} to {levels[0]:.4g}"
    facts["parts"] = {name: repr(part) for name, part in model.parts.items()} or "none"
    more = {k: v for k, v in model.metadata.items() if k not in ("name", "config")}
    return facts | more


def _tensors(path: Path, why: str = "") -> Facts:
    """Return names and shapes of a file's tensors, where nothing else is known of it."""
    from jaxdiff.pretrained.opening import open_source

    tensors = open_source(path).tensors
    if not tensors:
        raise ValueError(why or f"{path} holds no tensors")
    shown = {name: list(tensors.shapes[name]) for name in list(tensors)[:SHOWN]}
    facts: Facts = {"kind": "tensors", "tensors": len(tensors)}
    facts["parameters"] = int(sum(np.prod(shape) for shape in tensors.shapes.values()))
    facts["dtypes"] = ", ".join(sorted({str(dtype) for dtype in tensors.dtypes.values()}))
    facts["first of them"] = shown
    facts |= {str(k): v for k, v in tensors.metadata.items() if isinstance(v, (str, int, float))}
    return facts | ({"not read as a model": why} if why else {})


def _line(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
    if isinstance(value, list) and value and isinstance(value[0], str):
        return "; ".join(value)
    if isinstance(value, tuple) or (name == "shape" and isinstance(value, list)):
        return "x".join(map(str, value))
    return str(value)
