"""Stages of a U-Net by themselves: its way down, its way up, or the end of it.

A U-Net of L levels with b blocks has 2 L b + 1 stages: L b on the way down, the middle, and L b on
the way up, which read the former's maps from the last to the first. Each module here has names and
parameters of :class:`jaxdiff.networks.unet.UNet`, so that a part of its parameters is a tree of
this one's, and parts that follow each other are the whole.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.conv import Conv
from jaxdiff.networks.embedding import Embedding
from jaxdiff.networks.unet import Attention, Block, Norm, UNet, doubled
from jaxdiff.typing import Array, Cond


class Place(NamedTuple):
    """A stage: its level, its number on the level's way, the way, and whether the size changes
    before it.
    """

    level: int
    block: int
    way: str
    resized: bool


def count_stages(unet: UNet) -> int:
    """Return the number of stages, 2 L b + 1."""
    return 2 * len(unet.multipliers) * unet.blocks + 1


def place(unet: UNet, stage: int) -> Place:
    """Return where a stage is."""
    levels, blocks = len(unet.multipliers), unet.blocks
    down = levels * blocks
    if stage == down:
        return Place(levels - 1, 0, "middle", False)
    up = stage > down
    number = stage - down - 1 if up else stage
    level, block = divmod(number, blocks)
    at = levels - 1 - level if up else level
    return Place(at, block, "up" if up else "down", block == 0 and number > 0)


def width(unet: UNet, stage: int) -> int:
    """Return the channels of a stage's map."""
    return unet.channels * unet.multipliers[place(unet, stage).level]


class Part(NamedTuple):
    """Results of some stages: their maps, the network's output if the last one is among them, and
    the embedding of label and condition.
    """

    maps: tuple[Array, ...]
    value: Any
    embedding: Array


class Stages(nn.Module):
    """Stages ``begin`` to ``end`` - 1 of a U-Net, the first convolution before stage 0 and, if
    ``end`` is the number of stages, the last one to ``channels`` channels after them.
    """

    unet: UNet
    begin: int
    end: int
    channels: int = 1

    @nn.compact
    def __call__(
        self, inputs: Any, label: Array, cond: Cond = None, embedding: Array | None = None, *,
        deterministic: bool = True,
    ) -> Part:  # fmt: skip
        """Run them.

        inputs: x (batch, *axes, channels) if ``begin`` is 0; otherwise (map of the stage before,
        *maps of the way down that are still to be read, in their order). embedding: of another
        part, in place of an own one.
        """
        unet = self.unet.clone(parent=None, name=None)
        h, *skips = (inputs,) if self.begin == 0 else inputs
        if self.begin == 0:
            unet.check(h, label)
        dtype = jnp.dtype(unet.dtype or h.dtype)
        kinds = {"dtype": dtype, "param_dtype": unet.param_dtype}
        own: dict[str, Any] = kinds | {"size": (3,) * (h.ndim - 2)}
        levels, maps = len(unet.multipliers), []
        if embedding is None:
            embedding = nn.silu(
                Embedding(
                    unet.embedding, unet.num_classes, unet.label_scale, unet.features,
                    unet.param_dtype, name="Embedding_0",
                )(label, cond)
            ).astype(dtype)  # fmt: skip
        side = h.shape[1] * 2 ** (place(unet, self.begin - 1).level if self.begin else 0)
        attended = [side // 2 ** place(unet, n).level in unet.attention for n in range(self.end)]
        h = h.astype(dtype)
        if self.begin == 0:
            h = Conv(width(unet, 0), **own, name="Conv_0")(h)
        for n in range(self.begin, self.end):
            at, channels = place(unet, n), width(unet, n)
            if at.resized and at.way == "down":
                h = Conv(channels, stride=2, **own, name=f"Conv_{at.level}")(h)
            if at.resized and at.way == "up":
                h = Conv(channels, **own, name=f"Conv_{2 * levels - 2 - at.level}")(doubled(h))
            if at.way == "up":
                h = jnp.concatenate([h, skips.pop().astype(dtype)], axis=-1)
            block = Block(channels, unet.groups, unet.dropout, **kinds, name=f"Block_{n}")
            h = block(h, embedding, deterministic)
            if attended[n]:
                name = f"Attention_{sum(attended[:n])}"
                attend = Attention(unet.heads, unet.groups, **kinds, name=name)
                h = attend(h, unet.attention_fn, f"{at.way}_{at.level}")
            maps.append(h)
            if at.way == "down":
                skips.append(h)
        value = None
        if self.end == count_stages(unet):
            h = nn.silu(Norm(unet.groups, unet.param_dtype, name="Norm_0")(h))
            zero = nn.initializers.zeros
            last = Conv(self.channels, kernel_init=zero, **own, name=f"Conv_{2 * levels - 1}")
            value = last(h)
        return Part(tuple(maps), value, embedding)
