"""Published residual networks for images of 32 x 32 (:mod:`jaxdiff.networks.resnet_cifar`).

Two namings are read, distinguished by their last layer:

    linear.weight   Y. Idelbayev's models of CIFAR-10, github.com/akamaster/pytorch_resnet_cifar10
                    (BSD-2): names begin with "module.", shortcuts "padded", without parameters
    fc.weight       the models of the literature on distillation (RepDistiller, SimKD): shortcuts
                    "projection", named "downsample"

The former take images in [0, 1] less the means of ImageNet over its standard deviations,
``IMAGENET``. Running variances are as stored.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxdiff.method import WithState
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.networks.resnet_cifar import ResNetCIFAR
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.tensors import open_tensors

# mean and standard deviation of the three channels of images in [0, 1]
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])

LAYOUT = Layout(
    (
        (r"conv1", "stem_conv"),
        (r"bn1", "stem_norm"),
        (r"layer(\d)\.(\d+)\.conv(\d)", r"stage\1_block\2/conv\3"),
        (r"layer(\d)\.(\d+)\.bn(\d)", r"stage\1_block\2/norm\3"),
        (r"layer(\d)\.(\d+)\.downsample\.0", r"stage\1_block\2/shortcut_conv"),
        (r"layer(\d)\.(\d+)\.downsample\.1", r"stage\1_block\2/shortcut_norm"),
        (r"fc|linear", "fc"),
    ),
    unused=(r".*num_batches_tracked",),
)


def load_cifar_resnet(
    path: str | os.PathLike[str], *, dtype: Any = None
) -> tuple[ImageClassifier, WithState]:
    """Return the classifier of a file of weights, and its variables.

    Args:
        path: of a .th, .pt, .pth or .safetensors file. Nothing of it is executed.
        dtype: of parameters and statistics, that of the file by default.

    Returns:
        The module, and its parameters with batch statistics.

    Raises:
        OSError: if there is no such file.
        ValueError: naming it, if it is damaged or of another network.
    """
    tensors = open_tensors(path).renamed(lambda name: name.removeprefix("module."))
    module = network_of(tensors.shapes, str(path))
    network = ImageClassifier(module, (32, 32, tensors.shapes["conv1.weight"][1]))
    wanted = jax.eval_shape(network.init, jax.random.key(0))
    made = fill({"params": wanted.value, **wanted.state}, tensors, LAYOUT, dtype=dtype)
    return network, WithState(made.pop("params"), made)


def network_of(shapes: Mapping[str, tuple[int, ...]], path: str) -> ResNetCIFAR:
    """Return the network of published shapes. Raises ValueError for those of another."""
    found = [re.fullmatch(r"layer(\d)\.(\d+)\.conv\d\.weight", name) for name in shapes]
    places = {(int(m[1]), int(m[2])) for m in found if m}
    last = next((n for n in ("fc.weight", "linear.weight") if n in shapes), None)
    stages = max((stage for stage, _ in places), default=0)
    blocks = 1 + max((block for _, block in places), default=-1)
    if (
        last is None or "conv1.weight" not in shapes or not blocks
        or len(places) != stages * blocks or shapes["conv1.weight"][2:] != (3, 3)
        or any("conv3" in name for name in shapes)
    ):  # fmt: skip
        raise ValueError(
            f"{path} holds no residual network for images of 32 x 32: a 3 x 3 conv1, stages "
            "layer1, ... of equal numbers of blocks of two convolutions, fc or linear"
        )
    widths = [shapes["conv1.weight"][0]]
    widths += [shapes[f"layer{i}.0.conv1.weight"][0] for i in range(1, stages + 1)]
    padded = not any("downsample" in name for name in shapes)
    return ResNetCIFAR(blocks, tuple(widths), shapes[last][0], "padded" if padded else "projection")
