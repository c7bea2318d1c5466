"""Evaluators by a feature function that is given: Inception, or the user's own."""

from pathlib import Path

import numpy as np

from jaxdiff.app.cached import key_of, read, write
from jaxdiff.app.evaluator import Evaluator, few
from jaxdiff.app.image_features import ImageFeatures
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.metrics.statistics import Statistics
from jaxdiff.training import hosts


def given_evaluator(
    features: ImageFeatures,
    others: Dataset | None,
    reference: Dataset | Statistics,
    seed: int = 0,
    *,
    shape: tuple[int, ...],
    shown: str,
    kept: Path | None = None,
    progress: bool = False,
) -> Evaluator:
    """Return an evaluator that compares with ``reference`` by a feature function.

    Args:
        features: the function.
        others: other real images, of which draws are scored; None where there are none.
        reference: real images, or statistics of their features.
        seed: of the draws.
        shape: of an image.
        shown: what the reference is, in words.
        kept: a file that keeps the features of these images for the next time, if the function is
            one that is known again.
        progress: show it.

    Raises ValueError for statistics of another dimension than the function's.
    """
    kept = kept if features.key and not hosts.several() else None
    others = None if others is None else few(others, seed)
    key = "" if kept is None else key_of((others, reference), features.key, seed)
    known = {} if kept is None else read(kept, key, _kept(others, reference))
    real = known.get("real")
    if others is not None and real is None:
        real = features.function(to_float(others.images))
    made = Evaluator(
        features.function, features.name, _reference(features, reference, known), shown, real,
        "" if others is None else others.name, seed, logits=features.logits, progress=progress,
    )  # fmt: skip
    if isinstance(reference, Dataset) and reference.labels is not None:
        made.counts = np.bincount(reference.labels, minlength=reference.num_classes)
    _check_dimension(made, features, shape)
    if isinstance(made.reference, Statistics):
        own = {}
    else:
        if known:
            made.radii, made.within = known["radii"], float(known["within"])
        own = {"reference": made.reference, "radii": made.radii, "within": np.float64(made.within)}
    if kept is not None and not known:
        write(kept, key, own | ({} if real is None else {"real": real}))
    return made


def _kept(others: Dataset | None, reference: Dataset | Statistics) -> list[str]:
    """Return the names of the arrays that are kept."""
    alone = isinstance(reference, Statistics) and reference.features is None
    return ["reference", "radii", "within"] * (not alone) + ["real"] * (others is not None)


def _reference(
    features: ImageFeatures, reference: Dataset | Statistics, known: dict[str, np.ndarray]
) -> np.ndarray | Statistics:
    """Return the features of the reference where there are any, else its statistics."""
    if "reference" in known:
        return known["reference"]
    if isinstance(reference, Statistics):
        return reference if reference.features is None else reference.features
    made = features.function(to_float(reference.images))
    return made[:, : made.shape[1] - features.logits]


def _check_dimension(made: Evaluator, features: ImageFeatures, shape: tuple[int, ...]) -> None:
    """Raise ValueError where the reference is of other features than the function's."""
    one = np.zeros((1, *shape), np.float32)
    some = features.function(one) if made.real is None else made.real
    known, own = made.reference, some.shape[1] - features.logits
    given = known.dimension if isinstance(known, Statistics) else known.shape[1]
    if own != given:
        raise ValueError(
            f"{made.reference_name} has features of dimension {given}, {features.name} gives "
            f"{own}: both must come from one feature function"
        )
