"""Files of what steers a U-Net, in the layout of its publishers, put beside a model by their path.

ControlNet, T2I-Adapter      a folder of diffusers: config.json and the weights
IP-Adapter                   one file, image_proj.* and ip_adapter.*
ControlNet of a small U-Net  one file, by our own paths, its fields in the header
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks import ControlNet, T2IAdapter, UNetControl
from jaxdiff.networks.ip_adapter import IPAdapter
from jaxdiff.pretrained.controls import Control
from jaxdiff.pretrained.ip_adapter import load_ip_adapter, save_ip_adapter
from jaxdiff.pretrained.lora import tree
from jaxdiff.pretrained.names import flat
from jaxdiff.pretrained.opening_parts import load_controlnet, load_t2i_adapter
from jaxdiff.pretrained.saving import write_tensors
from jaxdiff.pretrained.saving_controls import save_controlnet, save_t2i_adapter
from jaxdiff.pretrained.steering import with_controlnet, with_ip_adapter, with_t2i_adapter
from jaxdiff.pretrained.tensors import open_tensors
from jaxdiff.typing import Denoiser

FORMAT = "jaxdiff control"
OURS = ("dtype", "param_dtype", "attention_fn", "features", "parent", "name")


def save_steering(control: Control, path: str | os.PathLike[str]) -> None:
    """Save what steers a U-Net alone, in the layout of its kind.

    Args:
        control: as :func:`jaxdiff.adapt.steering_of` returns it.
        path: of a folder for a ControlNet or T2I-Adapter, of a ``.safetensors`` file for others.

    Returns:
        None, when all is written.

    Raises:
        ValueError: for a path that is not of the kind, and as the kind's own function does, before
            anything is written.
        OSError: where it cannot be written.
    """
    check_path(control, path)
    match network := control.network:
        case ControlNet():
            save_controlnet(control, path)
        case T2IAdapter():
            save_t2i_adapter(control, path)
        case IPAdapter():
            save_ip_adapter(control, path)
        case _:
            _save_small(control, network, path)


def check_path(control: Control, path: str | os.PathLike[str]) -> None:
    """Raise ValueError for a path that is not of the kind that a network is saved as.

    Args:
        control: that is to be saved.
        path: where.
    """
    network, file = control.network, str(path).endswith(".safetensors")
    folder = isinstance(network, (ControlNet, T2IAdapter))
    if folder == file:
        what = "a folder" if folder else "a .safetensors file"
        raise ValueError(f"a {type(network).__name__} is saved as {what}; the path is {path}")


def is_steering(path: str | os.PathLike[str]) -> bool:
    """Return whether there is something that steers a U-Net at a path, by names alone.

    Args:
        path: of a folder, or of a file of tensors.

    Returns:
        True for a folder that has a config.json, and for a file that :func:`steering_kind` knows.

    Raises:
        OSError: if there is nothing at the path.
        ValueError: for a file that is damaged.
    """
    path = Path(path)
    if path.is_dir():
        return (path / "config.json").exists()
    tensors = open_tensors(path)
    known = any(name.startswith("ip_adapter.") for name in tensors)
    return known or tensors.metadata.get("format") == FORMAT


def load_steering(path: str | os.PathLike[str]) -> Control:
    """Read what steers a U-Net, of any kind that :func:`save_steering` writes.

    Args:
        path: of the folder or file.

    Returns:
        The network and its parameters.

    Raises:
        OSError: if there is nothing at the path.
        ValueError: naming it, for anything else.
    """
    kind = steering_kind(path)
    if kind == "controlnet":
        return load_controlnet(path)
    if kind == "t2i":
        return load_t2i_adapter(path)
    return load_ip_adapter(path) if kind == "ip" else _load_small(path)


def steering_kind(path: str | os.PathLike[str]) -> str:
    """Return which kind of steering network there is at a path, by names alone.

    Args:
        path: of the folder or file.

    Returns:
        "controlnet", "t2i", "ip" or "small" (the ControlNet of a small U-Net).

    Raises:
        OSError: if there is nothing at the path.
        ValueError: naming it, for anything else.
    """
    path = Path(path)
    if path.is_dir():
        from jaxdiff.files import read_json

        said = read_json(path / "config.json") if (path / "config.json").exists() else {}
        name = said.get("_class_name") if isinstance(said, dict) else None
        kind = {"ControlNetModel": "controlnet", "T2IAdapter": "t2i"}.get(str(name))
        if kind is None:
            raise ValueError(f"{path} is no folder of a ControlNet or T2I-Adapter")
        return kind
    tensors = open_tensors(path)
    if tensors.metadata.get("format") == FORMAT:
        return "small"
    if any(name.startswith("ip_adapter.") for name in tensors):
        return "ip"
    raise ValueError(f"{path} holds nothing that steers a U-Net")


def steered(
    D: Denoiser, control: Control, scale: float = 1.0, *, key: str | None = None
) -> jax.tree_util.Partial:
    """Return a denoiser with what steers it beside its U-Net, whichever kind it is.

    Args:
        D: of a U-Net.
        control: as :func:`load_steering` returns it.
        scale: of what it adds.
        key: of cond that its picture is at; None for "image" of an IP-Adapter and "control" of
            others.

    Returns:
        The steered denoiser.

    Raises:
        TypeError: for another denoiser, or one of a U-Net that it cannot steer.
        ValueError: for a key that is taken, and for an adapter of another base.
    """
    put = {IPAdapter: with_ip_adapter, T2IAdapter: with_t2i_adapter}
    made: Any = put.get(type(control.network), with_controlnet)
    return made(D, control, scale, **({} if key is None else {"key": key}))


def _save_small(control: Control, network: UNetControl, path: str | os.PathLike[str]) -> None:
    fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(UNetControl) if f.init}
    if network.features is not UNetControl.features:
        raise ValueError("a ControlNet of a U-Net with other features of the label has no file")
    said = {name: value for name, value in fields.items() if name not in OURS}
    tensors = {"/".join(at): np.asarray(leaf) for at, leaf in flat(control.params).items()}
    write_tensors(path, tensors, {"format": FORMAT, "fields": json.dumps(said)})


def _load_small(path: str | os.PathLike[str]) -> Control:
    tensors = open_tensors(path)
    try:
        said = json.loads(tensors.metadata["fields"])
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in said.items()
        }
        network = UNetControl(**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    leaves = {tuple(name.split("/")): jnp.asarray(tensors[name]) for name in tensors}
    return Control(tree(leaves), network, {"name": "UNetControl", "source": str(path)})
