"""DiT in diffusers' folders: DiTTransformer2DModel, and Transformer2DModel with ada_norm_zero."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff import grids
from jaxdiff.networks.dit_embedders import DiTEmbedders
from jaxdiff.networks.transformer_blocks import gelu, gelu_tanh
from jaxdiff.pretrained.assembly import assembled
from jaxdiff.pretrained.fields import Fields
from jaxdiff.pretrained.layout import Layout
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.process import Discrete
from jaxdiff.process.discrete import discrete_label, linear_betas

ACTIVATIONS = {"gelu-approximate": gelu_tanh, "gelu": gelu}
OPTIONS = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": None,
    "num_layers": 28, "attention_bias": True, "sample_size": 32, "patch_size": 2,
    "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "norm_eps": 1e-5,
}  # fmt: skip
# what these classes and the older Transformer2DModel have one meaning of here, or none
FIXED: dict[str, tuple[Any, ...]] = {
    "norm_type": ("ada_norm_zero",), "norm_elementwise_affine": (False,), "dropout": (0.0,),
    "attention_type": ("default",), "cross_attention_dim": (None,), "num_vector_embeds": (None,),
    "only_cross_attention": (False,), "double_self_attention": (False,),
    "caption_channels": (None,), "use_linear_projection": (False,),
    "use_additional_conditions": (None, False), "interpolation_scale": (None, 1),
}  # fmt: skip
UNUSED = {"norm_num_groups": 32, "upcast_attention": False}
BLOCK = r"transformer_blocks\.(\d+)\."
RULES = (
    (r"pos_embed\.proj", "patches"),
    (BLOCK + r"norm1\.emb\.timestep_embedder\.linear_1", r"embedding_\1/timestep/hidden"),
    (BLOCK + r"norm1\.emb\.timestep_embedder\.linear_2", r"embedding_\1/timestep/out"),
    (BLOCK + r"norm1\.emb\.class_embedder\.embedding_table", r"embedding_\1/class"),
    (BLOCK + r"norm1\.linear", r"block_\1/modulation/linear"),
    (BLOCK + r"attn1\.to_q", r"block_\1/attention/heads/query"),
    (BLOCK + r"attn1\.to_k", r"block_\1/attention/heads/key"),
    (BLOCK + r"attn1\.to_v", r"block_\1/attention/heads/value"),
    (BLOCK + r"attn1\.to_out\.0", r"block_\1/attention/out"),
    (BLOCK + r"ff\.net\.0\.proj", r"block_\1/feed_forward/hidden"),
    (BLOCK + r"ff\.net\.2", r"block_\1/feed_forward/out"),
    (r"proj_out_1", "out_modulation/linear"),
    (r"proj_out_2", "out"),
)
# positions are computed here, whatever a file says of them
LAYOUT = Layout(RULES, unused=(r"pos_embed\.pos_embed",))


def module_of(config: Mapping[str, Any], where: str = "config.json") -> DiTEmbedders:
    """Return the network of a configuration. ValueError, naming an option, if it is not read."""
    own = fields_of(config, {**OPTIONS, **UNUSED}, FIXED, where)
    heads, each, channels, depth, size, patch, classes = own.whole(
        "num_attention_heads", "attention_head_dim", "in_channels", "num_layers", "sample_size",
        "patch_size", "num_embeds_ada_norm",
    )  # fmt: skip
    return DiTEmbedders(
        channels=channels,
        learned_variance=learned_variance(own),
        size=size,
        patch=patch,
        heads=heads,
        head_channels=each,
        depth=depth,
        num_classes=classes,
        epsilon=own.number("norm_eps"),
        bias=own.of("attention_bias", True, False),
        activation=ACTIVATIONS[own.of("activation_fn", *ACTIVATIONS)],
    )


def fields_of(
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    fixed: Mapping[str, tuple[Any, ...]],
    where: str,
) -> Fields:
    """Return the fields of a configuration, those of ``fixed`` with one of the values there, the
    first by default. ValueError, naming the field, if it has another, or is not known.
    """
    own = Fields(config, {**defaults, **{name: v[0] for name, v in fixed.items()}}, where)
    for name, allowed in fixed.items():
        own.of(name, *allowed)
    return own


def learned_variance(own: Fields) -> bool:
    """Return whether twice the channels come out. ValueError for others but as many."""
    channels, out = own["in_channels"], own["out_channels"]
    if out not in (None, channels, 2 * channels):
        own.refuse("out_channels", f"in_channels, {channels}, or twice that")
    return out == 2 * channels


def grid(num_steps: int) -> np.ndarray:
    """Levels of the timesteps that DiTPipeline's DDIM visits."""
    return grids.of_timesteps(training_process(), grids.timesteps(num_steps, "leading"))


@functools.cache
def training_process() -> Discrete:
    """The table of a thousand linear betas that DiT and PixArt were trained on."""
    return Discrete.from_betas(linear_betas(1000))


def read(source: Source) -> Pretrained | None:
    """Return the DiT of a folder, None if it holds none."""
    config = source.config
    kind = config.get("_class_name")
    old = kind == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero"
    if kind != "DiTTransformer2DModel" and not old:
        return None
    module = module_of(config, str(source.path / "config.json"))
    return assembled(
        source, module, LAYOUT, shape=(module.size, module.size, module.channels),
        prediction="eps", process=training_process(), label=discrete_label(1000), grid=grid,
        classes=module.num_classes, cond="a class index, the number of classes for none",
        metadata={"assumed": "1000 linear betas, 1e-4 to 0.02, as DiT is published"},
    )  # fmt: skip
