"""Scores of the restorations of ``jaxdiff restore``, their table, and the picture's rows."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.app.measured_images import Given
from jaxdiff.app.models import Model
from jaxdiff.app.published import to_pictures
from jaxdiff.conditioning.operators import Linear, Measurement, Operator
from jaxdiff.metrics.similarity import psnr, ssim
from jaxdiff.report.images import apart
from jaxdiff.report.terminal import Best, format_table
from jaxdiff.sampling.sampler import Sampler

SHOWN = 12  # images in a row of the picture
FEATURES = "feature distance"


class Setting(NamedTuple):
    """Common to all methods: the model, its images, the measurements (images,
    *measured), the grid, the operator of the model's own samples, which may be latents, a
    feature function, of images in [-1, 1], to compare them by, and a student's own sampler.
    """

    model: Model
    given: Given
    seen: Measurement
    levels: np.ndarray
    own: Operator
    features: Callable[[np.ndarray], np.ndarray] | None = None
    student: Sampler | None = None


def scores(found: np.ndarray, setting: Setting) -> dict[str, Any]:
    """Return a method's scores, a number for each image and their mean; None where it is not
    finite.
    """
    images, samples = found.shape[:2]
    seen = setting.seen
    apart = np.asarray(seen.observation[:, None] - seen.operator.apply(jnp.asarray(found)))
    if seen.operator.support is not None:
        apart = apart[..., np.asarray(seen.operator.support)]
    low, high = setting.model.bounds or (-1.0, 1.0)
    unit = (high - low) / 2  # numbers are of images in [-1, 1]
    by_image = {
        "misfit": np.sqrt(np.mean(apart.reshape(images, -1) ** 2, axis=1)) / unit,
        "spread": np.sqrt(found.var(axis=1).reshape(images, -1).mean(axis=1)) / unit,
    }
    if setting.given.truth is not None:
        truth = np.repeat(setting.given.truth, samples, axis=0)
        flat, mean = found.reshape(-1, *found.shape[2:]), found.mean(axis=1)
        per = lambda values: values.reshape(images, samples).mean(axis=1)  # noqa: E731
        by_image = {
            "psnr": per(psnr(flat, truth, high - low)),
            "psnr of mean": psnr(mean, setting.given.truth, high - low),
            "ssim": per(ssim(flat, truth, high - low)),
            **feature_distances(flat, truth, setting, per),
        } | by_image
    means = {name: _number(float(np.mean(values))) for name, values in by_image.items()}
    return means | {"by image": {k: [_number(float(v)) for v in a] for k, a in by_image.items()}}


def feature_distances(
    images: np.ndarray, truth: np.ndarray, setting: Setting, per: Callable[..., np.ndarray]
) -> dict[str, np.ndarray]:
    """Return Euclidean distances of features, if there is a function of them."""
    if setting.features is None:
        return {}
    source = None if setting.model.bounds is None else setting.model.source
    own, real = (setting.features(to_pictures(source, x)) for x in (images, truth))
    return {FEATURES: per(np.linalg.norm(own - real, axis=1))}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def in_words(rows: dict[str, dict[str, Any]], setting: Setting) -> str:
    """Return the table of the methods."""
    known = setting.given.truth is not None
    scored = ["psnr", "psnr of mean", "ssim"] if known else []
    more = [FEATURES] if known and setting.features is not None else []
    names = [*scored, *more, "misfit", "spread", "nfe", "seconds"]
    best: Best = {**dict.fromkeys(scored, "max"), **dict.fromkeys(more, "min")}
    best = best if len(rows) > 1 else {}
    return format_table(
        ["method", *names], [[name, *(row[n] for n in names)] for name, row in rows.items()], best
    )


def picture_rows(setting: Setting, restored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the picture's rows by name, (images, samples, *shape) in [-1, 1]: the truth, the
    measurement as a picture if it can be one, and some samples of each method.
    """
    source = None if setting.model.bounds is None else setting.model.source  # pictures already
    count = min(len(setting.seen.observation), SHOWN)
    samples = max(1, SHOWN // count)
    rows = {}
    if setting.given.truth is not None:
        rows["truth"] = setting.given.truth[:, None]
    if (seen := as_picture(setting.seen)) is not None:
        rows["measured"] = seen[:, None]
    rows |= restored
    made = {}
    for name, row in rows.items():
        x = row[:count, :samples]
        flat = x.reshape(-1, *x.shape[2:])
        flat = apart(to_pictures(source, flat))
        made[name] = flat.reshape(*x.shape[:2], *flat.shape[1:])
    return made


def as_picture(seen: Measurement) -> np.ndarray | None:
    """Return measurements as images: as they are if they have the shape of one, the
    pseudo-inverse of others, None for what has none.
    """
    operator: Any = seen.operator
    if operator.measured == operator.shape:
        return np.asarray(seen.observation)
    if not isinstance(operator, Linear):
        return None
    return np.asarray(operator.pseudo_inverse(seen.observation))
