"""Images that ``jaxdiff restore`` measures, or that are measurements, and their conditions."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.conditions import check_class_condition, class_beside
from jaxdiff.app.data import class_index, own_data, read_data, without_data
from jaxdiff.app.models import Model
from jaxdiff.app.options import refuse
from jaxdiff.app.published import from_pictures
from jaxdiff.app.references import class_names, in_classes
from jaxdiff.app.subjects import guidable
from jaxdiff.app.text import texts_condition
from jaxdiff.conditioning.operators import Operator
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.data.labels import NoSplit
from jaxdiff.data.options import Options
from jaxdiff.data.pictures import decode, suffixes
from jaxdiff.data.readers import load
from jaxdiff.data.tally import Tally


class Given(NamedTuple):
    """Images as the model's samples are, (n, *shape), or None; measurements (n, *measured) if they
    are given in their place; labels (n,) of a conditional model, or a tree of a prompt, or None;
    what they are, in words.
    """

    truth: np.ndarray | None
    observed: np.ndarray | None
    cond: Any
    shown: str


def given_images(
    model: Model, operator: Operator, config: configs.Restore, progress: bool
) -> Given:
    """Return a configuration's images: those that are named, or some of the run's test data.

    Raises ValueError for images of another size than the model's, or, measured, than the
    operator's; OSError for those that are not there.
    """
    if model.tokenizer is None:
        check_class_condition(model, "restore")
        refuse(config, "this model takes no text", "prompt")
    wanted = operator.measured if config.measured else operator.shape
    values, labels, shown = images_of(model, config, wanted, progress)
    cond = _condition(model, config, labels, len(values))
    if not config.measured:
        return Given(values, None, cond, shown)
    if operator.support is not None:  # what is hidden counts as 0
        values = np.where(np.asarray(operator.support), values, np.float32(0))
    return Given(None, values, cond, shown)


def _condition(model: Model, config: configs.Restore, own: np.ndarray | None, count: int) -> Any:
    """Return the classes of images or, of a run of texts, the prompt, and the class beside it."""
    if model.tokenizer is None:
        return labels_of(model, config.label, own, count)
    if model.student and config.prompt is None:
        raise ValueError("a student has not learnt to do without a text: give a --prompt")
    texts = texts_condition(model.tokenizer, [config.prompt or ""] * count)
    return texts | class_beside(model, config.label, count)


def images_of(
    model: Model, config: configs.Restore | configs.Edit, wanted: tuple[int, ...], progress: bool
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Return images (n, *wanted) as the model's samples are, or, of a model of latents, in [-1, 1];
    their labels if known, and what they are, in words. Errors as :func:`given_images`.
    """
    labels, measured = None, getattr(config, "measured", False)
    if config.images:
        refuse(config, "all IMAGES are taken", "count")
        images, shown = _read(config, progress), ", ".join(config.images)
    else:
        refuse(config, "it is of your own IMAGES", "size", "grayscale", "range", "measured")
        data = _test_data(model, config, progress)
        images, labels, shown = to_float(data.images), data.labels, data.name
    if images.shape[1:] != wanted:
        raise ValueError(_other_size(images.shape[1:], wanted, measured))
    source = None if model.bounds is None else model.source  # pixels of latents as they are
    return from_pictures(source, images).astype(np.float32), labels, shown


def _other_size(found: tuple[int, ...], wanted: tuple[int, ...], measured: bool) -> str:
    whose = "this task's measurements are" if measured else "the model's images are"
    text = f"{whose} {wanted}, yours {found}"
    if len(wanted) != 3:
        return f"{text}: --measured is for tasks whose measurements are images"
    square = wanted[0] == wanted[1]
    remedy = [f"--size {wanted[0]} crops and resizes them"] * (square and found[:2] != wanted[:2])
    remedy += ["--grayscale makes them grey"] * (wanted[2] == 1 < found[2])
    return ": ".join([text, *([" and ".join(remedy)] if remedy else [])])


def _read(config: configs.Restore | configs.Edit, progress: bool) -> np.ndarray:
    """Return the images of all paths in [-1, 1]; with ``progress``, a line for each says what was
    read. ValueError for those of several sizes.
    """
    read = [_images_at(Path(path), config) for path in config.images]
    if progress:
        print("\n".join(f"images {data.describe()}" for data in read), flush=True)
    parts = [to_float(data.images) for data in read]
    sizes = {path: part.shape[1:] for path, part in zip(config.images, parts, strict=True)}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"IMAGES must have one size, --size gives them one: {sizes}")
    return np.concatenate(parts)


def _images_at(path: Path, config: configs.Restore | configs.Edit) -> Dataset:
    if not path.is_file() or path.suffix.lower() not in suffixes():
        return _data_at(path, config)
    notes = Tally()
    try:
        options = Options(size=config.size, grayscale=config.grayscale, range=config.range)
        image = decode(
            path.read_bytes(), path.name, notes, size=options.size,
            grayscale=options.grayscale, values=options.range,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{path}: {error}".replace("--data.", "--")) from error
    return Dataset(image[None], name=path.name, notes=notes.lines())


def _data_at(path: Path, config: configs.Restore | configs.Edit) -> Dataset:
    """Return the images at a path, without labels; errors name this command's options."""
    try:
        return load(
            path, labels="none", size=config.size, grayscale=config.grayscale, range=config.range
        )
    except ValueError as error:
        raise ValueError(str(error).replace("--data.", "--")) from error


def _test_data(model: Model, config: configs.Restore | configs.Edit, progress: bool) -> Dataset:
    """Return some of the run's test data. ValueError where there are none."""
    own = own_data(model)
    if own is None:
        raise ValueError(f"{without_data(model)}: give IMAGES")
    try:
        chosen = dataclasses.replace(own, split="test", limit=config.count)
        if own.compose is not None:  # of all symbols
            chosen = dataclasses.replace(own, split="test", compose=config.count)
        return in_classes(read_data(chosen, progress), class_names(model, None))
    except NoSplit as error:
        raise ValueError(f"{own.path} has no test data ({error}): give IMAGES") from error


def labels_of(
    model: Model, label: str | None, own: np.ndarray | None, count: int, option: str = "--label"
) -> np.ndarray | None:
    """Return the classes of images: the one that is given, none of a model that does without, or
    else their own.
    """
    if not model.classes:
        if label is not None:
            raise ValueError(f"{option} would have no effect: this model has no classes")
        return None
    if label is not None:
        return np.full(count, class_index(label, model.metadata["class_names"]), np.int32)
    if guidable(model) and not model.student:  # which has not learnt to do without
        return None
    if own is None:
        raise ValueError(f"this model samples a class, always: give the images' {option}")
    return np.asarray(own, np.int32)
