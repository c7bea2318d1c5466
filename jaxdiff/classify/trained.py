"""A classifier with its variables: what is a teacher, and what every method's sampler returns."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_fields, pytree_dataclass
from jaxdiff.method import WithState
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.typing import Array, Outputs


@pytree_dataclass
class Trained:
    """A classifier with its variables, a pytree; called with images it gives logits.

    network: the classifier. variables: WithState(parameters, state).
    """

    network: ImageClassifier = dataclasses.field(metadata={"static": True})
    variables: WithState = dataclasses.field()

    def __call__(self, images: Array) -> Array:
        """Return logits (batch, classes) of images (batch, height, width, channels)."""
        return self.network(self.variables, images)

    def outputs(self, images: Array) -> Outputs:
        """Return logits and features."""
        return self.network(self.variables, images, full=True)


@pytree_dataclass
class Ensemble:
    """Several classifiers, whose logits are averaged; a pytree."""

    members: tuple[Trained, ...]

    def __call__(self, images: Array) -> Array:
        """Return the mean of the members' logits (batch, classes)."""
        return jnp.mean(jnp.stack([member(images) for member in self.members]), axis=0)


@jax.jit
def _logits(classifier: Trained | Ensemble, images: Array) -> Array:
    return classifier(images)


def predictions(classifier: Trained | Ensemble, images: np.ndarray, batch: int = 250) -> np.ndarray:
    """Return the class of the largest logit of each image, (images,), ``batch`` at a time; the
    number of classes, which is none of them, where a logit is not a number.
    """
    if batch < 1 or not len(images):
        raise ValueError(f"{len(images)} images in batches of {batch}: both must be positive")
    batch, found = min(batch, len(images)), []
    for begin in range(0, len(images), batch):
        part = images[begin : begin + batch]
        full = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), part.dtype)])
        logits = np.asarray(_logits(classifier, full))[: len(part)]
        lost = np.isnan(logits).any(axis=1)
        found.append(np.where(lost, logits.shape[1], np.argmax(logits, axis=1)))
    return np.concatenate(found)


def accuracy(
    classifier: Trained | Ensemble, images: np.ndarray, labels: np.ndarray, batch: int = 250
) -> float:
    """Return the share of images whose largest logit is that of their label. Raises ValueError for
    labels that are not (images,) of the classes.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels are integers ({len(images)},), one per image; got {labels.dtype}{labels.shape}"
        )
    _check_labels(labels, jax.eval_shape(classifier, images[:1]).shape[1], "accuracy")
    return float(np.mean(predictions(classifier, images, batch) == labels))


def check_batch(
    batch: Mapping[str, Any], network: ImageClassifier, classes: int, method: str, *more: str
) -> None:
    """Raise ValueError, naming the method, for a batch without images of the network's shape or
    with labels that are no classes; ``more`` names further fields that it must have.
    """
    check_fields(batch, method, "image", "label", *more)
    image, label = batch["image"], np.asarray(batch["label"])
    if np.shape(image)[1:] != network.shape or not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"{method}: batch 'image' is {image.dtype}{list(np.shape(image))}; expected floats "
            f"(batch, {', '.join(map(str, network.shape))})"
        )
    if label.ndim != 1 or label.dtype.kind not in "iu":
        raise ValueError(f"{method}: labels are integers (batch,); got {label.dtype}{label.shape}")
    _check_labels(label, classes, method)


def _check_labels(label: np.ndarray, classes: int, method: str) -> None:
    if label.size and not 0 <= label.min() <= label.max() < classes:
        raise ValueError(
            f"{method}: labels go from {label.min()} to {label.max()}; there are {classes} classes"
        )
