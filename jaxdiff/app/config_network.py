"""Networks of a configuration: one dataclass a kind, the kind's name in ``NETWORKS``."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from jaxdiff.ranges import Below1, Count, Positive, Several

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True)
class UNet:
    """The network."""

    channels: Count = 32
    """Channels of the first level, best a multiple of 8."""
    multipliers: tuple[Count, ...] = (1, 2)
    """Channels of each level in units of ``channels``; every level halves the image."""
    blocks: Count = 1
    """Residual blocks per level and direction."""
    attention: tuple[Count, ...] = ()
    """Heights of the maps that get self-attention."""
    dropout: Below1 = 0.0
    """Dropout rate in training."""
    embedding: Several = 128
    """Length of the embedding of noise level and class."""
    dtype: Dtype = "float32"
    """Dtype of the network's computation; parameters stay float32."""


@dataclasses.dataclass(frozen=True)
class DiT:
    """The network, a diffusion transformer (arXiv 2212.09748). Its models are, with patches of 2:
    DiT-S 384 12 6, DiT-B 768 12 12, DiT-L 1024 24 16, DiT-XL 1152 28 16 (width, depth, heads).
    """

    patch: Count = 2
    """Side of a patch, in pixels."""
    width: Count = 128
    """Numbers per patch, a multiple of 4 and of the heads."""
    depth: Count = 4
    """Blocks."""
    heads: Count = 4
    """Heads of the attention."""
    mlp_ratio: Positive = 4.0
    """Hidden units of a block's perceptron, in units of ``width``."""
    dropout: Below1 = 0.0
    """Dropout rate in training."""
    remat: bool = False
    """Compute the blocks again in the backward pass: less memory, a third more time."""
    dtype: Dtype = "float32"
    """Dtype of the network's computation; parameters stay float32."""


@dataclasses.dataclass(frozen=True)
class MLP:
    """The network, a residual perceptron on all numbers of a sample, for points and the like."""

    width: Count = 128
    """Hidden units."""
    depth: Count = 3
    """Residual blocks."""
    embedding: Several = 64
    """Length of the embedding of noise level and class."""
    dropout: Below1 = 0.0
    """Dropout rate in training."""
    dtype: Dtype = "float32"
    """Dtype of the network's computation; parameters stay float32."""


@dataclasses.dataclass(frozen=True)
class TextUNet:
    """The network, a U-Net that attends to the tokens of a caption, and the text encoder that makes
    them, trained together: Stable Diffusion's layout (arXiv 2112.10752), small.
    """

    channels: tuple[Count, ...] = (32, 64)
    """Channels of each level, the finest first, multiples of 8 and of ``head_width``."""
    blocks: Count = 1
    """Residual blocks per level and direction."""
    head_width: Count = 16
    """Channels of a head of attention."""
    text_width: Count = 64
    """Numbers per token, a multiple of ``head_width``."""
    text_depth: Count = 2
    """Blocks of the text encoder."""
    classes: bool = False
    """Condition on the images' classes, too, beside their captions."""
    dropout: Below1 = 0.0
    """Dropout rate in training."""
    dtype: Dtype = "float32"
    """Dtype of the network's computation; parameters stay float32."""


@dataclasses.dataclass(frozen=True)
class Words:
    """The words that a text encoder knows, by their numbers, and the longest text."""

    words: tuple[str, ...]
    length: int


@dataclasses.dataclass(frozen=True)
class Module:
    """The network, a class of your own: a flax.linen module called as module(x, label, cond), with
    x (batch, *shape), label (batch,) and cond, the classes, (batch,) or None.
    """

    source: str
    """"FILE.py:CLASS". The file is run whenever the model is loaded."""
    options: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    """Fields of the class, such as "width 64"; num_classes is given where it has such a field."""
    dtype: Dtype = "float32"
    """Dtype of the network's computation, for a class with a field dtype; others are given their
    input in it.
    """


Network = UNet | DiT | MLP | TextUNet | Module
NETWORKS: dict[str, type] = {
    "unet": UNet, "dit": DiT, "mlp": MLP, "text": TextUNet, "module": Module,
}  # fmt: skip


def network_named(name: str) -> Any:
    """Return the default network called ``name``: unet, dit, mlp, text or module:FILE.py:CLASS,
    the file by a path that leads to it from any folder.

    Raises ValueError for another.
    """
    if name.startswith("module:") and name.removeprefix("module:"):
        file, _, kind = name.removeprefix("module:").rpartition(":")
        return Module(f"{Path(file).resolve()}:{kind}" if file else kind)
    if name not in NETWORKS or name == "module":
        raise ValueError(f"--network is unet, dit, mlp, text or module:FILE.py:CLASS, not {name}")
    return NETWORKS[name]()
