"""Names of Stable Diffusion's original files (2112.10752's code): U-Net and autoencoder.

Blocks of the U-Net are numbered through, the first convolution and those that halve and double with
them; the autoencoder's levels are numbered the finest first, both ways.
"""

from jaxdiff.pretrained.names import Pair
from jaxdiff.pretrained.unet_names import TRANSFORMER

BLOCK: tuple[Pair, ...] = (
    ("in_layers.0", "norm_in"), ("in_layers.2", "conv_in"), ("emb_layers.1", "time"),
    ("out_layers.0", "norm_out"), ("out_layers.3", "conv_out"), ("skip_connection", "skip"),
)  # fmt: skip
ENDS: tuple[Pair, ...] = (
    ("input_blocks.0.0", "conv_in"), ("out.0", "norm_out"), ("out.2", "conv_out"),
    ("time_embed.0", "time_embedding/linear_in"), ("time_embed.2", "time_embedding/linear_out"),
    ("label_emb.0.0", "added_embedding/linear_in"), ("label_emb.0.2", "added_embedding/linear_out"),
)  # fmt: skip
CODER_BLOCK: tuple[Pair, ...] = (
    ("norm1", "norm_in"), ("conv1", "conv_in"), ("norm2", "norm_out"), ("conv2", "conv_out"),
    ("nin_shortcut", "skip"),
)  # fmt: skip
CODER_ATTENTION: tuple[Pair, ...] = (
    ("norm", "norm"), ("q", "q"), ("k", "k"), ("v", "v"), ("proj_out", "out"),
)  # fmt: skip


def _joined(theirs: str, ours: str, pairs: tuple[Pair, ...]) -> list[Pair]:
    return [(f"{theirs}.{t}", f"{ours}/{o}") for t, o in pairs]


def original_unet_pairs(levels: int, blocks: int) -> list[Pair]:
    """Return the pairs of a U-Net of so many levels, with ``blocks`` on the way down in each."""
    pairs, number = list(ENDS), 1
    for level in range(levels):
        for i in range(blocks):
            pairs += _joined(f"input_blocks.{number}.0", f"down_{level}/block_{i}", BLOCK)
            pairs += _joined(f"input_blocks.{number}.1", f"down_{level}/attention_{i}", TRANSFORMER)
            number += 1
        pairs.append((f"input_blocks.{number}.0.op", f"down_{level}/halve"))
        number += 1
    pairs += _joined("middle_block.0", "middle/block_0", BLOCK)
    pairs += _joined("middle_block.1", "middle/attention_0", TRANSFORMER)
    pairs += _joined("middle_block.2", "middle/block_1", BLOCK)
    number = 0
    for level in reversed(range(levels)):
        for i in range(blocks + 1):
            pairs += _joined(f"output_blocks.{number}.0", f"up_{level}/block_{i}", BLOCK)
            pairs += _joined(f"output_blocks.{number}.1", f"up_{level}/attention_{i}", TRANSFORMER)
            number += 1
        last = number - 1
        pairs += [(f"output_blocks.{last}.{at}.conv", f"up_{level}/double") for at in (1, 2)]
    return pairs


def original_autoencoder_pairs() -> list[Pair]:
    """Return the pairs of an autoencoder, of any number of levels."""
    pairs: list[Pair] = [("quant_conv", "quant"), ("post_quant_conv", "post_quant")]
    for part, way, move in (("encoder", "down", "halve"), ("decoder", "up", "double")):
        pairs += [(f"{part}.{name}", f"{part}/{name}") for name in ("conv_in", "norm_out")]
        pairs.append((f"{part}.conv_out", f"{part}/conv_out"))
        pairs += _joined(f"{part}.{way}.#.block.#", f"{part}/{way}_#/block_#", CODER_BLOCK)
        sample = "downsample" if way == "down" else "upsample"
        pairs.append((f"{part}.{way}.#.{sample}.conv", f"{part}/{way}_#/{move}"))
        for i in (0, 1):
            pairs += _joined(f"{part}.mid.block_{i + 1}", f"{part}/middle/block_{i}", CODER_BLOCK)
        pairs += _joined(f"{part}.mid.attn_1", f"{part}/middle/attention_0", CODER_ATTENTION)
    return pairs
