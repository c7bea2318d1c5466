"""Models saved: as a folder of diffusers where their network has a layout there, or as one file."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.denoisers import description
from jaxdiff.files import replacing, write_text
from jaxdiff.networks.unet2d import UNet2D
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.pretrained import unet2d
from jaxdiff.pretrained.condition_config import condition_config
from jaxdiff.pretrained.model import Autoencoder, Pretrained
from jaxdiff.pretrained.names import flat, published, unturned
from jaxdiff.pretrained.saved import FORMAT, PLAIN, grid_text, label_text
from jaxdiff.pretrained.unet_names import unet_pairs
from jaxdiff.process import Discrete, discrete_label

PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_KINDS = {
    "f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8",
    "u1": "U8", "b1": "BOOL",
}  # fmt: skip
WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_safetensors(model: Pretrained | Autoencoder, path: str | os.PathLike[str]) -> None:
    """Save a model's parameters in one file, by their paths here, with a card of what it is.

    The card is the header's metadata: what the model's fields say, as texts. ``load_pretrained``
    reads it back, if network, label and grid are the library's; parts of a pipeline are not saved.

    Args:
        model: a published model or autoencoder.
        path: of the folder or file.

    Returns:
        None, when the file is written.

    Raises:
        OSError: where the file cannot be written.
    """
    tensors = {"/".join(at): np.asarray(leaf) for at, leaf in flat(model.params).items()}
    write_tensors(path, tensors, card(model))


def card(model: Pretrained | Autoencoder) -> dict[str, str]:
    """Return what is known of a model, as texts."""
    network = model.network
    fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(network) if f.init}
    fields = {k: v for k, v in fields.items() if k not in ("parent", "name") and v is not None}
    made = {
        "format": FORMAT, "network": type(network).__name__,
        "fields": json.dumps(fields, default=_said), "model": repr(model),
    }  # fmt: skip
    made |= _of_denoiser(model) if isinstance(model, Pretrained) else _of_autoencoder(model)
    return made | {f"{PLAIN}{k}": _text(v) for k, v in model.metadata.items()}


def _of_autoencoder(model: Autoencoder) -> dict[str, str]:
    """Return what makes latents of a network's z, as texts."""
    rows = {k: np.asarray(getattr(model, k), np.float64).tolist() for k in ("scale", "shift")}
    plain = {"factor": model.factor, "channels": model.channels, "random": model.random}
    return {k: json.dumps(v) for k, v in (rows | plain).items()}


def _of_denoiser(model: Pretrained) -> dict[str, str]:
    """Return what makes a denoiser of a network, as texts."""
    D: Any = model.denoiser
    process: Any = model.process
    known = description(D) or {}
    dtype = known.get("compute_dtype")
    numbers = {
        f.name: np.asarray(getattr(process, f.name), np.float64).tolist()
        for f in dataclasses.fields(process)
    }
    return {
        "shape": json.dumps(list(model.shape)), "prediction": model.prediction,
        "process": type(process).__name__, "process_numbers": json.dumps(numbers),
        "label": label_text(known["label"], process) if known else "other",
        "sigma_data": repr(float(known.get("sigma_data", 0.5))),
        "sigma_min": repr(float(D.args[-1]) if known else 0.0), "grid": grid_text(model.grid),
        "compute_dtype": "" if dtype is None else jnp.dtype(dtype).name,
        "classes": str(model.classes), "cond": model.cond,
    }  # fmt: skip


def save_diffusers(model: Pretrained, folder: str | os.PathLike[str]) -> None:
    """Save a model as a pipeline's folder that diffusers and :func:`load_pretrained` read.

    It holds the network (``unet``, a ``UNet2D`` or ``UNet2DCondition``), its process and prediction
    (``scheduler``, a table of betas) and the index of both, and no text encoder or autoencoder. The
    folder may be there; files of these names in it are replaced.

    Args:
        model: a published model.
        folder: made if need be.

    Returns:
        None, when the folder is written.

    Raises:
        ValueError: for a network, a process, a prediction or a label that has no place there, said
            by name before anything is written.
        OSError: where the folder cannot be written.
    """
    network = model.network
    if not isinstance(network, (UNet2D, UNet2DCondition)):
        raise ValueError(
            f"a {type(network).__name__} has no layout in diffusers that is written; a UNet2D and "
            "a UNet2DCondition have. save_safetensors saves any model"
        )
    plain = isinstance(network, UNet2D)
    config = (
        unet2d_config(network, model.shape) if plain else condition_config(network, model.shape)
    )
    scheduler = scheduler_config(model)
    pairs = unet_pairs(len(network.channels), learned=plain and network.time == "learned")
    named = published(model.params, pairs)
    tensors = {name: _published(name, unturned(at, leaf)) for name, (at, leaf) in named.items()}
    index = {
        "_class_name": "DDPMPipeline" if plain else "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", config["_class_name"]],
    }  # fmt: skip
    folder = Path(folder)
    for part in ("unet", "scheduler"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "unet" / WEIGHTS, tensors, {"format": "pt"})
    for path, said in (
        (folder / "unet" / "config.json", config),
        (folder / "scheduler" / "scheduler_config.json", scheduler),
        (folder / "model_index.json", index),
    ):
        write_text(path, json.dumps(said, indent=2) + "\n")


def unet2d_config(network: UNet2D, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the configuration of which :func:`jaxdiff.pretrained.unet2d.unet2d` makes a network.

    Raises ValueError for a network that no configuration describes.
    """
    down = {kind: name for name, kind in reversed(unet2d.DOWN.items())}
    up = {kind: name for name, kind in reversed(unet2d.UP.items())}
    classes = {"waves": "timestep", "vector": "identity"}
    resnet = {"conv": "conv", "block": "resnet"}
    config = {
        "_class_name": "UNet2DModel",
        "sample_size": shape[0] if shape[0] == shape[1] else list(shape[:2]),
        "in_channels": shape[2], "out_channels": network.out_channels,
        "center_input_sample": network.centred, "time_embedding_type": network.time,
        "time_embedding_dim": network.time_width or None, "freq_shift": network.freq_shift,
        "flip_sin_to_cos": network.flip,
        "down_block_types": [down[kind] for kind in network.down],
        "mid_block_type": "UNetMidBlock2D" if network.middle else None,
        "up_block_types": [up[kind] for kind in reversed(network.up)],
        "block_out_channels": list(network.channels), "layers_per_block": network.blocks,
        "mid_block_scale_factor": network.middle_scale, "downsample_padding": network.padding,
        "downsample_type": resnet[network.halve], "upsample_type": resnet[network.double],
        "dropout": network.dropout, "act_fn": network.activation,
        "attention_head_dim": network.head_width or None, "norm_num_groups": network.groups,
        "attn_norm_num_groups": max(network.middle_groups, 0) or None, "norm_eps": network.eps,
        "resnet_time_scale_shift": "default" if network.modulation == "shift" else "scale_shift",
        "add_attention": network.middle_attention,
        "class_embed_type": classes.get(network.classes),
        "num_class_embeds": network.num_classes or None,
        "num_train_timesteps": network.num_steps or None,
    }  # fmt: skip
    same = ("dtype", "param_dtype", "remat", "attention_fn", "parent", "name")
    read = unet2d.unet2d(config)
    other = [
        f.name
        for f in dataclasses.fields(network)
        if f.name not in same and getattr(read, f.name) != getattr(network, f.name)
    ]
    if other:
        raise ValueError(
            f"no UNet2DModel has {other[0]} = {getattr(network, other[0])!r} beside its other "
            "fields"
        )
    return config


def scheduler_config(model: Pretrained) -> dict[str, Any]:
    """Return the configuration of a DDPMScheduler of a model's process and prediction.

    Raises ValueError, by name, for another process than a table of betas, a prediction that there
    is no word for, and a network that is conditioned on anything but the step of the table.
    """
    process: Any = model.process
    if not isinstance(process, Discrete):
        raise ValueError(
            f"a {type(process).__name__} process is no table of betas, which a scheduler here is"
        )
    if model.prediction not in PREDICTIONS:
        raise ValueError(
            f"prediction {model.prediction!r} has no name in a scheduler; these have: "
            f"{', '.join(PREDICTIONS)}"
        )
    alphas = np.exp(2 * np.asarray(process.log_alphas, np.float64))
    made = description(model.denoiser)
    if made is None or made["label"] is not discrete_label(len(alphas)):
        raise ValueError("the network is not conditioned on the step of the process's table")
    betas = 1 - alphas / np.concatenate([[1.0], alphas[:-1]])
    return {
        "_class_name": "DDPMScheduler", "num_train_timesteps": len(betas),
        "trained_betas": betas.tolist(), "prediction_type": PREDICTIONS[model.prediction],
        "clip_sample": False, "variance_type": "fixed_small",
    }  # fmt: skip


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a file of safetensors, whole or not at all: the length of a header, the header (names,
    dtypes, shapes, places), and the numbers.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for name, value in tensors.items():
        end = place + value.nbytes
        kind = "BF16" if value.dtype == jnp.bfloat16 else _KINDS[value.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in tensors.values():
            file.write(np.ascontiguousarray(value).tobytes())


def _published(name: str, value: np.ndarray) -> np.ndarray:
    """Return a linear kernel that is published as a convolution of size 1 as one."""
    pointwise = name.endswith(("conv_shortcut.weight", "skip_conv.weight")) and value.ndim == 2
    return value[:, :, None, None] if pointwise else value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=_said)


def _said(value: Any) -> str:
    return getattr(value, "__name__", None) or str(value)
