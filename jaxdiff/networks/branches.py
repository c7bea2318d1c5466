"""Several U-Nets with one encoder: their way down and middle are shared, each has its own way up.

Source: the branches of Chen et al., arXiv 1912.00350 (OKDDip), whose networks are classifiers.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.unet import UNet
from jaxdiff.networks.unet_stages import Stages, count_stages
from jaxdiff.typing import Array, Cond, Outputs, Params


class Branches(nn.Module):
    """The members, in one call. ``members``: their number."""

    unet: UNet
    members: int

    @nn.compact
    def __call__(
        self, x: Array, label: Array, cond: Cond = None, *, deterministic: bool = True,
        full: bool = False,
    ) -> Array | Outputs:  # fmt: skip
        """Map ``x`` to the last member's output; with ``full``, Outputs with features (outputs of
        all (batch, members, *shape), means of their last maps (batch, members, channels)).
        """
        unet = self.unet.clone(parent=None, name=None)
        stages, middle = count_stages(unet), count_stages(unet) // 2
        base = Stages(unet, 0, middle + 1, name="shared")
        known = base(x, label, cond, deterministic=deterministic)
        inputs = (known.maps[-1], *known.maps[:-1])
        parts = [
            Stages(unet, middle + 1, stages, x.shape[-1], name=f"member_{i}")(
                inputs, label, cond, known.embedding, deterministic=deterministic
            )
            for i in range(self.members)
        ]
        values = [part.value.astype(x.dtype) for part in parts]
        if not full:
            return values[-1]
        axes = tuple(range(1, x.ndim - 1))
        pooled = [jnp.mean(part.maps[-1], axis=axes) for part in parts]
        return Outputs(values[-1], None, (jnp.stack(values, axis=1), jnp.stack(pooled, axis=1)))


def split_member(unet: UNet, params: Params) -> tuple[Params, Params]:
    """Return a U-Net's parameters as those of the shared part and those of a branch."""
    blocks = {f"Block_{n}" for n in range(count_stages(unet) // 2 + 1)}
    convolutions = {f"Conv_{n}" for n in range(len(unet.multipliers))}
    height = _attended_before(unet, params)
    shared = blocks | convolutions | {"Embedding_0"} | height
    return (
        {n: p for n, p in params.items() if n in shared},
        {n: p for n, p in params.items() if n not in shared},
    )


def _attended_before(unet: UNet, params: Params) -> set[str]:
    """Return names of the attention layers up to the middle: of the n there are on both ways, and
    the middle's if the lowest level has any.
    """
    total = sum(name.startswith("Attention_") for name in params)
    return {f"Attention_{i}" for i in range((total + 1) // 2)}


def member(params: Params, number: int) -> Any:
    """Return one member's parameters, those of a plain U-Net."""
    return {**params["shared"], **params[f"member_{number}"]}
