"""Low-rank changes of weights (:mod:`jaxdiff.pretrained.lora_files`), merged into parameters."""

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.pretrained.lora_files import read_changes
from jaxdiff.pretrained.lora_names import At, Names, layers_of
from jaxdiff.pretrained.names import flat
from jaxdiff.typing import Params


def merge_lora(
    params: Params,
    path: str | os.PathLike[str],
    scale: float = 1.0,
    *,
    part: str = "unet",
    names: Names | None = None,
) -> Params:
    """Return parameters with a file's changes added, W + scale dW, each in its own dtype.

    Args:
        params: of a network; they stay as they are.
        path: of the file.
        scale: of all changes, besides the alphas that the file says.
        part: of the pipeline that the network is: "unet", "text_encoder", "text_encoder_2" or
            "transformer"; changes of the others are left out. A text-to-image network is both of
            the first two.
        names: the path here of the weight of each published layer, "encoder.layers.0.q_proj"; None
            for those of a U-Net of diffusers and of a text encoder of CLIP's kind, and for the
            names here of any other network (:mod:`jaxdiff.pretrained.lora_names`).

    Returns:
        Parameters of the same structure, shapes and dtypes.

    Raises:
        OSError: if there is no file.
        ValueError: for a file without changes of this part, and, naming it, for a layer that the
            network does not have, of another shape, or that is changed in a way not supported.

    Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685.
    """
    changes = read_changes(path)
    if not changes.get(part):
        raise ValueError(f"{path} changes {', '.join(changes) or 'nothing'}; not the {part}")
    places = layers_of(params, part).get(part, {}) if names is None else names
    leaves = flat(params)
    for name, at in located(changes[part], places, f"{path}", part).items():
        leaf = leaves[at]
        published = np.moveaxis(np.asarray(leaf), (-1, -2), (0, 1))
        made = changes[part][name].changed(published, scale)
        leaves[at] = jnp.asarray(np.moveaxis(made, (0, 1), (-1, -2)), leaf.dtype)
    return tree(leaves)


def located(given: Mapping[str, Any], places: Names, file: str, part: str) -> dict[str, At]:
    """Return the path here of each layer of a file. ValueError, naming it, for one that the
    network does not have.
    """
    known = {**{name.replace(".", "_"): at for name, at in places.items()}, **places}
    if absent := [name for name in given if name not in known]:
        raise ValueError(f"{file} changes {absent[0]}, a layer that the {part} does not have")
    return {name: known[name] for name in given}


def tree(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return the tree of dictionaries that has these leaves."""
    made: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = made
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return made
