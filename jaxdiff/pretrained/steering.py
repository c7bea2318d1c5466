"""U-Nets steered by what is put beside them: a ControlNet, a T2I-Adapter, an IP-Adapter.

    model = with_controlnet(load_pretrained("stable-diffusion-v1-5"), controlnet)
    model = with_ip_adapter(model, ip_adapter, 0.6)
    model.denoiser(y, level, {"tokens": ..., "control": picture, "image": features})

What steers is a part of the network (:class:`jaxdiff.networks.controlled.Controlled`), with its
parameters beside the U-Net's own, so that samplers, guidance and methods need not know of it.
"""

import dataclasses
from typing import Any, TypeVar, cast

from jaxdiff.denoisers import denoiser as made_of
from jaxdiff.denoisers import description
from jaxdiff.networks import from_linen
from jaxdiff.networks.adapters import Linen
from jaxdiff.networks.conditions import KEYS
from jaxdiff.networks.controlled import Controlled
from jaxdiff.networks.controlnet import ControlNet
from jaxdiff.networks.ip_adapter import IPAdapter, check_adapter
from jaxdiff.networks.t2i_adapter import T2IAdapter
from jaxdiff.networks.text_to_image import TextToImage
from jaxdiff.networks.unet import UNet
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.networks.unet_control import UNetControl
from jaxdiff.pretrained.controls import Control
from jaxdiff.pretrained.model import Pretrained
from jaxdiff.typing import Denoiser, Params

Model = TypeVar("Model", Pretrained, Denoiser)


def with_controlnet(
    model: Model, control: Control, scale: float = 1.0, *, guess: bool = False, key: str = "control"
) -> Model:
    """Return a model, or a denoiser, of a U-Net that a ControlNet steers.

    Args:
        model: what :func:`load_pretrained` returns, or a denoiser made by :func:`denoiser`, of a
            ``UNet2DCondition`` or of one that is steered already; or of a small ``UNet``, whose
            cond is then {"classes": (batch,), "control": picture}.
        control: what :func:`load_controlnet` returns, or :func:`jaxdiff.adapt.controlnet_of`.
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
    if not isinstance(control.network, (ControlNet, UNetControl)):
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


def with_ip_adapter(
    model: Model, control: Control, scale: float = 1.0, *, key: str = "image"
) -> Model:
    """Return a model, or a denoiser, of a U-Net that is prompted with pictures by an IP-Adapter.

    Args:
        model: what :func:`load_pretrained` returns, or a denoiser, as for :func:`with_controlnet`.
        control: what :func:`load_ip_adapter` returns.
        scale: of the attention to pictures; with 0 the U-Net is as it was, bit for bit.
        key: of cond that the features of an image encoder are at
            (:class:`jaxdiff.networks.ip_adapter.IPAdapter`); without it the U-Net is as it was. For
            guidance, features of no picture are zeros: ``classifier_free(D, w, {"tokens": empty,
            "image": zeros})``; those of a resampler are the encoder's of a black picture.

    Returns:
        The prompted model or denoiser, of the kind that was given.

    Raises:
        TypeError: for another model or control.
        ValueError: for a key that is taken, and for an adapter of another U-Net.

    Source: Ye et al., IP-Adapter, arXiv 2308.06721.
    """
    if not isinstance(control.network, IPAdapter):
        raise TypeError(f"with_ip_adapter takes an IP-Adapter, not {control!r}")
    return _controlled(model, control, scale, False, key)


def _controlled(model: Any, control: Control, scale: float, guess: bool, key: str) -> Any:
    if isinstance(model, Pretrained):
        D = _controlled(model.denoiser, control, scale, guess, key)
        made = cast(dict[str, Any], description(D))
        cond = f"{model.cond or 'a dictionary'}, and may have {key}, a picture"
        return dataclasses.replace(
            model, denoiser=D, params=made["params"], network=made["network"].module, cond=cond
        )
    made, module = described(model)
    params, _ = made.pop("params"), made.pop("network")
    new = control.network, key, float(scale), guess
    steered, both = _steered(module, params, new, control.params)
    return made_of(from_linen(steered), both, sigma_min=model.args[3], **made)


def described(D: Denoiser) -> tuple[dict[str, Any], Any]:
    """Return what a denoiser was made of (:func:`jaxdiff.denoisers.description`), and its module.

    Args:
        D: of a ``UNet2DCondition`` or a small ``UNet``, steered or not, or of a ``TextToImage``.

    Returns:
        The parts by name, and the linen module.

    Raises:
        TypeError: for another denoiser.
    """
    made = description(D)
    module = made["network"].module if made and isinstance(made["network"], Linen) else None
    if made is None or not isinstance(module, (UNet2DCondition, UNet, Controlled, TextToImage)):
        raise TypeError(
            "only a denoiser of a UNet2DCondition (load_pretrained, or jaxdiff.denoiser with "
            "from_linen) or of a small UNet can be steered"
        )
    return made, module


def unet_of(D: Denoiser | Pretrained) -> tuple[UNet2DCondition | UNet, Params]:
    """Return the U-Net of a denoiser and its own parameters, without those of what is around it.

    Args:
        D: a denoiser as for :func:`described`, or a model of one.

    Returns:
        The linen module and its parameters.

    Raises:
        TypeError: for another denoiser.
    """
    made, module = described(D.denoiser if isinstance(D, Pretrained) else D)
    params = made["params"]
    if isinstance(module, TextToImage):
        module, params = module.unet, params["unet"]
    if isinstance(module, Controlled):
        module = module.unet
    return module, {k: v for k, v in params.items() if not k.startswith("controls_")}


def _steered(module: Any, params: Any, new: Any, own: Params) -> tuple[Any, Params]:
    """Return a module, steered by one network more, and its parameters."""
    if isinstance(module, TextToImage):
        unet, inner = _steered(module.unet, params["unet"], new, own)
        return module.clone(unet=unet), {**params, "unet": inner}
    every = [new]
    if isinstance(module, Controlled):
        old = zip(module.controls, module.pictures, module.scales, module.guess, strict=True)
        every, module = [*old, new], module.unet
    small, kind = isinstance(module, UNet), type(new[0]).__name__
    if small != isinstance(new[0], UNetControl):
        raise TypeError(f"a {kind} cannot steer a {type(module).__name__}")
    if isinstance(new[0], IPAdapter):
        check_adapter(module, new[0])
    pictures = [one[1] for one in every]
    taken = {*KEYS} - {"control", "image"} | {*(() if small else module.keys()[0])}
    if taken & {*pictures} or len({*pictures}) < len(pictures):
        raise ValueError(f"the key {new[1]!r} of cond is taken: choose another")
    return Controlled(module, *zip(*every, strict=True)), {
        **params, f"controls_{len(every) - 1}": own,
    }  # fmt: skip
