"""MobileNetV2 for images of 32 x 32: inverted residuals with thin ends.

    h = stem of stride 2,   blocks  h <- norm(1 x 1 (relu(norm(depthwise(relu(norm(1 x 1 (h))))))))
    with t times as many channels within, plus h itself where shapes agree; then 1 x 1 convolution
    to 1280 channels with norm and ReLU:   logits = W mean(h) + b.

Blocks (t, channels, number, stride): (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2),
(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1); channels times ``widen``. The stages of features end
at 24, 32, 96 channels and after the last convolution.

Sources: Sandler et al., arXiv 1801.04381, table 2, with ReLU for ReLU6 and stride 1 at 24 channels;
the form for small images, Tian et al., arXiv 1910.10699 (CRD), who take ``widen`` 1/2.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.classifier_layers import Layers, checked_images, classified
from jaxdiff.typing import Array, Outputs

BLOCKS = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
ENDS = (1, 2, 4)  # of the stages, as numbers of groups of blocks


class MobileNetV2(nn.Module):
    """Classifier of images (batch, height, width, channels).

    widen: of all channels; the last layer's do not become fewer. num_classes, dtype, param_dtype:
    as of :class:`jaxdiff.networks.resnet_cifar.ResNetCIFAR`.
    """

    widen: float = 0.5
    num_classes: int = 10
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, axis_name: str | None = None,
        full: bool = False,
    ) -> Array | Outputs:  # fmt: skip
        """Return logits; arguments, features and errors as of ResNetCIFAR, for 16 x 16 at least."""
        checked_images(images, 16, "MobileNetV2")
        layers = Layers(train, axis_name, self.dtype or self.param_dtype, self.param_dtype)
        h = layers.normed(images, int(32 * self.widen), 3, 2, name="stem")
        maps = [h]
        for i, (t, channels, number, stride) in enumerate(BLOCKS):
            for j in range(number):
                width, first = int(channels * self.widen), stride if j == 0 else 1
                h = Inverted(t, width, first, layers, name=f"group{i}_block{j}")(h)
            if i in ENDS:
                maps.append(h)
        maps.append(layers.normed(h, int(1280 * max(self.widen, 1)), 1, name="last"))
        return classified(layers, maps, self.num_classes, full)


class Inverted(nn.Module):
    """A block with more channels within than at its ends; see the module."""

    expansion: int
    width: int
    stride: int
    layers: Layers

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Map (batch, height, width, channels)."""
        layers, within = self.layers, h.shape[-1] * self.expansion
        f = layers.normed(h, within, 1, name="expand")
        f = layers.normed(f, within, 3, self.stride, within, name="depthwise")
        f = layers.norm(layers.conv(f, self.width, 1, name="project_conv"), "project_norm")
        return h + f if self.stride == 1 and h.shape == f.shape else f
