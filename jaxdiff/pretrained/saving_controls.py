"""ControlNets and T2I-Adapters saved in the folders that diffusers and this package read."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.files import write_text
from jaxdiff.networks.controlnet import ControlNet
from jaxdiff.networks.t2i_adapter import T2IAdapter
from jaxdiff.pretrained.condition_config import controlnet_config, t2i_adapter_config
from jaxdiff.pretrained.controls import ADAPTER_PAIRS, Control, controlnet_pairs
from jaxdiff.pretrained.names import Pair, published, unturned
from jaxdiff.pretrained.saving import WEIGHTS, write_tensors
from jaxdiff.typing import Params

POINTWISE = ("conv_shortcut.weight", "controlnet_mid_block.weight", "in_conv.weight")


def save_controlnet(control: Control, folder: str | os.PathLike[str]) -> None:
    """Save a ControlNet as a folder that diffusers and :func:`load_controlnet` read.

    Args:
        control: a ControlNet and its parameters.
        folder: made if need be; its files of these names are replaced.

    Returns:
        None, when the folder is written.

    Raises:
        TypeError: for what is no ControlNet.
        ValueError: for one that no configuration of diffusers describes, by the field, before
            anything is written.
        OSError: where the folder cannot be written.
    """
    network = control.network
    if not isinstance(network, ControlNet):
        raise TypeError(f"save_controlnet takes a ControlNet, not {control!r}")
    _save(folder, controlnet_config(network), control.params, controlnet_pairs(network))


def save_t2i_adapter(control: Control, folder: str | os.PathLike[str]) -> None:
    """Save a T2I-Adapter as a folder that diffusers and :func:`load_t2i_adapter` read.

    Args:
        control: an adapter and its parameters.
        folder: made if need be; its files of these names are replaced.

    Returns:
        None, when the folder is written.

    Raises:
        TypeError: for what is no T2I-Adapter.
        ValueError: for one that no configuration of diffusers describes, by the field, before
            anything is written.
        OSError: where the folder cannot be written.
    """
    network = control.network
    if not isinstance(network, T2IAdapter):
        raise TypeError(f"save_t2i_adapter takes a T2I-Adapter, not {control!r}")
    _save(folder, t2i_adapter_config(network), control.params, ADAPTER_PAIRS)


def _save(
    folder: str | os.PathLike[str], config: dict[str, Any], params: Params, pairs: Any
) -> None:
    named = published(params, list[Pair](pairs))
    tensors = {name: conv_of(name, unturned(at, leaf)) for name, (at, leaf) in named.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def conv_of(name: str, value: np.ndarray) -> np.ndarray:
    """Return a linear kernel as the convolution of size 1 that it is published as."""
    zero = name.startswith("controlnet_down_blocks.") and name.endswith(".weight")
    if value.ndim == 2 and (zero or name.endswith(POINTWISE) or ".out_conv.weight" in name):
        return value[:, :, None, None]
    return value
