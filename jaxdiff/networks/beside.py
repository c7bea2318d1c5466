r"""A network that is shown an array beside x: conditioning by concatenation along the channels.

    F(x, label, cond) = network([x, b], label, classes)[..., :channels of x],    b = cond["beside"]

with zeros for b where there is none, which is what it is trained on where the condition is dropped.
The network has as many outputs as inputs; those beside the first are not used.

Sources: Saharia et al., "Image super-resolution via iterative refinement", arXiv 2104.07636,
section 3, and "Palette", arXiv 2111.05826, section 3.
"""

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, Cond, Outputs, Params


class Beside(nn.Module):
    """A network of any kind here, given ``channels`` further channels beside its input's.

    network: called as ``network(x, label, cond)``, whose parameters stay where they are without
    this module. channels: of what stands beside x (the last axis).
    """

    network: nn.Module
    channels: int

    def setup(self) -> None:
        """Keep the network's parameters where they are without this module."""
        nn.share_scope(self, self.network)

    def __call__(
        self, x: Array, label: Array, cond: Cond = None, *, deterministic: bool = True,
        full: bool = False, **options: Any,
    ) -> Array | Outputs:  # fmt: skip
        """Map ``x`` (batch, *axes, any) to an output of its shape and dtype.

        cond: {"beside": (batch, *axes, channels), "classes": (batch,) class indices}, either or
        both; class indices alone; or None. With further entries the network is given all but
        "beside", a dictionary. options: of the network's call. Raises ValueError, by name, for
        another shape, TypeError for an array beside x that is not floating.
        """
        beside, rest = self.parts(x, cond)
        known = inspect.signature(type(self.network).__call__).parameters
        options |= {"deterministic": deterministic} if "deterministic" in known else {}
        options |= {"full": True} if full else {}
        out = self.network(jnp.concatenate([x, beside], axis=-1), label, rest, **options)
        if full:
            return out._replace(value=out.value[..., : x.shape[-1]])
        return out[..., : x.shape[-1]]

    def parts(self, x: Array, cond: Cond) -> tuple[Array, Cond]:
        """Return what stands beside x, zeros by default, and the network's own condition."""
        shape = (*x.shape[:-1], self.channels)
        if not isinstance(cond, dict):
            return jnp.zeros(shape, x.dtype), cond
        rest = {k: v for k, v in cond.items() if k != "beside" and v is not None}
        if set(rest) <= {"classes"}:
            rest = rest.get("classes")
        beside = cond.get("beside")
        if beside is None:
            return jnp.zeros(shape, x.dtype), rest
        beside = jnp.asarray(beside)
        if beside.shape != shape:
            raise ValueError(
                f"cond['beside'] must be {shape} beside an x of {x.shape}; its shape is "
                f"{beside.shape}"
            )
        if not jnp.issubdtype(beside.dtype, jnp.floating):
            raise TypeError(
                f"cond['beside'] must be floating, not {beside.dtype}: images / 127.5 - 1"
            )
        return beside.astype(x.dtype), rest

    @property
    def num_classes(self) -> int:
        """Return the network's number of classes."""
        return getattr(self.network, "num_classes", 0)

    @property
    def null_class(self) -> bool:
        """Return whether the network has a class that stands for none."""
        return getattr(self.network, "null_class", True)


def widened_parameters(params: Params, wanted: Params, channels: int, more: int) -> Params:
    """Return a network's parameters with weights of zero for what is to stand beside x: that of a
    picture of ``more`` channels, and of the outputs that are not used.

    Args:
        params: of the network that is shown nothing.
        wanted: parameters, or their shapes, of the same network in :class:`Beside`.
        channels: of x, the last axis, along which the network flattens or convolves.
        more: of what stands beside it.

    Returns:
        Parameters of the network in :class:`Beside`, which computes what the first one does, to
        rounding, whatever stands beside x; as they are where they are of another network.
    """
    if jax.tree.structure(params) != jax.tree.structure(wanted):
        return params
    return jax.tree.map(lambda a, b: _padded(a, jnp.shape(b), channels, more), params, wanted)


def _padded(leaf: Array, shape: tuple[int, ...], channels: int, more: int) -> Array:
    """Return a parameter with zeros after every ``channels`` entries of the axes that must grow; as
    it is where that does not make the shape.
    """
    own, made = jnp.shape(leaf), jnp.asarray(leaf)
    for axis, (n, m) in enumerate(zip(own, shape, strict=False)):
        if n == m:
            continue
        if len(own) != len(shape) or n % channels or n // channels * (channels + more) != m:
            return leaf
        split = made.reshape(*made.shape[:axis], -1, channels, *made.shape[axis + 1 :])
        width = [(0, more if i == axis + 1 else 0) for i in range(split.ndim)]
        made = jnp.pad(split, width).reshape(*made.shape[:axis], m, *made.shape[axis + 1 :])
    return made
