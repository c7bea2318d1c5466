"""EfficientNet-Lite0: inverted residuals of kernels 3 and 5, without squeeze and excitation.

    h = stem of stride 2,   blocks  h <- norm(1 x 1 (r(norm(depthwise(r(norm(1 x 1 (h))))))))
    with t times as many channels within (without the first 1 x 1 if t is 1), plus h itself where
    shapes agree; then a 1 x 1 convolution with norm and r:   logits = W mean(h) + b,

r(x) = min(max(x, 0), 6). A convolution of stride s makes ceil(n / s) of n pixels, with zeros around
them, the odd one after them: of even sides, stride 2 and k = 3 pixels 0 to 2 are read first.

Groups of blocks (t, channels, number, stride, k): (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2,
5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3). Stages of features
end before a group of stride 2 and after the last convolution.

Sources: Tan and Le, arXiv 1905.11946, table 1 (B0); the lite form is Google's, without a paper: no
squeeze and excitation, and r for SiLU.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.classifier_layers import Layers, checked_images, classified
from jaxdiff.typing import Array, Outputs

LITE0 = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip
NORM = {"momentum": 0.99, "epsilon": 1e-3}


class EfficientNetLite(nn.Module):
    """Classifier of images (batch, height, width, channels).

    groups: of blocks, (t, channels, number, stride, k) each. stem, last: channels of the first and
    the last convolution. num_classes, dtype, param_dtype: as of
    :class:`jaxdiff.networks.resnet_cifar.ResNetCIFAR`.

    Deviation: trained here, it has neither dropout nor stochastic depth.
    """

    groups: tuple[tuple[int, int, int, int, int], ...] = LITE0
    stem: int = 32
    last: int = 1280
    num_classes: int = 1000
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, axis_name: str | None = None,
        full: bool = False,
    ) -> Array | Outputs:  # fmt: skip
        """Return logits; arguments, features and errors as of ResNetCIFAR, for 32 x 32 at least."""
        checked_images(images, 32, "EfficientNetLite")
        layers = Layers(train, axis_name, self.dtype or self.param_dtype, self.param_dtype, **NORM)
        h = clipped(layers, images, self.stem, 3, 2, name="stem")
        maps = [h]
        for i, (t, channels, number, stride, side) in enumerate(self.groups):
            if i and stride == 2:
                maps.append(h)
            for j in range(number):
                first = stride if j == 0 else 1
                h = Inverted(t, channels, first, side, layers, name=f"group{i}_block{j}")(h)
        maps.append(clipped(layers, h, self.last, 1, name="last"))
        return classified(layers, maps, self.num_classes, full)


class Inverted(nn.Module):
    """A block with more channels within than at its ends; see the module."""

    expansion: int
    width: int
    stride: int
    side: int
    layers: Layers

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Map (batch, height, width, channels)."""
        layers, within = self.layers, h.shape[-1] * self.expansion
        f = clipped(layers, h, within, 1, name="expand") if self.expansion > 1 else h
        f = clipped(layers, f, within, self.side, self.stride, within, name="depthwise")
        f = layers.norm(layers.conv(f, self.width, 1, name="project_conv"), "project_norm")
        return h + f if self.stride == 1 and h.shape == f.shape else f


def clipped(
    layers: Layers, x: Array, features: int, side: int, stride: int = 1, groups: int = 1, *,
    name: str,
) -> Array:  # fmt: skip
    """Return r(norm(conv(x))), of the layers ``name``_conv and ``name``_norm."""
    around = [(0, 0), *(zeros(n, side, stride) for n in x.shape[1:3]), (0, 0)]
    h = jnp.pad(x, around) if stride > 1 else x
    padding = 0 if stride > 1 else None
    h = layers.conv(h, features, side, stride, groups, padding=padding, name=f"{name}_conv")
    return nn.relu6(layers.norm(h, f"{name}_norm"))


def zeros(pixels: int, side: int, stride: int) -> tuple[int, int]:
    """Return how many zeros are before and after a row of pixels."""
    whole = max(0, (-(-pixels // stride) - 1) * stride + side - pixels)
    return whole // 2, whole - whole // 2
