"""Readers of diffusers' ``ControlNetModel`` and ``T2IAdapter`` folders, and U-Nets steered by them.

controlnet = load_controlnet("sd-controlnet-canny")
model = with_controlnet(load_pretrained("stable-diffusion-v1-5"), controlnet)
model.denoiser(y, level, {"tokens": ..., "control": picture})
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

from jaxdiff.denoisers import denoiser as made_of
from jaxdiff.denoisers import description
from jaxdiff.networks import from_linen
from jaxdiff.networks.adapters import Linen
from jaxdiff.networks.conditional_encoder import ConditionalEncoder
from jaxdiff.networks.conditions import KEYS
from jaxdiff.networks.controlled import Controlled
from jaxdiff.networks.controlnet import ControlNet
from jaxdiff.networks.t2i_adapter import T2IAdapter
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.pretrained import unet2d_condition
from jaxdiff.pretrained.diffusers import filled, unet_shapes
from jaxdiff.pretrained.fields import Fields
from jaxdiff.pretrained.layout import Layout
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.pretrained.names import Pair, rules
from jaxdiff.pretrained.unet_names import unet_pairs
from jaxdiff.typing import Denoiser, Params

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
        network: the linen module, a ``ControlNet`` or a ``T2IAdapter``.
        metadata: what else is known: name, configuration.
    """

    params: Params
    network: ControlNet | T2IAdapter
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        """Say in one line what it is."""
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return f"Control({type(self.network).__name__}; {count} parameters)"


Model = TypeVar("Model", Pretrained, Denoiser)


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
    stack = [
        (f"controlnet_cond_embedding.blocks.{2 * i + odd}", f"control_{'halve_' * odd}{i}")
        for i in range(len(network.control_widths) - 1)
        for odd in (0, 1)
    ]
    return Layout(rules([*STACK, *stack, *unet_pairs(len(network.channels))]))


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


def with_controlnet(
    model: Model, control: Control, scale: float = 1.0, *, guess: bool = False, key: str = "control"
) -> Model:
    """Return a model, or a denoiser, of a U-Net that a ControlNet steers.

    Args:
        model: what :func:`load_pretrained` returns, or a denoiser made by :func:`denoiser`, of a
            ``UNet2DCondition`` or of one that is steered already.
        control: what :func:`load_controlnet` returns.
        scale: of the residuals.
        guess: residuals weigh from scale / 10 at the finest map to scale at the bottom (not where
            they are pooled). With guidance the unconditional half then sees no picture:
            ``classifier_free(D, w, {"tokens": empty, "control": None})``; otherwise it sees its
            sample's own: ``classifier_free(D, w, {"tokens": empty}, keep=("control",))``.
        key: of cond that the picture is at, (batch, height, width, channels) in [0, 1]; without it
            the U-Net is as it was.

    Returns:
        The steered model or denoiser, of the kind that was given.

    Raises TypeError for another model or control, ValueError for a key that is taken.

    Source: Zhang et al., Adding Conditional Control to Text-to-Image Diffusion Models, arXiv
    2302.05543.
    """
    if not isinstance(control.network, ControlNet):
        raise TypeError(f"with_controlnet takes a ControlNet, not {control!r}")
    return _controlled(model, control, scale, guess, key)


def with_t2i_adapter(
    model: Model, control: Control, scale: float = 1.0, *, key: str = "control"
) -> Model:
    """Return a model, or a denoiser, of a U-Net that a T2I-Adapter steers.

    Arguments and errors as :func:`with_controlnet`'s. The adapter's maps do not depend on x or the
    level; where they are to be made once, and not at every evaluation, make them of its network and
    bind them: ``conditioned(D, adapter=maps)``.

    Args:
        model: what :func:`load_pretrained` returns, or a denoiser, as for :func:`with_controlnet`.
        control: what :func:`load_t2i_adapter` returns.
        scale: of the adapter's maps.
        key: of cond that the picture is at, (batch, height, width, channels) in [0, 1].

    Returns:
        The steered model or denoiser, of the kind that was given.

    Raises:
        TypeError: for another model or control.
        ValueError: for a key that is taken.

    Source: Mou et al., T2I-Adapter, arXiv 2302.08453.
    """
    if not isinstance(control.network, T2IAdapter):
        raise TypeError(f"with_t2i_adapter takes a T2I-Adapter, not {control!r}")
    return _controlled(model, control, scale, False, key)


def _controlled(model: Any, control: Control, scale: float, guess: bool, key: str) -> Any:
    if isinstance(model, Pretrained):
        D = _controlled(model.denoiser, control, scale, guess, key)
        made = cast(dict[str, Any], description(D))
        cond = f"{model.cond or 'a dictionary'}, and may have {key}, a picture"
        return dataclasses.replace(
            model, denoiser=D, params=made["params"], network=made["network"].module, cond=cond
        )
    made = description(model)
    module = made["network"].module if made and isinstance(made["network"], Linen) else None
    if made is None or not isinstance(module, (UNet2DCondition, Controlled)):
        raise TypeError(
            "only a denoiser of a UNet2DCondition (load_pretrained, or jaxdiff.denoiser with "
            "from_linen) can be steered"
        )
    params, _ = made.pop("params"), made.pop("network")
    new = [(control.network, key, float(scale), guess)]
    if isinstance(module, Controlled):
        old = zip(module.controls, module.pictures, module.scales, module.guess, strict=True)
        new, module = [*old, *new], module.unet
    pictures = [one[1] for one in new]
    if {*pictures} & ({*KEYS} - {"control"}) or len({*pictures}) < len(pictures):
        raise ValueError(f"the key {key!r} of cond is taken: choose another")
    network = from_linen(Controlled(module, *zip(*new, strict=True)))
    both = {**params, f"controls_{len(new) - 1}": control.params}
    return made_of(network, both, sigma_min=model.args[3], **made)
