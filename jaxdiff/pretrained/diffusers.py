"""Readers of diffusers' folders with one network in them: U-Nets and autoencoders.

A U-Net alone does not say what it predicts of which process: that stands in the scheduler of the
pipeline that it comes from. Alone, it is taken for DDPM's: noise, 1000 steps of betas that rise
linearly from 0.0001 to 0.02; the metadata says that this was assumed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.denoisers import denoiser
from jaxdiff.files import read_json
from jaxdiff.grids import of_timesteps, timesteps
from jaxdiff.networks import from_linen
from jaxdiff.networks.controlnet import ControlNet
from jaxdiff.networks.unet2d import UNet2D
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.pretrained import unet2d, unet2d_condition
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.pretrained.schedulers import read_scheduler
from jaxdiff.process import EDM, Discrete, discrete_label, linear_betas
from jaxdiff.typing import Params

COUNT = 1000
ASSUMED = "DDPM's noise prediction and linear betas, for want of a scheduler"


def read_unet(source: Source) -> Pretrained | None:
    """Return the model of a U-Net's folder, None for others.

    A folder beside that of a scheduler, as in a pipeline, has what that says.
    """
    kind = source.config.get("_class_name")
    if kind not in ("UNet2DModel", "UNet2DConditionModel") or not source.tensors:
        return None
    network, params = unet(source)
    shape = sample_shape(source.config, network)
    if network.out_channels != shape[-1]:
        raise ValueError(
            f"{source.path}: a network of {network.out_channels} outputs for {shape[-1]} channels "
            "predicts variances too, or a part of its input; such models are not supported"
        )
    beside = source.path.parent / "scheduler" / "scheduler_config.json"
    config = read_json(beside) if beside.exists() else {}
    convention = _score(network, config) or (_by_scheduler if config else _assumed)(config)
    grid, metadata = convention.pop("grid"), convention.pop("metadata")
    D = denoiser(from_linen(network), params, **convention)
    classes = network.num_classes if network.classes == "index" else 0
    return Pretrained(
        D, params, network, shape, convention["prediction"], convention["process"], grid, classes,
        said(network), {"name": kind, "config": dict(source.config), **metadata},
    )  # fmt: skip


def _assumed(config: Any) -> dict[str, Any]:
    """Return what is taken for granted of a network without a scheduler."""
    process = Discrete.from_betas(linear_betas(COUNT))
    return {
        "process": process, "prediction": "eps", "label": discrete_label(COUNT),
        "grid": natural_grid(process), "metadata": {"assumed": ASSUMED},
    }  # fmt: skip


def _by_scheduler(config: Any) -> dict[str, Any]:
    """Return what a scheduler says."""
    scheduler = read_scheduler(config)
    return {
        "process": scheduler.process, "prediction": scheduler.prediction,
        "label": scheduler.label, "sigma_data": scheduler.sigma_data,
        "sigma_min": scheduler.sigma_min, "grid": scheduler.grid,
        "metadata": {"scheduler": scheduler},
    }  # fmt: skip


def _score(network: Any, config: Any) -> dict[str, Any] | None:
    """Return the convention of a network that is conditioned on the level: the score of a
    variance-exploding process (2011.13456); None for others.
    """
    if network.time != "fourier":
        return None
    kind = config.get("_class_name", "ScoreSdeVeScheduler")
    if kind != "ScoreSdeVeScheduler" or not isinstance(network, UNet2D):
        raise ValueError(
            f"a network that is conditioned on the level itself, with a {kind}, is not supported"
        )
    ends = config.get("sigma_max", 1348.0), config.get("sigma_min", 0.01)

    def grid(num_steps: int) -> np.ndarray:
        return np.append(np.geomspace(*ends, num_steps), 0.0)

    return {
        "process": EDM(), "prediction": "score", "grid": grid,
        "metadata": {"scheduler": dict(config) or f"assumed: {kind}", "data": "values from 0 to 1"},
    }  # fmt: skip


def unet(source: Source) -> tuple[UNet2D | UNet2DCondition, Params]:
    """Return the network of a U-Net's folder, and its parameters, whatever it predicts.

    Raises ValueError, naming fields and tensors, for what is not supported or does not fit.
    """
    if source.config.get("_class_name") == "UNet2DModel":
        network = unet2d.unet2d(source.config)
        layout = unet2d.layout(network)
    else:
        network = unet2d_condition.unet2d_condition(source.config)
        layout = unet2d_condition.layout(network)
    channels = source.config.get("in_channels", 3 if isinstance(network, UNet2D) else 4)
    if type(channels) is not int or not 0 < channels < 2**20:
        raise ValueError(f"in_channels must be a positive whole number; it is {channels!r:.100}")
    shapes = unet_shapes(network, channels)
    return network, filled(source, shapes, layout)


def unet_shapes(network: UNet2D | UNet2DCondition | ControlNet, channels: int) -> Params:
    """Return the shapes of the parameters of a U-Net, or of the ControlNet of one, for images of so
    many channels.
    """
    side = 2 ** (len(network.channels) - 1)
    x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), x, label, example(network))["params"]


def filled(source: Source, shapes: Params, layout: Layout) -> Params:
    """Return the parameters of these shapes, of a source's tensors."""
    return fill(shapes, source.tensors, layout, dtype=source.dtype, put=source.put)


def example(network: UNet2D | UNet2DCondition | ControlNet) -> Any:
    """Return the shapes of a condition, for one sample of the least size; None for a network
    without.
    """
    number = jax.ShapeDtypeStruct((1,), jnp.float32)
    row = lambda width: jax.ShapeDtypeStruct((1, width), jnp.float32)  # noqa: E731
    index = jax.ShapeDtypeStruct((1,), jnp.int32)
    width = network.time_width or network.channels[0] * 4
    if isinstance(network, UNet2D):
        return {"": None, "index": index, "waves": number, "vector": row(width)}[network.classes]
    tokens = jax.ShapeDtypeStruct((1, 2, network.text_width or network.token_width), jnp.float32)
    classes = {"index": index, "waves": number, "vector": row(width)}
    all_of = {
        "tokens": tokens, "pooled": row(max(1, network.added_width - network.size_waves)),
        "time_ids": row(1), "classes": classes.get(network.classes, row(network.class_width)),
        "image": row(network.image_width or network.token_width),
    }  # fmt: skip
    if network.added == "text_image":
        all_of["pooled"] = row(network.token_width)
    if isinstance(network, ControlNet):
        side = 2 ** (len(network.channels) - 1)
        shown = (1, *network.control_shape(side, side))
        all_of["control"] = jax.ShapeDtypeStruct(shown, jnp.float32)
    if network.boxes:
        all_of["boxes"] = jax.ShapeDtypeStruct((1, 1, 4), jnp.float32)
        all_of["box_tokens"] = jax.ShapeDtypeStruct((1, 1, network.token_width), jnp.float32)
    grounded = ("boxes", "box_tokens") if network.boxes else ()
    return {key: all_of[key] for key in (*network.keys(network.in_channels)[0], *grounded)}


def sample_shape(config: Any, network: UNet2D | UNet2DCondition) -> tuple[int, int, int]:
    """Return (height, width, channels) of a sample. ValueError where the size is not said."""
    size = config.get("sample_size")
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
        raise ValueError(f"the configuration's sample_size must be a size in pixels; it is {size}")
    default = 3 if isinstance(network, UNet2D) else 4
    channels = config.get("in_channels", default)
    return sides[0], sides[1], min(channels, network.out_channels)


def natural_grid(process: Discrete) -> Callable[[int], np.ndarray]:
    """Return ``grid(num_steps)``: the levels of equally spaced timesteps, down to 0."""
    count = process.log_alphas.shape[0]

    def grid(num_steps: int) -> np.ndarray:
        spacing = "trailing" if num_steps == 1 else "leading"
        return of_timesteps(process, timesteps(num_steps, spacing, num_timesteps=count))

    return grid


def said(network: UNet2D | UNet2DCondition) -> str:
    """Return what a network's ``cond`` is, in words."""
    if isinstance(network, UNet2D):
        return {
            "": "", "index": "class indices (batch,)", "waves": "numbers (batch,)",
            "vector": f"vectors (batch, {network.time_width or network.channels[0] * 4})",
        }[network.classes]  # fmt: skip
    needed, possible = network.keys()
    if not needed:
        return ""
    more = f", and may have {', '.join(possible)}" if possible else ""
    return f"a dictionary with {', '.join(needed)}{more}"
