"""Residual networks for images of 32 x 32, as CIFAR is classified with; depth 6 n + 2.

    h = relu(norm(conv(x))),   three stages of n blocks, the maps halved at the begin of the second
    and third:   h <- relu(f(h) + shortcut(h)),   f = norm(conv(relu(norm(conv(h))))),
    logits = W mean(h) + b,

the shortcut being h itself where shapes agree, else, "projection", a 1 x 1 convolution with norm,
or, "padded" (the paper's option A), every second pixel with zeros for the new channels, without
parameters. With ``bottleneck`` f is 1 x 1, 3 x 3, 1 x 1 convolutions and the block has four times
its width. In the literature "ResNet-14x2" is n = 2 with widths (16, 32, 64, 128), "ResNet-8x4" n =
1 with (32, 64, 128, 256).

Sources: He et al., arXiv 1512.03385, section 4.2; the widths x2 and x4, Tian et al., arXiv
1910.10699 (CRD), whose features [stem, stages, mean] these are.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.classifier_layers import Layers, checked_images, classified
from jaxdiff.typing import Array, Outputs

Shortcut = Literal["projection", "padded"]


class ResNetCIFAR(nn.Module):
    """Classifier of images (batch, height, width, channels).

    blocks: n, of each stage. widths: channels of the stem and of the stages. num_classes: of the
    logits, 0 for a network that ends with its pooled features. shortcut: where shapes change.
    bottleneck: blocks of three convolutions. param_dtype: what the parameters are kept in. dtype:
    what it computes in, the same if None.

    A part of a network, with the same names of parameters: begin: (stage, block) that it begins
    with, reading the map before; end: the stage after which it ends, giving Outputs of its map.
    """

    blocks: int = 3
    widths: tuple[int, ...] = (16, 16, 32, 64)
    num_classes: int = 10
    shortcut: Shortcut = "projection"
    bottleneck: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    begin: tuple[int, int] | None = None
    end: int | None = None

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, axis_name: str | None = None,
        full: bool = False,
    ) -> Array | Outputs:  # fmt: skip
        """Return logits (batch, num_classes).

        train: batch norm by the batch's statistics, of all parts of the pmap axis ``axis_name``.
        full: Outputs with features (stem, stages, their mean).

        Raises ValueError for images of another rank or smaller than 4 x 4, TypeError for integers.
        """
        layers = Layers(train, axis_name, self.dtype or self.param_dtype, self.param_dtype)
        if self.begin is None:
            checked_images(images, 4, "ResNetCIFAR")
            h = layers.conv(images, self.widths[0], name="stem_conv")
            maps = [nn.relu(layers.norm(h, "stem_norm"))]
        else:
            maps = [images]
        first, block = self.begin or (1, 0)
        last = len(self.widths) - 1 if self.end is None else self.end
        for i in range(first, last + 1):
            maps.append(self._stage(layers, maps[-1], i, block if i == first else 0))
        if self.end is not None:
            return Outputs(maps[-1], None, tuple(maps))
        return classified(layers, maps, self.num_classes, full)

    def _stage(self, layers: Layers, h: Array, number: int, first: int) -> Array:
        """Return the map after stage ``number``, 1 being the first, from its block ``first`` on."""
        for j in range(first, self.blocks):
            stride = 2 if number > 1 and j == 0 else 1
            block = Block(
                self.widths[number], stride, self.shortcut, self.bottleneck, layers,
                name=f"stage{number}_block{j}",
            )  # fmt: skip
            h = block(h)
        return h


class Block(nn.Module):
    """relu(f(h) + shortcut(h)); see the module."""

    width: int
    stride: int
    shortcut: Shortcut
    bottleneck: bool
    layers: Layers

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Map (batch, height, width, channels)."""
        layers, width = self.layers, self.width
        if self.bottleneck:
            sizes, strides = ((width, 1), (width, 3), (4 * width, 1)), (1, self.stride, 1)
        else:
            sizes, strides = ((width, 3), (width, 3)), (self.stride, 1)
        f = h
        for i, ((features, side), stride) in enumerate(zip(sizes, strides, strict=True)):
            f = layers.conv(nn.relu(f) if i else f, features, side, stride, name=f"conv{i + 1}")
            f = layers.norm(f, f"norm{i + 1}")
        before = f + self._shortcut(h, f.shape[-1])
        self.sow("intermediates", "before_relu", before)
        return nn.relu(before)

    def _shortcut(self, h: Array, features: int) -> Array:
        if self.stride == 1 and h.shape[-1] == features:
            return h
        if self.shortcut == "projection":
            h = self.layers.conv(h, features, 1, self.stride, name="shortcut_conv")
            return self.layers.norm(h, "shortcut_norm")
        more = features - h.shape[-1]
        around = (0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)
        return jnp.pad(h[:, :: self.stride, :: self.stride], around)


def before_relu(
    module: ResNetCIFAR, variables: Mapping[str, Any], images: Array, stage: int, block: int
) -> Array:
    """Return the map of a block before its last ReLU, in evaluation. Raises ValueError for one
    that is not there.
    """
    if not (1 <= stage < len(module.widths) and 0 <= block < module.blocks):
        raise ValueError(
            f"there is no block {block} in stage {stage}: {len(module.widths) - 1} stages of "
            f"{module.blocks}"
        )
    kept: Any
    _, kept = module.apply(dict(variables), images, mutable=["intermediates"])
    return kept["intermediates"][f"stage{stage}_block{block}"]["before_relu"][0]
