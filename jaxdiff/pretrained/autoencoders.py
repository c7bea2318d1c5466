"""Readers of autoencoders: AutoencoderKL and AutoencoderTiny folders, and TAESD's own files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks.autoencoder_kl import AutoencoderKL
from jaxdiff.networks.autoencoder_tiny import AutoencoderTiny
from jaxdiff.pretrained.fields import Fields, channels
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.model import Autoencoder, Source
from jaxdiff.pretrained.saved import is_saved_autoencoder, read_saved_autoencoder
from jaxdiff.pretrained.tensors import Tensors, open_tensors
from jaxdiff.pretrained.unet2d import ACTIVATIONS
from jaxdiff.pretrained.unet_names import autoencoder_layout

KL: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"], "block_out_channels": [64], "layers_per_block": 1,
    "act_fn": "silu", "latent_channels": 4, "norm_num_groups": 32, "sample_size": 32,
    "scaling_factor": 0.18215, "shift_factor": None, "latents_mean": None, "latents_std": None,
    "force_upcast": True, "use_quant_conv": True, "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}  # fmt: skip
TINY: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "encoder_block_out_channels": [64] * 4,
    "decoder_block_out_channels": [64] * 4, "act_fn": "relu", "upsample_fn": "nearest",
    "latent_channels": 4, "upsampling_scaling_factor": 2, "num_encoder_blocks": [1, 3, 3, 3],
    "num_decoder_blocks": [3, 3, 3, 1], "latent_magnitude": 3, "latent_shift": 0.5,
    "force_upcast": False, "scaling_factor": 1.0, "shift_factor": 0.0, "block_out_channels": None,
}  # fmt: skip
DOWN = {"DownEncoderBlock2D": "plain", "AttnDownEncoderBlock2D": "attention"}
UP = {"UpDecoderBlock2D": "plain", "AttnUpDecoderBlock2D": "attention"}
TINY_BLOCK = (
    ("conv.0", "conv_0"), ("conv.2", "conv_1"), ("conv.4", "conv_2"), ("skip", "skip"),
    ("pool.0", "pool_in"), ("pool.1", "pool_norm"), ("pool.3", "pool_out"),
)  # fmt: skip


def is_autoencoder(source: Source) -> bool:
    """Return whether a source is an autoencoder of a kind that is read here."""
    kind = source.config.get("_class_name")
    if is_saved_autoencoder(source):
        return True
    if kind is None:
        return bool(source.tensors) and _is_taesd(source.tensors)
    return kind in ("AutoencoderKL", "AutoencoderTiny")


def read_autoencoder(source: Source) -> Autoencoder:
    """Return the autoencoder of a source. ValueError, by name, for what is not supported."""
    kind = source.config.get("_class_name")
    if is_saved_autoencoder(source):
        return read_saved_autoencoder(source)
    if kind is None:
        return _taesd(source, source.tensors)
    return _kl(source) if kind == "AutoencoderKL" else _tiny(source)


def taesd(
    encoder: str | Path, decoder: str | Path, *, dtype: Any = None, put: Any = None
) -> Autoencoder:
    """Return TAESD of its two files, one of the encoder and one of the decoder.

    dtype, put: as of :func:`jaxdiff.pretrained.opening.load_pretrained`. Raises ValueError for
    other files, OSError where there is none.
    """
    both: dict[str, Any] = {}
    for part, path in (("encoder", encoder), ("decoder", decoder)):
        opened = open_tensors(path)
        if not _is_taesd(opened) or _half(opened) != part:
            raise ValueError(f"{path} is not TAESD's {part}")
        renamed = _diffusers_names(opened)
        both |= renamed._readers
    tensors = Tensors(both, None, f"{encoder}, {decoder}")
    return _taesd(Source(Path(encoder), {}, None, tensors, dtype, put), tensors)


def autoencoder_kl(config: Mapping[str, Any]) -> AutoencoderKL:
    """Return the network of a configuration. ValueError, by name, for what is not supported."""
    f = Fields(config, KL, "AutoencoderKL")
    widths = channels(f)
    seen, out, z, blocks, groups = f.whole(
        "in_channels", "out_channels", "latent_channels", "layers_per_block", "norm_num_groups"
    )
    return AutoencoderKL(
        widths, seen, out, z, f.kinds("down_block_types", DOWN),
        f.kinds("up_block_types", UP)[::-1], blocks, groups, f.of("act_fn", *ACTIVATIONS),
        bool(f["use_quant_conv"]), bool(f["use_post_quant_conv"]),
        bool(f["mid_block_add_attention"]),
    )  # fmt: skip


def _kl(source: Source) -> Autoencoder:
    network = autoencoder_kl(source.config)
    f = Fields(source.config, KL, "AutoencoderKL")
    c = network.latent_channels
    mean, std = (_row(f, field, c) for field in ("latents_mean", "latents_std"))
    if (mean is None) != (std is None):
        f.refuse("latents_std", "given beside latents_mean")
    shift: Any = f["shift_factor"] or 0.0
    scale: Any = f.number("scaling_factor")
    if mean is not None and std is not None:
        shift, scale = mean, scale / std
    side = 2 ** (len(network.channels) - 1)
    layout = autoencoder_layout(len(network.channels))
    params = _filled(source, network, (1, side, side, network.in_channels), layout)
    return Autoencoder(
        params, network, side, c, scale, shift, True,
        {"name": "AutoencoderKL", "config": dict(source.config)},
    )  # fmt: skip


def _row(f: Fields, field: str, count: int) -> np.ndarray | None:
    if f[field] is None:
        return None
    row = np.asarray(f[field], np.float32)
    if row.shape != (count,) or not np.isfinite(row).all():
        f.refuse(field, f"{count} numbers")
    return row


def autoencoder_tiny(config: Mapping[str, Any]) -> AutoencoderTiny:
    """Return the network of a configuration. ValueError, by name, for what is not supported."""
    f = Fields(config, TINY, "AutoencoderTiny")
    f.of("upsample_fn", "nearest")
    seen, out, z = f.whole("in_channels", "out_channels", "latent_channels")
    ways: dict[str, Any] = {}
    for way in ("encoder", "decoder"):
        widths, blocks = f[f"{way}_block_out_channels"], f[f"num_{way}_blocks"]
        if not isinstance(widths, list) or not isinstance(blocks, list):
            f.refuse(f"num_{way}_blocks", "a list of whole numbers")
        if len(widths) != len(blocks) or len({*widths}) != 1:
            f.refuse(f"{way}_block_out_channels", "one width for all stages")
        end = "in" if way == "encoder" else "out"
        ways |= {f"channels_{end}": tuple(widths), f"blocks_{end}": tuple(blocks)}
    return AutoencoderTiny(
        **ways, in_channels=seen, out_channels=out, latent_channels=z,
        factor=f.of("upsampling_scaling_factor", 2, 4), activation=f.of("act_fn", *ACTIVATIONS),
    )  # fmt: skip


def _tiny(source: Source) -> Autoencoder:
    network = autoencoder_tiny(source.config)
    f = Fields(source.config, TINY, "AutoencoderTiny")
    return _tiny_model(source, network, f.number("scaling_factor"), f["shift_factor"] or 0.0)


def _tiny_model(
    source: Source, network: AutoencoderTiny, scale: float = 1.0, shift: float = 0.0
) -> Autoencoder:
    side = 2 ** (len(network.channels_in) - 1)
    c = network.in_channels if "encoder" in network.halves else network.latent_channels
    params = _filled(source, network, (1, side, side, c), tiny_layout(network))
    metadata = {"name": "AutoencoderTiny", "config": dict(source.config)}
    return Autoencoder(
        params, network, side, network.latent_channels, scale, shift, False, metadata
    )  # fmt: skip


def tiny_layout(network: AutoencoderTiny) -> Layout:
    """Return where the published tensors of a tiny autoencoder belong."""
    places: list[tuple[str, str]] = []
    order: list[tuple[str, list[str]]] = [("encoder", []), ("decoder", ["conv_in", ""])]
    for stage, count in enumerate(network.blocks_in):
        order[0][1].append(f"halve_{stage}" if stage else "conv_in")
        order[0][1].extend(f"stage_{stage}_block_{i}" for i in range(count))
    order[0][1].append("conv_out")
    last = len(network.blocks_out) - 1
    for stage, count in enumerate(network.blocks_out):
        order[1][1].extend(f"stage_{stage}_block_{i}" for i in range(count))
        order[1][1].extend(["", f"double_{stage}"] if stage < last else ["conv_out"])
    for way, names in order:
        for number, name in enumerate(names):
            theirs, ours = rf"{way}\.layers\.{number}", f"{way}/{name}"
            if "block" in name:
                places += [(rf"{theirs}\.{re.escape(t)}", f"{ours}/{o}") for t, o in TINY_BLOCK]
            elif name:
                places.append((theirs, ours))
    return Layout(tuple(places))


def _filled(source: Source, network: Any, shape: tuple[int, ...], layout: Layout) -> Any:
    part = "both"
    if isinstance(network, AutoencoderTiny) and len(network.halves) == 1:
        part = {"encoder": "encode", "decoder": "decode"}[network.halves[0]]
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    shapes = jax.eval_shape(lambda key, x: network.init(key, x, part=part), jax.random.key(0), x)
    return fill(shapes["params"], source.tensors, layout, dtype=source.dtype, put=source.put)


def _is_taesd(tensors: Mapping[str, Any]) -> bool:
    names = [re.sub(r"^(encoder|decoder)\.layers\.", "", name) for name in tensors]
    good = re.compile(r"\d+\.(conv\.[024]\.|pool\.[013]\.|skip\.)?(weight|bias)")
    return all(good.fullmatch(name) for name in names) and any(".conv.4." in n for n in names)


def _half(tensors: Mapping[str, Any]) -> str:
    """Return which half a file without prefixes holds: the decoder begins with a clamp."""
    return "encoder" if "0.weight" in tensors else "decoder"


def _diffusers_names(tensors: Tensors) -> Tensors:
    if any(name.startswith(("encoder.", "decoder.")) for name in tensors):
        return tensors
    half = _half(tensors)
    less = 0 if half == "encoder" else 1

    def renamed(name: str) -> str:
        number, rest = name.split(".", 1)
        return f"{half}.layers.{int(number) - less}.{rest}"

    return tensors.renamed(renamed)


def _taesd(source: Source, tensors: Any) -> Autoencoder:
    """Return the network of TAESD's files, its stages counted by the names."""
    tensors = _diffusers_names(tensors)
    found: dict[str, Any] = {}
    for way in ("encoder", "decoder"):
        own = tensors.below(f"{way}.layers.")
        if own:
            found[way] = _stages(own, way)
    latents = {found[way]["latent"] for way in found}
    if len(latents) != 1:
        raise ValueError(
            f"{tensors.source}: encoder and decoder are of {sorted(latents)} latent channels"
        )
    # Of a missing half nothing is known; it is the other's mirror, and there is no use of it.
    mirror = {way: tuple(half[::-1] for half in found[way]["stages"]) for way in found}
    enc = found["encoder"]["stages"] if "encoder" in found else mirror["decoder"]
    dec = found["decoder"]["stages"] if "decoder" in found else mirror["encoder"]
    network = AutoencoderTiny(
        channels_in=enc[0], blocks_in=enc[1], channels_out=dec[0], blocks_out=dec[1],
        in_channels=found.get("encoder", {"image": 3})["image"],
        out_channels=found.get("decoder", {"image": 3})["image"], latent_channels=latents.pop(),
        pooled=any(found[way]["pooled"] for way in found), halves=tuple(found),
    )  # fmt: skip
    return _tiny_model(source._replace(tensors=tensors), network)


def _stages(tensors: Tensors, way: str) -> dict[str, Any]:
    """Return widths and blocks of the stages of one half, and what else its shapes determine."""
    kinds: dict[int, str] = {}
    for name in tensors:
        number = int(name.split(".")[0])
        kinds[number] = "block" if ".conv." in name or kinds.get(number) == "block" else "conv"
    order = [kinds[n] for n in sorted(kinds)]
    numbers = [n for n in sorted(kinds) if kinds[n] == "conv"]
    first, last = (tensors.shapes[f"{numbers[i]}.weight"] for i in (0, -1))
    blocks = "".join("b" if kind == "block" else "c" for kind in order).split("c")[1:-1]
    widths = {tensors.shapes[f"{n}.weight"][0] for n in numbers[:-1]}
    if len(widths) != 1 or not blocks or not all(blocks):
        raise ValueError(
            f"{tensors.source}: only tiny autoencoders of one width, with blocks between their "
            f"convolutions, are supported; this one has widths {sorted(widths)}"
        )
    ends = (last[0], first[1]) if way == "encoder" else (first[1], last[0])
    return {
        "stages": ((widths.pop(),) * len(blocks), tuple(map(len, blocks))),
        "latent": ends[0], "image": ends[1], "pooled": any(".pool." in n for n in tensors),
    }  # fmt: skip
