"""PixArt in diffusers' folders: PixArtTransformer2DModel, or Transformer2DModel with
ada_norm_single.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff import grids
from jaxdiff.networks.pixart import PixArt
from jaxdiff.pretrained.assembly import assembled, example
from jaxdiff.pretrained.dit_embedders import (
    ACTIVATIONS,
    fields_of,
    learned_variance,
    training_process,
)
from jaxdiff.pretrained.layout import Layout
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.process.discrete import discrete_label

OPTIONS = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8,
    "num_layers": 28, "cross_attention_dim": 1152, "attention_bias": True, "sample_size": 128,
    "patch_size": 2, "activation_fn": "gelu-approximate", "norm_eps": 1e-6,
    "interpolation_scale": None, "use_additional_conditions": None, "caption_channels": None,
    "norm_num_groups": 32, "upcast_attention": False, "num_embeds_ada_norm": 1000,
}  # fmt: skip
FIXED: dict[str, tuple[Any, ...]] = {
    "norm_type": ("ada_norm_single",), "norm_elementwise_affine": (False,), "dropout": (0.0,),
    "attention_type": ("default",), "num_vector_embeds": (None,),
    "only_cross_attention": (False,), "double_self_attention": (False,),
    "use_linear_projection": (False,),
}  # fmt: skip
BLOCK = r"transformer_blocks\.(\d+)\."
RULES = (
    (r"pos_embed\.proj", "patches"),
    (r"adaln_single\.emb\.(timestep|resolution|aspect_ratio)_embedder\.linear_1",
     r"embedding/\1/hidden"),
    (r"adaln_single\.emb\.(timestep|resolution|aspect_ratio)_embedder\.linear_2",
     r"embedding/\1/out"),
    (r"adaln_single\.linear", "modulation"),
    (r"caption_projection\.linear_1", "text/hidden"),
    (r"caption_projection\.linear_2", "text/out"),
    (BLOCK + "scale_shift_table", r"block_\1/table"),
    (BLOCK + r"attn1\.to_q", r"block_\1/attention/heads/query"),
    (BLOCK + r"attn1\.to_k", r"block_\1/attention/heads/key"),
    (BLOCK + r"attn1\.to_v", r"block_\1/attention/heads/value"),
    (BLOCK + r"attn1\.to_out\.0", r"block_\1/attention/out"),
    (BLOCK + r"attn2\.to_q", r"block_\1/cross_attention/heads/query"),
    (BLOCK + r"attn2\.to_k", r"block_\1/cross_attention/heads/key"),
    (BLOCK + r"attn2\.to_v", r"block_\1/cross_attention/heads/value"),
    (BLOCK + r"attn2\.to_out\.0", r"block_\1/cross_attention/out"),
    (BLOCK + r"ff\.net\.0\.proj", r"block_\1/feed_forward/hidden"),
    (BLOCK + r"ff\.net\.2", r"block_\1/feed_forward/out"),
    ("scale_shift_table", "out_table"),
    ("proj_out", "out"),
)  # fmt: skip
LAYOUT = Layout(RULES, unused=(r"pos_embed\.pos_embed",))


def module_of(config: Mapping[str, Any], where: str = "config.json") -> PixArt:
    """Return the network of a configuration. ValueError, naming an option, if it is not read."""
    own = fields_of(config, OPTIONS, FIXED, where)
    heads, each, channels, depth, token_width, size, patch = own.whole(
        "num_attention_heads", "attention_head_dim", "in_channels", "num_layers",
        "cross_attention_dim", "sample_size", "patch_size",
    )  # fmt: skip
    projected = own["caption_channels"] is not None
    if projected:
        if token_width != heads * each:
            own.refuse("cross_attention_dim", f"the width of projected words, {heads * each}")
        (token_width,) = own.whole("caption_channels")
    step = own["interpolation_scale"]
    sizes = own.of("use_additional_conditions", None, True, False)
    return PixArt(
        channels=channels, learned_variance=learned_variance(own), size=size, patch=patch,
        interpolation=max(size // 64, 1) if step is None else own.number("interpolation_scale"),
        heads=heads, head_channels=each, depth=depth, token_width=token_width, projected=projected,
        sizes=size == 128 if sizes is None else sizes, epsilon=own.number("norm_eps"),
        bias=own.of("attention_bias", True, False),
        activation=ACTIVATIONS[own.of("activation_fn", *ACTIVATIONS)],
    )  # fmt: skip


def example_of(module: PixArt) -> dict:
    """Return an example of the network's condition."""
    shapes: dict[str, tuple[int, ...]] = {"tokens": (1, module.token_width), "mask": (1,)}
    if module.sizes:
        shapes |= {"resolution": (2,), "aspect_ratio": (1,)}
    return example(**shapes)


def grid(num_steps: int) -> np.ndarray:
    """Levels of the timesteps that PixArt's DPM-Solver visits."""
    chosen = grids.timesteps(num_steps + 1, "linspace")[:-1]
    return grids.of_timesteps(training_process(), chosen)


def read(source: Source) -> Pretrained | None:
    """Return the PixArt of a folder, None if it holds none."""
    config = source.config
    kind = config.get("_class_name")
    old = kind == "Transformer2DModel" and config.get("norm_type") == "ada_norm_single"
    if kind != "PixArtTransformer2DModel" and not old:
        return None
    module = module_of(config, str(source.path / "config.json"))
    sizes = ", resolution (batch, 2) and aspect_ratio (batch, 1)" if module.sizes else ""
    return assembled(
        source, module, LAYOUT, shape=(module.size, module.size, module.channels),
        prediction="eps", process=training_process(), label=discrete_label(1000), grid=grid,
        example=example_of(module),
        cond=f"tokens (batch, any, {module.token_width}), mask (batch, any){sizes}",
        metadata={"assumed": "1000 linear betas, 1e-4 to 0.02, as PixArt is published"},
    )  # fmt: skip
