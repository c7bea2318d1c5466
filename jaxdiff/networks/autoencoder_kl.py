"""The autoencoder of latent diffusion: images to latents eight times smaller, and back.

The encoder gives the mean and the log variance of a Gaussian of latents z (its moments); the
decoder, an image of a z. Both are levels of residual blocks with one attention layer at the bottom,
without time. Source: Rombach et al. 2112.10752, appendix G; the diffusers library calls it
``AutoencoderKL``.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn, chosen_attention, softmax_attention
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.residual import ACTIVATIONS, Parts, group_norm
from jaxdiff.networks.spatial import Context
from jaxdiff.networks.stages import Attending, Down, Middle, Up
from jaxdiff.typing import Array


class Encoder(nn.Module):
    """Images to moments; fields as of :class:`AutoencoderKL`."""

    channels: tuple[int, ...]
    out_channels: int
    kinds: tuple[str, ...]
    blocks: int
    middle_attention: bool
    parts: Parts

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map (batch, height, width, channels) to (batch, height / f, width / f, out_channels)."""
        parts, top = self.parts, len(self.channels) - 1
        h = Conv(self.channels[0], name="conv_in", **parts.kinds)(x.astype(parts.dtype))
        for level, c in enumerate(self.channels):
            how = Attending("self" if self.kinds[level] == "attention" else "", c)
            halve = "conv" if level < top else ""
            stage = Down(c, self.blocks, parts, how, halve, padding=0, name=f"down_{level}")
            h, _ = stage(h, None, Context())
        h = _bottom(self.channels[-1], self.middle_attention, parts)(h, None, Context())
        h = nn.silu(group_norm(h, parts.groups, parts.eps, parts.param_dtype, "norm_out"))
        return Conv(self.out_channels, name="conv_out", **parts.kinds)(h)


class Decoder(nn.Module):
    """Latents to images; fields as of :class:`AutoencoderKL`."""

    channels: tuple[int, ...]
    out_channels: int
    kinds: tuple[str, ...]
    blocks: int
    middle_attention: bool
    parts: Parts

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Map (batch, height, width, channels) to (batch, f height, f width, out_channels)."""
        parts = self.parts
        h = Conv(self.channels[-1], name="conv_in", **parts.kinds)(z.astype(parts.dtype))
        h = _bottom(self.channels[-1], self.middle_attention, parts)(h, None, Context())
        for level, c in reversed(list(enumerate(self.channels))):
            how = Attending("self" if self.kinds[level] == "attention" else "", c)
            double = "conv" if level else ""
            stage = Up(c, self.blocks + 1, parts, how, double, name=f"up_{level}")
            h = stage(h, None, None, Context())
        h = nn.silu(group_norm(h, parts.groups, parts.eps, parts.param_dtype, "norm_out"))
        return Conv(self.out_channels, name="conv_out", **parts.kinds)(h)


def _bottom(channels: int, attends: bool, parts: Parts) -> Middle:
    return Middle(channels, parts, Attending("self" if attends else "", channels), name="middle")


class AutoencoderKL(nn.Module):
    """Encoder and decoder. Methods of ``apply``: ``encode`` and ``decode``.

    channels: of each level, the finest first. in_channels, out_channels: of images.
    latent_channels: of z. down, up: "plain" or "attention" for each level, the finest first.
    blocks: of each level of the encoder; the decoder has one more. groups: of the norms, whose eps
    is 1e-6.
    activation: in the blocks. quant, post_quant: whether there is a linear map of the moments, and
    one of z. middle_attention: whether the bottom attends. dtype: what it computes in; None means
    the input's. param_dtype: what parameters are kept in. attention_fn: what attention is.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    down: tuple[str, ...] = ("plain",) * 4
    up: tuple[str, ...] = ("plain",) * 4
    blocks: int = 2
    groups: int = 32
    activation: str = "silu"
    quant: bool = True
    post_quant: bool = True
    middle_attention: bool = True
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    attention_fn: AttentionFn = softmax_attention

    @nn.compact
    def __call__(
        self, x: Array, *, part: str = "both", attention: AttentionFn | None = None
    ) -> Array:
        """Encode, decode, or decode the mean of what was encoded (part "both").

        x: images (batch, height, width, in_channels) in [-1, 1], or latents for part "decode". The
        result of "encode" are moments (batch, height / f, width / f, 2 latent_channels), the mean
        first. attention: what the attention layers call. Raises ValueError for other shapes.
        """
        c, parts = self.latent_channels, self._parts(x, attention)
        self._check(x, part)
        h = x
        if part != "decode":
            encoder = Encoder(
                self.channels, 2 * c, self.down, self.blocks, self.middle_attention, parts,
                name="encoder",
            )  # fmt: skip
            h = encoder(h)
            h = nn.Dense(2 * c, name="quant", **parts.kinds)(h) if self.quant else h
        if part == "encode":
            return h.astype(x.dtype)
        h = h[..., :c] if part == "both" else h
        h = nn.Dense(c, name="post_quant", **parts.kinds)(h) if self.post_quant else h
        decoder = Decoder(
            self.channels, self.out_channels, self.up, self.blocks, self.middle_attention, parts,
            name="decoder",
        )  # fmt: skip
        return decoder(h).astype(x.dtype)

    def encode(self, x: Array, *, attention: AttentionFn | None = None) -> Array:
        """Return the moments of images."""
        return self(x, part="encode", attention=attention)

    def decode(self, z: Array, *, attention: AttentionFn | None = None) -> Array:
        """Return the images of latents z."""
        return self(z, part="decode", attention=attention)

    def _parts(self, x: Array, attention: AttentionFn | None) -> Parts:
        some = self.middle_attention or "attention" in self.down + self.up
        return Parts(
            self.groups, 1e-6, self.activation, remat=self.remat,
            dtype=jnp.dtype(self.dtype or x.dtype), param_dtype=self.param_dtype,
            attention=chosen_attention(attention, self.attention_fn, int(some)),
        )  # fmt: skip

    def _check(self, x: Array, part: str) -> None:
        if part not in ("both", "encode", "decode"):
            raise ValueError(f"part must be both, encode or decode; got {part!r}")
        channels = self.latent_channels if part == "decode" else self.in_channels
        factor = 1 if part == "decode" else 2 ** (len(self.channels) - 1)
        if x.ndim != 4 or x.shape[3] != channels or x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"this autoencoder's {part} takes (batch, height, width, {channels}), height and "
                f"width divisible by {factor}; got {x.shape}"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}")
