"""Readers of diffusers' ``ControlNetModel`` and ``T2IAdapter`` folders.

controlnet = load_controlnet("sd-controlnet-canny")
model = with_controlnet(load_pretrained("stable-diffusion-v1-5"), controlnet)
model.denoiser(y, level, {"tokens": ..., "control": picture})

What is read is a :class:`Control`; :mod:`jaxdiff.pretrained.steering` puts it beside a U-Net.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.networks.conditional_encoder import ConditionalEncoder
from jaxdiff.networks.controlnet import ControlNet
from jaxdiff.networks.ip_adapter import IPAdapter
from jaxdiff.networks.t2i_adapter import T2IAdapter
from jaxdiff.networks.unet_control import UNetControl
from jaxdiff.pretrained import unet2d_condition
from jaxdiff.pretrained.diffusers import filled, unet_shapes
from jaxdiff.pretrained.fields import Fields
from jaxdiff.pretrained.layout import Layout
from jaxdiff.pretrained.model import Source
from jaxdiff.pretrained.names import Pair, rules
from jaxdiff.pretrained.unet_names import unet_pairs
from jaxdiff.typing import Params

OWN: dict[str, Any] = {
    "conditioning_channels": 3, "controlnet_conditioning_channel_order": "rgb",
    "conditioning_embedding_out_channels": [16, 32, 96, 256], "global_pool_conditions": False,
}  # fmt: skip
# What a U-Net's configuration has and a ControlNet's has not.
OTHER = {
    "sample_size", "out_channels", "center_input_sample", "up_block_types", "dropout",
    "dual_cross_attention", "reverse_transformer_layers_per_block", "resnet_skip_time_act",
    "resnet_out_scale_factor", "time_embedding_type", "time_embedding_dim", "time_embedding_act_fn",
    "timestep_post_act", "time_cond_proj_dim", "conv_in_kernel", "conv_out_kernel",
    "attention_type", "class_embeddings_concat", "mid_block_only_cross_attention",
    "cross_attention_norm",
}  # fmt: skip
ADAPTER: dict[str, Any] = {
    "in_channels": 3, "channels": [320, 640, 1280, 1280], "num_res_blocks": 2,
    "downscale_factor": 8, "adapter_type": "full_adapter",
}  # fmt: skip
STACK: tuple[Pair, ...] = (
    ("controlnet_cond_embedding.conv_in", "control_in"),
    ("controlnet_cond_embedding.conv_out", "control_out"),
    ("controlnet_down_blocks.#", "residual_#"), ("controlnet_mid_block", "residual_middle"),
)  # fmt: skip
ADAPTER_PAIRS: tuple[Pair, ...] = (
    ("adapter.conv_in", "conv_in"), ("adapter.body.#.in_conv", "stage_#_in"),
    ("adapter.body.#.out_conv", "stage_#_out"),
    ("adapter.body.#.resnets.#.block1", "stage_#_block_#_in"),
    ("adapter.body.#.resnets.#.block2", "stage_#_block_#_out"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Control:
    """A published network that steers a U-Net.

    Attributes:
        params: of the network, in the dtype of the file unless another was requested.
        network: the linen module, a ``ControlNet``, ``UNetControl``, ``T2IAdapter`` or
            ``IPAdapter``.
        metadata: what else is known: name, configuration.
    """

    params: Params
    network: ControlNet | T2IAdapter | IPAdapter | UNetControl
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        """Say in one line what it is."""
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return f"Control({type(self.network).__name__}; {count} parameters)"


def is_control(source: Source) -> str:
    """Return the class that a source's configuration names, if it is read here, else ""."""
    kind = source.config.get("_class_name")
    return kind if kind in ("ControlNetModel", "T2IAdapter") else ""


def read_control(source: Source) -> Control:
    """Return the network of a source. ValueError, by name, for what is not supported."""
    if is_control(source) == "ControlNetModel":
        net = controlnet(source.config)
        shapes, layout = unet_shapes(net, net.in_channels), controlnet_layout(net)
    else:
        net = t2i_adapter(source.config)
        shapes, layout = adapter_shapes(net), Layout(rules(ADAPTER_PAIRS))
    params = filled(source, shapes, layout)
    return Control(params, net, {"name": is_control(source), "config": dict(source.config)})


def controlnet(config: Any) -> ControlNet:
    """Return the network of a ControlNet's configuration. ValueError, by name, for what is not
    supported.
    """
    defaults = {k: v for k, v in unet2d_condition.DEFAULTS.items() if k not in OTHER} | OWN
    f = Fields(config, defaults, "ControlNetModel")
    given = {k: v for k, v in f.values.items() if k not in OWN}
    up = ["UpBlock2D"] * len(f["down_block_types"])
    unet = unet2d_condition.unet2d_condition(given | {"up_block_types": up}, "ControlNetModel")
    same = {
        n.name: getattr(unet, n.name)
        for n in dataclasses.fields(ConditionalEncoder)
        if n.name not in ("parent", "name")
    }
    if unet.middle not in ("cross", "single"):
        f.refuse("mid_block_type", "UNetMidBlock2DCrossAttn or UNetMidBlock2D")
    widths = f.wholes("conditioning_embedding_out_channels")
    order = f.of("controlnet_conditioning_channel_order", "rgb", "bgr")
    return ControlNet(
        **same, control_channels=f.whole("conditioning_channels")[0], control_widths=widths,
        flipped=order == "bgr", pooled=bool(f["global_pool_conditions"]),
    )  # fmt: skip


def controlnet_layout(network: ControlNet) -> Layout:
    """Return where the published tensors of a ControlNet belong."""
    return Layout(rules(controlnet_pairs(network)))


def controlnet_pairs(network: ControlNet) -> list[Pair]:
    """Return the names of a ControlNet's parameters, published and here."""
    stack = [
        (f"controlnet_cond_embedding.blocks.{2 * i + odd}", f"control_{'halve_' * odd}{i}")
        for i in range(len(network.control_widths) - 1)
        for odd in (0, 1)
    ]
    return [*STACK, *stack, *unet_pairs(len(network.channels))]


def t2i_adapter(config: Any) -> T2IAdapter:
    """Return the network of an adapter's configuration. ValueError, by name, for what is not
    supported.
    """
    f = Fields(config, ADAPTER, "T2IAdapter")
    kind = f.of("adapter_type", "full_adapter", "full_adapter_xl", "light_adapter")
    channels = f.wholes("channels")
    light = kind == "light_adapter"
    widths = (*channels, channels[-1]) if light else channels
    seen, blocks, factor = f.whole("in_channels", "num_res_blocks", "downscale_factor")
    # XL's U-Nets halve once less than they have maps, and the adapter before its third stage alone.
    halved = tuple(i == 2 if kind == "full_adapter_xl" else i > 0 for i in range(len(widths)))
    return T2IAdapter(widths, seen, blocks, factor, halved, light)


def adapter_shapes(network: T2IAdapter) -> Params:
    """Return the shapes of an adapter's parameters."""
    side = network.factor * 2 ** len(network.channels)
    picture = jax.ShapeDtypeStruct((1, side, side, network.in_channels), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), picture)["params"]
