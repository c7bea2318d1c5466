"""Images to classify, batches of them, and pairs of teacher and student.

Images are normalised by mean and standard deviation of each channel over the training set, and
averaged over squares of pixels if ``pool`` is above 1. A training image is shifted by up to an
eighth of its side, zeros coming in, and mirrored (not digits) with probability 1/2.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.classify import ImageClassifier
from jaxdiff.data import load
from jaxdiff.data.order import epoch_order
from jaxdiff.networks import (
    VGG,
    MobileNetV2,
    ResNetCIFAR,
    ShuffleNetV1,
    ShuffleNetV2,
    WideResNet,
)
from jaxdiff.networks.shufflenet import V2_WIDTHS

FILES = {
    "fashion": "fashion_mnist.npz",
    "mnist": "mnist.npz",
    "cifar10": "cifar10-{}-32x32.zip",
}
X2, X4 = (16, 32, 64, 128), (32, 64, 128, 256)


def pairs(classes: int) -> dict[str, tuple[Any, Any]]:
    """Return modules of teacher and student by the names of pairs: small ones, and the papers'."""
    resnet, wide, vgg, mobile, first, second = (
        functools.partial(kind, num_classes=classes)
        for kind in (ResNetCIFAR, WideResNet, VGG, MobileNetV2, ShuffleNetV1, ShuffleNetV2)
    )
    return {
        "tiny": (resnet(2, (8, 8, 16, 32)), resnet(1, (4, 4, 8, 16))),
        "same-widths": (resnet(3, (8, 8, 16, 32)), resnet(1, (8, 8, 16, 32))),
        "resnet32x4-8x4": (resnet(5, X4), resnet(1, X4)),
        "resnet110x2-110": (resnet(18, X2), resnet(18)),
        "resnet32x4-vgg8": (resnet(5, X4), vgg(1)),
        "resnet32x4-shufflev1": (resnet(5, X4), first()),
        "resnet32x4-shufflev2x1.5": (resnet(5, X4), second(V2_WIDTHS[1.5])),
        "wrn40-2-wrn40-1": (wide(40, 2), wide(40, 1)),
        "wrn40-2-mobilenetv2": (wide(40, 2), mobile(0.5)),
        "vgg13-vgg8": (vgg(2), vgg(1)),
    }


class Problem(NamedTuple):
    """Normalised images (n, height, width, channels) float32, and labels int32."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    mirrored: bool

    def network(self, module: Any) -> ImageClassifier:
        """Return the classifier of these images that a module is."""
        height, width, channels = self.images.shape[1:]
        return ImageClassifier(module, (height, width, channels))


def read(folder: Path, name: str, pool: int, count: int | None) -> Problem:
    """Return one of the data sets ``FILES``; ``count`` images for training, all if None."""
    if name not in FILES:
        raise ValueError(f"the data are {', '.join(FILES)}; not {name!r}")
    path = folder / FILES[name]
    zipped = name == "cifar10"  # which has a file for each part
    train, test = (
        load(folder / FILES[name].format(part)) if zipped else load(path, split=part)
        for part in ("train", "test")
    )
    if count is not None:
        if count > len(train):
            raise ValueError(f"{path} has {len(train)} images to train on, not {count}")
        train = train.take(np.random.default_rng(0).permutation(len(train))[:count])
    pooled = [_pooled(np.asarray(part.images), pool) for part in (train, test)]
    mean, std = (f(pooled[0], axis=(0, 1, 2), dtype=np.float64) for f in (np.mean, np.std))
    first, second = (((x - mean) / std).astype(np.float32) for x in pooled)
    if train.labels is None or test.labels is None:
        raise ValueError(f"{path} has no labels")
    return Problem(first, train.labels, second, test.labels, train.num_classes, name != "mnist")


def _pooled(images: np.ndarray, pool: int) -> np.ndarray:
    n, height, width, channels = images.shape
    if height % pool or width % pool:
        raise ValueError(f"squares of {pool} pixels do not divide images of {height} x {width}")
    shape = (n, height // pool, pool, width // pool, pool, channels)
    return images.reshape(shape).mean(axis=(2, 4), dtype=np.float32) / np.float32(255)


class Batches:
    """Shuffled and augmented batches, a function of the step.

    Each has "image", "label" and "index", the place in the training set.
    """

    def __init__(self, problem: Problem, batch: int, seed: int) -> None:
        """Take what batches are made of."""
        if not 0 < batch <= len(problem.images):
            raise ValueError(f"batches of {batch} of {len(problem.images)} images")
        self.problem, self.batch, self.seed = problem, batch, seed

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """Return the batch of a step; epochs that do not divide leave their rest out."""
        count = len(self.problem.images)
        epoch, part = divmod(step, count // self.batch)
        places = np.arange(part * self.batch, (part + 1) * self.batch)
        index, _ = epoch_order(self.seed, epoch, count, places)
        rng = np.random.default_rng((self.seed, step))
        images = augmented(self.problem.images[index], rng, self.problem.mirrored)
        label = self.problem.labels[index].astype(np.int32)
        return {"image": images, "label": label, "index": index.astype(np.int32)}


def augmented(images: np.ndarray, rng: np.random.Generator, mirrored: bool) -> np.ndarray:
    """Return images shifted by up to an eighth of their side, and mirrored with probability
    1/2.
    """
    n, height, width, _ = images.shape
    pad = max(1, height // 8)
    wide = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (rng.integers(0, 2 * pad + 1, n)[:, None] + np.arange(s) for s in
                     (height, width))  # fmt: skip
    if mirrored:
        columns = np.where(rng.random(n)[:, None] < 0.5, columns, columns[:, ::-1])
    return wide[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
