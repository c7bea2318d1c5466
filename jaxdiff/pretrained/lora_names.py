"""Names of the layers that files of low-rank changes know, and where their kernels are here.

A network with a published layout has its names there: a U-Net of diffusers (of SDXL those of the
original files, too), a text encoder of CLIP's kind, with and without "text_model."; both, of a
text-to-image network. Any other network's layers have the names that they have here, with "."
between their words.
"""

import re
from collections.abc import Mapping
from typing import Any

from jaxdiff.pretrained.names import flat, name_of, published
from jaxdiff.pretrained.original_names import original_unet_pairs
from jaxdiff.pretrained.unet_names import unet_pairs
from jaxdiff.typing import Params

At = tuple[str, ...]
Names = Mapping[str, At]
PARTS = {"unet": "unet", "encoder": "text_encoder"}  # of a text-to-image network
TEXT = (
    ("encoder.layers.#.self_attn.q_proj", "block_#/attention/heads/query"),
    ("encoder.layers.#.self_attn.k_proj", "block_#/attention/heads/key"),
    ("encoder.layers.#.self_attn.v_proj", "block_#/attention/heads/value"),
    ("encoder.layers.#.self_attn.out_proj", "block_#/attention/out"),
    ("encoder.layers.#.mlp.fc1", "block_#/feed_forward/hidden"),
    ("encoder.layers.#.mlp.fc2", "block_#/feed_forward/out"),
    ("text_projection", "projected"),
)


def layers_of(params: Params, part: str = "unet") -> dict[str, dict[str, At]]:
    """Return the paths of the kernels of every part of a network, by part and by the names that
    files may have for them, the one that is written first.

    Args:
        params: of a network, a tree of dictionaries.
        part: what it is called where it is one part alone.

    Returns:
        {"unet": {"down_blocks.0....to_q": ("down_0", ..., "kernel")}, ...}
    """
    if set(params) == set(PARTS):
        return {PARTS[own]: _below(layers_of(params[own])["unet"], own) for own in PARTS}
    return {part: _layers(params)}


def unet_names(params: Params) -> Names:
    """Return the path here of the kernel of each published layer of a U-Net of diffusers."""
    levels = sum(key.startswith("up_") for key in params)
    learned = "embedding" in params.get("time_features", {})
    named = [published(params, unet_pairs(levels, learned=learned))]
    if "linear_in" in params.get(
        "added_embedding", {}
    ):  # of Stable Diffusion XL files go about in the original names
        blocks = sum(key.startswith("block_") for key in params["down_0"])
        named.append(published(params, original_unet_pairs(levels, blocks)))
    return {
        name.removesuffix(".weight"): at
        for names in named
        for name, (at, _) in names.items()
        if at[-1] == "kernel" and name.endswith(".weight")
    }


def text_names(params: Params) -> Names:
    """Return the path here of the kernel of each layer of a text encoder of CLIP's kind."""
    found: dict[str, At] = {}
    for at in _kernels(params):
        name = name_of("/".join(at[:-1]), TEXT)
        if name is not None:
            found[name] = at
    return {**{f"text_model.{name}": at for name, at in found.items()}, **found}


def own_names(params: Params) -> Names:
    """Return the path of each kernel of any network by its layer's name here.

    Raises ValueError for two kernels of one layer, which files cannot tell apart.
    """
    found: dict[str, At] = {}
    for at in _kernels(params):
        name = ".".join(at[:-1])
        if name in found:
            raise ValueError(f"{name} has two kernels, {found[name][-1]} and {at[-1]}")
        found[name] = at
    return found


def _layers(params: Params) -> dict[str, At]:
    if "tokens" in params and "positions" in params and "block_0" in params:
        return dict(text_names(params))
    if any(re.fullmatch(r"up_\d+", key) for key in params):
        try:
            return dict(unet_names(params))
        except ValueError:  # a U-Net that was not published
            pass
    return dict(own_names(params))


def _kernels(params: Params) -> list[At]:
    kernels = {at: leaf for at, leaf in flat(params).items() if len(leaf.shape) >= 2}
    return [at for at in kernels if at[-1] in ("kernel", "weight")]


def _below(names: Mapping[str, At], own: str) -> dict[str, Any]:
    return {name: (own, *at) for name, at in names.items()}
