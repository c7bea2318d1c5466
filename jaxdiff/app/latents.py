"""Latent runs: the autoencoder is trained or read, its scale measured, and a copy kept in the run.

A latent run's model is that of a pipeline with an autoencoder: samples are decoded, images encoded,
by every command as for published weights.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.config_latent import Latent
from jaxdiff.app.options import refuse
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.data.epochs import batches
from jaxdiff.grids import karras
from jaxdiff.pretrained.model import Autoencoder, Pretrained
from jaxdiff.process import Process

FILE = "autoencoder.safetensors"
LOOKED_AT = 1024  # images that the scale of latents is measured on
Shape = tuple[int, ...]


def check_latent(latent: Latent, shape: Shape) -> None:
    """Raise ValueError, naming them, for options without effect, and for images whose shape does
    not go with them.
    """
    if latent.autoencoder is not None:
        trained = (
            "regulariser",
            "channels",
            "latent_channels",
            "codes",
            "kl_weight",
            "updates",
            "batch",
        )
        _refuse(latent, "the autoencoder is trained already", *trained, "learning_rate")
        return
    _refuse(latent, "it is of the regulariser vq", *["codes"] * (latent.regulariser == "kl"))
    _refuse(latent, "it is of the regulariser kl", *["kl_weight"] * (latent.regulariser == "vq"))
    factor = 2 ** (len(latent.channels) - 1)
    if len(shape) != 3 or any(n % factor for n in shape[:2]):
        raise ValueError(
            f"an autoencoder of --latent.channels {' '.join(map(str, latent.channels))} takes "
            f"images with sides divisible by {factor}, not {shape}"
        )


def _refuse(latent: Latent, why: str, *names: str) -> None:
    try:
        refuse(latent, why, *names)
    except ValueError as error:
        raise ValueError(str(error).replace("--", "--latent.")) from error


def latent_shape(latent: Latent, shape: Shape) -> Shape:
    """Return the shape of the latents of images of a shape. Errors as :func:`check_latent`'s, and
    of an autoencoder that is not for such images.
    """
    check_latent(latent, shape)
    if latent.autoencoder is None:
        factor = 2 ** (len(latent.channels) - 1)
        return (shape[0] // factor, shape[1] // factor, latent.latent_channels)
    vae = read_autoencoder(latent.autoencoder)
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    z = jax.eval_shape(lambda x: vae.encode(x), image)
    made = jax.eval_shape(vae.decode, z)
    if made.shape != image.shape:
        raise ValueError(
            f"{latent.autoencoder} makes images of {made.shape[1:]} of images of {shape}"
        )
    return z.shape[1:]


def read_autoencoder(path: str) -> Autoencoder:
    """Return an autoencoder of a run, a folder or file, or TAESD's two. Errors as
    :func:`jaxdiff.pretrained.load_autoencoder`'s.
    """
    from jaxdiff.pretrained import load_autoencoder
    from jaxdiff.pretrained.autoencoders import taesd

    if (Path(path) / FILE).exists():
        return load_autoencoder(Path(path) / FILE)
    encoder, comma, decoder = path.partition(",")
    if comma and not Path(path).exists():
        return taesd(encoder, decoder, dtype=np.float32)
    return load_autoencoder(path, dtype=np.float32)


def autoencoder_for(
    config: configs.Train, data: Dataset, folder: Path, progress: bool
) -> Autoencoder:
    """Return the autoencoder of a run: that in its folder, or the one that is read or trained now,
    its scale measured, and kept there.
    """
    from jaxdiff.autoencoding import scaled
    from jaxdiff.metrics import psnr
    from jaxdiff.pretrained import load_autoencoder
    from jaxdiff.pretrained.saving import save_safetensors
    from jaxdiff.training import hosts

    if (folder / FILE).exists():
        return load_autoencoder(folder / FILE)
    latent: Any = config.latent
    given = latent.autoencoder is not None
    vae = (
        read_autoencoder(latent.autoencoder) if given else _trained(config, data, folder, progress)
    )
    rows = np.linspace(0, len(data) - 1, min(len(data), LOOKED_AT)).astype(int)
    images = to_float(data.images[rows])
    vae = scaled(vae, images)
    if hosts.is_main_process():
        made = np.asarray(jax.jit(lambda x: vae.decode(vae.encode(x)))(images[:64]))
        quality = float(np.mean(psnr(np.clip(made, -1, 1), images[:64])))
        if progress:
            print(f"{vae!r}: images come back at {quality:.1f} dB", flush=True)
        save_safetensors(vae, folder / FILE)
    hosts.wait_for_all("autoencoder saved")
    return load_autoencoder(folder / FILE)


def _trained(config: configs.Train, data: Dataset, folder: Path, progress: bool) -> Autoencoder:
    """Return the autoencoder that is trained first."""
    import optax

    from jaxdiff.autoencoding import kl_autoencoder, vq_autoencoder
    from jaxdiff.training.loop import fit

    latent: Any = config.latent
    network = network_of(latent, data.shape[-1])
    zeros = np.zeros((1, *data.shape), np.float32)
    init = lambda key: network.init(key, zeros)["params"]  # noqa: E731
    how: Any = {"optimiser": optax.adam(
        optax.cosine_decay_schedule(latent.learning_rate, latent.updates)
    )}  # fmt: skip
    if latent.regulariser == "kl":
        method = kl_autoencoder(network, init, kl_weight=latent.kl_weight, **how)
    else:
        method = vq_autoencoder(network, init, **how)
    if progress:
        print(f"first the autoencoder: {latent.updates} updates", flush=True)
    state = fit(
        method, batches(data, latent.batch, config.seed, config.data.flip),
        num_updates=latent.updates, key=config.seed, checkpoint=folder / "autoencoder",
        save_every=config.save_every, progress=progress,
    )  # fmt: skip
    return method.sampler(state)


def network_of(latent: Latent, channels: int) -> Any:
    """Return the autoencoder's network, for images of so many channels."""
    from jaxdiff.networks import AutoencoderKL, AutoencoderVQ

    groups = math.gcd(8, *latent.channels)
    if latent.regulariser == "vq":
        return AutoencoderVQ(
            latent.codes, latent.channels, channels, latent.latent_channels, groups=groups
        )
    plain = ("plain",) * len(latent.channels)
    return AutoencoderKL(
        latent.channels, channels, channels, latent.latent_channels, plain, plain, 1, groups,
        middle_attention=False,
    )  # fmt: skip


def with_latents(data: Callable[..., Any], vae: Autoencoder) -> Any:
    """Return batches of the latents of images."""
    from jaxdiff.app.published import coded

    def encoded(step: int) -> dict[str, Any]:
        batch = data(step)
        return batch | {"image": np.asarray(coded("encode", vae, batch["image"]))}

    return encoded


def latent_source(
    D: Any, params: Any, module: Any, shape: Shape, classes: int, prediction: str,
    process: Process, vae: Autoencoder,
) -> Pretrained:  # fmt: skip
    """Return the model of latents with its autoencoder."""
    return Pretrained(
        D, params, module, shape, prediction, process, karras, classes, parts={"vae": vae}
    )


def kept_autoencoder(path: str, folder: Path | None) -> Autoencoder:
    """Return the autoencoder of a latent run, in its folder or, of its students, in the teacher's.

    Raises FileNotFoundError, with the remedy, where there is none.
    """
    from jaxdiff.pretrained import load_autoencoder

    for place in ([] if folder is None else [folder / FILE]) + [Path(path)]:
        if place.exists():
            return load_autoencoder(place)
    raise FileNotFoundError(f"the autoencoder of this model is not at {path}: put it back there")
