"""Reader of diffusers' ``UNet2DModel`` folders: DDPM's and NCSN++'s networks, with classes or
not.
"""

from typing import Any

from jaxdiff.networks.unet2d import UNet2D
from jaxdiff.pretrained.fields import Fields, channels
from jaxdiff.pretrained.layout import Layout
from jaxdiff.pretrained.unet_names import unet_layout

DEFAULTS: dict[str, Any] = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "center_input_sample": False,
    "time_embedding_type": "positional", "time_embedding_dim": None, "freq_shift": 0,
    "flip_sin_to_cos": True, "mid_block_type": "UNetMidBlock2D",
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2, "mid_block_scale_factor": 1,
    "downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv", "dropout": 0.0,
    "act_fn": "silu", "attention_head_dim": 8, "norm_num_groups": 32, "attn_norm_num_groups": None,
    "norm_eps": 1e-5, "resnet_time_scale_shift": "default", "add_attention": True,
    "class_embed_type": None, "num_class_embeds": None, "num_train_timesteps": None,
}  # fmt: skip
DOWN = {
    "DownBlock2D": "plain", "AttnDownBlock2D": "attention", "ResnetDownsampleBlock2D": "resampling",
    "SkipDownBlock2D": "skip", "AttnSkipDownBlock2D": "skip_attention",
    "UNetResDownBlock2D": "plain", "UNetResAttnDownBlock2D": "attention",
    "UNetResSkipDownBlock2D": "skip", "UNetResAttnSkipDownBlock2D": "skip_attention",
}  # fmt: skip
UP = {name.replace("Down", "Up"): kind for name, kind in DOWN.items() if kind != "resampling"} | {
    "ResnetUpsampleBlock2D": "resampling"
}
CLASSES: Any = {"timestep": "waves", "identity": "vector"}
ACTIVATIONS = ("silu", "swish", "mish", "gelu", "relu")


def unet2d(config: Any) -> UNet2D:
    """Return the network of a configuration. ValueError, by name, for what is not supported."""
    f = Fields(config, DEFAULTS, "UNet2DModel")
    widths = channels(f)
    out, blocks, groups = f.whole("out_channels", "layers_per_block", "norm_num_groups")
    time = f.of("time_embedding_type", "positional", "fourier", "learned")
    down, up = f.kinds("down_block_types", DOWN), f.kinds("up_block_types", UP)
    if any("skip" in kind for kind in down) and f["in_channels"] != 3:
        f.refuse("in_channels", "3, beside blocks that carry the image along")
    kind = f.of("class_embed_type", None, "timestep", "identity")
    rows = f["num_class_embeds"] if kind is None else None
    return UNet2D(
        channels=widths, out_channels=out, down=down, up=up[::-1],
        middle=f.of("mid_block_type", "UNetMidBlock2D", None) is not None,
        middle_attention=bool(f["add_attention"]), middle_scale=f.number("mid_block_scale_factor"),
        blocks=blocks, head_width=f.some("attention_head_dim"), groups=groups,
        middle_groups=f.some("attn_norm_num_groups"), eps=f.number("norm_eps"),
        activation=f.of("act_fn", *ACTIVATIONS), modulation=modulation(f), time=time,
        time_width=f.some("time_embedding_dim"),
        num_steps=f.whole("num_train_timesteps")[0] if time == "learned" else 0,
        flip=bool(f["flip_sin_to_cos"]), freq_shift=f.number("freq_shift"),
        classes=CLASSES.get(str(kind), "index" if rows else ""),
        num_classes=f.whole("num_class_embeds")[0] if rows else 0,
        halve=resampling(f, "downsample_type"), double=resampling(f, "upsample_type"),
        padding=f.of("downsample_padding", 0, 1), centred=bool(f["center_input_sample"]),
        dropout=f.number("dropout"),
    )  # fmt: skip


def layout(network: UNet2D) -> Layout:
    """Return where the published tensors of a network belong."""
    return unet_layout(len(network.channels), learned=network.time == "learned")


def modulation(fields: Fields) -> Any:
    """Return how blocks are conditioned on time and class."""
    given = fields.of("resnet_time_scale_shift", "default", "scale_shift")
    return "shift" if given == "default" else given


def resampling(fields: Fields, field: str) -> Any:
    """Return how stages with attention halve or double."""
    return "block" if fields.of(field, "conv", "resnet") == "resnet" else "conv"
