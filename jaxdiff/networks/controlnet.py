r"""ControlNet (2302.05543): a second way down that is shown a picture and steers a frozen U-Net.

    h = conv_in(x) + C(c),    r_i = Z_i m_i,

with C a stack of convolutions that brings the picture c to the size of x, m_i the maps of a copy of
the U-Net's way down and bottom that starts at h, and Z_i convolutions of size 1 that are zero at
the start of training: then the U-Net, whose own maps the r_i are added to, is as it was.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks.attention import AttentionFn
from jaxdiff.networks.conditional_encoder import ConditionalEncoder
from jaxdiff.networks.conditions import checked_conditions
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.residual import Parts, halving
from jaxdiff.typing import Array, Cond


class ControlNet(ConditionalEncoder):
    """The residuals of a U-Net for latents (batch, height, width, channels) and a picture.

    control_channels: of the picture. control_widths: channels of the stack C, halved between any
    two of them: with four the picture is eight times as high and wide as x. flipped: the
    picture's channels are read backwards (red, green and blue as blue, green and red). pooled: a
    residual is its mean over the map, the same at every place. All else is as in the U-Net that is
    steered: :class:`jaxdiff.networks.conditional_encoder.ConditionalEncoder`.
    """

    control_channels: int = 3
    control_widths: tuple[int, ...] = (16, 32, 96, 256)
    flipped: bool = False
    pooled: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        label: Array,
        cond: Cond = None,
        *,
        deterministic: bool = True,
        attention: AttentionFn | None = None,
    ) -> tuple[Array, ...]:
        """Return the residuals, which ``UNet2DCondition`` takes as ``residuals``.

        x, label: as the U-Net's. cond: a dictionary with "control", the picture in [0, 1]
        (batch, height, width, channels), and the U-Net's conditions beside it
        (:mod:`jaxdiff.networks.conditions`). attention: what the attention layers call.

        The residuals are one per map that the U-Net's way up reads, the finest first, and the
        bottom's. Raises ValueError for shapes and conditions that do not fit.
        """
        self._check(x, label)
        parts = self._parts(x, attention)
        given = checked_conditions(cond, *self.keys(x.shape[-1]), x.shape[0])
        control = given.pop("control")
        expected = (x.shape[0], *self.control_shape(*x.shape[1:3]))
        if control.shape != expected:
            raise ValueError(
                f"cond['control'] must be {expected}, beside an x of {x.shape[1]}x{x.shape[2]}; "
                f"its shape is {control.shape}"
            )
        shown = self._shown(control.astype(parts.dtype), parts)
        made = self.encoded(x, label, given, parts, deterministic=deterministic, shown=shown)
        named = [(f"residual_{i}", m) for i, m in enumerate(made.maps)]
        return tuple(
            self._zero(m, name, parts).astype(x.dtype)
            for name, m in [*named, ("residual_middle", made.bottom)]
        )

    def keys(self, channels: int | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the keys that cond must have, and those that it may have.

        channels: of x, where they are not ``in_channels``.
        """
        needed, possible = super().keys(channels)
        return (*needed, "control"), possible

    def control_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (height, width, channels) of the picture beside an x of this size."""
        factor = 2 ** (len(self.control_widths) - 1)
        return factor * height, factor * width, self.control_channels

    def _shown(self, control: Array, parts: Parts) -> Array:
        """Return C(c), (batch, height, width, channels) of the first level."""
        widths = self.control_widths
        h = control[..., ::-1] if self.flipped else control
        h = nn.silu(Conv(widths[0], name="control_in", **parts.kinds)(h))
        for i, width in enumerate(widths[1:]):
            h = nn.silu(Conv(widths[i], name=f"control_{i}", **parts.kinds)(h))
            h = nn.silu(halving(width, parts, 1, f"control_halve_{i}")(h))
        zeros = nn.initializers.zeros
        return Conv(self.channels[0], kernel_init=zeros, name="control_out", **parts.kinds)(h)

    def _zero(self, h: Array, name: str, parts: Parts) -> Array:
        """Return Z h, or its mean at every place."""
        zero = nn.Dense(h.shape[-1], kernel_init=nn.initializers.zeros, name=name, **parts.kinds)
        h = zero(h)
        return jnp.broadcast_to(h.mean(axis=(1, 2), keepdims=True), h.shape) if self.pooled else h


def weights(count: int, scale: float = 1.0, *, guess: bool = False) -> np.ndarray:
    """Return what each of ``count`` residuals is multiplied by, (count,).

    scale: of all. guess: the mode in which a text may be left out, from a tenth for the finest map
    to 1 for the bottom, equally spaced in the logarithm.

    >>> weights(3, 2.0, guess=True).round(3).tolist()
    [0.2, 0.632, 2.0]
    """
    return scale * (np.logspace(-1, 0, count) if guess else np.ones(count))


def scaled(
    residuals: Sequence[Array], scale: float = 1.0, *, guess: bool = False
) -> tuple[Array, ...]:
    """Return residuals, or an adapter's maps, multiplied by :func:`weights`."""
    own = weights(len(residuals), scale, guess=guess)
    return tuple(r * jnp.asarray(w, r.dtype) for r, w in zip(residuals, own, strict=True))
