r"""The scale of latents: what makes their standard deviation 1, which diffusion models expect.

    scale = 1/sqrt(mean (z - mean z)^2),  over images, places and channels.

Source: Rombach et al., arXiv 2112.10752, appendix G ("rescaling by the component-wise standard
deviation").
"""

import dataclasses

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.pretrained.model import Autoencoder
from jaxdiff.typing import Key


def latent_std(
    autoencoder: Autoencoder, images: ArrayLike, key: Key | None = None, batch: int = 64
) -> float:
    """Return the standard deviation of the latents of images, over all their numbers.

    Args:
        autoencoder: as trained or loaded, with its own scale and shift.
        images: (n, height, width, channels) in [-1, 1].
        key: of the draw of latents that are random; without, their means are taken.
        batch: images at a time.

    Returns:
        The standard deviation, in float64.

    Raises:
        ValueError: for no images, and for latents that are all alike or not finite.
    """
    x = np.asarray(images)
    if not len(x):
        raise ValueError("the scale of latents is measured on images, and there are none")
    encode = jax.jit(lambda x, key: autoencoder.encode(x, key))
    keys = [None] if key is None else jax.random.split(key, -(-len(x) // batch))
    parts = [
        np.asarray(encode(x[i : i + batch], keys[i // batch % len(keys)]), np.float64)
        for i in range(0, len(x), batch)
    ]
    std = float(np.std(np.concatenate(parts)))
    if not 0 < std < float("inf"):
        raise ValueError(f"the latents of these images have the standard deviation {std}")
    return std


def scaled(
    autoencoder: Autoencoder, images: ArrayLike, key: Key | None = None, batch: int = 64
) -> Autoencoder:
    """Return the autoencoder with the scale that gives the latents of images a standard deviation
    of 1.

    Args:
        autoencoder: its scale is multiplied.
        images: as of :func:`latent_std`.
        key: as of :func:`latent_std`.
        batch: as of :func:`latent_std`.

    Returns:
        The autoencoder, whose field ``scale`` is the one measured.

    Raises:
        ValueError: as :func:`latent_std`.
    """
    std = latent_std(autoencoder, images, key, batch)
    return dataclasses.replace(autoencoder, scale=np.asarray(autoencoder.scale) / std)
