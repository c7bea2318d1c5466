"""ShuffleNet V1 and V2 for images of 32 x 32.

Shuffling c channels in g groups writes them as a g x c/g matrix and reads it by columns. With dw a
depthwise 3 x 3 convolution with norm, and every 1 x 1 convolution followed by norm:

    V1   f = 1 x 1 in groups (dw(shuffle(relu(1 x 1 in groups (h))))),
         h <- relu(f + h), or, halving, relu([f, mean of 3 x 3 of h])
    V2   [a, b] halves of h,  h <- shuffle([a, relu(1 x 1 (dw(relu(1 x 1 (b)))))]), or, halving,
         shuffle([relu(1 x 1 (dw(h))), relu(1 x 1 (dw(relu(1 x 1 (h)))))])

Sources: Zhang et al., arXiv 1707.01083, table 1; Ma et al., arXiv 1807.11164, table 5; stems of
of 1 x 1 pixel and stride 1 without pooling for small images, as in Tian et al., arXiv 1910.10699
(CRD). V1's first 1 x 1 convolution has one group where it reads the stem; there are a quarter of
the channels of f within, which where the map is halved is less than a quarter of the block's.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.classifier_layers import Layers, checked_images, classified
from jaxdiff.networks.inception import mean_pool
from jaxdiff.typing import Array, Outputs

V2_WIDTHS = {
    0.5: (48, 96, 192, 1024), 1.0: (116, 232, 464, 1024), 1.5: (176, 352, 704, 1024),
    2.0: (224, 488, 976, 2048),
}  # fmt: skip


def shuffled(h: Array, groups: int) -> Array:
    """Return ``h`` (batch, height, width, channels) with its channels shuffled."""
    shape = h.shape
    return h.reshape(*shape[:-1], groups, -1).swapaxes(-1, -2).reshape(shape)


class ShuffleNetV1(nn.Module):
    """Classifier of images (batch, height, width, channels).

    groups: of the 1 x 1 convolutions. widths, blocks: channels and number of blocks of the stages.
    num_classes, dtype, param_dtype: as of :class:`jaxdiff.networks.resnet_cifar.ResNetCIFAR`.
    """

    groups: int = 3
    widths: tuple[int, ...] = (240, 480, 960)
    blocks: tuple[int, ...] = (4, 8, 4)
    num_classes: int = 10
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, axis_name: str | None = None,
        full: bool = False,
    ) -> Array | Outputs:  # fmt: skip
        """Return logits; arguments, features and errors as of ResNetCIFAR, for 8 x 8 at least."""
        checked_images(images, 8, "ShuffleNetV1")
        layers = Layers(train, axis_name, self.dtype or self.param_dtype, self.param_dtype)
        maps = [layers.normed(images, 24, 1, name="stem")]
        for i, (width, number) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            h = maps[-1]
            for j in range(number):
                groups = 1 if i == 1 and j == 0 else self.groups
                name = f"stage{i}_block{j}"
                h = Grouped(width, j == 0, (groups, self.groups), layers, name=name)(h)
            maps.append(h)
        return classified(layers, maps, self.num_classes, full)


class Grouped(nn.Module):
    """A block of V1; see the module."""

    width: int
    halves: bool
    groups: tuple[int, int]
    layers: Layers

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Map (batch, height, width, channels)."""
        layers, (first, last) = self.layers, self.groups
        width = self.width - h.shape[-1] if self.halves else self.width
        within = width // 4
        f = shuffled(layers.normed(h, within, 1, 1, first, name="first"), first)
        f = layers.conv(f, within, 3, 2 if self.halves else 1, within, name="depthwise_conv")
        f = layers.conv(layers.norm(f, "depthwise_norm"), width, 1, 1, last, name="last_conv")
        f = layers.norm(f, "last_norm")
        if not self.halves:
            return nn.relu(f + h)
        return nn.relu(jnp.concatenate([f, mean_pool(h)[:, ::2, ::2]], axis=-1))


class ShuffleNetV2(nn.Module):
    """Classifier of images (batch, height, width, channels).

    widths: channels of the three stages and of the last convolution; ``V2_WIDTHS`` has the paper's
    by their factor. blocks: of the stages. num_classes, dtype, param_dtype: as of
    :class:`jaxdiff.networks.resnet_cifar.ResNetCIFAR`.
    """

    widths: tuple[int, ...] = V2_WIDTHS[1.0]
    blocks: tuple[int, ...] = (4, 8, 4)
    num_classes: int = 10
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, axis_name: str | None = None,
        full: bool = False,
    ) -> Array | Outputs:  # fmt: skip
        """Return logits; arguments, features and errors as of ResNetCIFAR, for 8 x 8 at least.

        The last stage's map is that after the last convolution.
        """
        checked_images(images, 8, "ShuffleNetV2")
        layers = Layers(train, axis_name, self.dtype or self.param_dtype, self.param_dtype)
        maps = [layers.normed(images, 24, 1, name="stem")]
        for i, (width, number) in enumerate(zip(self.widths[:-1], self.blocks, strict=True), 1):
            h = maps[-1]
            for j in range(number):
                h = Split(width, j == 0, layers, name=f"stage{i}_block{j}")(h)
            maps.append(h)
        maps[-1] = layers.normed(maps[-1], self.widths[-1], 1, name="last")
        return classified(layers, maps, self.num_classes, full)


class Split(nn.Module):
    """A block of V2; see the module."""

    width: int
    halves: bool
    layers: Layers

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Map (batch, height, width, channels)."""
        layers, half = self.layers, self.width // 2
        left, right = (h, h) if self.halves else jnp.split(h, 2, axis=-1)
        if self.halves:
            left = layers.normed(self._depthwise(left, "left"), half, 1, name="left_last")
        right = layers.normed(right, half, 1, name="first")
        right = layers.normed(self._depthwise(right, "right"), half, 1, name="last")
        return shuffled(jnp.concatenate([left, right], axis=-1), 2)

    def _depthwise(self, h: Array, side: str) -> Array:
        width, stride = h.shape[-1], 2 if self.halves else 1
        h = self.layers.conv(h, width, 3, stride, width, name=f"{side}_depthwise_conv")
        return self.layers.norm(h, f"{side}_depthwise_norm")
