"""Runs: a folder with a configuration, checkpoints, history and the finished model.

The functions behind ``jaxdiff train | distill | sample | evaluate``, for use from Python as well. A
finished run holds ``config.json``, ``checkpoints/`` (with ``history.jsonl``) and ``model.npz``, the
averaged parameters with everything needed to rebuild the denoiser.
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import config as configs
from jaxdiff import grids, solvers
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.data.dataset import Dataset, batches
from jaxdiff.data.digits import load_digits
from jaxdiff.data.readers import load
from jaxdiff.method import Method
from jaxdiff.prediction import as_partial, denoiser
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.table import Table, load_table
from jaxdiff.sampling.trace import table
from jaxdiff.training import hosts
from jaxdiff.training.devices import Devices, Parallel, first_devices, over_batch
from jaxdiff.typing import Array, Network

SOLVERS = {name: getattr(solvers, name) for name in get_args(configs.SolverName)}
GRIDS = {
    "karras": grids.karras,
    "log_snr": grids.log_snr,
    "vp_time": grids.vp_time,
    "arctan": grids.arctan,
    "cosine": grids.cosine,
}


class Model(NamedTuple):
    """A finished run's model.

    denoiser: with its parameters. params: these alone. shape: of an image. classes: number of
    classes, 0 without. student: whether it is distilled. about: everything saved with it.
    """

    denoiser: Any
    params: Any
    shape: tuple[int, ...]
    classes: int
    student: bool
    about: dict[str, Any]


def read_data(config: configs.Data, progress: bool = True) -> Dataset:
    """The images that a configuration names."""
    if config.path == "digits":
        return load_digits(config.split)
    return load(
        config.path, split=config.split, size=config.size, limit=config.limit,
        grayscale=config.grayscale, progress=progress,
    )  # fmt: skip


def build_network(config: configs.UNet, classes: int) -> tuple[Any, Network]:
    """The linen module and the network function of a configuration."""
    from jaxdiff.networks.adapters import from_linen
    from jaxdiff.networks.unet import UNet

    fields = dataclasses.asdict(config) | {"dtype": jnp.dtype(config.dtype), "num_classes": classes}
    module = UNet(**fields)
    return module, from_linen(module)


def train(config: configs.Train, progress: bool = True) -> Model:
    """Train a score network, or resume an unfinished run; return the finished model."""
    from jaxdiff.networks.adapters import init

    data = read_data(config.data, progress)
    folder = begin(config)
    module, network = build_network(config.network, data.num_classes)
    about = {
        "kind": "teacher",
        "network": dataclasses.asdict(config.network),
        "shape": list(data.shape),
        "classes": data.num_classes,
        "sigma_data": config.sigma_data,
        "data": dataclasses.asdict(config.data),
    }
    method = _teacher(config, network, lambda key: init(module, key, data.shape), about)
    return _fit(method, data, config, folder, about, progress)


def _teacher(config: configs.Train, network: Network, init: Any, about: dict[str, Any]) -> Method:
    from jaxdiff.distill.score_matching import score_matching
    from jaxdiff.training.ema import constant

    return score_matching(
        network, init, sigma_data=about["sigma_data"], mean=config.level_mean, std=config.level_std,
        classes=about["classes"] or None, label_drop=config.label_drop if about["classes"] else 0.0,
        optimiser=_optimiser(config), ema={"average": constant(config.ema)},
    )  # fmt: skip


def _optimiser(config: configs.Train) -> Any:
    """Clipping, then Adam with warm-up and cosine decay."""
    import optax

    warmup = min(config.warmup, config.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, config.steps)
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate, b2=0.99))


def begin(config: configs.Train | configs.Distill) -> Path:
    """Make a run's folder; refuse one that holds a run with another configuration."""
    folder = Path(config.run)
    free = ("save_every", "parallel", "devices", "nonfinite", "run", "kind")
    if (folder / "config.json").exists():
        old, new = (configs.to_dict(c) for c in (configs.load(folder), config))
        changed = (
            [k for k in new if k not in free and old.get(k) != new[k]]
            if old["kind"] == new["kind"]
            else ["kind"]
        )
        if changed:
            listed = "; ".join(f"{k}: {old.get(k)!r} there, {new[k]!r} here" for k in changed)
            raise ValueError(
                f"{folder} holds a run with another configuration ({listed}). Give another folder."
            )
    hosts.wait_for_all("configuration read")
    if hosts.speaks():
        configs.save(config, folder)
    return folder


def placed(config: Any) -> dict[str, Any]:
    """How a configuration uses devices, as options of :func:`jaxdiff.training.loop.fit`."""
    placing = {"parallel": config.parallel, "devices": first_devices(config.devices)}
    trained = {k: getattr(config, k) for k in ("accumulate", "nonfinite") if hasattr(config, k)}
    return placing | trained


def batches_of(
    data: Dataset, config: configs.Train | configs.Distill, about: dict[str, Any]
) -> Callable[[int], dict[str, np.ndarray]]:
    """``data(step)`` of a run."""
    return batches(data, config.batch, config.seed, about["data"]["flip"])


def _fit(
    method: Method,
    data: Dataset,
    config: configs.Train,
    folder: Path,
    about: dict[str, Any],
    progress: bool,
) -> Model:
    from jaxdiff.training.checkpoint import save_params
    from jaxdiff.training.loop import fit

    state = fit(
        method, batches_of(data, config, about), steps=config.steps, key=config.seed,
        checkpoint=folder / "checkpoints", save_every=config.save_every, progress=progress,
        **placed(config),
    )  # fmt: skip
    (averages,) = state.ema.values()
    save_params(folder / "model.npz", averages["average"], about)
    return load_model(folder)


def build_module(about: dict[str, Any]) -> Any:
    """The linen module of a saved model."""
    return build_network(_network_config(about), about["classes"])[0]


def _network_config(about: dict[str, Any]) -> configs.UNet:
    return configs.from_dict(configs.UNet, about["network"], "model.npz")


def load_model(run: str | os.PathLike[str]) -> Model:
    """The model of a finished run.

    Raises:
        FileNotFoundError: if there is no run, or it has not been finished. ValueError: if its
        files are damaged.
    """
    from jaxdiff.training.checkpoint import load_params

    configs.load(run)
    path = Path(run) / "model.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"the run {run} is not finished (no model.npz): run its command again to resume it"
        )
    params, about = load_params(path)
    try:
        return _described(params, about)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _described(params: Any, about: dict[str, Any]) -> Model:
    """The model of these parameters and what is said of it. ValueError for what is never said."""
    known = {f.name for f in dataclasses.fields(configs.Described)}
    own = {name: value for name, value in about.items() if name in known}
    said = configs.from_dict(configs.Described, own, "model")
    if about.get("kind") == "student":
        from jaxdiff.students import load_denoiser

        D: Any = load_denoiser(about, params)
    elif about.get("kind") == "teacher":
        _, network = build_network(said.network, said.classes)
        D = denoiser(network, params, sigma_data=said.sigma_data)
    else:
        raise ValueError(f"a model is a teacher or a student, not {about.get('kind')!r:.60}")
    about = about | dataclasses.asdict(said)
    return Model(D, params, said.shape, said.classes, about["kind"] == "student", about)


def make_sampler(
    model: Model,
    config: configs.Sample | configs.Evaluate | configs.Export,
    steps: int | None = None,
) -> Sampler:
    """The sampler that a configuration describes."""
    saved, D = getattr(config, "table", None), model.denoiser
    chosen: Table
    if model.student and saved is None:
        from jaxdiff.students import student_sampler

        return student_sampler(model, steps or 1, config.guidance)
    if saved is not None:
        chosen = load_table(saved)
        warn_of_other(chosen, model, config.guidance)
    else:
        grid, end = GRIDS[getattr(config, "grid", "karras")], getattr(config, "end", "zero")
        low, high = getattr(config, "low", 0.002), getattr(config, "high", 80.0)
        order = getattr(config, "order", None)
        chosen = table(
            SOLVERS[config.solver],
            grid(steps or 10, low, high, zero=end == "zero"),
            denoise=end == "denoise",
            **({} if order is None else {"order": order}),
        )
    return Sampler(D if config.guidance is None else guided(model, D, config.guidance), chosen)


def warn_of_other(chosen: Table, model: Model, guidance: float | None) -> None:
    """Warn of a tuned table that was tuned for another model or another guidance weight."""
    from jaxdiff.training.checkpoint import fingerprint

    known, own = chosen.about, fingerprint(model.params)
    if known.get("model", own) != own:
        warnings.warn(
            f"{chosen.name} was tuned for the model {known['model']} "
            f"({known.get('source', 'unknown')}); this one is {own}: a hand-made sampler may do "
            "better",
            stacklevel=2,
        )
    elif "guidance" in known and _weight(known["guidance"]) != _weight(guidance):
        warnings.warn(
            f"{chosen.name} was tuned with guidance weight {known['guidance']}, not {guidance}: a "
            "hand-made sampler may do better",
            stacklevel=2,
        )


def _weight(guidance: float | None) -> float:
    return 1.0 if guidance is None else float(guidance)


def guided(model: Model, D: Any, weight: float) -> Any:
    """A run's denoiser with classifier-free guidance. ValueError for a model without classes."""
    if not model.classes:
        raise ValueError("guidance needs a model with classes; this one has none")
    return classifier_free(D, weight)


def generate(
    sampler: Sampler,
    count: int,
    shape: tuple[int, ...],
    labels: np.ndarray | None = None,
    *,
    batch: int = 256,
    seed: int = 0,
    progress: bool = True,
    title: str = "sampling",
    parallel: Parallel = "jit",
    devices: Devices | None = None,
) -> np.ndarray:
    """``count`` samples (count, *shape) in [-1, 1]; sample i depends on the seed and i alone, not
    on ``batch`` or the devices.
    """
    from tqdm import tqdm

    given = (as_partial(sampler.denoiser), sampler.table, jax.random.key(seed))
    constant = {"latent": sampler.latent, "shape": tuple(shape)}
    run = over_batch(_samples, given, parallel=parallel, devices=devices, **constant)
    silent = not (progress and hosts.speaks())
    bar = tqdm(total=count, desc=title, unit="image", disable=silent, leave=False)
    parts = []
    with bar:
        for numbers in _blocks(count, min(batch, count)):
            own = None if labels is None else np.asarray(labels[numbers], np.int32)
            parts.append(np.asarray(run((np.asarray(numbers, np.int32), own))))
            bar.update(min(len(numbers), count - bar.n))
    images = np.concatenate(parts)[:count]
    if not np.isfinite(images).all():
        raise FloatingPointError(f"{sampler.table!r} gave samples that are not finite")
    return np.clip(images, -1.0, 1.0)


def _samples(given: Any, batch: Any, *, latent: int, shape: tuple[int, ...]) -> Array:
    """The samples of a batch: their numbers, and their labels or None."""
    (D, chosen, key), (numbers, labels) = given, batch
    return Sampler(D, chosen, latent)(key, numbers, shape, labels)


def _blocks(count: int, batch: int) -> Iterator[np.ndarray]:
    """Sample numbers, always ``batch`` at a time so that one shape is compiled; the last block
    repeats its last.
    """
    for first in range(0, count, batch):
        yield np.minimum(np.arange(first, first + batch), count - 1)


def class_labels(count: int, classes: int, label: int | None = None) -> np.ndarray | None:
    """Labels 0, 1, ... in turn, or one label for all; None without classes. Raises ValueError out
    of range.
    """
    if not classes:
        if label is not None:
            raise ValueError("this model has no classes")
        return None
    if label is not None and not 0 <= label < classes:
        raise ValueError(f"label {label} is not one of 0..{classes - 1}")
    return np.arange(count) % classes if label is None else np.full(count, label)
