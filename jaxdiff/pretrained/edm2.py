"""EDM2's models (Karras et al. 2312.02696; github.com/NVlabs/edm2, licence CC BY-NC-SA 4.0).

A snapshot is a pickle {"ema": network, "encoder": ..., "loss_fn": ..., "dataset_kwargs": ...}, its
weights in float16, which are kept so until another dtype is given. A bare file of its tensors,
named ``unet.enc.64x64_block0.conv_res0.weight`` and so on, is read too. Sizes follow from names and
shapes; what these do not determine (channels of a head, balances, bound of activations, sigma_data)
is read from the snapshot's options, or given as ``config``, or has the published models' values.

Networks of images have values from -1 to 1; those of latents work on latents of Stable Diffusion's
autoencoder as their encoder scales them (:class:`LatentScale`, ``parts["latents"]``). Labels are
class indices; no class is a vector of 0.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff import grids
from jaxdiff.brief import short
from jaxdiff.denoisers import denoiser
from jaxdiff.files import naming
from jaxdiff.networks.adapters import from_linen
from jaxdiff.networks.edm2 import EDM2UNet
from jaxdiff.pretrained.edm_shapes import (
    by_kind,
    levels_of,
    number_of,
    options_in,
    plain,
    shape_of,
    shapes_of,
    stages_of,
    whole,
)
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.model import Autoencoder, Pretrained, Source
from jaxdiff.pretrained.pickles import Record
from jaxdiff.process import EDM
from jaxdiff.typing import Array, Key

PARTS = (
    ("conv_res0", "conv_in"), ("emb_linear", "modulation"), ("conv_res1", "conv_out"),
    ("conv_skip", "skip"), ("attn_qkv", "qkv"), ("attn_proj", "out"),
)  # fmt: skip
CHOICES = {
    "channels_per_head": ("head_channels", int), "label_balance": ("label_balance", float),
    "concat_balance": ("concat_balance", float), "res_balance": ("residual_balance", float),
    "attn_balance": ("attention_balance", float), "dropout": ("dropout", float),
}  # fmt: skip
"""Options that tensors do not determine, with their names here."""

OPTIONS = {
    *CHOICES, "clip_act", "resample_filter", "sigma_data", "img_resolution", "img_channels",
    "label_dim", "use_fp16", "logvar_channels", "model_channels", "channel_mult",
    "channel_mult_noise", "channel_mult_emb", "num_blocks", "attn_resolutions",
}  # fmt: skip


class LatentScale(NamedTuple):
    """Standardisation of latents z of Stable Diffusion's autoencoder for a network.

        x = scale z + bias        z unscaled, of an image with values from 0 to 1, not from -1

    scale, bias: one number per channel.
    """

    __repr__ = short

    scale: np.ndarray
    bias: np.ndarray

    def scaled(self, z: Array) -> Array:
        """Return the network's latents of the autoencoder's, (..., channels)."""
        return z * _row(self.scale, z) + _row(self.bias, z)

    def unscaled(self, x: Array) -> Array:
        """Return the autoencoder's latents of the network's, (..., channels)."""
        return (x - _row(self.bias, x)) / _row(self.scale, x)

    def encode(self, images: Array, autoencoder: Autoencoder, key: Key | None = None) -> Array:
        """Return the network's latents of images (batch, height, width, 3) from 0 to 1; drawn with
        a key, the mean without.
        """
        return self.scaled(_plain(autoencoder).encode(images, key))

    def decode(self, latents: Array, autoencoder: Autoencoder) -> Array:
        """Return the images, from 0 to 1, of the network's latents."""
        return jnp.clip(_plain(autoencoder).decode(self.unscaled(latents)), 0, 1)


def _plain(autoencoder: Autoencoder) -> Autoencoder:
    """Return the autoencoder without the scale that other models have its latents in."""
    return dataclasses.replace(autoencoder, scale=1.0, shift=0.0)


def _row(numbers: np.ndarray, like: Array) -> Array:
    return jnp.asarray(numbers, like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def read_edm2(source: Source) -> Pretrained | None:
    """Return the model of an EDM2 snapshot, or of a file of its tensors; None for other files.

    Raises ValueError, naming it, for an encoder or option that is not EDM2's, and for tensors that
    do not fit.
    """
    if "unet.emb_noise.weight" not in source.tensors:
        return None
    with naming(source.path):
        return _read(source)


def _read(source: Source) -> Pretrained:
    options = options_of(source)
    module = network_of(source.tensors.shapes, options)
    tensors, layout = source.tensors, layout_of(module)
    params = fill(shapes_of(module), tensors, layout, dtype=source.dtype, put=source.put)
    sigma_data, process = number_of(options, "sigma_data", 0.5), EDM()
    D = denoiser(from_linen(module), params, sigma_data=sigma_data)
    made = source.object if isinstance(source.object, dict) else {}
    latents = latents_of(made.get("encoder"))
    return Pretrained(
        D, params, module, (module.resolution, module.resolution, module.in_channels), "edm",
        process, grids.karras, module.num_classes, "class indices" * bool(module.num_classes),
        metadata={
            "name": f"EDM2 of {module.channels} channels", "paper": "arXiv 2312.02696",
            "source": "https://github.com/NVlabs/edm2",
            "licence": "CC BY-NC-SA 4.0 (non-commercial)", "options": options,
            "data": plain(made.get("dataset_kwargs")), "loss": plain(made.get("loss_fn")),
            **dict(zip(("num_images", "ema_width"), snapshot_of(source.path) or (), strict=False)),
        },
        parts={} if latents is None else {"latents": latents},
    )  # fmt: skip


def snapshot_of(path: Any) -> tuple[int, float] | None:
    """Return the images seen and the width of the average that a snapshot's name has, if any:
    "edm2-img512-xs-2147483-0.135.pkl" is of 2147483 thousands, a multiple of 1024 images.
    """
    found = re.fullmatch(r".*-(\d+)-(\d+\.\d+)\.\w+", getattr(path, "name", str(path)))
    if found is None:
        return None
    return (int(found[1]) * 1000 + 999) // 1024 * 1024, float(found[2])


def options_of(source: Source) -> dict[str, Any]:
    """Return the options of a snapshot's network, and what the configuration adds."""
    record = source.object.get("ema") if isinstance(source.object, dict) else source.object
    options: dict[str, Any] = {}
    if isinstance(record, Record):
        state: Any = record.state
        if record.name != "Precond":
            raise ValueError(f"it has a network {record.name}, which is not EDM2's")
        own = options_in(record)
        options = {"sigma_data": state.get("sigma_data", 0.5), **own}
    options |= {k: v for k, v in source.config.items() if k != "class_name"}
    if strange := sorted(set(options) - OPTIONS):
        raise ValueError(f"EDM2's network has no option {', '.join(strange)}")
    return options


def network_of(shapes: Mapping[str, tuple[int, ...]], options: Mapping[str, Any]) -> EDM2UNet:
    """Return the network that has tensors of these names and shapes, and these options."""
    own = {n.removeprefix("unet."): s for n, s in shapes.items() if n.startswith("unet.")}
    resolution, levels = levels_of(own)
    attends, widths, blocks = stages_of(own, resolution, levels, "conv_res0", "attn_qkv")
    embedding, waves = shape_of(own, "emb_noise.weight", 2)
    classes = shape_of(own, "emb_label.weight", 2)[1] if "emb_label.weight" in own else 0
    said = {
        name: kind(number_of(options, key, 0))
        for key, (name, kind) in CHOICES.items()
        if key in options
    }
    if said.get("head_channels", 1) < 1:
        raise ValueError(f"the option channels_per_head is {options['channels_per_head']}")
    clip = None if options.get("clip_act", 256) is None else number_of(options, "clip_act", 256)
    head = (1, 128)
    if "logvar_linear.weight" in shapes:
        head = shape_of(shapes, "logvar_linear.weight", 2)
    return EDM2UNet(
        resolution, shape_of(own, "out_conv.weight", 4)[0], widths[0],
        tuple(whole(w, widths[0]) for w in widths), blocks, attends,
        num_classes=classes, waves=waves, embedding=embedding, clip=clip,
        taps=tuple(map(float, options.get("resample_filter", (1, 1)))),
        log_variance="logvar_linear.weight" in shapes,
        log_variance_waves=head[1], **said,
    )  # fmt: skip


def layout_of(module: EDM2UNet) -> Layout:
    """Return where the published tensors of a network belong in it."""
    rules = []
    for level in range(len(module.multipliers)):
        size = f"{module.resolution >> level}x{module.resolution >> level}"
        for theirs, ours in (*PARTS, ("emb_gain", "gain")):
            rules += [
                (rf"unet\.enc\.{size}_block(\d+)\.{theirs}", rf"down_{level}_block_\1/{ours}"),
                (rf"unet\.dec\.{size}_block(\d+)\.{theirs}", rf"up_{level}_block_\1/{ours}"),
                (rf"unet\.enc\.{size}_down\.{theirs}", f"down_{level}_resample/{ours}"),
                (rf"unet\.dec\.{size}_up\.{theirs}", f"up_{level}_resample/{ours}"),
                (rf"unet\.dec\.{size}_in(\d)\.{theirs}", rf"middle_\1/{ours}"),
            ]
        rules.append((rf"unet\.enc\.{size}_conv", "conv_in"))
    rules += [
        (r"unet\.out_gain", "gain"),
        (r"unet\.out_conv", "conv_out"),
        (r"unet\.emb_noise", "embedding"),
        (r"unet\.emb_label", "class"),
        (r"unet\.emb_fourier\.freqs", "features/frequencies"),
        (r"unet\.emb_fourier\.phases", "features/phases"),
        (r"logvar_linear", "log_variance_head"),
        (r"logvar_fourier\.freqs", "log_variance_features/frequencies"),
        (r"logvar_fourier\.phases", "log_variance_features/phases"),
    ]

    def change(name: str, value: np.ndarray) -> np.ndarray:
        if ".attn_qkv." not in name:
            return value
        return by_kind(value, value.shape[0] // 3 // module.head_channels)

    return Layout(tuple(rules), change=change)


def latents_of(encoder: Any) -> LatentScale | None:
    """Return the scale of an encoder's latents; None for one of images, or without an encoder."""
    if encoder is None or (isinstance(encoder, Record) and encoder.name == "StandardRGBEncoder"):
        return None
    if not isinstance(encoder, Record) or encoder.name != "StabilityVAEEncoder":
        raise ValueError(f"an encoder {encoder!r:.60}, which is not EDM2's")
    state: Any = encoder.state
    return LatentScale(*(np.asarray(state[k], np.float32) for k in ("scale", "bias")))
