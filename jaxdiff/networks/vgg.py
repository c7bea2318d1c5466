"""VGG for images of 32 x 32, with batch norm and one linear layer.

    five stages of 3 x 3 convolutions, each relu(norm(conv(h) + bias)), of 64, 128, 256, 512 and 512
    channels, the first three followed by the maximum of 2 x 2 pixels:   logits = W mean(h) + b.

VGG-8 has one convolution a stage, VGG-13 two. Features: the first stage is the stem.

Sources: Simonyan and Zisserman, arXiv 1409.1556; the form for small images, Tian et al., arXiv
1910.10699 (CRD).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.classifier_layers import Layers, checked_images, classified
from jaxdiff.typing import Array, Outputs


class VGG(nn.Module):
    """Classifier of images (batch, height, width, channels).

    convolutions: of each stage: 1 for VGG-8, 2 for VGG-13. widths: channels of the stages.
    num_classes, dtype, param_dtype: as of :class:`jaxdiff.networks.resnet_cifar.ResNetCIFAR`.
    """

    convolutions: int = 1
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    num_classes: int = 10
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, axis_name: str | None = None,
        full: bool = False,
    ) -> Array | Outputs:  # fmt: skip
        """Return logits; arguments, features and errors as of ResNetCIFAR, for 8 x 8 at least."""
        checked_images(images, 8, "VGG")
        layers = Layers(train, axis_name, self.dtype or self.param_dtype, self.param_dtype)
        h, maps = images, []
        for i, width in enumerate(self.widths):
            for j in range(self.convolutions):
                h = layers.conv(h, width, use_bias=True, name=f"stage{i}_conv{j}")
                h = nn.relu(layers.norm(h, f"stage{i}_norm{j}"))
            maps.append(h)
            h = nn.max_pool(h, (2, 2), (2, 2)) if i < 3 else h
        return classified(layers, maps, self.num_classes, full)
