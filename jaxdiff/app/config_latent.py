"""Configuration of the autoencoder whose latents a network is trained on."""

import dataclasses
from typing import Literal

from jaxdiff.ranges import Count, NotNegative, Positive


@dataclasses.dataclass(frozen=True)
class Latent:
    """The autoencoder whose latents the network is trained on (arXiv 2112.10752)."""

    autoencoder: str | None = None
    """An autoencoder that is there: a latent run, a folder of diffusers (AutoencoderKL,
    AutoencoderTiny), a file of save_safetensors, or TAESD's two files as ENCODER,DECODER. By
    default one is trained first, on the same images, as the following say.
    """
    regulariser: Literal["kl", "vq"] = "kl"
    """Gaussian latents with a slight pull to a standard normal, or latents that are decoded by the
    nearest row of a codebook.
    """
    channels: tuple[Count, ...] = (32, 64)
    """Channels of each level of the autoencoder; all levels but the last halve the image."""
    latent_channels: Count = 4
    """Channels of latents."""
    codes: Count = 256
    """vq: rows of the codebook."""
    kl_weight: NotNegative = 1e-6
    """kl: weight of the divergence, in nats, beside the sum of absolute errors."""
    updates: Count = 2000
    """Updates of the autoencoder."""
    batch: Count = 32
    """Images per update of it."""
    learning_rate: Positive = 1e-3
    """Rate of Adam, which falls to zero by a cosine."""
