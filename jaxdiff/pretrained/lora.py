"""Low-rank changes of weights (:mod:`jaxdiff.pretrained.lora_files`), merged into parameters."""

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.pretrained.lora_files import read_changes
from jaxdiff.pretrained.names import flat, published
from jaxdiff.pretrained.original_names import original_unet_pairs
from jaxdiff.pretrained.unet_names import unet_pairs
from jaxdiff.typing import Params

Names = Mapping[str, tuple[str, ...]]


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
            "transformer"; changes of the others are left out.
        names: the path here of the weight of each published layer, "encoder.layers.0.q_proj"; None
            for those of a U-Net of diffusers.

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
    places = unet_names(params) if names is None else names
    places = {**{name.replace(".", "_"): at for name, at in places.items()}, **places}
    leaves = flat(params)
    for name, change in changes[part].items():
        if name not in places:
            raise ValueError(f"{path} changes {name}, a layer that the {part} does not have")
        at = places[name]
        leaf = leaves[at]
        shape = (leaf.shape[-1], leaf.shape[-2], *leaf.shape[:-2])
        delta = change.delta(shape)
        delta = delta.transpose(*range(2, delta.ndim), 1, 0)
        wide = np.promote_types(np.float32, leaf.dtype)
        leaves[at] = jnp.asarray(leaf.astype(wide) + scale * delta.astype(wide), leaf.dtype)
    return tree(leaves)


def unet_names(params: Params) -> Names:
    """Return the path here of the kernel of each published layer of a U-Net of diffusers."""
    levels = sum(key.startswith("up_") for key in params)
    learned = "embedding" in params.get("time_features", {})
    named = [published(params, unet_pairs(levels, learned=learned))]
    if "added_embedding" in params:  # of Stable Diffusion XL files go about in the original names
        blocks = sum(key.startswith("block_") for key in params["down_0"])
        named.append(published(params, original_unet_pairs(levels, blocks)))
    return {
        name.removesuffix(".weight"): at
        for names in named
        for name, (at, _) in names.items()
        if at[-1] == "kernel" and name.endswith(".weight")
    }


def tree(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return the tree of dictionaries that has these leaves."""
    made: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = made
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return made
