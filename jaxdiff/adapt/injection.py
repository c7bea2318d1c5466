r"""New kinds of conditions for a trained U-Net: what steers it, as it is at the start of training.

    control = controlnet_of(D, widths=(16,))            # a copy of the way down, behind zeros
    steered = with_controlnet(D, control)               # computes what D does, bit for bit
    student = Student.of(steered, optimiser=trainable(optax.adam(1e-4), STEERING))
    state = jd.fit(score_matching(student), data, ...)  # batch["label"] = {..., "control": picture}
    save_controlnet(steering_of(trained(student, state)), "runs/controlnet")

A ControlNet, a T2I-Adapter and an IP-Adapter stand beside the U-Net, whose parameters stay where
they are; GLIGEN's gated layers and wider inputs are the U-Net's own. Of several conditions each may
have its own network (``with_controlnet`` again, under another key), or one network sees all of them
as the channels of one picture, as in Uni-ControlNet's local adapter (2305.16322).
"""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import quick
from jaxdiff.networks import ControlNet, IPAdapter, T2IAdapter, UNet, UNet2DCondition, init
from jaxdiff.networks.conditional_encoder import ConditionalEncoder
from jaxdiff.networks.controlled import Controlled
from jaxdiff.networks.ip_adapter import adapter_for, cross_layers
from jaxdiff.networks.text_to_image import TextToImage
from jaxdiff.networks.unet_control import UNetControl
from jaxdiff.pretrained.controls import Control
from jaxdiff.pretrained.diffusers import example
from jaxdiff.pretrained.lora import tree
from jaxdiff.pretrained.model import Pretrained
from jaxdiff.pretrained.names import flat
from jaxdiff.pretrained.steering import described, unet_of
from jaxdiff.typing import Array, Denoiser, Key, Params

STEERING = "*controls_*"
"""Paths of the parameters of what stands beside a U-Net."""


def controlnet_of(
    D: Denoiser | Pretrained,
    *,
    channels: int = 3,
    widths: tuple[int, ...] = (16, 32, 96, 256),
    key: Key | int = 0,
) -> Control:
    """Return a ControlNet of a U-Net at the start of its training.

    Its way down and its bottom are copies of the U-Net's; the convolutions around them are zero, so
    that the steered U-Net is as it was, bit for bit.

    Args:
        D: a denoiser of a ``UNet2DCondition``, or a model of one; or of a small ``UNet``.
        channels: of the picture; of several conditions for one network, of all together.
        widths: of the convolutions that see the picture, which they halve between any two: the
            picture is 2^(len(widths) - 1) times as high and wide as x. The default is that of
            Stable Diffusion, whose x are latents; ``(16,)`` is for a picture of x's own size, the
            only one that a small U-Net's may have.
        key: a key or a seed, of the convolutions that are no copies.

    Returns:
        The ControlNet, for :func:`jaxdiff.pretrained.with_controlnet`.

    Raises:
        TypeError: for another denoiser.
        ValueError: for widths that there are none of.

    Source: Zhang et al., arXiv 2302.05543, section 3.
    """
    unet, params = unet_of(D)
    if isinstance(unet, UNet):
        return _small_controlnet(unet, params, channels, widths, key)
    if not widths or min(*widths, channels, channels) < 1:
        raise ValueError(f"channels and widths must be positive; got {channels} and {widths}")
    names = [f.name for f in dataclasses.fields(ConditionalEncoder)]
    same = {name: getattr(unet, name) for name in names if name not in ("parent", "name", "boxes")}
    network = ControlNet(**same, control_channels=channels, control_widths=tuple(widths))
    side = 2 ** (len(unet.channels) - 1)
    shape = side, side, network.in_channels
    own = init(network, as_key(key), shape, cond=zeros(example(network)))
    return Control(copied(params, own), network, {"name": "ControlNetModel"})


def t2i_adapter_of(
    D: Denoiser | Pretrained,
    *,
    channels: int = 3,
    factor: int = 8,
    blocks: int = 2,
    key: Key | int = 0,
) -> Control:
    """Return a T2I-Adapter of a U-Net at the start of its training, which is random.

    Args:
        D: a denoiser of a ``UNet2DCondition``, or a model of one.
        channels: of the picture.
        factor: how many times as high and wide as x the picture is; 8 for latents.
        blocks: of each stage.
        key: a key or a seed.

    Returns:
        The adapter, for :func:`jaxdiff.pretrained.with_t2i_adapter`.

    Raises:
        TypeError: for another denoiser.
        ValueError: for a U-Net with neighbouring stages whose maps differ by more than one halving.

    Source: Mou et al., arXiv 2302.08453, section 3.2.
    """
    unet, _ = with_text(D)
    last = len(unet.channels) - 1
    # a stage that attends adds its map before it halves, another after
    halvings = [i if kind == "cross" or i == last else i + 1 for i, kind in enumerate(unet.down)]
    steps = [b - a for a, b in zip(halvings, halvings[1:], strict=False)]
    if steps and not {*steps} <= {0, 1}:
        raise ValueError(f"stages {unet.down} halve by {steps}: an adapter halves once or not")
    network = T2IAdapter(
        tuple(unet.channels), channels, blocks, factor * 2 ** halvings[0],
        (False, *(bool(n) for n in steps)),
    )  # fmt: skip
    side = network.factor * 2 ** len(network.channels)
    picture = jnp.zeros((1, side, side, channels), jnp.float32)
    return Control(drawn(network, key, picture), network, {"name": "T2IAdapter"})


def ip_adapter_of(
    D: Denoiser | Pretrained,
    image_width: int,
    *,
    count: int = 4,
    depth: int = 0,
    heads: int = 12,
    width: int | None = None,
    key: Key | int = 0,
) -> Control:
    """Return an IP-Adapter of a U-Net at the start of its training: its keys and values are copies
    of those for the text, the image's projection is random.

    Args:
        D: a denoiser of a ``UNet2DCondition`` with text, or a model of one.
        image_width: of the features of the image encoder, which may be any function.
        count: tokens of a picture; published are 4, and 16 with a resampler.
        depth: blocks of the resampler, 0 for one linear map; 4 is published ("plus").
        heads: of the resampler, of 64 channels.
        width: of the resampler, that of the tokens if None.
        key: a key or a seed.

    Returns:
        The adapter, for :func:`jaxdiff.pretrained.with_ip_adapter`.

    Raises:
        TypeError: for another denoiser.
        ValueError: for a U-Net without layers that attend to a text.

    Source: Ye et al., arXiv 2308.06721, section 3.2.
    """
    unet, params = with_text(D)
    network: IPAdapter = adapter_for(
        unet, image_width=image_width, count=count, depth=depth, heads=heads,
        width=width or unet.token_width,
    )  # fmt: skip
    features = jnp.zeros((1, 1, image_width) if depth else (1, image_width), jnp.float32)
    own, leaves = flat(drawn(network, key, features)), flat(params)
    for i, (path, _) in enumerate(cross_layers(unet)):
        for n in ("k", "v"):
            there = leaves[(*path.split("/"), n, "kernel")]
            own[(f"layer_{i}_{n}", "kernel")] = jnp.array(there, copy=True)
    return Control(tree(own), network, {"name": "IPAdapter"})


def with_text(D: Denoiser | Pretrained) -> tuple[UNet2DCondition, Params]:
    """Return the U-Net of a denoiser and its parameters. TypeError for any but a
    ``UNet2DCondition``.
    """
    unet, params = unet_of(D)
    if not isinstance(unet, UNet2DCondition):
        raise TypeError(f"this needs a UNet2DCondition; the denoiser has a {type(unet).__name__}")
    return unet, params


def _small_controlnet(
    unet: UNet, params: Params, channels: int, widths: tuple[int, ...], key: Key | int
) -> Control:
    if len(widths) != 1 or min(*widths, channels) < 1:
        raise ValueError(
            f"the picture of a small U-Net's ControlNet has the size of x: widths is (16,) or "
            f"another number alone, and channels positive; got {widths} and {channels}"
        )
    same = {f.name: getattr(unet, f.name) for f in dataclasses.fields(UNet)}
    same = {name: value for name, value in same.items() if name not in ("parent", "name")}
    network = UNetControl(**same, control_channels=channels, control_width=widths[0])
    shape = _shape_of(unet, params)
    cond = {"control": jnp.zeros((1, *shape[:-1], channels), jnp.float32)}
    own = init(network, as_key(key), shape, cond=cond)
    return Control(copied(params, own), network, {"name": "UNetControl"})


def _shape_of(unet: UNet, params: Params) -> tuple[int, ...]:
    """Return a shape of samples for which a U-Net has these parameters: the levels that get
    attention depend on the size. ValueError where there is none.
    """
    *size, channels, _ = params["Conv_0"]["kernel"].shape
    wanted = jax.tree.map(jnp.shape, params)
    halvings = range(len(unet.multipliers))
    sides = {a * 2**i for a in unet.attention for i in halvings} or {2 ** halvings[-1]}
    for side in sorted(sides):
        shape = (*(side,) * len(size), channels)
        with contextlib.suppress(ValueError):  # of another level
            made = jax.eval_shape(lambda s=shape: init(unet, jax.random.key(0), s))
            if jax.tree.map(jnp.shape, made) == wanted:
                return shape
    raise ValueError("the parameters are not those of this U-Net")


def steering_of(D: Denoiser, number: int = -1) -> Control:
    """Return what steers a denoiser, to be saved or put beside another model of the same base.

    Args:
        D: of a U-Net that is steered.
        number: which one of several; the last by default.

    Returns:
        The network and its parameters.

    Raises:
        TypeError: for another denoiser.
        ValueError: for one that nothing steers.
        IndexError: for a number that there is not.

    Example: ``save_controlnet(steering_of(D), folder)``.
    """
    made, module = described(D)
    params = made["params"]
    if isinstance(module, TextToImage):
        module, params = module.unet, params["unet"]
    if not isinstance(module, Controlled):
        raise ValueError("nothing steers this denoiser: with_controlnet and its like make one")
    count = len(module.controls)
    if not -count <= number < count:
        raise IndexError(f"{count} networks steer this denoiser; there is no number {number}")
    number %= count
    return Control(params[f"controls_{number}"], module.controls[number])


def copied(params: Params, onto: Params, *, copy: bool = True) -> Params:
    """Return ``onto`` with the parameters that both have, copies of their own by default: training
    gives up the memory of what it has replaced.
    """
    own = flat(params)
    made = {path: own.get(path, leaf) for path, leaf in flat(onto).items()}
    return tree({path: jnp.array(leaf, copy=copy) for path, leaf in made.items()})


def drawn(module: Any, key: Key | int, x: Array) -> Params:
    """Return a module's parameters at their start, drawn in one compiled call."""
    key = as_key(key)
    return jax.jit(lambda key: module.init(key, x)["params"], compiler_options=quick(key))(key)


def as_key(key: Key | int) -> Key:
    """Return the key of a seed, or the key."""
    return jax.random.key(key) if isinstance(key, int) else key


def zeros(shapes: Any) -> Any:
    """Return arrays of zeros of these shapes."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
