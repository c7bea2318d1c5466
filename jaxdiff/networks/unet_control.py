r"""A ControlNet (2302.05543) of the small U-Net: a copy of its way down that is shown a picture.

    h = conv_in(x) + C(c),    r_i = Z_i m_i,

with C two convolutions, the second of which is zero at the start, and Z_i ones of size 1 that are:
what the U-Net's own maps are added to is then zero. The picture c has x's size, and as many axes.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import AttentionFn
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.unet import UNet
from jaxdiff.typing import Array, Cond


class UNetControl(UNet):
    """The residuals of a :class:`jaxdiff.networks.UNet`, whose fields it has.

    control_channels: of the picture. control_width: channels between the two convolutions.
    """

    control_channels: int = 1
    control_width: int = 16

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        x: Array,
        label: Array,
        cond: Cond = None,
        *,
        deterministic: bool = True,
        attention: AttentionFn | None = None,
    ) -> tuple[Array, ...]:
        """Return the residuals, which the U-Net takes as ``residuals``.

        x, label: as the U-Net's. cond: {"control": (batch, *axes, control_channels), "classes":
        (batch,)}, classes where the U-Net has some. Raises ValueError for another picture.
        """
        given: dict[str, Any] = cond if isinstance(cond, dict) else {}
        control = given.get("control")
        expected = (*x.shape[:-1], self.control_channels)
        shape = None if control is None else jnp.shape(control)
        if control is None or shape != expected:
            raise ValueError(
                f"cond['control'] must be {expected} beside an x of {x.shape}; its shape is {shape}"
            )
        dtype = jnp.dtype(self.dtype or x.dtype)
        kinds: dict[str, Any] = {"dtype": dtype, "param_dtype": self.param_dtype}
        own: dict[str, Any] = kinds | {"size": (3,) * (x.ndim - 2)}
        zero: dict[str, Any] = {"kernel_init": nn.initializers.zeros}
        h = Conv(self.control_width, name="control_in", **own)(jnp.asarray(control).astype(dtype))
        shown = Conv(self.channels * self.multipliers[0], name="control_out", **own, **zero)(
            nn.silu(h)
        )
        maps, _, _ = self.way_down(x, label, given.get("classes"), deterministic, attention, shown)
        return tuple(
            nn.Dense(m.shape[-1], name=f"residual_{i}", **kinds, **zero)(m).astype(x.dtype)
            for i, m in enumerate(maps)
        )

    def keys(self, channels: int | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the keys that cond must have, and those that it may have."""
        del channels
        return ("control",), ("classes",) if self.num_classes else ()
