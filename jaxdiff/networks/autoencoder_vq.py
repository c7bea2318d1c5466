r"""The autoencoder of latent diffusion whose latents are rows of a codebook.

    z = E(x),    q(z) = e_k,  k = argmin_j |z - e_j|^2,    x' = G(q(z))

at every place of the map z, with the encoder and decoder of
:mod:`jaxdiff.networks.autoencoder_kl`. Latents are z; decoding takes each to its code first, so a
diffusion model works on z as on any latents. Sources: van den Oord et al., arXiv 1711.00937,
eq. 1 and 2; Rombach et al., arXiv 2112.10752, section 3.1 (VQ-reg.).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.arrays import einsum
from jaxdiff.networks.attention import softmax_attention
from jaxdiff.networks.autoencoder_kl import Decoder, Encoder
from jaxdiff.networks.residual import Parts
from jaxdiff.typing import Array


class AutoencoderVQ(nn.Module):
    """Encoder, codebook and decoder. Methods of ``apply``: ``encode``, ``codes`` and ``decode``.

    codes_count: rows of the codebook, which start uniform in +-1/codes_count. channels: of each
    level, the finest first. in_channels: of images. latent_channels: of z. blocks: of each level.
    groups: of the norms. middle_attention: whether the bottom attends. dtype: what it computes in;
    None means the input's. param_dtype: what parameters are kept in.
    """

    codes_count: int = 512
    channels: tuple[int, ...] = (32, 64)
    in_channels: int = 3
    latent_channels: int = 3
    blocks: int = 1
    groups: int = 8
    middle_attention: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Make the parts."""
        parts = Parts(
            self.groups, 1e-6, "silu", remat=False, dtype=jnp.dtype(self.dtype or jnp.float32),
            param_dtype=self.param_dtype, attention=softmax_attention,
        )  # fmt: skip
        plain = ("plain",) * len(self.channels)
        how = (plain, self.blocks, self.middle_attention, parts)
        self.encoder = Encoder(self.channels, self.latent_channels, *how)
        self.decoder = Decoder(self.channels, self.in_channels, *how)
        width, count = self.latent_channels, self.codes_count
        spread = nn.initializers.uniform(2 / count)
        centred = lambda *a: spread(*a) - jnp.asarray(1 / count, self.param_dtype)  # noqa: E731
        self.codebook = self.param("codebook", centred, (count, width), self.param_dtype)

    def __call__(self, x: Array) -> Array:
        """Encode images and decode them."""
        return self.decode(self.encode(x))

    def encode(self, x: Array) -> Array:
        """Return z of images (batch, height, width, in_channels), heights and widths divisible by
        2 to the number of levels less one. Raises ValueError for others.
        """
        factor = 2 ** (len(self.channels) - 1)
        if x.ndim != 4 or x.shape[3] != self.in_channels or any(n % factor for n in x.shape[1:3]):
            raise ValueError(
                f"this autoencoder takes images (batch, height, width, {self.in_channels}), height "
                f"and width divisible by {factor}; got {x.shape}"
            )
        return self.encoder(x).astype(x.dtype)

    def codes(self, z: Array) -> tuple[Array, Array]:
        """Return the nearest codes of latents (batch, height, width, latent_channels), and which
        they are, (batch, height, width) integers. A place that is not finite has a code of NaN.
        """
        if z.ndim != 4 or z.shape[3] != self.latent_channels:
            raise ValueError(
                f"latents are (batch, height, width, {self.latent_channels}); got {z.shape}"
            )
        book = jnp.asarray(self.codebook, z.dtype)
        lengths = jnp.sum(book**2, axis=1).reshape(1, 1, 1, -1)
        apart = lengths - 2 * einsum("bhwc,kc->bhwk", z, book)
        index = jnp.argmin(apart, axis=-1)
        known = jnp.isfinite(z).all(axis=-1, keepdims=True)  # argmin of NaN is a row like others
        return jnp.where(known, book[index], jnp.nan), index

    def decode(self, z: Array, *, nearest: bool = True) -> Array:
        """Return the images of latents, each taken to its code first if ``nearest``."""
        z = self.codes(z)[0] if nearest else z
        return self.decoder(z).astype(z.dtype)
