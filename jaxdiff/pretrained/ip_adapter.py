"""Files of IP-Adapters in their publishers' layout, read and written.

    image_proj.proj, image_proj.norm                            one linear map of a vector
    image_proj.latents, .proj_in, .layers.0.0.to_q, ...         the resampler of the form plus
    ip_adapter.1.to_k_ip, ip_adapter.1.to_v_ip, ip_adapter.3... the layers, by odd numbers

in a .safetensors file, or in a .bin as two dictionaries. Heads of the resampler have 64 channels.

Files for faces are refused by name: those of FaceID change the U-Net's own projections by LoRA
beside the picture's keys and values (ip_adapter.0.to_q_lora.down, ...), of features that a network
for recognising faces makes; those of "full face" have a perceptron in place of the linear map.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.networks.ip_adapter import IPAdapter
from jaxdiff.pretrained.controls import Control
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.names import Pair, published, rules, unturned
from jaxdiff.pretrained.saving import write_tensors
from jaxdiff.pretrained.tensors import Tensors, open_tensors
from jaxdiff.typing import Params

HEAD = 64
FACE_ID = (
    "a FaceID file, whose LoRA of the U-Net's own attention (to_q_lora, ...) and perceptron of a "
    "face's embedding have no place in an IP-Adapter here"
)
FULL_FACE = "one of full face, whose perceptron (image_proj.proj.0, ...) is none of the two forms"
LATENTS = "image_proj.latents"
PAIRS: tuple[Pair, ...] = (
    ("image_proj.proj", "image"), ("image_proj.norm", "image_norm"), (LATENTS, "image/latents"),
    *((f"image_proj.{name}", f"image/{name}") for name in ("proj_in", "proj_out", "norm_out")),
    *((f"image_proj.layers.#.{theirs}", f"image/block_#_{ours}") for theirs, ours in (
        ("0.norm1", "norm_image"), ("0.norm2", "norm_latents"), ("0.to_q", "q"), ("0.to_kv", "kv"),
        ("0.to_out", "out"), ("1.0", "norm_mlp"), ("1.1", "mlp_in"), ("1.3", "mlp_out"),
    )),
)  # fmt: skip


def load_ip_adapter(path: str | os.PathLike[str], *, dtype: Any = None, put: Any = None) -> Control:
    """Return the IP-Adapter in a file of its publishers' layout.

    Args:
        path: of a .safetensors or .bin file.
        dtype: of the floating parameters; by default that of the file.
        put: ``put(path, array)`` places each parameter as it is read, on a device or a mesh.

    Returns:
        The IP-Adapter, for :func:`with_ip_adapter`.

    Raises:
        OSError: if there is no file.
        ValueError: if it is damaged, or no IP-Adapter of the two forms that are read (one linear
            map of a vector, and "plus").

    Source: Ye et al., IP-Adapter, arXiv 2308.06721, and the layout of its published files.
    """
    tensors = open_tensors(path)
    network = ip_adapter(tensors)
    layout = ip_adapter_layout(len(network.widths))
    params = fill(ip_adapter_shapes(network), tensors, layout, dtype=dtype, put=put)
    return Control(params, network, {"name": "IPAdapter", "source": str(path)})


def save_ip_adapter(control: Control, path: str | os.PathLike[str]) -> None:
    """Save an IP-Adapter as a .safetensors file in its publishers' layout.

    Args:
        control: an IP-Adapter and its parameters.
        path: of the file, which is replaced if it is there.

    Returns:
        None, when the file is written.

    Raises:
        TypeError: for what is no IP-Adapter.
        ValueError: for a path of another ending, and for a resampler whose heads have other than
            64 channels, which the layout cannot say.
        OSError: where the file cannot be written.
    """
    network = control.network
    if not isinstance(network, IPAdapter):
        raise TypeError(f"save_ip_adapter takes an IP-Adapter, not {control!r}")
    if not str(path).endswith(".safetensors"):
        raise ValueError(f"an IP-Adapter is saved as .safetensors; the path is {path}")
    if network.depth and network.head_width != HEAD:
        raise ValueError(
            f"readers of an IP-Adapter's file take heads of {HEAD} channels; this one's have "
            f"{network.head_width}"
        )
    named = published(control.params, _pairs(len(network.widths)))
    tensors = {name: unturned(at, leaf) for name, (at, leaf) in named.items()}
    if LATENTS in tensors:
        tensors[LATENTS] = tensors[LATENTS][None]
    write_tensors(path, tensors, {"format": "pt"})


def ip_adapter(tensors: Tensors) -> IPAdapter:
    """Return the network whose parameters a file holds. ValueError, by name, for another."""
    shapes, source = tensors.shapes, tensors.source
    if why := _of_faces(shapes):
        raise ValueError(
            f"{source} is {why}: IP-Adapters with image_proj.proj (a linear map) or {LATENTS} "
            "(plus) are read"
        )
    numbers = [re.fullmatch(r"ip_adapter\.(\d+)\.to_k_ip\.weight", name) for name in shapes]
    layers = sorted(int(match[1]) for match in numbers if match)
    if not layers or layers != [*range(1, 2 * len(layers), 2)]:
        raise ValueError(
            f"{source} is no IP-Adapter: ip_adapter.1.to_k_ip.weight and further layers by odd "
            f"numbers are expected; it has {', '.join([*shapes][:3]) or 'nothing'}"
        )
    keys = [shapes[f"ip_adapter.{n}.to_k_ip.weight"] for n in layers]
    widths, width = tuple(key[0] for key in keys), keys[0][-1]
    if LATENTS in shapes:
        _, count, inner = shapes[LATENTS]
        depth = sum(name.endswith(".0.to_q.weight") for name in shapes)
        query = shapes.get("image_proj.layers.0.0.to_q.weight", (0, 0))[0]
        seen = shapes.get("image_proj.proj_in.weight", (0, 0))[1]
        if not query or query % HEAD or not seen:
            raise ValueError(f"{source}: the heads of its resampler must have {HEAD} channels")
        return IPAdapter(widths, count, width, seen, depth, inner, query // HEAD)
    if "image_proj.proj.weight" not in shapes:
        there = [name for name in shapes if not name.startswith("ip_adapter.")]
        raise ValueError(
            f"{source}: IP-Adapters with image_proj.proj (a linear map) or {LATENTS} (plus) are "
            f"read; this one has {', '.join(there[:3]) or 'neither'}"
        )
    out, seen = shapes["image_proj.proj.weight"]
    return IPAdapter(widths, max(1, out // max(1, width)), width, seen)


def _of_faces(names: Iterable[str]) -> str:
    """Return which of the forms for faces a file is that are not read; "" for another."""
    known = [*names]
    if any("_lora." in name or "perceiver_resampler" in name for name in known):
        return FACE_ID
    return FULL_FACE if any(name.startswith("image_proj.proj.0.") for name in known) else ""


def ip_adapter_layout(layers: int) -> Layout:
    """Return where the published tensors of an IP-Adapter of so many layers belong."""
    return Layout(rules(_pairs(layers)), change=lambda name, a: a[0] if name == LATENTS else a)


def ip_adapter_shapes(network: IPAdapter) -> Params:
    """Return the shapes of an IP-Adapter's parameters."""
    shape = (1, 1, network.image_width) if network.depth else (1, network.image_width)
    features = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), features)["params"]


def _pairs(layers: int) -> list[Pair]:
    own = [
        (f"ip_adapter.{2 * i + 1}.to_{n}_ip", f"layer_{i}_{n}")
        for i in range(layers)
        for n in ("k", "v")
    ]
    return [*PAIRS, *own]
