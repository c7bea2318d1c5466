"""References: the real images that samples are compared with, their name and their labels.

By default they are the other part of the run's data (the test split of what has one), which the
model has not trained on. Where there is no other part, they are a third of what it was trained on,
and this is description: whether a model was trained on an image is found by looking for it there.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.data import check_pairs, own_data, read_data, without_data
from jaxdiff.app.data_conditions import (
    conditions_of,
    has_conditions,
    of_data,
    rows_in_turn,
    what_of,
)
from jaxdiff.app.folder import difference
from jaxdiff.app.models import Model
from jaxdiff.app.options import refuse
from jaxdiff.app.published import picture_shape
from jaxdiff.data.dataset import Dataset, split, to_float
from jaxdiff.data.labels import NoSplit, shared_out
from jaxdiff.data.lazy import LazyImages
from jaxdiff.metrics.statistics import (
    Statistics,
    check_statistics,
    is_statistics,
    read_statistics,
)
from jaxdiff.typing import Cond

LOOKED_FOR = 200_000  # images that are not in memory
OTHER = {"train": "test", "val": "train", "test": "train"}


class References(NamedTuple):
    """reference: what samples are compared with, images or statistics of their features; shown:
    what that is, in words. others: further real images, None where there are none. trained: what
    the model was trained on, if it is there.

    Labels are in the model's classes.
    """

    reference: Dataset | Statistics
    others: Dataset | None
    shown: str
    trained: Dataset | None


def find(model: Model, config: configs.Evaluate, progress: bool = True) -> References:
    """Real images for a run, or statistics of their features.

    Raises ValueError for images of another shape, or of classes that the model does not know, and
    for options that have no effect.
    """
    own, data = own_data(model), config.data
    check_pairs(model, data)
    if config.reference is not None:
        if data.path is not None:
            raise ValueError("--reference and --data.path both say what to compare with")
        if (statistics := statistics_in(config.reference)) is not None:
            return _of_statistics(model, statistics, config, progress)
        data = dataclasses.replace(data, path=config.reference)
    if own is None and data.path is None:
        raise ValueError(f"{without_data(model)}: give real images by --data.path or --reference")
    given = configs.of_run(own or configs.Data(), data)
    trained = None if own is None else _there(own, model, progress, needed=given is None)
    if trained is None and given is not None and _moved(model, given):
        own, given, trained = given, None, read_data(given, progress)
    reference, others = _chosen(own, given, trained, config.seed, progress)
    names = class_names(model, trained)
    shape = picture_shape(model.source, model.shape)
    for data in (reference, others):
        if data.shape != shape:
            raise ValueError(f"the run makes images of shape {shape}, {data.name} has {data.shape}")
    reference, others = (in_classes(d, names) for d in (reference, others))
    if config.reference_count < len(reference):
        reference = split(reference, config.reference_count / len(reference), config.seed)[1]
    shown = f"{len(reference)} images of {reference.name}, {_overlap(reference, trained)}"
    return References(reference, others, shown, trained)


def statistics_in(path: str) -> Statistics | None:
    """Return the statistics in a file, an .npz or EDM2's .pkl; None if it is of another kind."""
    if Path(path).suffix == ".pkl":
        from jaxdiff.pretrained.pickles import read_pickle

        kept = read_pickle(path)
        found = kept.get("fid", kept) if isinstance(kept, dict) else {}
        if not isinstance(found, dict) or not {"mu", "sigma"} <= set(found):
            raise ValueError(f"{path} has no mu and sigma, as a reference of EDM2's has")
        mean, covariance = np.asarray(found["mu"]), np.asarray(found["sigma"])
        return check_statistics(Statistics(mean, covariance, name=Path(path).name), path)
    return read_statistics(path) if is_statistics(path) else None


def _of_statistics(
    model: Model, found: Statistics, config: configs.Evaluate, progress: bool
) -> References:
    """Return statistics as a reference; further images are what the model was trained on."""
    if config.features in ("classifier", "pixels"):
        raise ValueError(
            f"{found.name} has statistics of features: say of which, by --features inception or "
            "--features module:FILE.py:FUNCTION"
        )
    refuse(config, "statistics are of all their images", "reference_count", "save_statistics")
    own = own_data(model)
    trained = None if own is None else _there(own, model, progress, needed=False)
    count = "an unknown number of" if found.count is None else found.count
    shown = f"{found.name}, statistics of {count} images"
    return References(found, trained, shown, trained)


def _chosen(
    own: configs.Data | None,
    given: configs.Data | None,
    trained: Dataset | None,
    seed: int,
    progress: bool,
) -> tuple[Dataset, Dataset]:
    """Return the reference and further images: the two parts of the data. Of data without parts all
    are the reference if the model has seen none of them, the others then what it was trained on;
    else a third.
    """
    if given is None:
        assert own is not None and trained is not None
        whole, rest = trained, _part(own, progress)
        if rest is not None:
            return rest, whole
    else:
        whole, rest = read_data(given, progress), _part(given, progress)
        if rest is not None:
            return whole, rest
        alike = trained is not None and (trained.labels is None) == (whole.labels is None)
        if trained is not None and alike and _seen(whole, trained) == 0:
            return whole, trained
    rest, reference = split(whole, 1 / 3, seed)
    return reference, rest


def _there(own: configs.Data, model: Model, progress: bool, needed: bool) -> Dataset | None:
    """Return what the model was trained on; None if it is not there any more, or is other data now,
    and not needed.
    """
    try:
        data = read_data(own, progress)
    except FileNotFoundError as error:
        if not needed:
            return None
        raise FileNotFoundError(
            f"{error}: the run's data; give them, or other real images, by --data.path"
        ) from error
    known = model.metadata.get("trained on")
    if known and (why := difference(known, data.fingerprint())):
        if not needed:
            return None
        raise ValueError(
            f"{own.path} does not hold any more what the run was trained on ({why}); give that, or "
            "other real images, by --data.path"
        )
    return data


def _moved(model: Model, given: configs.Data) -> bool:
    """Return whether these are what the model was trained on, at another place."""
    known = model.metadata.get("trained on")
    return bool(known) and not difference(known, read_data(given, False).fingerprint())


def _part(data: configs.Data, progress: bool) -> Dataset | None:
    """Return the other part of some data; None if there is none."""
    try:
        other = dataclasses.replace(data, split=OTHER[data.split], limit=None)
        return read_data(other, progress)
    except NoSplit:
        return None


def class_names(model: Model, trained: Dataset | None) -> tuple[str, ...]:
    """Return the names of a model's classes; of one that has numbers those of what it was trained
    on.
    """
    known = tuple(model.metadata["class_names"])
    unnamed = known == tuple(map(str, range(model.classes)))
    if unnamed and trained is not None and trained.num_classes == model.classes:
        return trained.class_names
    return known


def in_classes(data: Dataset, names: tuple[str, ...]) -> Dataset:
    """Images with labels in the classes of these names, whatever their own numbers.

    Raises ValueError if there are images of another class. Without labels, or without names, data
    stay as they are.
    """
    if data.labels is None or not names:
        return data
    index = {name: number for number, name in enumerate(names)}
    present = [data.class_names[label] for label in np.unique(data.labels)]
    if unknown := [name for name in present if name not in index]:
        raise ValueError(
            f"{data.name} has images of {_listed(unknown)}, which the model does not know: its "
            f"classes are {_listed(names)}. Give data with these, or read without labels "
            "(--data.labels none)"
        )
    own = np.array([index.get(name, -1) for name in data.class_names])
    return dataclasses.replace(
        data, labels=own[data.labels], num_classes=len(names), class_names=tuple(names)
    )


def _listed(names: tuple[str, ...] | list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _overlap(reference: Dataset, trained: Dataset | None) -> str:
    """Return, in words, how many of the reference's images the model was trained on."""
    if trained is None:
        return "and whether the model was trained on them is not known: its data are not there"
    count = _seen(reference, trained)
    if count is None:
        return "which are too many to look for among those that the model was trained on"
    which = {0: "none", len(reference): "all"}.get(count, str(count))
    return f"{which} of which the model was trained on"


def _conditions(
    model: Model, found: References, config: configs.Evaluate
) -> tuple[dict[str, np.ndarray], str]:
    """Return conditions that images of the reference have, or else of the training data."""
    for data, name in ((found.reference, "the reference"), (found.trained, "the training data")):
        if has_conditions(model, data):
            assert isinstance(data, Dataset)
            rows = rows_in_turn(data, config.count, config.seed)
            given = conditions_of(model, data, rows, config.seed)
            return given, f"{what_of(model)} of {name}"
    raise ValueError(
        f"the model is conditioned on {what_of(model)}, and neither reference nor training data "
        "have any"
    )


def _seen(reference: Dataset, trained: Dataset) -> int | None:
    """Return how many images are among those that a model was trained on; None, not having looked,
    for too many that would have to be read for it.
    """
    if isinstance(trained.images, LazyImages) and len(trained) + len(reference) > LOOKED_FOR:
        return None
    known = set(_digests(trained))
    return sum(digest in known for digest in _digests(reference))


def _digests(data: Dataset) -> Iterator[bytes]:
    for image in data.images:
        yield hashlib.blake2b(to_float(image).tobytes(), digest_size=16).digest()


def labels_for(model: Model, found: References, config: configs.Evaluate) -> tuple[Cond, str]:
    """Return the conditions of the samples, and how they were chosen, in words; None without. Of a
    model that is conditioned on what lies in data they are those of the reference's images, if it
    has them.
    """
    if of_data(model):
        if config.labels != "reference":
            raise ValueError(
                "--labels is for models of a class alone; this one is conditioned on "
                f"{what_of(model)}"
            )
        return _conditions(model, found, config)
    if not model.classes:
        if config.labels != "reference":
            raise ValueError("--labels is for models with classes; this one has none")
        return None, ""
    known = found.reference if isinstance(found.reference, Dataset) else None
    labelled = known is not None and known.labels is not None
    source = known if labelled or found.trained is None else found.trained
    if source is None or source.labels is None:
        counts, description = np.ones(model.classes), "each class as often (nothing has labels)"
    else:
        counts = np.bincount(source.labels, minlength=model.classes)
        description = "classes as often as in " + (
            "the reference" if labelled else "the training data"
        )
    if config.labels == "uniform":
        counts, description = counts > 0, f"each of {np.sum(counts > 0)} classes as often"
    elif labelled and (absent := int(np.sum(counts == 0))):
        description += f", which lacks {absent} of the model's {model.classes}"
    return shared_out(counts, config.count), description
