"""FLUX.1 in diffusers' folders: FluxTransformer2DModel."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdiff.grids import resolution_shift
from jaxdiff.networks.flux import FluxTransformer
from jaxdiff.pretrained.assembly import assembled, example, shifted_flow, thousand
from jaxdiff.pretrained.fields import Fields
from jaxdiff.pretrained.layout import Layout
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.pretrained.sd3 import BLOCK, DOUBLE, EMBEDDING
from jaxdiff.process import RectifiedFlow

SIZE = 128  # of the latents of 1024 pixels
OPTIONS: dict[str, Any] = {
    "patch_size": 1, "in_channels": 64, "out_channels": None, "num_layers": 19,
    "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
SINGLE = r"single_transformer_blocks\.(\d+)\."
RULES = (
    ("x_embedder", "image"),
    (BLOCK + r"norm1\.linear", r"block_\1/modulation/linear"),
    (BLOCK + r"norm1_context\.linear", r"block_\1/text_modulation/linear"),
    *DOUBLE,
    (SINGLE + r"norm\.linear", r"single_block_\1/modulation/linear"),
    (SINGLE + "proj_mlp", r"single_block_\1/hidden"),
    (SINGLE + "proj_out", r"single_block_\1/out"),
    (SINGLE + r"attn\.to_q", r"single_block_\1/heads/query"),
    (SINGLE + r"attn\.to_k", r"single_block_\1/heads/key"),
    (SINGLE + r"attn\.to_v", r"single_block_\1/heads/value"),
    (SINGLE + r"attn\.norm_q", r"single_block_\1/heads/query_norm"),
    (SINGLE + r"attn\.norm_k", r"single_block_\1/heads/key_norm"),
    *EMBEDDING,
)
LAYOUT = Layout(RULES)


def module_of(config: Mapping[str, Any], where: str = "config.json") -> FluxTransformer:
    """Return the network of a configuration. ValueError, naming an option, if it is not read."""
    own = Fields(config, OPTIONS, where)
    own.of("patch_size", 1)
    inputs, depth, single, each, heads, token_width, pooled = own.whole(
        "in_channels", "num_layers", "num_single_layers", "attention_head_dim",
        "num_attention_heads", "joint_attention_dim", "pooled_projection_dim",
    )  # fmt: skip
    channels = inputs if own["out_channels"] is None else own.whole("out_channels")[0]
    if channels % 4 or channels > inputs:
        own.refuse("out_channels", f"divisible by 4 and at most in_channels, {inputs}")
    axes = own["axes_dims_rope"]
    if not isinstance(axes, (list, tuple)) or len(axes) != 3:
        own.refuse("axes_dims_rope", "three numbers")
    return FluxTransformer(
        channels=channels, further=inputs - channels, heads=heads, head_channels=each,
        depth=depth, single_depth=single, token_width=token_width, pooled=pooled,
        guidance=own.of("guidance_embeds", True, False), axes=tuple(axes),
    )  # fmt: skip


def example_of(module: FluxTransformer, size: int = 2) -> dict:
    """Return an example of the network's condition, for latents of a size."""
    shapes: dict[str, tuple[int, ...]] = {
        "tokens": (1, module.token_width),
        "pooled": (module.pooled,),
    }
    if module.guidance:
        shapes["guidance"] = ()
    if module.further:
        shapes["channels"] = (size * size // 4, module.further)
    return example(**shapes)


def grid(num_steps: int, *, shift: float) -> np.ndarray:
    """Levels that Flux's Euler scheduler visits, equal steps in time, then shifted."""
    return shifted_flow(num_steps, shift, 1 / num_steps)


def grid_of(guidance: bool, size: int) -> Callable[[int], np.ndarray]:
    """Return the grid of a model, shifted by the number of tokens if it has guidance as an input
    (dev), and not shifted otherwise (schnell).
    """
    shift = resolution_shift(size * size // 4) if guidance else 1.0
    return functools.partial(grid, shift=shift)


def read(source: Source) -> Pretrained | None:
    """Return the Flux of a folder, None if it holds none."""
    if source.config.get("_class_name") != "FluxTransformer2DModel":
        return None
    module = module_of(source.config, str(source.path / "config.json"))
    further = ", channels (batch, tokens, any)" if module.further else ""
    weight = ", guidance (batch,)" if module.guidance else ""
    assumed = "shifted by the number of tokens" if module.guidance else "not shifted"
    return assembled(
        source, module, LAYOUT, shape=(SIZE, SIZE, module.channels // 4),
        prediction="flow", process=RectifiedFlow(), label=thousand,
        grid=grid_of(module.guidance, SIZE), example=example_of(module, SIZE),
        cond=f"tokens (batch, any, {module.token_width}), pooled (batch, {module.pooled})"
        f"{weight}{further}",
        metadata={"assumed": f"latents of 1024 pixels; a rectified flow, {assumed}"},
    )  # fmt: skip
