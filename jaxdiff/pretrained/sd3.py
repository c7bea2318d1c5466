"""Stable Diffusion 3 and 3.5 in diffusers' folders: SD3Transformer2DModel."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff.networks.sd3 import SD3Transformer
from jaxdiff.pretrained.assembly import assembled, example, shifted_flow, thousand
from jaxdiff.pretrained.fields import Fields
from jaxdiff.pretrained.layout import Layout
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.process import RectifiedFlow

SHIFT = 3.0
OPTIONS: dict[str, Any] = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 18,
    "attention_head_dim": 64, "num_attention_heads": 18, "joint_attention_dim": 4096,
    "caption_projection_dim": 1152, "pooled_projection_dim": 2048, "out_channels": 16,
    "pos_embed_max_size": 96, "dual_attention_layers": (), "qk_norm": None,
}  # fmt: skip
BLOCK = r"transformer_blocks\.(\d+)\."
HEADS = (
    (r"attn\.to_q", "attention/image_heads/query"),
    (r"attn\.to_k", "attention/image_heads/key"),
    (r"attn\.to_v", "attention/image_heads/value"),
    (r"attn\.norm_q", "attention/image_heads/query_norm"),
    (r"attn\.norm_k", "attention/image_heads/key_norm"),
    (r"attn\.add_q_proj", "attention/text_heads/query"),
    (r"attn\.add_k_proj", "attention/text_heads/key"),
    (r"attn\.add_v_proj", "attention/text_heads/value"),
    (r"attn\.norm_added_q", "attention/text_heads/query_norm"),
    (r"attn\.norm_added_k", "attention/text_heads/key_norm"),
    (r"attn\.to_out\.0", "attention/image_out"),
    (r"attn\.to_add_out", "attention/text_out"),
    (r"ff\.net\.0\.proj", "feed_forward/hidden"),
    (r"ff\.net\.2", "feed_forward/out"),
    (r"ff_context\.net\.0\.proj", "text_feed_forward/hidden"),
    (r"ff_context\.net\.2", "text_feed_forward/out"),
)
DOUBLE = tuple((BLOCK + name, rf"block_\1/{path}") for name, path in HEADS)
EMBEDDING = (
    (r"time_text_embed\.(timestep|guidance)_embedder\.linear_1", r"embedding/\1/hidden"),
    (r"time_text_embed\.(timestep|guidance)_embedder\.linear_2", r"embedding/\1/out"),
    (r"time_text_embed\.text_embedder\.linear_1", "embedding/pooled_text/hidden"),
    (r"time_text_embed\.text_embedder\.linear_2", "embedding/pooled_text/out"),
    ("context_embedder", "text"),
    (r"norm_out\.linear", "out_norm/modulation/linear"),
    ("proj_out", "out"),
)


def layout_of(module: SD3Transformer) -> Layout:
    """Return the layout of a network, whose last block's text has a norm of another kind."""
    last = rf"transformer_blocks\.{module.depth - 1}\.norm1_context\.linear"
    own = (
        (r"pos_embed\.proj", "patches"),
        (r"pos_embed\.pos_embed", "positions"),
        (last, f"block_{module.depth - 1}/text_norm/modulation/linear"),
        (BLOCK + r"norm1\.linear", r"block_\1/modulation/linear"),
        (BLOCK + r"norm1_context\.linear", r"block_\1/text_modulation/linear"),
        (BLOCK + r"attn2\.to_q", r"block_\1/second_attention/heads/query"),
        (BLOCK + r"attn2\.to_k", r"block_\1/second_attention/heads/key"),
        (BLOCK + r"attn2\.to_v", r"block_\1/second_attention/heads/value"),
        (BLOCK + r"attn2\.norm_q", r"block_\1/second_attention/heads/query_norm"),
        (BLOCK + r"attn2\.norm_k", r"block_\1/second_attention/heads/key_norm"),
        (BLOCK + r"attn2\.to_out\.0", r"block_\1/second_attention/out"),
    )
    return Layout((*own, *DOUBLE, *EMBEDDING))


def module_of(config: Mapping[str, Any], where: str = "config.json") -> SD3Transformer:
    """Return the network of a configuration. ValueError, naming an option, if it is not read."""
    own = Fields(config, OPTIONS, where)
    size, patch, channels, depth, each, heads, token_width, text, pooled, largest = own.whole(
        "sample_size", "patch_size", "in_channels", "num_layers", "attention_head_dim",
        "num_attention_heads", "joint_attention_dim", "caption_projection_dim",
        "pooled_projection_dim", "pos_embed_max_size",
    )  # fmt: skip
    if text != heads * each:
        own.refuse("caption_projection_dim", f"the width of the image's tokens, {heads * each}")
    own.of("out_channels", channels, None)
    dual = own["dual_attention_layers"] or ()
    blocks = range(depth)
    if not isinstance(dual, (list, tuple)) or not all(i in blocks for i in dual):
        own.refuse("dual_attention_layers", f"a list of numbers from 0 to {depth - 1}")
    return SD3Transformer(
        channels=channels, patch=patch, size=size, largest=largest, heads=heads,
        head_channels=each, depth=depth, token_width=token_width, pooled=pooled, dual=tuple(dual),
        rms_norm=own.of("qk_norm", None, "rms_norm") is not None,
    )  # fmt: skip


def example_of(module: SD3Transformer) -> dict:
    """Return an example of the network's condition."""
    return example(tokens=(1, module.token_width), pooled=(module.pooled,))


def grid(num_steps: int) -> np.ndarray:
    """Levels that SD3's Euler scheduler visits, a flow shifted by 3, whose smallest time of
    training, shifted already, is the last before 0.
    """
    return shifted_flow(num_steps, SHIFT, SHIFT * 1e-3 / (1 + (SHIFT - 1) * 1e-3))


def read(source: Source) -> Pretrained | None:
    """Return the SD3 of a folder, None if it holds none."""
    if source.config.get("_class_name") != "SD3Transformer2DModel":
        return None
    module = module_of(source.config, str(source.path / "config.json"))
    return assembled(
        source, module, layout_of(module), shape=(module.size, module.size, module.channels),
        prediction="flow", process=RectifiedFlow(), label=thousand, grid=grid,
        example=example_of(module),
        cond=f"tokens (batch, any, {module.token_width}), pooled (batch, {module.pooled})",
        metadata={"assumed": "a rectified flow shifted by 3, as SD3 is published"},
    )  # fmt: skip
