"""Files of the gated layers by which a U-Net attends to boxes (GLIGEN, arXiv 2301.07093).

    position_net.linears.0.weight, ...        the tokens of boxes
    ....transformer_blocks.0.fuser.linear.weight, ....fuser.attn.to_q.weight, ...    the layers

by diffusers' names, in which whole U-Nets with such layers are published, and alone: the U-Net that
they were trained in stays as it is.
"""

import os
from typing import Any

import jax
import numpy as np

from jaxdiff.adapt.described import described
from jaxdiff.adapt.grown import BOXES, with_boxes
from jaxdiff.adapt.patterns import fits
from jaxdiff.denoisers import denoiser
from jaxdiff.networks.text_to_image import TextToImage
from jaxdiff.pretrained.layout import fill
from jaxdiff.pretrained.lora import tree
from jaxdiff.pretrained.names import flat, published, unturned
from jaxdiff.pretrained.saving import write_tensors
from jaxdiff.pretrained.steering import unet_of
from jaxdiff.pretrained.tensors import open_tensors
from jaxdiff.pretrained.unet_names import unet_layout, unet_pairs
from jaxdiff.typing import Denoiser, Params


def save_boxes(D: Denoiser, path: str | os.PathLike[str]) -> None:
    """Save the gated layers of a U-Net alone.

    Args:
        D: of a U-Net that attends to boxes (:func:`jaxdiff.adapt.with_boxes`).
        path: of a .safetensors file, which is replaced if it is there.

    Returns:
        None, when the file is written.

    Raises:
        TypeError: for another denoiser.
        ValueError: for one that attends to no boxes, and for a path of another ending, before
            anything is written.
        OSError: where the file cannot be written.
    """
    check_ending(path)
    unet, params = unet_of(D)
    own = _gated(params)
    if not own:
        raise ValueError("this denoiser's U-Net attends to no boxes: with_boxes makes one")
    named = published(tree(own), unet_pairs(len(unet.channels)))  # type: ignore[union-attr]
    tensors = {name: unturned(at, np.asarray(leaf)) for name, (at, leaf) in named.items()}
    write_tensors(path, tensors, {"format": "pt"})


def load_boxes(D: Denoiser, path: str | os.PathLike[str]) -> jax.tree_util.Partial:
    """Return a denoiser whose U-Net attends to boxes by the gated layers of a file.

    Args:
        D: of the U-Net that they were trained in, or another of its base.
        path: of the file.

    Returns:
        The denoiser; boxes are further entries of cond (:mod:`jaxdiff.networks.conditions`).

    Raises:
        TypeError, ValueError: as :func:`jaxdiff.adapt.with_boxes`; ValueError for a file of others,
            or of another base, naming the tensors.
        OSError: if there is no file.
    """
    if not has_boxes(path):
        raise ValueError(f"{path} holds no gated layers of a U-Net")
    boxed = with_boxes(D)
    unet, params = unet_of(boxed)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree(_gated(params)))
    read = fill(shapes, open_tensors(path), unet_layout(len(unet.channels)))  # type: ignore[union-attr]
    made = described(boxed)
    module, params = made["network"].module, made.pop("params")
    if isinstance(module, TextToImage):
        params = {**params, "unet": tree({**flat(params["unet"]), **flat(read)})}
    else:
        params = tree({**flat(params), **flat(read)})
    return denoiser(made.pop("network"), params, **made)


def has_boxes(path: str | os.PathLike[str]) -> bool:
    """Return whether a file holds gated layers, and nothing else, by names alone.

    Args:
        path: of a file of tensors.

    Returns:
        True for a file that :func:`load_boxes` reads.

    Raises:
        OSError: if there is nothing at the path.
        ValueError: for a file that is damaged.
    """
    names = [*open_tensors(path)]
    return bool(names) and all(n.startswith("position_net.") or ".fuser." in n for n in names)


def check_ending(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for a path that is none of a .safetensors file.

    Args:
        path: where gated layers are to be saved.
    """
    if not str(path).endswith(".safetensors"):
        raise ValueError(f"gated layers are saved as a .safetensors file; the path is {path}")


def _gated(params: Params) -> dict[tuple[str, ...], Any]:
    """Return the parameters of the gated layers, by their paths."""
    return {at: leaf for at, leaf in flat(params).items() if fits("/".join(at), BOXES)}
