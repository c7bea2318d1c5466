"""Wide residual networks for images of 32 x 32: WRN-d-k has depth d = 6 n + 4 and widths 16 k.

    h = conv(x),  three stages of n blocks of pre-activation, halved as in a ResNet:
    a = relu(norm(h)),   h <- conv(relu(norm(conv(a)))) + (h, or a 1 x 1 convolution of a where
    shapes change),      logits = W mean(relu(norm(h))) + b.

The last feature map is the one that the mean is taken of, after norm and ReLU.

Source: Zagoruyko and Komodakis, arXiv 1605.07146, without dropout.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.classifier_layers import Layers, checked_images, classified
from jaxdiff.typing import Array, Outputs


class WideResNet(nn.Module):
    """Classifier of images (batch, height, width, channels): WRN-``depth``-``widen``.

    depth: 6 n + 4. widen: k. num_classes, dtype, param_dtype: as of
    :class:`jaxdiff.networks.resnet_cifar.ResNetCIFAR`.
    """

    depth: int = 16
    widen: int = 2
    num_classes: int = 10
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, axis_name: str | None = None,
        full: bool = False,
    ) -> Array | Outputs:  # fmt: skip
        """Return logits; arguments, features and errors as of ResNetCIFAR.

        Raises ValueError besides for a depth that is not 6 n + 4.
        """
        checked_images(images, 4, "WideResNet")
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"the depth of a WRN is 6 n + 4: 10, 16, 22, ...; got {self.depth}")
        layers = Layers(train, axis_name, self.dtype or self.param_dtype, self.param_dtype)
        maps = [layers.conv(images, 16, name="stem_conv")]
        for i in range(1, 4):
            h = maps[-1]
            for j in range((self.depth - 4) // 6):
                stride = 2 if i > 1 and j == 0 else 1
                width = 8 * 2**i * self.widen
                h = PreActivated(width, stride, layers, name=f"stage{i}_block{j}")(h)
            maps.append(h)
        maps[-1] = nn.relu(layers.norm(maps[-1], "last_norm"))
        return classified(layers, maps, self.num_classes, full)


class PreActivated(nn.Module):
    """A block whose norm and ReLU come before its convolutions; see the module."""

    width: int
    stride: int
    layers: Layers

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Map (batch, height, width, channels)."""
        layers, width = self.layers, self.width
        a = nn.relu(layers.norm(h, "norm1"))
        f = nn.relu(layers.norm(layers.conv(a, width, 3, self.stride, name="conv1"), "norm2"))
        f = layers.conv(f, width, name="conv2")
        if self.stride != 1 or h.shape[-1] != width:
            h = layers.conv(a, width, 1, self.stride, name="shortcut_conv")
        return f + h
