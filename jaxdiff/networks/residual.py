r"""Residual blocks on maps, and how maps are halved and doubled: what published U-Nets are made of.

A block, e the embedding of time and condition, s a fixed scale (1, or sqrt(2) in 2011.13456):
    h = conv(act(norm(x))) + W act(e),        or, with ``modulation="scale_shift"`` (2105.05233),
    h = conv(act(norm(x))),  h = norm(h) (1 + a) + b,  [a, b] = W act(e),
    x <- (skip(x) + conv(act(norm(h)))) / s,
skip being the identity where channels stay. A map is halved within a block, after its first
activation, by an average of 2 x 2 pixels or by the filter [1, 3, 3, 1], and doubled by repeating
pixels or by the same filter; outside of blocks it is halved by a convolution of stride 2, and
doubled by repeated pixels and a convolution.

Statistics of norms are in float32 at least. Maps are (batch, height, width, channels).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks import resampling
from jaxdiff.networks.attention import AttentionFn, softmax_attention
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.unet import Norm
from jaxdiff.typing import Array

Resampling: TypeAlias = Literal["", "halve", "double", "fir_halve", "fir_double"]

FIR = (1.0, 3.0, 3.0, 1.0)
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": nn.silu, "swish": nn.silu, "relu": nn.relu,
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
    "gelu": functools.partial(nn.gelu, approximate=False),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Parts:
    """Options that the blocks of a network have in common.

    groups, eps: of the group norms. activation: one of ``ACTIVATIONS``. modulation: "shift" or
    "scale_shift", see the module's text. activated: whether e is activated in each block. dropout:
    rate, before a block's last convolution. remat: compute blocks again in the backward pass.
    dtype: what is computed in; param_dtype: what parameters are kept in. attention: what attention
    layers call.
    """

    groups: int = 32
    eps: float = 1e-5
    activation: str = "silu"
    modulation: Literal["shift", "scale_shift"] = "shift"
    activated: bool = True
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    attention: AttentionFn = softmax_attention

    @property
    def kinds(self) -> dict[str, Any]:
        """Return the dtypes, as layers take them."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def act(self, x: Array) -> Array:
        """Apply the activation."""
        return ACTIVATIONS[self.activation](x)


def group_norm(h: Array, groups: int, eps: float, param_dtype: Any, name: str) -> Array:
    """Normalise a map, or tokens (batch, tokens, channels), over positions and groups of channels,
    for a module's own ``nn.compact`` call. ValueError for groups that do not divide the channels.
    """
    if h.shape[-1] % groups:
        raise ValueError(f"{groups} groups do not divide {h.shape[-1]} channels at {name}")
    norm = Norm(groups, param_dtype, eps, name=name)
    return norm(h) if h.ndim == 4 else norm(h[:, :, None])[:, :, 0]


class ResidualBlock(nn.Module):
    """The block of the module's text.

    channels: of the output. scale: s. groups, groups_out: of its two norms, where they differ from
    ``parts.groups``. resampling: whether it halves or doubles the map. skip: whether x passes
    through a convolution of size 1 though its channels stay.
    """

    channels: int
    parts: Parts
    scale: float = 1.0
    groups: int = 0
    groups_out: int = 0
    resampling: Resampling = ""
    skip: bool = False

    @nn.compact
    def __call__(self, x: Array, e: Array | None = None, deterministic: bool = True) -> Array:
        """Map ``x`` (batch, height, width, any) to ``channels`` channels, given e (batch, any)."""
        parts, kinds = self.parts, self.parts.kinds
        first = self.groups or parts.groups
        second = self.groups_out or first
        h = parts.act(group_norm(x, first, parts.eps, parts.param_dtype, "norm_in"))
        x, h = resampled(x, self.resampling), resampled(h, self.resampling)
        h = Conv(self.channels, name="conv_in", **kinds)(h)

        def norm(h: Array) -> Array:
            return group_norm(h, second, parts.eps, parts.param_dtype, "norm_out")

        if e is None:
            h = norm(h)
        else:
            e = parts.act(e) if parts.activated else e
            wide_e = self.channels * (2 if parts.modulation == "scale_shift" else 1)
            shift = nn.Dense(wide_e, name="time", **kinds)(e)[:, None, None, :]
            if parts.modulation == "scale_shift":
                scale, shift = jnp.split(shift, 2, axis=-1)
                h = norm(h) * (1 + scale) + shift
            else:
                h = norm(h + shift)
        h = nn.Dropout(parts.dropout)(parts.act(h), deterministic=deterministic)
        h = Conv(self.channels, name="conv_out", **kinds)(h)
        if self.skip or x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, name="skip", **kinds)(x)
        return (x + h) / self.scale


def block(parts: Parts) -> type[ResidualBlock]:
    """Return the block, computed again in the backward pass if the parts say so."""
    return nn.remat(ResidualBlock, static_argnums=(3,)) if parts.remat else ResidualBlock


def halving(channels: int, parts: Parts, padding: int, name: str) -> nn.Module:
    """Return a convolution of stride 2 (3 x 3); padding: 1 for a zero on every side, 0 for one at
    the lower and the right side alone.
    """
    around = [(1, 1), (1, 1)] if padding == 1 else [(0, 1), (0, 1)]
    return nn.Conv(channels, (3, 3), strides=2, padding=around, name=name, **parts.kinds)


def resampled(x: Array, how: Resampling) -> Array:
    """Halve or double a map, "" for neither; of an odd height or width the last row is dropped."""
    if not how:
        return x
    taps = FIR if how.startswith("fir") else resampling.BOX
    if how.endswith("double"):
        return resampling.doubled(x, taps)
    return resampling.halved(x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2], taps)


def repeated(x: Array, size: tuple[int, ...] = ()) -> Array:
    """Repeat every pixel in a 2 x 2 square. size: the height and width kept of it, if not all."""
    x = resampling.doubled(x)
    return x[:, : size[0], : size[1]] if size else x
