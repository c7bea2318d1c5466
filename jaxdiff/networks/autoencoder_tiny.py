"""The tiny autoencoder TAESD and its kin: a distilled encoder and decoder of latents.

    block:    x <- relu(skip(x) + C act(C act(C x))),   before it, in FLUX.2's,  x <- x + P x,
    encoder:  C, blocks, [C of stride 2, blocks] ..., C,    of images in [0, 1],
    decoder:  C, act, [blocks, double, C] ..., blocks, C,   of 3 tanh(z / 3),

C being 3 x 3 convolutions and P z = A relu(norm(B z)). Images are in [-1, 1] here. Source: the
publisher's repository, madebyollin/taesd; the diffusers library calls it ``AutoencoderTiny``.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.residual import ACTIVATIONS, group_norm, repeated
from jaxdiff.typing import Array


class TinyBlock(nn.Module):
    """The block of the module's text; pool: whether x is first summed with P x."""

    channels: int
    activation: str
    pool: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map (batch, height, width, any) to ``channels`` channels."""
        kinds: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.pool:
            c = x.shape[-1]
            h = nn.Dense(4 * c, use_bias=False, name="pool_in", **kinds)(x)
            h = nn.relu(group_norm(h, 4, 1e-5, self.param_dtype, "pool_norm"))
            x = x + nn.Dense(c, use_bias=False, name="pool_out", **kinds)(h)
        act, h = ACTIVATIONS[self.activation], x
        for i in range(3):
            h = nn.Conv(self.channels, (3, 3), padding=1, name=f"conv_{i}", **kinds)(h)
            h = act(h) if i < 2 else h
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, use_bias=False, name="skip", **kinds)(x)
        return nn.relu(x + h)


class TinyHalf(nn.Module):
    """The encoder or the decoder; fields as of :class:`AutoencoderTiny`."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    out_channels: int
    decodes: bool
    factor: int
    activation: str
    pooled: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map images to latents or latents to images, (batch, height, width, channels)."""
        kinds: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        last = len(self.channels) - 1
        bottom = 0 if self.decodes else last

        def conv(features: int, name: str, **how: Any) -> nn.Module:
            return nn.Conv(features, (3, 3), padding=1, name=name, **how, **kinds)

        h = conv(self.channels[0], "conv_in")(x)
        h = ACTIVATIONS[self.activation](h) if self.decodes else h
        for stage, (c, count) in enumerate(zip(self.channels, self.blocks, strict=True)):
            if stage and not self.decodes:
                h = conv(c, f"halve_{stage}", strides=2, use_bias=False)(h)
            for i in range(count):
                pool = self.pooled and stage == bottom
                made = TinyBlock(c, self.activation, pool, name=f"stage_{stage}_block_{i}", **kinds)
                h = made(h)
            if self.decodes and stage < last:
                for _ in range(self.factor.bit_length() - 1):
                    h = repeated(h)
                h = conv(c, f"double_{stage}", use_bias=False)(h)
        return conv(self.out_channels, "conv_out")(h)


class AutoencoderTiny(nn.Module):
    """Encoder and decoder. Methods of ``apply``: ``encode`` and ``decode``.

    channels_in, blocks_in: of the encoder's stages, in its order; channels_out, blocks_out: of the
    decoder's. in_channels, out_channels: of images. latent_channels: of z. factor: by which each
    stage of the decoder enlarges, 2 or 4. pooled: FLUX.2's blocks at the bottom. halves: which of
    "encoder" and "decoder" there are. dtype, param_dtype: as elsewhere.
    """

    channels_in: tuple[int, ...] = (64, 64, 64, 64)
    blocks_in: tuple[int, ...] = (1, 3, 3, 3)
    channels_out: tuple[int, ...] = (64, 64, 64, 64)
    blocks_out: tuple[int, ...] = (3, 3, 3, 1)
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    factor: int = 2
    activation: str = "relu"
    pooled: bool = False
    halves: tuple[str, ...] = ("encoder", "decoder")
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, part: str = "both") -> Array:
        """Encode, decode, or do one after the other.

        x: images (batch, height, width, in_channels) in [-1, 1], or latents for part "decode".
        Raises ValueError for other shapes, and for a half that there is not.
        """
        self._check(x, part)
        dtype = jnp.dtype(self.dtype or x.dtype)
        how = (self.factor, self.activation, self.pooled, dtype, self.param_dtype)
        h = x.astype(dtype)
        if part != "decode":
            encoder = TinyHalf(
                self.channels_in, self.blocks_in, self.latent_channels, False, *how, name="encoder"
            )
            h = encoder((h + 1) / 2)
        if part != "encode":
            decoder = TinyHalf(
                self.channels_out, self.blocks_out, self.out_channels, True, *how, name="decoder"
            )
            h = 2 * decoder(3 * jnp.tanh(h / 3)) - 1
        return h.astype(x.dtype)

    def encode(self, x: Array) -> Array:
        """Return the latents of images."""
        return self(x, part="encode")

    def decode(self, z: Array) -> Array:
        """Return the images of latents."""
        return self(z, part="decode")

    def _check(self, x: Array, part: str) -> None:
        needed = {"both": {"encoder", "decoder"}, "encode": {"encoder"}, "decode": {"decoder"}}
        if part not in needed:
            raise ValueError(f"part must be both, encode or decode; got {part!r}")
        if lacking := needed[part] - set(self.halves):
            raise ValueError(f"this autoencoder has no {sorted(lacking)[0]}")
        channels = self.latent_channels if part == "decode" else self.in_channels
        factor = 1 if part == "decode" else 2 ** (len(self.channels_in) - 1)
        if x.ndim != 4 or x.shape[3] != channels or x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"this autoencoder's {part} takes (batch, height, width, {channels}), height and "
                f"width divisible by {factor}; got {x.shape}"
            )
