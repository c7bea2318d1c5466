"""Pictures that steer a model: what is trained to read them, and samples that are shown one.

jaxdiff adapt --run BASE --kind controlnet --out edges.safetensors     by edges of the data
jaxdiff sample --run BASE --adapter edges.safetensors --control edges:photo.png
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.app import picture_prompt
from jaxdiff.app.models import Model
from jaxdiff.app.options import refuse
from jaxdiff.app.published import picture_shape
from jaxdiff.conditioning.guidance import Prompts
from jaxdiff.data.edges import edges
from jaxdiff.data.pictures import decode
from jaxdiff.data.tally import Tally
from jaxdiff.typing import Cond

CONTROLS = ("controlnet", "t2i", "ip")
WIDTHS = (16, 32, 96, 256)


def started(
    kind: str, model: Model, size: tuple[int, ...], out: str, seed: int, channels: int = 1
) -> Any:
    """Return a model's denoiser with a ControlNet or T2I-Adapter at the start of its training.

    size, channels: (height, width) of the pictures, and their channels. out: where it is to be
    saved. Raises ValueError for a network that cannot be steered, for pictures that are no multiple
    of the model's samples, and for a path that is not of the kind.
    """
    from jaxdiff.adapt import controlnet_of, steered, t2i_adapter_of
    from jaxdiff.adapt.steering_files import check_path

    factor = size[0] // model.shape[0]
    power = round(math.log2(factor)) if factor else -1
    if size != (factor * model.shape[0], factor * model.shape[1]) or 2**power != factor:
        raise ValueError(
            f"pictures of {size[0]}x{size[1]} are not the samples' {model.shape[0]}x"
            f"{model.shape[1]}, or twice, four times ... as high and wide"
        )
    if power >= len(WIDTHS):
        raise ValueError(f"pictures {factor} times as large as samples are too large: at most 8")
    D = model.denoiser
    try:
        if kind == "t2i":
            control = t2i_adapter_of(D, channels=channels, factor=factor, key=seed)
        else:
            control = controlnet_of(D, channels=channels, widths=WIDTHS[: power + 1], key=seed)
    except TypeError as error:
        raise ValueError(f"--kind {kind} is not for this model: {error}") from error
    check_path(control, out)
    return steered(D, control)


def shown(cond: Cond, picture: np.ndarray, key: str = "control") -> dict[str, Any]:
    """Return conditions with a picture (n, height, width, channels), or its features, beside
    them.
    """
    given: dict[str, Any] = dict(cond) if isinstance(cond, dict) else {"classes": cond}
    return {k: v for k, v in given.items() if v is not None} | {key: picture}


def steering(model: Model) -> dict[str, Any]:
    """Return the networks that steer a model, by the keys of cond of what they are shown."""
    from jaxdiff.denoisers import description
    from jaxdiff.networks import Controlled

    made = description(model.denoiser)
    module = getattr(made["network"], "module", None) if made else None
    inner = getattr(module, "unet", None)
    found = next((m for m in (module, inner) if isinstance(m, Controlled)), None)
    return {} if found is None else dict(zip(found.pictures, found.controls, strict=True))


def nulls_of(model: Model) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return what stands for no picture in guidance, one sample's, of IP-Adapters; and the keys of
    the pictures that the unconditional call is shown, too.
    """
    from jaxdiff.networks import IPAdapter

    every = steering(model)
    prompts = {k: n.image_width for k, n in every.items() if isinstance(n, IPAdapter)}
    none = {key: picture_prompt.nothing_shown(width) for key, width in prompts.items()}
    return none, tuple(key for key in every if key not in none)


def controlled(model: Model, cond: Cond, config: Any) -> Cond:
    """Return the conditions of samples with the picture that they are shown, ``config.control``:
    IMAGE, or edges:IMAGE for the edges of one.

    Raises ValueError for a picture, or features, that are not asked for, one that is missing, and
    one of another size; OSError for one that cannot be read.
    """
    networks = steering(model)
    if model.pairs:
        return _beside(model, cond, config)
    if not networks:
        refuse(config, "no --adapter is shown a picture", "control", "features")
        return cond
    if config.control is None:
        raise ValueError("the --adapter is shown a picture: give it by --control IMAGE")
    ((key, network),) = networks.items()
    if key == "image":
        size, channels = _picture(model)
        values = 2 * _read(config.control, size, channels) - 1
        picture = picture_prompt.read(network, values, config.features)
    else:
        refuse(config, "the picture itself is shown to the --adapter", "features")
        picture = _read(config.control, *_wanted(model))
    picture = np.repeat(picture, config.count, axis=0)
    if isinstance(cond, Prompts):
        away = np.zeros_like(picture) if key == "image" else picture
        return Prompts(shown(cond.positive, picture, key), shown(cond.negative, away, key))
    return shown(cond, picture, key)


def _beside(model: Model, cond: Cond, config: Any) -> Cond:
    """Return the conditions of samples of a run that was trained on pairs of pictures."""
    refuse(config, "the run itself is shown the picture", "features")
    if config.control is None:
        raise ValueError(f"{config.run} is shown a picture beside x: give it by --control IMAGE")
    height, width = model.shape[:2]
    picture = 2 * _read(config.control, (height, width), model.pairs) - 1
    return shown(cond, np.repeat(picture, config.count, axis=0), "beside")


def _picture(model: Model) -> tuple[tuple[int, int], int]:
    """Return the size and the channels of a model's pictures."""
    height, width, channels = picture_shape(model.source, model.shape)
    return (height, width), channels


def _wanted(model: Model) -> tuple[tuple[int, int], int]:
    """Return the size and the channels of the picture that a steered model is shown."""
    from jaxdiff.adapt import steering_of
    from jaxdiff.networks import ControlNet, T2IAdapter, UNetControl

    network = steering_of(model.denoiser).network
    height, width = model.shape[:2]
    if isinstance(network, ControlNet):
        *size, channels = network.control_shape(height, width)
        return (size[0], size[1]), channels
    if isinstance(network, UNetControl):
        return (height, width), network.control_channels
    assert isinstance(network, T2IAdapter)
    last = len(network.halved) - 1
    first = 0 if _attends_first(model) or last == 0 else 1
    factor = network.factor // 2**first
    return (factor * height, factor * width), network.in_channels


def _attends_first(model: Model) -> bool:
    """Return whether the U-Net's first stage attends: it adds an adapter's map, then halves."""
    from jaxdiff.pretrained.steering import unet_of

    unet: Any = unet_of(model.denoiser)[0]
    return unet.down[0] == "cross"


def _read(given: str, size: tuple[int, int], channels: int) -> np.ndarray:
    """Return a picture (1, height, width, channels) in [0, 1], float32, of what a viewer shows."""
    path = Path(given.removeprefix("edges:"))
    notes = Tally()
    wide = decode(path.read_bytes(), path.name, notes)
    if said := notes.lines():
        print(f"{path}: {', '.join(said)}", flush=True)
    wide = np.broadcast_to(wide, (*wide.shape[:2], 3))
    if wide.shape[:2] != size:
        raise ValueError(
            f"{path} is {wide.shape[0]}x{wide.shape[1]}, and the picture that this model is shown "
            f"must be {size[0]}x{size[1]}: resize it"
        )
    if given.startswith("edges:"):
        made = edges(wide[None])
        return np.repeat(made, channels, axis=-1)
    if channels not in (1, 3):
        raise ValueError(f"the model is shown pictures of {channels} channels, and {path} has 3")
    values = wide.astype(np.float32) / 255
    return values[None] if channels == 3 else values.mean(axis=-1, keepdims=True)[None]
