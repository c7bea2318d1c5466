"""What adapters are trained on: images as the model takes them, and their conditions."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app import picture_prompt
from jaxdiff.app.adapt_texts import conditions_of
from jaxdiff.app.boxes import boxes_of
from jaxdiff.app.conditions import check_class_condition, takes_text
from jaxdiff.app.control import CONTROLS, shown
from jaxdiff.app.data import check_classes, class_labels, data_of, own_data, read_data
from jaxdiff.app.data_conditions import pictures_beside
from jaxdiff.app.models import Model
from jaxdiff.app.options import refuse
from jaxdiff.app.published import from_pictures
from jaxdiff.app.text import BESIDE
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.data.edges import edges
from jaxdiff.typing import Cond


class Shown(NamedTuple):
    """What images are trained with. images: (n, *shape), as the model takes them. cond: a row for
    each, or None. prior: of own samples, their conditions. channels: of the picture that steers.
    """

    images: np.ndarray
    cond: Cond
    prior: Cond
    channels: int = 1


def shown_images(
    model: Model, config: configs.Adapt, progress: bool
) -> tuple[Shown, tuple[int, ...]]:
    """Return the images and their conditions, and the size in pixels of what steers. ValueError for
    data that do not fit the model.
    """
    data, source = _read(model, config, progress)
    if model.source is None and data.shape != model.shape:
        raise ValueError(
            f"the model's samples have the shape {model.shape}, those of {data.name} {data.shape}: "
            "--data.size and --data.grayscale change it"
        )
    images = from_pictures(model.source, to_float(data.images))
    cond, prior = _conditions(model, config, data)
    rows = len(jax.tree.leaves(cond)[0]) if cond is not None else len(images)
    of_each = rows // len(images)  # texts
    more = {k: np.repeat(v, of_each, axis=0) for k, v in _more(model, config, data, source).items()}
    for key, values in more.items():
        cond = shown(cond, values, key)
    picture: Any = more.get("control", data.images)
    channels = picture.shape[-1] if "control" in more else 1
    return Shown(np.repeat(images, of_each, axis=0), cond, prior, channels), picture.shape[1:3]


def _read(model: Model, config: configs.Adapt, progress: bool) -> tuple[Dataset, configs.Data]:
    """Return the images, and how they were read."""
    if config.data.path is None:
        data = data_of(model, config.data, progress, whole=config.kind == "gligen")
        own = own_data(model) or configs.Data()
        return data, configs.of_run(own, config.data) or own
    chosen = configs.Data(**{k: v for k, v in vars(config.data).items() if v is not None})
    return read_data(chosen, progress), chosen


def _more(
    model: Model, config: configs.Adapt, data: Dataset, source: configs.Data
) -> dict[str, np.ndarray]:
    """Return what the network is shown beside texts or classes, a row for each image."""
    other = data.conditions.get(BESIDE)
    if model.pairs:
        return {BESIDE: pictures_beside(model, data)}
    if config.kind == "gligen":
        return boxes_of(model, data, source)
    if config.kind == "ip":
        seen = to_float(data.images if other is None else other)
        return {"image": picture_prompt.features_named(config.features)(seen)}
    if config.kind not in CONTROLS:
        return {}
    return {"control": edges(data.images) if other is None else (to_float(other) + 1) / 2}


def _conditions(model: Model, config: configs.Adapt, data: Dataset) -> tuple[Cond, Cond]:
    """Return the conditions of the images, and of the own samples."""
    if model.tokenizer is not None:
        return conditions_of(model, config, data)
    if takes_text(model):
        raise ValueError(
            f"{config.run} is a pipeline whose text encoder is a network of its own: from Python, "
            "jaxdiff.adapt trains its U-Net with batches of encoded prompts"
        )
    check_class_condition(model, "adapt")
    of_texts = ("prompt", "prior_prompt", "token", "vectors", "start")
    refuse(config, "this model takes no text", *of_texts)
    names = model.metadata["class_names"]
    prior = class_labels(config.prior_count, model.classes, config.prior_label, names)
    if not model.classes:
        return class_labels(len(data), 0, config.label), prior
    if config.label is not None:
        return class_labels(len(data), model.classes, config.label, names), prior
    if data.labels is None:
        raise ValueError(
            f"{data.name} has no classes: give the images' --label, one of the model's"
        )
    check_classes(data, model)
    return data.labels, prior
