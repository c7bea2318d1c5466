"""Configurations of diffusers for U-Nets with text, ControlNets and T2I-Adapters made here.

A configuration is read back, and a network that it does not describe is refused by the field.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdiff.networks.conditional_encoder import ConditionalEncoder
from jaxdiff.networks.controlnet import ControlNet
from jaxdiff.networks.t2i_adapter import T2IAdapter
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.pretrained import controls, unet2d_condition

SAME = ("dtype", "param_dtype", "remat", "attention_fn", "parent", "name", "zero_out")
CLASSES = {kind: name for name, kind in unet2d_condition.CLASSES.items()}
TOKENS = {kind: name for name, kind in unet2d_condition.TOKENS.items()}
KINDS_WITHOUT_DEPTH = ("plain", "resampling", "self", "joint")
BY_LEVEL = ("heads", "heads_up", "depth_down", "depth_up")


def condition_config(network: UNet2DCondition, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the configuration of which :func:`jaxdiff.pretrained.unet2d_condition.
    unet2d_condition` makes a network.

    shape: of a sample, (height, width, channels). Raises ValueError for a network that no
    configuration describes.
    """
    up = {kind: name for name, kind in reversed(unet2d_condition.UP.items())}
    config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": shape[0] if shape[0] == shape[1] else list(shape[:2]),
        "out_channels": network.out_channels, **_way_down(network), **_of_the_unet(network),
        "up_block_types": [up[kind] for kind in reversed(network.up)],
        "conv_out_kernel": network.kernel_out,
    }  # fmt: skip
    read = unet2d_condition.unet2d_condition(config)
    _check(network, read, "UNet2DConditionModel")
    return config


def controlnet_config(network: ControlNet) -> dict[str, Any]:
    """Return the configuration of which :func:`jaxdiff.pretrained.controls.controlnet` makes a
    ControlNet. Raises ValueError for one that no configuration describes.
    """
    config = {
        "_class_name": "ControlNetModel", **_way_down(network),
        "conditioning_channels": network.control_channels,
        "conditioning_embedding_out_channels": list(network.control_widths),
        "controlnet_conditioning_channel_order": "bgr" if network.flipped else "rgb",
        "global_pool_conditions": network.pooled,
    }  # fmt: skip
    _check(network, controls.controlnet(config), "ControlNetModel")
    return config


def t2i_adapter_config(network: T2IAdapter) -> dict[str, Any]:
    """Return the configuration of which :func:`jaxdiff.pretrained.controls.t2i_adapter` makes an
    adapter. Raises ValueError for one that no configuration describes.
    """
    kinds = ("light_adapter",) if network.light else ("full_adapter", "full_adapter_xl")
    channels = network.channels[: -1 if network.light else None]
    config: dict[str, Any] = {
        "_class_name": "T2IAdapter", "in_channels": network.in_channels, "channels": [*channels],
        "num_res_blocks": network.blocks, "downscale_factor": network.factor,
    }  # fmt: skip
    for kind in kinds:
        config["adapter_type"] = kind
        if controls.t2i_adapter(config).halved == network.halved:
            break
    _check(network, controls.t2i_adapter(config), "T2IAdapter")
    return config


def _way_down(network: ConditionalEncoder) -> dict[str, Any]:
    """Return the fields that a U-Net and a ControlNet share."""
    down = {kind: name for name, kind in reversed(unet2d_condition.DOWN.items())}
    middle = {kind: name for name, kind in unet2d_condition.MIDDLE.items()}
    index = network.classes == "index"
    classes = CLASSES.get(network.classes)
    width = network.text_width if network.tokens_in != "image" else network.image_width
    return {
        "in_channels": network.in_channels, "flip_sin_to_cos": network.flip,
        "freq_shift": network.freq_shift, "down_block_types": [down[k] for k in network.down],
        "mid_block_type": middle[network.middle], "only_cross_attention": [*network.only_cross],
        "block_out_channels": [*network.channels], "layers_per_block": _one(network.blocks),
        "downsample_padding": network.padding, "mid_block_scale_factor": network.middle_scale,
        "act_fn": network.activation, "norm_num_groups": network.groups, "norm_eps": network.eps,
        "cross_attention_dim": network.token_width or None, **_depths(network),
        "attention_head_dim": _one(network.heads), "use_linear_projection": True,
        "encoder_hid_dim": width or None, "encoder_hid_dim_type": TOKENS[network.tokens_in],
        "class_embed_type": None if index else classes,
        "num_class_embeds": network.num_classes if index else None,
        "projection_class_embeddings_input_dim": network.added_width or network.class_width or None,
        "addition_embed_type": network.added or None,
        "addition_embed_type_num_heads": network.pool_heads,
        "addition_time_embed_dim": network.size_waves if network.added == "text_time" else None,
        "resnet_time_scale_shift": "default" if network.modulation == "shift" else "scale_shift",
    }  # fmt: skip


def _of_the_unet(network: UNet2DCondition) -> dict[str, Any]:
    """Return the fields that a U-Net alone has."""
    return {
        "center_input_sample": network.centred, "dropout": network.dropout,
        "resnet_skip_time_act": not network.activated, "resnet_out_scale_factor": network.scale,
        "time_embedding_type": network.time, "time_embedding_dim": network.time_width or None,
        "time_embedding_act_fn": network.time_activation or None,
        "timestep_post_act": network.time_last or None,
        "time_cond_proj_dim": network.guidance or None, "conv_in_kernel": network.kernel_in,
        "class_embeddings_concat": network.joined,
        "attention_type": "gated" if network.boxes else "default",
        "mid_block_only_cross_attention": network.only_cross_middle,
        "cross_attention_norm": network.cross_norm or None,
    }  # fmt: skip


def _depths(network: ConditionalEncoder) -> dict[str, Any]:
    """Return the depths of transformers: of a level one number, the last level's the bottom's."""
    depths = [depth[0] for depth in network.depth_down]
    if network.middle == "cross" and network.down[-1] != "cross":
        depths[-1] = network.depth_middle
    return {"transformer_layers_per_block": _one(depths)}


def _one(values: Sequence[Any]) -> Any:
    """Return the number that all levels have, or that of each."""
    return values[0] if len({*values}) == 1 else [*values]


def _check(network: Any, read: Any, name: str) -> None:
    """Raise ValueError for a field that matters and that is read as another."""
    fields = [f.name for f in dataclasses.fields(network) if f.init and f.name not in SAME]
    mine, others = (_that_matter(n, fields) for n in (network, read))
    if wrong := [field for field in fields if mine[field] != others[field]]:
        raise ValueError(
            f"no {name} has {wrong[0]} = {getattr(network, wrong[0])!r} beside its other fields"
        )


def _that_matter(network: Any, fields: list[str]) -> Mapping[str, Any]:
    """Return a network's fields; of levels without attention None in the place of its sizes."""
    made = {field: getattr(network, field) for field in fields}
    if not isinstance(network, ConditionalEncoder):
        return made
    if "heads_up" in made:
        made["heads_up"] = made["heads_up"] or made["heads"]
    for field in BY_LEVEL:
        kinds = network.down if field in ("heads", "depth_down") else made.get("up")
        if field not in made or kinds is None:
            continue
        without = ("plain", "resampling") if "heads" in field else KINDS_WITHOUT_DEPTH
        bottom = len(kinds) - 1 if field == "heads" and network.middle == "cross" else -1
        made[field] = tuple(
            None if kind in without and i != bottom else value
            for i, (kind, value) in enumerate(zip(kinds, made[field], strict=True))
        )
    if network.middle != "cross":
        made["depth_middle"] = None
    return made
