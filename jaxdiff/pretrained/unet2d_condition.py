"""Reader of diffusers' ``UNet2DConditionModel`` folders: Stable Diffusion 1, 2 and XL, LCM, IF."""

from typing import Any

from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.pretrained.fields import Fields, channels
from jaxdiff.pretrained.layout import Layout
from jaxdiff.pretrained.unet2d import ACTIVATIONS, modulation
from jaxdiff.pretrained.unet_names import unet_layout

DEFAULTS: dict[str, Any] = {
    "sample_size": None, "in_channels": 4, "out_channels": 4, "center_input_sample": False,
    "flip_sin_to_cos": True, "freq_shift": 0,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3], "only_cross_attention": False,
    "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "downsample_padding": 1,
    "mid_block_scale_factor": 1, "dropout": 0.0, "act_fn": "silu", "norm_num_groups": 32,
    "norm_eps": 1e-5, "cross_attention_dim": 1280, "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None, "encoder_hid_dim": None,
    "encoder_hid_dim_type": None, "attention_head_dim": 8, "num_attention_heads": None,
    "dual_cross_attention": False, "use_linear_projection": False, "class_embed_type": None,
    "addition_embed_type": None, "addition_time_embed_dim": None, "num_class_embeds": None,
    "upcast_attention": False, "resnet_time_scale_shift": "default", "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional", "time_embedding_dim": None,
    "time_embedding_act_fn": None, "timestep_post_act": None, "time_cond_proj_dim": None,
    "conv_in_kernel": 3, "conv_out_kernel": 3, "projection_class_embeddings_input_dim": None,
    "attention_type": "default", "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None, "cross_attention_norm": None,
    "addition_embed_type_num_heads": 64,
}  # fmt: skip
DOWN = {
    "DownBlock2D": "plain", "CrossAttnDownBlock2D": "cross", "SimpleCrossAttnDownBlock2D": "joint",
    "ResnetDownsampleBlock2D": "resampling", "AttnDownBlock2D": "self",
}  # fmt: skip
UP = {
    "UpBlock2D": "plain", "CrossAttnUpBlock2D": "cross", "SimpleCrossAttnUpBlock2D": "joint",
    "ResnetUpsampleBlock2D": "resampling", "AttnUpBlock2D": "self",
}  # fmt: skip
MIDDLE = {
    "UNetMidBlock2DCrossAttn": "cross", "UNetMidBlock2DSimpleCrossAttn": "joint",
    "UNetMidBlock2D": "single", None: "",
}  # fmt: skip
CLASSES = {
    "timestep": "waves", "identity": "vector", "projection": "perceptron",
    "simple_projection": "linear",
}  # fmt: skip
TOKENS = {"text_proj": "text", "image_proj": "image", "text_image_proj": "both", None: ""}


def unet2d_condition(config: Any, name: str = "UNet2DConditionModel") -> UNet2DCondition:
    """Return the network of a configuration. ValueError, by name, for what is not supported.

    name: of the class whose configuration it is, for errors.
    """
    f = Fields(config, DEFAULTS, name)
    for field, value in (("num_attention_heads", None), ("dual_cross_attention", False)):
        f.plain(field, value)
    if f["attention_type"] == "gated-text-image":
        raise ValueError(
            f"{name}: attention_type must be 'default' or 'gated'; 'gated-text-image' (GLIGEN "
            "whose boxes hold pictures beside texts) has a second perceptron, which is not built"
        )
    f.of("addition_embed_type", None, "text", "text_time", "text_image", "image")
    widths = channels(f)
    count = len(widths)
    seen, out, groups, kernel_in, kernel_out = f.whole(
        "in_channels", "out_channels", "norm_num_groups", "conv_in_kernel", "conv_out_kernel"
    )
    down, up = f.kinds("down_block_types", DOWN), f.kinds("up_block_types", UP)[::-1]
    middle = MIDDLE[f.of("mid_block_type", *MIDDLE)]
    blocks, cross = f.each("layers_per_block", count), f.each("only_cross_attention", count, bool)
    only = f["mid_block_only_cross_attention"]
    if only is None:
        only = bool(f["only_cross_attention"]) if isinstance(f["only_cross_attention"], bool) else 0
    return UNet2DCondition(
        channels=widths, in_channels=seen, out_channels=out, down=down, up=up, middle=middle,
        blocks=blocks, **_attention(f, widths, blocks, down, up), only_cross=cross,
        only_cross_middle=bool(only) and middle == "joint", cross_norm=f.of("cross_attention_norm",
        None, "layer_norm", "group_norm") or "", groups=groups, eps=f.number("norm_eps"),
        activation=f.of("act_fn", *ACTIVATIONS), modulation=modulation(f), activated=not
        f["resnet_skip_time_act"], scale=f.number("resnet_out_scale_factor"),
        middle_scale=f.number("mid_block_scale_factor"), padding=f.of("downsample_padding", 0, 1),
        kernel_in=kernel_in, kernel_out=kernel_out, time=f.of("time_embedding_type", "positional",
        "fourier"), time_width=f.some("time_embedding_dim"), flip=bool(f["flip_sin_to_cos"]),
        freq_shift=f.number("freq_shift"), time_last=f.of("timestep_post_act", None, *ACTIVATIONS)
        or "", time_activation=f.of("time_embedding_act_fn", None, *ACTIVATIONS) or "",
        guidance=f.some("time_cond_proj_dim"), **_conditions(f),
        boxes=f.of("attention_type", "default", "gated") == "gated",
        centred=bool(f["center_input_sample"]),
        dropout=f.number("dropout"),
    )  # fmt: skip


def _attention(
    f: Fields, widths: tuple[int, ...], blocks: tuple[int, ...], down: Any, up: Any
) -> dict[str, Any]:
    """Return heads and depths of the attention layers.

    "attention_head_dim" is the number of heads of spatial transformers, and the width of one in
    other layers; on the way up these take the list of the way down as it is, coarsest first.
    """
    count = len(widths)
    heads = f.each("attention_head_dim", count, (int, type(None)))  # type: ignore[arg-type]
    if None in heads and {"cross"} & {*down, *up}:
        f.refuse("attention_head_dim", "the number of heads, beside spatial transformers")
    heads_up = tuple(
        (heads[level] if up[level] == "cross" else heads[count - 1 - level]) or widths[level]
        for level in range(count)
    )
    given = f["transformer_layers_per_block"]
    per_level = tuple(given) if isinstance(given, (list, tuple)) else (given,) * count
    back = f["reverse_transformer_layers_per_block"]
    if back is None and any(isinstance(d, (list, tuple)) for d in per_level):
        f.refuse("reverse_transformer_layers_per_block", "given beside nested layers")
    back = per_level if back is None else tuple(back)[::-1]
    if len(per_level) != count or len(back) != count:
        f.refuse("transformer_layers_per_block", f"a number, or {count} entries")
    last = per_level[-1]
    return {
        "heads": tuple(h or w for h, w in zip(heads, widths, strict=True)), "heads_up": heads_up,
        "depth_down": tuple(_depth(f, d, n) for d, n in zip(per_level, blocks, strict=True)),
        "depth_up": tuple(_depth(f, d, n + 1) for d, n in zip(back, blocks, strict=True)),
        "depth_middle": last[0] if isinstance(last, (list, tuple)) else last,
    }  # fmt: skip


def _depth(f: Fields, given: Any, blocks: int) -> tuple[int, ...]:
    depth = tuple(given) if isinstance(given, (list, tuple)) else (given,) * blocks
    if len(depth) != blocks or not all(isinstance(d, int) and d > 0 for d in depth):
        f.refuse("transformer_layers_per_block", f"whole numbers, {blocks} per level if nested")
    return depth


def _conditions(f: Fields) -> dict[str, Any]:
    """Return the network's conditions besides time."""
    kind = f.of("class_embed_type", None, *CLASSES)
    rows = f["num_class_embeds"] if kind is None else None
    if kind in ("projection", "simple_projection") or f["addition_embed_type"] == "text_time":
        f.whole("projection_class_embeddings_input_dim")
    tokens = f["encoder_hid_dim_type"]
    if tokens is None and f["encoder_hid_dim"] is not None:
        tokens = "text_proj"
    if tokens not in TOKENS:
        f.refuse("encoder_hid_dim_type", " or ".join(map(repr, TOKENS)))
    width = f["cross_attention_dim"]
    if isinstance(width, list) and len({*width}) == 1:
        width = width[0]
    if TOKENS[tokens] and not isinstance(width, int):
        f.refuse("cross_attention_dim", "a whole number, beside a projection of the tokens")
    return {
        "classes": CLASSES.get(str(kind), "index" if rows else ""),
        "num_classes": f.whole("num_class_embeds")[0] if rows else 0,
        "class_width": f["projection_class_embeddings_input_dim"] or 0,
        "joined": bool(f["class_embeddings_concat"]), "added": f["addition_embed_type"] or "",
        "pool_heads": f["addition_embed_type_num_heads"] or 64,
        "size_waves": f["addition_time_embed_dim"] or 256,
        "added_width": f["projection_class_embeddings_input_dim"] or 0,
        "tokens_in": TOKENS[tokens], "token_width": width if isinstance(width, int) else 0,
        "image_width": f["encoder_hid_dim"] or 0 if TOKENS[tokens] == "image" else 0,
        "text_width": f["encoder_hid_dim"] or 0 if TOKENS[tokens] in ("text", "both") else 0,
    }  # fmt: skip


def layout(network: UNet2DCondition) -> Layout:
    """Return where the published tensors of a network belong."""
    return unet_layout(len(network.channels))
