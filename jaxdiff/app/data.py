"""The data of a run, and labels of its classes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app import folder as folders
from jaxdiff.app.models import Model, measure_in
from jaxdiff.app.published import from_pictures, picture_shape
from jaxdiff.app.shown import with_measurements
from jaxdiff.app.text import BESIDE, captioned, tokenized, tokenizer_of
from jaxdiff.data.composed import Composed, compose
from jaxdiff.data.conditions import check_mirrored
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.digits import load_digits
from jaxdiff.data.epochs import batches
from jaxdiff.data.labels import nfc
from jaxdiff.data.readers import load
from jaxdiff.data.samples import load_samples
from jaxdiff.pretrained.model import Pretrained
from jaxdiff.training.devices import first_devices


def read_data(config: configs.Data, progress: bool = True) -> Dataset:
    """Return the images that a configuration names. With ``progress``, one line says what was
    read.
    """
    if config.arrays:
        data = _read_arrays(config)
    elif config.compose is not None:
        data = _composed(config, progress)
    else:
        if config.nouns:
            raise ValueError("--data.nouns would have no effect without --data.compose")
        data = _read_images(config, progress)
    if config.flip:
        check_mirrored(data.conditions, data.name)
    if progress:
        print(f"data {data.describe()}", flush=True)
    return data


def _read_images(config: configs.Data, progress: bool) -> Dataset:
    own = ("path", "flip", "arrays", "compose", "nouns")
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in own}
    if config.path != "digits":
        return load(config.path, progress=progress, **options)
    for name in ("lazy", "captions", "pairs"):
        if options.pop(name):
            raise ValueError(f"--data.{name} would have no effect: the digits are in memory, alone")
    return load_digits(options.pop("split"), **options)


def _composed(config: configs.Data, progress: bool) -> Dataset:
    """Return coloured pictures composed of grey ones, with captions."""
    symbols = _symbols(config, progress)
    made = composed_of(config, progress, symbols)
    return made.dataset(f"{symbols.name}-composed", f"composed of {symbols.source}")


def composed_of(config: configs.Data, progress: bool, symbols: Dataset | None = None) -> Composed:
    """Return the pictures of a configuration that composes them, with all that is known of them.

    symbols: that they are made of, which are read if they are not given.
    """
    symbols = _symbols(config, progress) if symbols is None else symbols
    assert config.compose is not None
    return compose(symbols, config.compose, size=config.size or 16, nouns=config.nouns)


def _symbols(config: configs.Data, progress: bool) -> Dataset:
    """Return the grey pictures that others are composed of."""
    for name in ("flip", "captions", "pairs"):
        if getattr(config, name):
            raise ValueError(f"--data.{name} does not go with --data.compose, which makes captions")
    own = "auto" if config.labels == "none" else config.labels  # captions are made of classes
    return _read_images(dataclasses.replace(config, size=None, labels=own), progress)


def _read_arrays(config: configs.Data) -> Dataset:
    of_images = (
        "size", "grayscale", "range", "flip", "lazy", "captions", "pairs", "compose", "nouns",
    )  # fmt: skip
    if found := [f"--data.{name}" for name in of_images if getattr(config, name)]:
        raise ValueError(f"{' and '.join(found)} would have no effect: --data.arrays are no images")
    if config.labels in ("folders", "json"):
        raise ValueError(f"--data.labels {config.labels} is for folders and zips, not for arrays")
    return load_samples(
        config.path, config.split, labelled=config.labels != "none", limit=config.limit
    )


def data_of(model: Model, given: configs.OtherData, progress: bool, whole: bool = False) -> Dataset:
    """Return the data that a model was trained on, wherever they are now; of published weights,
    which do not say, those that are given. whole: with all that lies beside the images.

    Raises ValueError if they are others, of which runs of earlier versions do not know, and for
    images that are not of the model's shape.
    """
    own = own_data(model)
    if not isinstance(given, configs.AdaptData):  # adapters may be shown pictures beside a run's
        check_pairs(model, given)
    if own is None and given.path is None:
        raise ValueError(f"{without_data(model)}: give images like those by --data.path")
    own = own or configs.Data()
    chosen = configs.of_run(own, given) or own
    try:
        data = read_data(chosen, progress)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: the data of the run; if they have been moved, give --data.path"
        ) from error
    known = model.metadata.get("trained on")
    found = data.fingerprint()
    if own.pairs is None:  # pictures beside the images are not of the run
        found.pop(f"condition {BESIDE}", None)
    if known and (why := folders.difference(known, found)):
        raise ValueError(f"{chosen.path} does not hold what the run was trained on ({why})")
    if model.source is not None and data.shape != (
        shape := picture_shape(model.source, model.shape)
    ):
        raise ValueError(
            f"the model's images have the shape {shape}, those of {data.name} {data.shape}: "
            "--data.size and --data.grayscale change it"
        )
    if model.tokenizer is None or whole:
        return data
    return captioned(data, classes=bool(model.classes), beside=bool(model.pairs))[0]


def check_pairs(model: Model, given: configs.OtherData) -> None:
    """Raise ValueError for pictures beside images of a model that is not shown them."""
    if given.pairs is not None and not model.pairs:
        raise ValueError("--data.pairs would have no effect: this run was not trained on pairs")


def own_data(model: Model) -> configs.Data | None:
    """Return what a model was trained on; None where it is not known."""
    known = model.metadata["data"]
    return None if known is None else configs.Data(**known)


def without_data(model: Model) -> str:
    """Return why the data of a model cannot be read here, and what its card says they are."""
    said = None if model.source is None else model.source.metadata.get("data")
    if isinstance(said, str) and said:
        return f"this model's data ({said}) do not come with it"
    return "what this model was trained on is not known here"


def batches_of(
    data: Dataset,
    config: configs.Train | configs.Distill,
    metadata: dict[str, Any],
    source: Pretrained | None = None,
) -> Callable[[int], dict[str, np.ndarray]]:
    """``data(step)`` of a run; of published weights, in the form that these take; of a model of
    texts, with tokens.
    """
    flip = (metadata["data"] or {"flip": False})["flip"]
    data = tokenized(data, tokenizer_of(metadata.get("tokenizer")))
    made = batches(data, config.batch, config.seed, flip)
    if (measure := measure_in(metadata)) is not None:
        return with_measurements(made, measure, data.shape, config.seed)
    if source is None:
        return made

    def native(step: int) -> dict[str, np.ndarray]:
        batch = made(step)
        return batch | {"image": from_pictures(source, batch["image"])}

    return native


def check_batch(config: configs.Train | configs.Distill) -> None:
    """Raise ValueError for a batch that cannot be divided as the options require."""
    devices = len(first_devices(config.devices) or jax.devices())
    if config.batch % devices:
        raise ValueError(f"--batch {config.batch} does not divide over {devices} devices")
    if config.batch % config.gradient_accumulation:
        raise ValueError(
            f"--batch {config.batch} does not divide into --gradient-accumulation "
            f"{config.gradient_accumulation} parts"
        )


def check_filled(data: Dataset) -> None:
    """Raise ValueError for classes without images: they would be sampled without being learnt."""
    if data.labels is not None:
        counts = np.bincount(data.labels, minlength=data.num_classes)
        if not counts.all():
            empty = ", ".join(data.class_names[i] for i in np.flatnonzero(counts == 0))
            raise ValueError(f"{data.name}: no images to train on of {empty}; raise the limit")


def check_classes(data: Dataset, model: Model) -> None:
    """Raise ValueError for data whose classes are not those that a model was trained on. Models
    that know of no names have numbers, which stand for any.
    """
    known, unnamed = tuple(model.metadata["class_names"]), tuple(map(str, range(model.classes)))
    if known not in (data.class_names, unnamed) or data.num_classes != model.classes:
        raise ValueError(
            f"{data.name} has the classes {', '.join(data.class_names) or 'none'}, the model was "
            f"trained on {', '.join(known) or 'none'}"
        )


def same_classes(a: Model, b: Model) -> bool:
    """Return whether a class number is the same class of two models. Numbers that have no names
    stand for any.
    """
    numbers = tuple(map(str, range(a.classes)))
    names = {tuple(m.metadata["class_names"]) for m in (a, b)} - {numbers}
    return a.classes == b.classes and len(names) < 2


def class_labels(
    count: int, classes: int, label: int | str | None = None, names: Sequence[str] = ()
) -> np.ndarray | None:
    """Labels 0, 1, ... in turn, or one label for all, by name or number; None without classes.
    Raises ValueError for a class that there is not.
    """
    if not classes:
        if label is not None:
            raise ValueError("this model has no classes")
        return None
    if label is None:
        return np.arange(count) % classes
    return np.full(count, class_index(label, names or tuple(map(str, range(classes)))))


def class_index(label: int | str, names: Sequence[str]) -> int:
    """Return the index of a class given by its name or, where names are no numbers, by its
    index.
    """
    text, names = nfc(str(label)), [nfc(name) for name in names]
    if text in names:
        return names.index(text)
    numbers = all(name.isdecimal() for name in names)
    if not numbers and text.isdecimal() and int(text) < len(names):
        return int(text)
    numbered = list(names) == list(map(str, range(len(names))))
    known = f"0..{len(names) - 1}" if numbered else ", ".join(names)
    raise ValueError(f"label {text} is not one of {known}")
