"""A student that ends in its teacher's classifier.

    logits = tail(P(f_s)),    f_s the student's last map, averaged to the teacher's size if larger,
                              P the projector (:class:`jaxdiff.networks.transfer.Bottleneck`).

The tail's variables are no parameters: they are state, in the collection "teacher", which nothing
trains and every checkpoint holds. It is the teacher's last layer, or that and the blocks before.

Source: Chen et al., arXiv 2203.14001 (SimKD).
"""

from typing import Any

import flax.linen as nn
import jax

from jaxdiff.networks.classifier_layers import Layers, adaptive_mean, classified
from jaxdiff.networks.transfer import Bottleneck
from jaxdiff.typing import Array, Outputs


class MeanHead(nn.Module):
    """Logits that are linear in the mean of a map: the last layer of the networks here."""

    num_classes: int = 10

    @nn.compact
    def __call__(
        self, h: Array, *, train: bool = False, axis_name: str | None = None, full: bool = False
    ) -> Array | Outputs:
        """Map (batch, height, width, channels) to (batch, num_classes)."""
        return classified(Layers(train, axis_name, h.dtype, h.dtype), [h], self.num_classes, full)


class Reused(nn.Module):
    """A student, a projector and a teacher's tail.

    student: a classifier of this package, of 0 classes: it gives no logits of its own. features:
    channels of the teacher's map. within: of the projector's. side: height and width of the
    teacher's map, or one number for both. tail: module of what follows that map.
    """

    student: nn.Module
    features: int
    within: int
    side: int | tuple[int, int]
    tail: nn.Module

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, axis_name: str | None = None,
        full: bool = False,
    ) -> Array | Outputs:  # fmt: skip
        """Return logits; with ``full``, Outputs with features (the student's maps, that projected,
        the mean that the last layer reads).
        """
        flags = {"train": train, "axis_name": axis_name}
        maps = self.student(images, full=True, **flags).features[:-1]
        most = (self.side, self.side) if isinstance(self.side, int) else self.side
        sides = (min(pair) for pair in zip(maps[-1].shape[1:3], most, strict=True))
        projector = Bottleneck(self.features, self.within, name="projector")
        projected = projector(adaptive_mean(maps[-1], *sides), **flags)
        tail = self.tail.clone(parent=None, name=None)
        held = self.variable(
            "teacher", "variables", lambda: dict(tail.init(jax.random.key(0), projected))
        )
        fixed = jax.tree.map(jax.lax.stop_gradient, held.value)
        out: Any = tail.apply(fixed, projected, full=True)
        if not full:
            return out.value
        return Outputs(out.value, None, (*maps, projected, out.features[-1]))
