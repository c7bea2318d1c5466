"""``jaxdiff train``: a score network on images."""

import dataclasses
import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app import folder as folders
from jaxdiff.app.data import batches_of, check_batch, check_filled, read_data
from jaxdiff.app.latents import FILE, autoencoder_for, latent_shape, with_latents
from jaxdiff.app.load import load_model
from jaxdiff.app.logs import check_log, look_at, of_teacher, sample_every, sinks_of, watching
from jaxdiff.app.methods import average, teacher_method
from jaxdiff.app.models import Model
from jaxdiff.app.objective import (
    OBJECTIVE,
    check_objective,
    objective,
    objective_text,
    predicted,
)
from jaxdiff.app.optimiser import check_optimiser, warmup_of
from jaxdiff.app.options import check, placed, refuse
from jaxdiff.app.published import coded
from jaxdiff.app.snapshots import check_snapshots, leaving
from jaxdiff.app.text import BESIDE, captioned, tokenizer_for, words
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.words import WordTokenizer
from jaxdiff.denoisers import description
from jaxdiff.method import Method
from jaxdiff.training import hosts
from jaxdiff.training.checkpoint import fingerprint, save_params


def train(config: configs.Train, progress: bool = True) -> Model:
    """Train a score network, or go on with an unfinished run; return the finished model.

    Raises ValueError, before anything is written, for options or data that do not fit, and for a
    folder that holds another run.
    """
    check(config)
    for look in (check_batch, check_objective, check_optimiser, check_snapshots, check_log):
        look(config)
    try:
        data = read_data(config.data, progress)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}: --data.path says where the data are") from error
    check_filled(data)
    if config.measure is not None and config.data.arrays:
        raise ValueError("--measure is of images: --data.arrays are none")
    pairs = _pairs(config, data)
    known: dict[str, Any] = {"data": data.fingerprint()}
    start, data, tokenizer = _start_of(config, data, progress)
    if not data.num_classes and config.measure is None and tokenizer is None and not pairs:
        refuse(config, "the data have no classes", "label_drop")
    shape = data.shape if config.latent is None else _latent_shape(config, data)
    metadata = {
        "kind": "teacher",
        "network": config_file.to_dict(config.network),
        "process": config.process,
        "prediction": predicted(config),
        "shape": list(shape),
        "classes": data.num_classes,
        "class_names": list(data.class_names),
        "sigma_data": config.sigma_data,
        "objective": {name: getattr(config, name) for name in OBJECTIVE},
        "autoencoder": None if config.latent is None else str(Path(config.run).resolve() / FILE),
        "measure": None if config.measure is None else dataclasses.asdict(config.measure),
        "data": dataclasses.asdict(config.data),
        "updates": config.updates,
        "trained on": known["data"],
    }
    metadata |= {"pairs": pairs} if pairs else {}
    if tokenizer is not None:
        metadata["tokenizer"] = dataclasses.asdict(words(tokenizer))
    if start is not None:
        known["init"] = fingerprint(start)
    method = teacher_method(config, metadata, start)
    _say(config, progress)
    with folders.opened(config, known | {"metadata": metadata}, progress=progress) as folder:
        if tokenizer is not None and hosts.is_main_process():
            tokenizer.save(folder / "tokenizer.json")
        return _fit(method, data, config, folder, metadata, progress)


def _start_of(
    config: configs.Train, data: Dataset, progress: bool
) -> tuple[Any, Dataset, WordTokenizer | None]:
    """Return the parameters to start from or None, the data without what the network does not take,
    and its tokenizer: that of the parameters, or of the data's captions; None without texts.

    Raises ValueError for captions and a network that do not go together.
    """
    first = None if config.init is None else load_model(config.init, progress=progress)
    start = None if first is None else first.params
    if first is not None:
        _warn_of_another_aim(config, first)
    if not isinstance(config.network, configs.TextUNet):
        _check_init(config, first, data)
        if strange := [key for key in data.conditions if key != BESIDE]:
            raise ValueError(
                f"{data.name} has {', '.join(strange)} beside its images, which this "
                "network does not take: --network text takes captions"
            )
        return start, data, None
    tokenizer = tokenizer_for(data, None if first is None else first.tokenizer)
    if config.network.classes and not data.num_classes:
        raise ValueError(
            f"--network.classes would have no effect: {data.name} has no classes beside its "
            "captions (--data.labels says where they are)"
        )
    data, left = captioned(data, classes=config.network.classes, beside=BESIDE in data.conditions)
    _check_init(config, first, data)
    if progress and left:
        print(f"left out: {', '.join(left)}; --network text is conditioned on the captions")
    if progress:
        print(f"captions are read by {tokenizer!r}", flush=True)
    return start, data, tokenizer


def _check_init(config: configs.Train, first: Model | None, data: Dataset) -> None:
    """Raise ValueError for a run to start from that has other classes than the data."""
    own = isinstance(config.network, configs.Module)  # of which only its class knows
    if first is None or own or first.classes == data.num_classes:
        return
    known = f"{data.num_classes or 'no'} classes"
    raise ValueError(
        f"--init {config.init} has {first.classes or 'no'} classes, and the data {known}: "
        f"--data.labels {'auto' if first.classes else 'none'} reads them as it wants them, if they "
        "are there"
    )


def _warn_of_another_aim(config: configs.Train, first: Model) -> None:
    """Say that parameters to start from predict something else than they are to, or of another
    process: as they are, they are no model of it.
    """
    if (made := description(first.denoiser)) is None:
        return
    aim = objective(config)
    own = _in_words(made["prediction"], made["process"], made["sigma_data"])
    wanted = _in_words(aim.prediction, aim.process, config.sigma_data)
    if own != wanted:
        warnings.warn(
            f"--init {config.init} predicts {own}, and this run {wanted}: its parameters are a "
            "start, and no model of it yet",
            stacklevel=3,
        )


def _in_words(prediction: str, process: Any, sigma_data: Any) -> str:
    """Return what a network predicts, and what it is that depends on."""
    if prediction == "edm":
        return f"edm with sigma_data {float(sigma_data):g}"
    return f"{prediction} of {type(process).__name__}"


def _pairs(config: configs.Train, data: Dataset) -> int:
    """Return the channels of the pictures that stand beside images, 0 without pairs. ValueError for
    pictures of another size, and for a measurement or latents beside them.
    """
    if BESIDE not in data.conditions:
        return 0
    if config.measure is not None or config.latent is not None:
        raise ValueError("pictures beside images go neither with --measure nor with --latent")
    shape = data.conditions[BESIDE].shape[1:]
    if len(shape) != 3 or shape[:2] != data.shape[:2]:
        raise ValueError(
            f"the pictures beside {data.name}'s images are {'x'.join(map(str, shape))}, and the "
            f"images {'x'.join(map(str, data.shape))}: --data.size gives both one size"
        )
    return shape[2]


def _fit(
    method: Method,
    data: Dataset,
    config: configs.Train,
    folder: Path,
    metadata: dict[str, Any],
    progress: bool,
) -> Model:
    from jaxdiff.training.loop import fit

    batches, logs = batches_of(data, config, metadata), sinks_of(config, folder)
    bounds, drawn = (None, None) if config.data.arrays else ((-1.0, 1.0), lambda images: images)
    if config.latent is not None:
        vae = autoencoder_for(config, data, folder, progress)
        batches, bounds = with_latents(batches, vae), None
        drawn = lambda z: np.clip(np.asarray(coded("decode", vae, z)), -1, 1)  # noqa: E731
    look = look_at(config, folder, batches, len(data), of_teacher, bounds, drawn, logs)
    watches = watching(
        leaving(config, folder),
        (look and functools.partial(look, method), sample_every(config)),
        last=config.updates,
    )
    state = fit(
        method, batches, num_updates=config.updates, key=config.seed,
        checkpoint=folder / "checkpoints", save_every=config.save_every, progress=progress,
        log_every=config.log_every, sinks=logs, **watches, **placed(config),
    )  # fmt: skip
    (last,) = state.params.values()
    say_distance(average(state), last, progress)
    save_params(folder / "model.npz", average(state), metadata)
    return load_model(folder)


def _latent_shape(config: configs.Train, data: Dataset) -> tuple[int, ...]:
    if config.measure is not None or config.data.arrays:
        raise ValueError("--latent goes neither with --measure nor with --data.arrays")
    return latent_shape(config.latent, data.shape)  # type: ignore[arg-type]


def _say(config: configs.Train, progress: bool) -> None:
    """Say what is trained, and what becomes of a warm-up that is too long."""
    if not progress or not hosts.is_main_process():
        return
    print(objective_text(config), flush=True)
    if (warmup := warmup_of(config)) < config.warmup:
        print(f"warm-up: {warmup} updates, half of all, not {config.warmup}", flush=True)


def say_distance(average: Any, last: Any, progress: bool) -> None:
    """Say how far the averaged parameters, which sampling uses, are from the last ones."""
    from jaxdiff.training.ema import distance

    apart = distance(average, last)  # of all processes
    if progress and hosts.is_main_process():
        print(f"averaged parameters, which are kept, are {apart:.2%} of their norm from the last")
