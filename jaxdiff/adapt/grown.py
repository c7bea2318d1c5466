r"""A trained U-Net with new inputs or layers of its own, which computes what it did before.

    wide = widened(D, 5)                # further channels of the first convolution, zero
    boxed = with_boxes(D)               # gated attention on boxes, its gates closed
    student = Student.of(boxed, optimiser=trainable(optax.adam(1e-4), BOXES))

What stands beside a U-Net is :mod:`jaxdiff.adapt.injection`'s.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.adapt.injection import as_key, copied, zeros
from jaxdiff.denoisers import denoiser
from jaxdiff.networks import UNet2DCondition, from_linen, init
from jaxdiff.networks.controlled import Controlled
from jaxdiff.networks.ip_adapter import cross_layers
from jaxdiff.networks.text_to_image import TextToImage
from jaxdiff.pretrained.diffusers import example
from jaxdiff.pretrained.steering import described
from jaxdiff.typing import Denoiser, Key, Params

BOXES = ("*/boxes/*", "*grounding/*")
"""Paths of the parameters of GLIGEN's gated layers."""
Change = Callable[[UNet2DCondition, Params], tuple[UNet2DCondition, Params]]


def with_boxes(D: Denoiser, *, key: Key | int = 0) -> jax.tree_util.Partial:
    """Return a denoiser whose U-Net attends to boxes, too (GLIGEN), by gates that are closed.

    Args:
        D: a denoiser of a ``UNet2DCondition`` with text.
        key: a key or a seed, of the new layers.

    Returns:
        The denoiser, which computes what D does until it is trained: ``Student.of(made,
        optimiser=trainable(optimiser, BOXES))``. Boxes are further entries of cond
        (:mod:`jaxdiff.networks.conditions`).

    Raises:
        TypeError: for another denoiser.
        ValueError: for one that has boxes, and for one without stages that attend to a text.

    Source: Li et al., GLIGEN, arXiv 2301.07093, section 4.
    """

    def change(unet: UNet2DCondition, params: Params) -> tuple[UNet2DCondition, Params]:
        if unet.boxes:
            raise ValueError("this U-Net attends to boxes already")
        if not cross_layers(unet):
            raise ValueError("no layer of this U-Net attends to a text: boxes have no place in it")
        grown = unet.clone(boxes=True)
        side = 2 ** (len(unet.channels) - 1)
        cond = zeros(example(grown))
        own = init(grown, as_key(key), (side, side, unet.in_channels), cond=cond)
        return grown, copied(params, own, copy=False)

    return _changed(D, change)


def widened(D: Denoiser, channels: int) -> jax.tree_util.Partial:
    """Return a denoiser whose U-Net is shown ``channels`` more of a picture, by weights of zero.

    For fine-tuning to inpainting (a mask and the masked image, 1 + 4 channels of latents) and to
    editing by instruction (the image, 4 channels).

    Args:
        D: a denoiser of a ``UNet2DCondition``. Other networks have
            :class:`jaxdiff.networks.Beside`.
        channels: that cond["beside"] has, (batch, height, width, channels).

    Returns:
        The denoiser, which computes what D does, to rounding, until it is trained: all of it, with
        any optimiser of ``Student.of``.

    Raises:
        TypeError: for another denoiser.
        ValueError: for a number of channels below 1.

    Source: Brooks et al., InstructPix2Pix, arXiv 2211.09800, section 3.2.
    """
    if channels < 1:
        raise ValueError(f"a picture beside x has at least one channel, not {channels}")

    def change(unet: UNet2DCondition, params: Params) -> tuple[UNet2DCondition, Params]:
        kernel = params["conv_in"]["kernel"]
        more = jnp.pad(kernel, ((0, 0), (0, 0), (0, channels), (0, 0)))
        first = {**params["conv_in"], "kernel": more}
        grown = unet.clone(in_channels=unet.in_channels + channels)
        return grown, {**params, "conv_in": first}

    return _changed(D, change)


def _changed(D: Denoiser, change: Change) -> jax.tree_util.Partial:
    """Return a denoiser with another U-Net in the place of its own."""
    made, module = described(D)
    params, _ = made.pop("params"), made.pop("network")
    module, params = _inside(module, params, change)
    sigma_min = D.args[3]  # type: ignore[attr-defined]
    return denoiser(from_linen(module), params, sigma_min=sigma_min, **made)


def _inside(module: Any, params: Params, change: Change) -> tuple[Any, Params]:
    if isinstance(module, TextToImage):
        unet, own = _inside(module.unet, params["unet"], change)
        return module.clone(unet=unet), {**params, "unet": own}
    if isinstance(module, Controlled):
        beside = {k: v for k, v in params.items() if k.startswith("controls_")}
        own = {k: v for k, v in params.items() if k not in beside}
        unet, own = _inside(module.unet, own, change)
        return module.clone(unet=unet), {**own, **beside}
    if not isinstance(module, UNet2DCondition):
        raise TypeError(f"this needs a UNet2DCondition; the denoiser has a {type(module).__name__}")
    return change(module, params)
