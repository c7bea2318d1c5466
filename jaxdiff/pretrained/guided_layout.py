"""Options of a U-Net or classifier of guided diffusion's kind, of names and shapes; their layout.

The published names count stages through: ``input_blocks.0`` is the first convolution, a level has
``blocks`` stages and, but for the last, one that halves the map; ``output_blocks`` have ``blocks``
+ 1 a level, the last of which also doubles it. A stage's parts are numbered: the residual block 0,
attention 1, the change of size after them.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.pretrained.layout import Layout

Shapes = Mapping[str, tuple[int, ...]]
BLOCK = {
    "in_layers.0": "norm_in", "in_layers.2": "conv_in", "emb_layers.1": "embedding",
    "out_layers.0": "norm_out", "out_layers.3": "conv_out", "skip_connection": "skip",
}  # fmt: skip
ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}


class Found(NamedTuple):
    """Options that shapes determine: see :class:`jaxdiff.networks.guided_unet.GuidedUNet`.

    inputs, outputs: channels of the first and the last convolution. planar: whether attention's
    weights are those of 2-d convolutions, as consistency models' are. tokens: of the attention
    pool, 0 without one.
    """

    channels: int
    multipliers: tuple[float, ...]
    blocks: int
    attention: tuple[int, ...]
    num_classes: int
    scale_shift: bool
    size_by: str
    inputs: int
    outputs: int
    planar: bool
    tokens: int


def is_guided(shapes: Shapes) -> bool:
    """Return whether tensors are named as this family's are."""
    wanted = ("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.2.weight")
    text = any(".transformer_blocks." in name for name in shapes)  # latent diffusion's U-Net
    return all(name in shapes for name in wanted) and not text


def found_in(shapes: Shapes, path: str, config: Mapping[str, Any]) -> Found:
    """Return what shapes say, with ``num_res_blocks`` of ``config`` where they do not.

    Raises ValueError, naming the file, for tensors that no U-Net of this family has, and for
    shapes that several of them have.
    """
    count = 1 + max(_numbers(shapes, r"input_blocks\.(\d+)\..*"))
    channels = shapes["time_embed.0.weight"][1]
    widths = [_width(shapes, k, path) for k in range(1, count)]
    attends = [f"input_blocks.{k}.1.qkv.weight" in shapes for k in range(1, count)]
    blocks = _blocks(shapes, widths, attends, path, config)
    per = blocks + 1
    pool = shapes.get("out.2.positional_embedding")
    ends = [shapes.get(f"out.{name}.weight", ()) for name in ("2.c_proj", "2", "3")]
    last = next((shape for shape in ends if len(shape) > 2), None)  # (out, in, 1) at least
    if last is None:
        raise ValueError(
            f"{path} ends in {', '.join(n for n in shapes if n.startswith('out.'))}, as no U-Net "
            "of this family does, and no classifier with pool 'attention' or 'adaptive'"
        )
    qkv = [shape for name, shape in shapes.items() if name.endswith(".qkv.weight")]
    return Found(
        channels,
        tuple(_plain(widths[i * per] / channels) for i in range(count // per)),
        blocks,
        tuple(i for i in range(count // per) if attends[i * per]),
        shapes.get("label_emb.weight", (0,))[0],
        shapes["middle_block.0.emb_layers.1.weight"][0] == 2 * widths[-1],
        "conv" if f"input_blocks.{per}.0.op.weight" in shapes else "block",
        shapes["input_blocks.0.0.weight"][1],
        last[0],
        bool(qkv) and len(qkv[0]) == 4,
        pool[1] if pool else 0,
    )


def _blocks(
    shapes: Shapes, widths: list[int], attends: list[bool], path: str, config: Mapping[str, Any]
) -> int:
    """Stages per level: whatever divides all stages into levels of one width and one attention."""
    count, doubling = len(widths) + 1, r"output_blocks\.(\d+)\.[12]\.(in_layers\.0|conv)\.weight"
    ups = _numbers(shapes, doubling)
    if ups:
        possible = [min(ups)]
    else:
        possible = [b for b in range(1, count) if count % (b + 1) == 0]
        possible = [b for b in possible if _divides(b + 1, widths, attends)]
        if any(name.startswith("output_blocks.") for name in shapes):
            possible = [count - 1]  # one level: nothing is doubled
    given = config.get("num_res_blocks")
    if given in possible or len(possible) == 1:
        blocks = given if given in possible else possible[0]
        if count % (blocks + 1) == 0:
            return blocks
    raise ValueError(
        f"{path}: its {count} input blocks are levels of {possible or 'no number of'} residual "
        "blocks: say which by config={'num_res_blocks': ...}"
    )


def _divides(per: int, widths: list[int], attends: list[bool]) -> bool:
    """Return whether levels of ``per`` stages, the last of each halving the map, fit widths and
    attention: each level has one width, and attention in all or none of its residual blocks.
    """
    for start in range(0, len(widths), per):
        own = slice(start, start + per - 1)
        if len({*widths[start : start + per]}) > 1 or len({*attends[own]}) > 1:
            return False
        if any(attends[start + per - 1 : start + per]):
            return False
    return True


def _width(shapes: Shapes, k: int, path: str) -> int:
    for name in ("out_layers.3.weight", "op.weight"):
        if shape := shapes.get(f"input_blocks.{k}.0.{name}"):
            return shape[0]
    raise ValueError(
        f"{path}: input block {k} is neither a residual block nor a convolution; maps that are "
        "halved without one (conv_resample=False) are not read"
    )


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    compiled = re.compile(pattern)
    return [int(m[1]) for name in shapes if (m := compiled.fullmatch(name))]


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number


def layout_of(found: Found, heads: int, heads_up: int, head_channels: int, legacy: bool) -> Layout:
    """Return where the tensors belong.

    legacy: whether the kernel of q, k and v has the heads first, and these three within each.
    """
    levels, per, up = len(found.multipliers), found.blocks + 1, not found.tokens
    named = {"time_embed.0": "embedding/dense_0", "time_embed.2": "embedding/dense_1",
             "label_emb": "embedding/classes", "input_blocks.0.0": "conv_in", "out.0": "norm_out",
             "out.2": "conv_out", "out.3": "logits", "out.2.qkv_proj": "attention_pool/qkv",
             "out.2.c_proj": "attention_pool/out"}  # fmt: skip
    for level in range(levels):
        for i in range(per):
            k, last = level * per + i + 1, i == found.blocks
            if not last:
                named |= _stage(f"input_blocks.{k}", f"down_{level}_{i}")
            elif level < levels - 1:
                named |= _part(f"input_blocks.{k}.0", f"down_{level}_resample/resample")
                named |= {f"input_blocks.{k}.0.op": f"down_{level}_resample/resample"}
            name, path = f"output_blocks.{(levels - 1 - level) * per + i}", f"up_{level}_{i}"
            if up:
                named |= _stage(name, path)
            if up and last and level:
                part = 2 if level in found.attention else 1
                named |= _part(f"{name}.{part}", f"{path}/resample")
                named |= {f"{name}.{part}.conv": f"{path}/resample"}
    named |= _part("middle_block.0", "middle_0/block") | _part("middle_block.2", "middle_1/block")
    named |= {f"middle_block.1.{a}": f"middle_0/attention/{b}" for a, b in ATTENTION.items()}

    def change(name: str, value: np.ndarray) -> np.ndarray:
        if name == "out.2.positional_embedding":
            return value.T
        if not legacy or not re.search(r"\.qkv\.(weight|bias)$", name):
            return value
        count = heads_up if name.startswith("output_blocks") else heads
        count = len(value) // (3 * head_channels) if head_channels else count
        return value.reshape(count, 3, -1, *value.shape[1:]).swapaxes(0, 1).reshape(value.shape)

    exact = ((re.escape(name), path) for name, path in named.items())
    pool = (r"out\.2\.positional_embedding", "attention_pool/positions")
    return Layout((pool, *exact), change=change)


def _stage(name: str, path: str) -> dict[str, str]:
    attention = {f"{name}.1.{a}": f"{path}/attention/{b}" for a, b in ATTENTION.items()}
    return _part(f"{name}.0", f"{path}/block") | attention


def _part(name: str, path: str) -> dict[str, str]:
    return {f"{name}.{a}": f"{path}/{b}" for a, b in BLOCK.items()}
